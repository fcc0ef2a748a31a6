"""Size of the control: trained against predicted norm."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def control_amplitude(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return trained against predicted norm of the control, and their ratio against the departure from linearity."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, rows, "norm_predicted", "norm_trained", labels)
        panels.identity(left, rows[["norm_predicted", "norm_trained"]].to_numpy(dtype=float), log=True, factor=2.0)
        left.set(xlabel="predicted norm", ylabel="trained norm", title="(a) predicted and trained")
        ratios = rows.assign(ratio=np.exp(rows["log_ratio"].astype(float)))
        panels.regime(right, ratios, "ratio", labels)
        style.log_axis(right, "y")
        right.axhspan(0.5, 2.0, color=GREY, alpha=0.13, lw=0, zorder=0)
        right.axhline(1, color=GREY, lw=0.8, zorder=0)
        right.set(ylabel="trained over predicted norm", title="(b) by distance from the linear regime")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "control-amplitude",
        control_amplitude,
        needs={"rows": ("task", "norm_predicted", "norm_trained", "log_ratio", "eta")},
        caption=(
            "Size of the control. (a) Norm of the trained against the predicted control; every point is one cell (a task, a "
            "delta and a seed). (b) Their ratio against the departure from linearity. Lines are equality, bands a factor of "
            "two. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: trained against predicted norm with the line of equality. Right: their ratio against departure from linearity."
        ),
    ),
)
