"""Control under a budget: the loss that a bounded control takes away."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import DOTTED, TRAINED
from ..style import GREY, INK, Labels

FLOOR = 1e-4  # the least error that the strip shows


def budget_law(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the loss that a control of bounded norm takes away against the bound, by task, and the errors."""
    with style.theme():
        rows = panels.present(rows, ["share", "predicted", "measured", "power"])
        norm, taken = "norm, over that at the edge of the regime", "(a) loss taken away"
        figure, axes, bottom = panels.by_task(rows, labels, 1.5, norm, taken)
        for task, panel in axes.items():
            cells = rows[rows["task"] == task]
            mean = cells.assign(share=cells["share"].round(6)).groupby("share")[["predicted", "measured", "power"]].mean()
            panels.dots(panel, cells["share"], cells["measured"], TRAINED, panels.inside(cells), size=5, alpha=0.35)
            panel.plot(mean.index, mean["predicted"], color=INK, lw=1.1)
            panel.plot(mean.index, mean["power"], color=GREY, lw=0.9, ls=DOTTED)
            panel.plot(mean.index, mean["measured"], ls="", marker=TRAINED.marker, ms=3.4, mew=0, color=TRAINED.color)
            panel.axvline(1, color=GREY, lw=0.6, zorder=0)
            style.log_axis(panel, "x")
        panels.from_zero(panel)
        series = {"error": "convex program", "error_power": "power law fitted to half", "error_gradient": "gradient's direction",
                  "error_test": "convex program, held-out text"}  # fmt: skip
        strip, shown = bottom.subplots(), [name for name in series if name in rows]
        kept = panels.pooled(rows)
        panels.rivals(strip, kept.assign(**kept[shown].clip(lower=FLOOR)), series, labels, width=30)
        style.log_axis(strip, "x")
        strip.set(xlabel="(b) error of the gain, over the predicted gain (0.0001 and below at the left)")
        lines = [panels.line_handle("convex program"), panels.line_handle("power law fitted to half", dotted=True)]
        style.legend(figure, lines + panels.trained_handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "budget-law",
        budget_law,
        needs={"rows": ("task", "share", "predicted", "measured", "power", "error")},
        caption=(
            "Control under a budget. (a) Share of the frozen model's training loss that a control of bounded norm takes away; "
            "the norm is in units of that at which the linear model ends (upright line). Lines are predictions, large markers "
            "trained means over seeds, small ones single cells. (b) Error of the predicted gain at every radius; bars are "
            "medians inside the linear regime. {n}. The power law was fitted to the trained losses at every second radius and "
            "is shown at the others; nothing was fitted for the prediction."
        ),
        alt=(
            "Top: loss taken away against the norm of the control by task, predicted as lines and trained as points. Bottom: "
            "errors of the convex program, of a fitted power law and of the gradient's direction, on a logarithmic axis."
        ),
    ),
)
