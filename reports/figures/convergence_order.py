"""The pace of descent, delta by delta."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def convergence_order(rows: pd.DataFrame, deltas: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted steps, delta by delta, and the rank correlation of each predictor with the steps."""
    series = {"predicted": "spectrum and gradient", "linear": "descent on the linear model", "condition": "condition number",
              "trace": "trace over largest", "gradient_norm": "gradient norm", "size": "number of parameters",
              "permuted": "permuted labels"}  # fmt: skip
    with style.theme():
        deltas = panels.present(deltas, ["predicted", "measured"])
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, deltas, "predicted", "measured", labels)
        panels.identity(left, deltas[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2.0)
        left.set(xlabel="predicted steps", ylabel="measured steps", title="(a) every delta")
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the measured steps", title="(b) against rivals")
        style.legend(figure, panels.handles(deltas, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "convergence-order",
        convergence_order,
        needs={"rows": ("task", "predicted"), "deltas": ("task", "delta", "predicted", "measured")},
        caption=(
            "How fast deltas converge. (a) Steps of gradient descent to nine tenths of the decrease, counted on the network "
            "against predicted from the spectrum and the first gradient; the line is equality, the band a factor of two. (b) "
            "Rank correlation with the counted steps over the deltas of a cell; every point is one task and seed, bars are "
            "medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: measured against predicted steps on logarithmic axes with the line of equality. Right: rank correlations "
            "of the prediction, its rivals and a null."
        ),
    ),
)
