"""Sharpness and the generalisation gap."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def sharpness_gap(rows: pd.DataFrame, points: pd.DataFrame, labels: Labels) -> Figure:
    """Return the generalisation gap against the sharpness, each about its cell's middle, and the partial rank correlations."""
    series = {"sharpness": "sharpness", "adaptive": "in units of the change", "trace": "trace", "norm": "distance from the start",
              "effective_dimension": "effective dimension", "size": "number of parameters",
              "permuted": "another point's sharpness"}  # fmt: skip
    with style.theme():
        points = panels.present(points, ["sharpness", "gap"])
        points = points[points["sharpness"] > 0]
        cells = points.groupby(["task", "seed"])
        middle = cells[["sharpness", "gap"]].transform("median")
        points = points.assign(relative=points["sharpness"] / middle["sharpness"], more=points["gap"] - middle["gap"])
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, points, "relative", "more", labels, size=9)
        style.log_axis(left, "x")
        left.axhline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="sharpness over the cell's median", ylabel="gap less the cell's median (nats)", title="(a) every point")
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the gap, given training loss", title="(b) by predictor")
        style.legend(figure, panels.handles(points, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "sharpness-gap",
        sharpness_gap,
        needs={"rows": ("task", "sharpness"), "points": ("task", "seed", "delta", "sharpness", "gap")},
        caption=(
            "Sharpness and generalisation. (a) Held-out less training loss against the Hessian's largest eigenvalue at the "
            "tuned delta, each about the median of its task and seed. (b) Rank correlation with the gap, given the training "
            "loss, over the deltas and penalties of a cell; every point is one task and seed, bars are medians. {n}. Nothing "
            "was fitted."
        ),
        alt=(
            "Left: generalisation gap against sharpness. Right: partial rank correlations of sharpness, its variants and its "
            "rivals."
        ),
    ),
)
