"""A small and a larger backbone: how much of the shift the tangent explains on either."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def practice_size(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share explained on the larger backbone against that on the smaller."""
    with style.theme():
        figure = style.canvas(2.9)
        axes = figure.subplots()
        panels.points(axes, rows, "r2_small", "r2_large", labels)
        panels.identity(axes, rows[["r2_small", "r2_large"]].to_numpy(dtype=float), log=False)
        axes.axhline(0, color=GREY, lw=0.8, zorder=0)
        axes.set(xlabel="share explained, smaller backbone", ylabel="share explained, larger backbone")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "practice-size",
        practice_size,
        needs={"rows": ("r2_small", "r2_large")},
        caption=(
            "A small and a larger backbone. The share of the held-out shift that AdamW on the tangent model explains at "
            "the chosen step, for the same delta and texts; the line is equality, shares below -1 are drawn at -1. {n}."
        ),
        alt="Share explained on the larger against the smaller backbone with the line of equality.",
    ),
)
