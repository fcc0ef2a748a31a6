"""One subspace for all deltas: what a code keeps, whom it serves without training, and whether it was foretold."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import FAINT, GREY, Labels

ARMS = {"learned": "decoders of other tasks", "principal": "principal decoders", "random": "random decoders"}
CODES = {
    "learned": "own code",
    "transferred": "another delta's code",
    "rotated": "that code rotated",
    "foreign": "other tasks' codes",
}
INSIDE = {"gain": "all numbers", "gain_predicted": "foretold subspace", "gain_other": "another task's", "gain_random": "random"}
CAPTURED = {"captured_predicted": "foretold subspace", "captured_other": "another task's", "captured_random": "random"}


def _kept(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return performance over that of the full delta, both above the majority's."""
    return (rows[column] - rows["majority"]) / (rows["full"] - rows["majority"]).clip(lower=1e-9)


def _all(axes: Axes, bar: float | None) -> None:
    """Draw the lines at all and at the bar of what a code should keep."""
    axes.axvline(1.0, color=GREY, lw=0.8, zorder=0)
    if bar is not None:
        axes.axvline(bar, color=FAINT, lw=0.8, ls="--", zorder=0)


def one_subspace(rows: pd.DataFrame, runs: pd.DataFrame, labels: Labels, bars: dict) -> Figure:
    """Return what a code keeps through each kind of decoder, and against its dimension for every delta."""
    with style.theme():
        figure = style.canvas(2.7)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        words = ARMS | {"frozen": "frozen network"}
        panels.rivals(left, rows.assign(**{name: _kept(rows, name) for name in words}), words, labels)
        _all(left, bars["level"][0])
        left.set(xlabel="corrected relative performance", title="(a) on a task not seen")
        learned = runs[runs["arm"] == "learned"]
        for name in labels.in_order("delta", learned["delta"]):
            own = learned[learned["delta"] == name].groupby("dimension")[["accuracy", "full", "majority"]].mean()
            right.plot(own.index, _kept(own, "accuracy"), color=labels.look(name).color, **panels.along(labels.look(name)))
        style.log_axis(right, "x")
        right.axhline(1.0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="numbers of the code", ylabel="corrected relative performance", title="(b) by delta, mean")
        style.legend(figure, panels.handles(learned, labels))
    return figure


def code_transfer(rows: pd.DataFrame, transfers: pd.DataFrame, labels: Labels, bars: dict) -> Figure:
    """Return what a delta makes of another's code beside nulls, and the same for every pair of deltas."""
    with style.theme():
        figure = style.canvas(2.7)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        words = CODES | {"frozen": "frozen network"}
        panels.rivals(left, rows.assign(**{name: _kept(rows, name) for name in words}), words, labels)
        _all(left, bars["level"][0])
        left.set(xlabel="corrected relative performance", title="(a) codes untrained")
        names, through = (labels.in_order("delta", transfers[end]) for end in ("delta", "from"))
        means = transfers.groupby(["from", "delta"])[["transferred", "full", "majority"]].mean()
        table = _kept(means, "transferred").unstack().reindex(index=through, columns=names)
        right.imshow(table.to_numpy(dtype=float), cmap="Greys", vmin=0.0, vmax=1.5)
        for i, j in np.argwhere(np.isfinite(table.to_numpy(dtype=float))):
            value = table.iloc[i, j]
            right.text(
                j, i, f"{value:.2f}".replace("-", "−"), ha="center", va="center", color="white" if value > 0.8 else "black"
            )
        for ticks, shown in ((right.set_xticks, names), (right.set_yticks, through)):
            ticks(range(len(shown)), [style.wrap(labels.delta(name), 10) for name in shown])
        right.set(xlabel="read by", ylabel="trained through", title="(b) pair by pair, mean")
    return figure


def predicted_subspace(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return what training gains within each subspace, and how much of the trained step lies there."""
    with style.theme():
        figure = style.canvas(2.5)
        left, right = figure.subplots(1, 2)
        panels.rivals(left, rows, INSIDE, labels)
        left.axvline(0.0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="fall of the held-out loss (nats)", title="(a) trained within")
        panels.rivals(right, rows, CAPTURED, labels)
        right.set(xlabel="share of the squared step", title="(b) where all numbers went")
        style.legend(figure, panels.handles(rows, labels))
    return figure


COUNTED = "Points are cells, bars medians. {n}."
FIGURES = (
    ClaimFigure(
        "one-subspace",
        one_subspace,
        needs={
            "rows": ("task", "seed", "full", "frozen", "majority", *ARMS),
            "runs": ("task", "seed", "delta", "arm", "dimension", "accuracy", "full", "majority"),
        },
        bars=("level",),
        caption=(
            "A code trained through decoders that never saw the task. (a) Held-out accuracy over that of deltas with all their "
            "numbers, both above the largest class, mean over deltas; the dashed line is the bar of {level}. (b) The same for "
            "every delta against the numbers of the code, mean over cells. " + COUNTED
        ),
        alt="Left: corrected relative performance by kind of decoder. Right: the same against the numbers of the code, by delta.",
    ),
    ClaimFigure(
        "code-transfer",
        code_transfer,
        needs={
            "rows": ("task", "seed", "full", "frozen", "majority", *CODES),
            "transfers": ("task", "seed", "from", "delta", "transferred", "full", "majority"),
        },
        bars=("level",),
        caption=(
            "A code that one delta trained and another reads untrained. (a) Held-out accuracy over that of deltas with all their "
            "numbers, both above the largest class, mean over pairs; the dashed line is the bar of {level}. (b) The same for "
            "every pair, mean over cells. " + COUNTED
        ),
        alt="Left: corrected relative performance by whose code is read. Right: a matrix of it from delta to delta.",
    ),
    ClaimFigure(
        "predicted-subspace",
        predicted_subspace,
        needs={"rows": ("task", "seed", *INSIDE, *CAPTURED)},
        caption=(
            "A delta trained within few directions that the frozen network foretells from port signals. (a) Fall of the held-out "
            "loss with all numbers and within each subspace. (b) Share of the squared length of the step of all numbers that lies"
            " in each. " + COUNTED
        ),
        alt="Left: fall of the held-out loss within each subspace. Right: share of the trained step inside each.",
    ),
)
