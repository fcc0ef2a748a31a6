"""Direction of the control: its cosine with the prediction."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def control_direction(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the cosine of trained and predicted control beside its rivals, and against the departure from linearity."""
    series = {"cosine": "optimal control", "cosine_gradient": "plain gradient", "cosine_permuted": "permuted target (97.5 %)",
              "cosine_random": "random direction"}  # fmt: skip
    with style.theme():
        figure = style.canvas(2.8)
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        panels.rivals(left, rows, series, labels)
        left.axvline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="cosine with the trained control", title="(a) against rivals and nulls")
        panels.regime(right, rows, "cosine", labels)
        right.set(ylabel="cosine", title="(b) by distance from the linear regime")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "control-direction",
        control_direction,
        needs={"rows": ("task", "cosine", "eta")},
        caption=(
            "Direction of the control. (a) Cosine between the trained control and the prediction, its rivals and nulls; every "
            "point is one cell (a task, a delta and a seed), bars are medians. (b) The cosine of the prediction against the "
            "departure from linearity. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: cosines of the trained control with the optimal control, the gradient and nulls. Right: cosine against "
            "departure from linearity."
        ),
    ),
)
