"""Families of subspaces: found in the curvature, drawn at random, and with a trained scale per layer."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels, Mark

FAMILIES = {
    "random": (Mark("#000000", "o", "-"), "random"),
    "said": (Mark("#C47F00", "s", (0, (5, 1.5))), "random, scaled by layer"),
    "gauss-newton": (Mark("#0072B2", "D", (0, (1, 1))), "Gauss–Newton"),
    "reachable": (Mark("#3D97CC", "^", (0, (4, 1, 1, 1))), "response"),
    "principal": (Mark("#CC79A7", "v", (0, (3, 1, 1, 1, 1, 1))), "other tasks' deltas"),
    "trajectory": (Mark("#009E73", "P", (0, (7, 2))), "its own training"),
    "turned": (Mark("#8A8A8A", "x", (0, (2, 2))), "random, in the Gauss–Newton span"),
    "foreign": (Mark("#D55E00", "+", (0, (9, 1.5, 1, 1.5))), "another task's Gauss–Newton"),
}


def found_subspaces(rows: pd.DataFrame, curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the gain in every family of subspaces against their dimension, by delta, and the octaves saved."""
    series = {"measured": "Gauss–Newton", "predicted": "Gauss–Newton, predicted", "saved_reachable": "response",
              "saved_said": "scales by layer", "saved_rank": "parameters over rank",
              "saved_participation": "parameters over participation ratio"}  # fmt: skip
    with style.theme():
        curves = panels.present(curves, ["dimension", "measured"])
        names = panels.deltas(curves, labels)
        columns = panels.columns_for(len(names))
        lines = -(-len(names) // columns)
        figure = style.canvas(3.3 + 1.7 * lines)
        top, bottom = figure.subfigures(2, 1, height_ratios=(0.4 + 1.7 * lines, 2.2))
        grid = top.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        for place, axes in enumerate(grid):
            axes.set_visible(place < len(names))
        for name, axes in zip(names, grid, strict=False):
            axes.set_title(style.wrap(labels.delta(name), int(84 / columns)), fontsize=8, linespacing=0.95)
            cells = panels.tested(curves[curves["delta"] == name])
            for family, (look, _) in FAMILIES.items():
                own = cells[cells["family"] == family]
                known = panels.present(own, ["predicted"]).groupby("dimension")["predicted"].mean()
                axes.plot(known.index, known.astype(float), color=look.color, ls=look.dash, lw=0.9)
                mean = own.groupby("dimension")["measured"].mean()
                axes.plot(mean.index, mean, ls="", marker=look.marker, color=look.color, ms=3.2, mew=_edge(look))
            axes.axhline(0.9, color=GREY, lw=0.5, ls=(0, (1, 2)), zorder=0)
            axes.set_ylim(-0.04, 1.08)
            style.log_axis(axes, "x")
        top.supxlabel("dimension of the subspace", fontsize=8.5)
        top.supylabel("(a) share of the gain", fontsize=8.5)
        strip = bottom.subplots()
        panels.rivals(strip, rows, series, labels, width=24)
        strip.axvline(0, color=GREY, lw=0.8, zorder=0)
        strip.set(xlabel="(b) octaves below the threshold dimension of random subspaces")
        shown = [
            Line2D([], [], lw=0.9, ls=look.dash, marker=look.marker, color=look.color, ms=4, mew=_edge(look), label=words)
            for family, (look, words) in FAMILIES.items()
            if family in set(curves["family"])
        ]
        style.legend(figure, shown + panels.handles(rows, labels))
    return figure


def _edge(look: Mark) -> float:
    """Return the width of a marker's edge: crosses have nothing else."""
    return 0.8 if look.marker in "x+" else 0.0


def layer_scales(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return threshold dimensions with scales against those without, and the octaves saved, measured and predicted."""
    series = {"saved": "measured", "saved_scaled": "linearised, scales trained", "saved_first": "linearised, scales at rest",
              "saved_counted": "scales that only cost their number"}  # fmt: skip
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, rows, "random", "said", labels)
        panels.identity(left, rows[["random", "said"]].to_numpy(dtype=float), log=True)
        left.set(xlabel="threshold dimension without scales", ylabel="with a scale per layer", title="(a) threshold dimensions")
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="octaves saved by the scales", title="(b) measured and predicted")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "found-subspaces",
        found_subspaces,
        needs={
            "rows": ("task", "measured", "predicted"),
            "curves": ("task", "delta", "seed", "family", "dimension", "measured", "predicted"),
        },
        caption=(
            "Families of subspaces. (a) Share of the gain in the penalised objective that training inside a subspace reaches, "
            "against its dimension, means over tasks and seeds inside the linear regime; lines are predicted before training, "
            "the dotted line is the threshold. (b) By how many octaves a family's threshold dimension lies below that of "
            "random subspaces, with the prediction and two rivals for the Gauss–Newton directions; bars are medians. {n}. "
            "Nothing was fitted."
        ),
        alt=(
            "Top: share of the gain against dimension for families of subspaces, by delta. Bottom: octaves saved against "
            "random subspaces."
        ),
    ),
    ClaimFigure(
        "layer-scales",
        layer_scales,
        needs={"rows": ("task", "random", "said", "saved")},
        caption=(
            "A trained scale per layer. (a) Threshold dimension of random subspaces with scales, which it counts, against "
            "that without; the line is equality. (b) Octaves saved, measured and as three predictions have it. Every point is "
            "one cell (a task, a delta and a seed), bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: threshold dimension with scales against that without on logarithmic axes. Right: octaves saved, measured "
            "and predicted."
        ),
    ),
)
