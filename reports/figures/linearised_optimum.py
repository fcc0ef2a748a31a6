"""The linearised optimum: held-out logit shifts, predicted and trained."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def linearised_optimum(rows: pd.DataFrame, points: pd.DataFrame, labels: Labels) -> Figure:
    """Return held-out logit shifts against their prediction, and the variance explained by it and by its rivals."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, points, "predicted", "measured", labels, size=6)
        panels.identity(left, points[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted logit shift", ylabel="measured logit shift", title="(a) held-out logit shifts")
        panels.rivals(right, rows, {"r2": "linearised optimum", "r2_gradient": "one gradient step", "r2_constant": "best shift",
                                    "r2_permuted": "permuted examples"}, labels, floor=-1.0)  # fmt: skip
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlim=(-1.08, 1.05), xlabel="share of variance explained, R²", title="(b) against rivals and nulls")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "linearised-optimum",
        linearised_optimum,
        needs={"rows": ("task", "r2"), "points": ("predicted", "measured")},
        caption=(
            "The linearised optimum. (a) Logit shifts of held-out examples, measured against predicted; the line is equality. "
            "(b) Share of their variance explained by the prediction, its rivals and a null; every point is one cell (a task, "
            "a delta and a seed), bars are medians, arrows stand for values below −1. {n}. Nothing was fitted for the "
            "prediction; the scales of its rivals were fitted to the outcome."
        ),
        alt=(
            "Left: measured against predicted logit shifts with the line of equality. Right: variance explained by the "
            "linearised optimum and by its rivals."
        ),
    ),
)
