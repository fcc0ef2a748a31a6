"""One subspace for all deltas: what a code keeps, whom it serves without training, and whether it was foretold."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import FAINT, GREY, Labels, Mark

ARMS = {
    "learned": "decoders of other tasks",
    "pooled": "decoders of all tasks",
    "own": "decoders of the task itself",
    "stick": "the same, published weights",
    "principal": "principal decoders",
    "dealt": "decoders of dealt-out labels",
    "random": "random decoders",
}
LOOKS = {
    "learned": Mark("#0072B2", "o", "-"),
    "own": Mark("#D55E00", "s", (0, (5, 1.5))),
    "principal": Mark("#009E73", "^", (0, (3, 1, 1, 1))),
    "dealt": Mark("#CC79A7", "v", (0, (1, 1))),
    "random": Mark(GREY, "x", panels.DOTTED),
}
TURNED = {"rotated": Mark("#3D97CC", "D", (0, (2, 2))), "foreign": Mark("#C47F00", "P", (0, (7, 2)))}
CODES = {
    "learned": "own code",
    "transferred": "another delta's code",
    "rotated": "that code rotated",
    "foreign": "another task's code",
    "pooled": "decoders of all tasks",
    "own": "decoders of the task itself",
    "principal": "principal decoders",
    "dealt": "decoders of dealt-out labels",
    "random": "random decoders",
}
AREAS = {
    "shared_learned": "decoders of other tasks",
    "shared_own": "decoders of the task itself",
    "shared_rotated": "code rotated for each delta",
    "shared_random": "random decoders",
}
ENOUGH = 0.8  # of the gain: where training keeps that, directions suffice
WELL = 0.5  # of the fall of a delta's loss: where it keeps that, it does well
INSIDE = {"gain": "all numbers", "gain_predicted": "foretold subspace", "gain_other": "another task's", "gain_random": "random"}
CAPTURED = {"captured_predicted": "foretold subspace", "captured_other": "another task's", "captured_random": "random"}


def kept_share(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return performance over that of the full delta, both above the majority's."""
    return (rows[column] - rows["majority"]) / (rows["full"] - rows["majority"]).clip(lower=1e-9)


def lines_at(axes: Axes, bar: float | None) -> None:
    """Draw the lines at all and at the bar of what a code should keep."""
    axes.axvline(1.0, color=GREY, lw=0.8, zorder=0)
    if bar is not None:
        axes.axvline(bar, color=FAINT, lw=0.8, ls="--", zorder=0)


def _by_dimension(axes: Axes, rows: pd.DataFrame, column: str, looks: dict[str, Mark]) -> None:
    """Draw what codes keep against their number of numbers, mean over cells and deltas, a line a kind of decoder."""
    for arm, look in looks.items():
        own = panels.present(rows[rows["arm"] == arm], [column])
        means = own.groupby("dimension")[[column, "full", "majority"]].mean().astype(float)
        axes.plot(means.index, kept_share(means, column), color=look.color, lw=1.1, **panels.along(look), ls=look.dash)
    style.log_axis(axes, "x")
    axes.axhline(1.0, color=GREY, lw=0.8, zorder=0)
    axes.axhline(0.0, color=FAINT, lw=0.8, zorder=0)
    axes.set_xlabel("numbers of the code")


def _looks(words: dict[str, str]) -> list[Line2D]:
    return [
        Line2D([], [], color=look.color, lw=1.1, **panels.along(look), ls=look.dash, label=words[arm])
        for arm, look in LOOKS.items()
    ]


def one_subspace(rows: pd.DataFrame, runs: pd.DataFrame, labels: Labels, bars: dict) -> Figure:
    """Return what a code keeps through each kind of decoder, and against its dimension."""
    with style.theme():
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        words = ARMS | {"frozen": "frozen network"}
        panels.rivals(left, rows.assign(**{name: kept_share(rows, name) for name in words}), words, labels, width=26)
        lines_at(left, bars["level"][0])
        left.set(xlabel="corrected relative performance", title="(a) at the tested dimension")
        _by_dimension(right, runs, "accuracy", LOOKS)
        right.set(ylabel="corrected relative performance", title="(b) mean over deltas")
        style.legend(figure, _looks(ARMS))
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


def _matrix(axes: Axes, transfers: pd.DataFrame, labels: Labels) -> None:
    """Draw what every delta makes of every other one's code, mean over cells, as numbers on grey."""
    names, through = (labels.in_order("delta", transfers[end]) for end in ("delta", "from"))
    means = transfers.groupby(["from", "delta"])[["transferred", "full", "majority"]].mean()
    table = kept_share(means, "transferred").unstack().reindex(index=through, columns=names)
    axes.imshow(table.to_numpy(dtype=float), cmap="Greys", vmin=0.0, vmax=1.5)
    for i, j in np.argwhere(np.isfinite(table.to_numpy(dtype=float))):
        value = table.iloc[i, j]
        axes.text(j, i, f"{value:.2f}".replace("-", "−"), ha="center", va="center", color="white" if value > 0.8 else "black")
    for ticks, shown in ((axes.set_xticks, names), (axes.set_yticks, through)):
        ticks(range(len(shown)), [style.wrap(labels.delta(name), 10) for name in shown])
    axes.set(xlabel="read by", ylabel="trained through")


def code_transfer(rows: pd.DataFrame, transfers: pd.DataFrame, labels: Labels, bars: dict) -> Figure:
    """Return what a delta makes of another's code beside nulls, pair by pair, and against the dimension."""
    with style.theme():
        figure = style.canvas(5.4)
        (left, right), (below, pairs) = figure.subplots(2, 2, width_ratios=(1.2, 1))
        words = CODES | {"frozen": "frozen network"}
        panels.rivals(left, rows.assign(**{name: kept_share(rows, name) for name in words}), words, labels, width=26)
        lines_at(left, bars["level"][0])
        left.set(xlabel="corrected relative performance", title="(a) codes untrained")
        tested = transfers[transfers["dimension"] == transfers.loc[transfers["arm"] == "stick", "dimension"].iloc[0]]
        _matrix(right, tested[tested["arm"] == "learned"], labels)
        right.set(title="(b) decoders of other tasks")
        _matrix(pairs, tested[tested["arm"] == "own"], labels)
        pairs.set(title="(d) decoders of the task itself")
        _by_dimension(below, transfers, "transferred", LOOKS)
        for null, look in TURNED.items():
            _by_dimension(below, transfers[transfers["arm"] == "learned"], null, {"learned": look})
        below.set(ylabel="corrected relative performance", title="(c) mean over pairs")
        turned = [
            Line2D([], [], color=look.color, lw=1.1, **panels.along(look), ls=look.dash, label=CODES[null])
            for null, look in TURNED.items()
        ]
        style.legend(figure, [*_looks(ARMS), *turned])
    return figure


def predicted_subspace(rows: pd.DataFrame, curve: pd.DataFrame, labels: Labels) -> Figure:
    """Return what training gains within each subspace and in how many directions, and how much of the trained step lies there."""
    with style.theme():
        figure = style.canvas(4.6)
        (left, right), (below, beside) = figure.subplots(2, 2)
        panels.rivals(left, rows, INSIDE, labels)
        left.axvline(0.0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="fall of the held-out loss (nats)", title="(a) trained within")
        panels.rivals(right, rows, CAPTURED, labels)
        right.set(xlabel="share of the squared step", title="(b) where all numbers went")
        for name in labels.in_order("delta", curve["delta"]):
            own = curve[curve["delta"] == name].groupby("dimension")[["gain", "gain_predicted"]].mean()
            look = labels.look(name)
            below.plot(own.index, own["gain_predicted"] / own["gain"], color=look.color, **panels.along(look), lw=1.1)
        style.log_axis(below, "x")
        for line in (0.0, 1.0):
            below.axhline(line, color=GREY, lw=0.8, zorder=0)
        below.axhline(ENOUGH, color=FAINT, lw=0.8, ls="--", zorder=0)
        below.set(xlabel="foretold directions", ylabel="share of the gain", title="(c) in how many directions")
        panels.points(beside, rows, "suffices_predicted", "suffices", labels)
        panels.identity(beside, rows[["suffices_predicted", "suffices"]].to_numpy(dtype=float), log=True)
        beside.set(xlabel="foretold to suffice", ylabel="directions that suffice", title="(d) for four fifths")
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
            "A code trained through decoders. (a) Held-out accuracy over that of deltas with all their numbers, both above the "
            "largest class, mean over deltas; the dashed line is the bar of {level}. (b) The same against the numbers of the "
            "code, mean over cells; there are no more principal decoders than other tasks. " + COUNTED
        ),
        alt="Left: corrected relative performance by kind of decoder. Right: the same against the numbers of the code.",
    ),
    ClaimFigure(
        "code-transfer",
        code_transfer,
        needs={
            "rows": ("task", "seed", "full", "frozen", "majority", *CODES),
            "transfers": (
                "task",
                "seed",
                "arm",
                "dimension",
                "from",
                "delta",
                "transferred",
                "rotated",
                "foreign",
                "full",
                "majority",
            ),
        },
        bars=("level",),
        caption=(
            "A code that one delta trained and another reads untrained. (a) Held-out accuracy over that of deltas with all their "
            "numbers, both above the largest class, mean over pairs; the dashed line is the bar of {level}. (b) The same for "
            "every pair, mean over cells, through decoders of other tasks. (c) Against the numbers of the code. (d) Every pair "
            "through decoders of the task itself, as published. " + COUNTED
        ),
        alt="Above: corrected relative performance by whose code is read, and a matrix of it from delta to delta. Below: the "
        "same against the numbers of the code, and the matrix for decoders of the task itself.",
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
        needs={
            "rows": ("task", "seed", *INSIDE, *CAPTURED, "suffices_predicted", "suffices"),
            "curve": ("task", "seed", "delta", "dimension", "gain", "gain_predicted"),
        },
        caption=(
            "A delta trained within few directions that the frozen network foretells from port signals. (a) Fall of the "
            "held-out loss with all numbers and within each subspace. (b) Share of the squared length of the step of all "
            "numbers that lies in each. (c) Share of the gain within the first of the foretold directions, mean over cells; "
            "the dashed line is four fifths. (d) The number of directions that keeps four fifths, as the spectrum of the "
            "response to signals has it and as training does; twice the largest that was tried stands for more. " + COUNTED
        ),
        alt="Above: fall of the held-out loss within each subspace, and the share of the trained step inside each. "
        "Below: share of the gain against the number of directions, and how many suffice, foretold and measured.",
    ),
)
