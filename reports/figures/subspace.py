"""One subspace for all deltas: what a code keeps, whom it serves without training, and whether it was foretold."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import FAINT, GREY, Labels

ARMS = {
    "learned": "decoders of other tasks",
    "own": "decoders of the task itself",
    "principal": "principal decoders",
    "random": "random decoders",
}
LINES = {"learned": "-", "own": (0, (5, 1.5)), "random": panels.DOTTED}
CODES = {
    "learned": "own code",
    "transferred": "another delta's code",
    "rotated": "that code rotated",
    "foreign": "other tasks' codes",
}
AREAS = {
    "shared_learned": "decoders of other tasks",
    "shared_own": "decoders of the task itself",
    "shared_rotated": "code rotated for each delta",
    "shared_random": "random decoders",
}
WELL = 0.5  # of the fall of a delta's loss: where it keeps that, it does well
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
        for arm in ("own", "random"):
            own = runs[runs["arm"] == arm].groupby("dimension")[["accuracy", "full", "majority"]].mean()
            right.plot(own.index, _kept(own, "accuracy"), color=GREY, lw=1.1, ls=LINES[arm])
        style.log_axis(right, "x")
        right.axhline(1.0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="numbers of the code", ylabel="corrected relative performance", title="(b) by delta, mean")
        lines = [Line2D([], [], color=GREY, lw=1.1, ls=LINES[arm], label=f"{ARMS[arm]}, mean") for arm in ("own", "random")]
        style.legend(figure, [*panels.handles(learned, labels), *lines])
    return figure


def code_landscape(rows: pd.DataFrame, grids: pd.DataFrame, codes: pd.DataFrame, labels: Labels) -> Figure:
    """Return where each delta does well over a plane of the code, task by task, and the area where all do beside nulls."""
    with style.theme():
        figure, panel, strip = panels.by_task(grids, labels, 1.5, "first direction of the codes", "second direction of the codes")
        names = labels.in_order("delta", grids["delta"])
        for task, axes in panel.items():
            here = grids[(grids["task"] == task) & (grids["seed"] == grids.loc[grids["task"] == task, "seed"].min())]
            kept = {name: here[here["delta"] == name].pivot(index="y", columns="x", values="kept") for name in names}
            x, y = (np.asarray(end, dtype=float) for end in (kept[names[0]].columns, kept[names[0]].index))
            least = np.min([grid.to_numpy(dtype=float) for grid in kept.values()], axis=0)
            if least.max() >= WELL:
                axes.contourf(x, y, least, levels=[WELL, max(float(least.max()), WELL) + 1.0], colors=["#dddddd"])
            for name, grid in kept.items():
                look, values = labels.look(name), grid.to_numpy(dtype=float)
                if values.min() < WELL < values.max():
                    axes.contour(x, y, values, levels=[WELL], colors=[look.color], linestyles=[look.dash], linewidths=1.0)
                own = codes[(codes["task"] == task) & (codes["delta"] == name) & (codes["seed"] == here["seed"].min())]
                axes.scatter(own["x"], own["y"], s=14, marker=look.marker, color=look.color, linewidths=0, zorder=3)
            axes.scatter([0], [0], s=14, marker="+", color=GREY, linewidths=0.8)
            axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
        below = strip.subplots()
        panels.rivals(below, panels.pooled(rows), AREAS, labels, width=32)
        below.set(xlabel="area where all deltas do well over that where any does", xlim=(-0.03, 1.03))
        region = Patch(facecolor="#dddddd", label="all deltas")
        style.legend(strip, [*style.delta_handles(names, labels, line=True), region])
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
            "every delta against the numbers of the code, mean over cells, and in grey, over deltas too, through decoders "
            "found on the task itself and through random ones. " + COUNTED
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
        "code-landscape",
        code_landscape,
        needs={
            "rows": ("task", "seed", *AREAS),
            "grids": ("task", "seed", "delta", "x", "y", "kept"),
            "codes": ("task", "seed", "delta", "x", "y"),
        },
        caption=(
            "Where deltas do well over the plane of the codes, through decoders found on the task itself. Lines enclose, for the "
            "first seed, the codes at which a delta keeps half of the fall of its held-out loss by training all its numbers, "
            "grey the codes at which all do; marks are the codes that each delta trained, the cross is the frozen network, units "
            "are the outermost code's. Below: the grey area over that which any line encloses, and the same for other decoders. "
            + COUNTED
        ),
        alt="Above: a panel for every task with the outline of every delta's region on a plane of the code. Below: the area "
        "common to all over that of any, for learned, random and rotated codes.",
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
