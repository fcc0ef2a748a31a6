"""The least energy of a displacement beside what training spends."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import DOTTED, TRAINED
from ..style import GREY, INK, Labels


def minimum_energy(rows: pd.DataFrame, decays: pd.DataFrame, labels: Labels) -> Figure:
    """Return the minimum-energy efficiency of trained controls against the weight decay, by task, and of other controls."""
    with style.theme():
        decays = panels.present(decays, ["decay", "measured", "predicted", "gradient"])
        figure, axes, bottom = panels.by_task(decays, labels, 1.9, "weight decay, over its smallest value", "(a) efficiency")
        for task, panel in axes.items():
            cells = decays[decays["task"] == task]
            mean = panels.tested(cells).groupby("decay")[["measured", "predicted", "gradient"]].mean()
            panels.dots(panel, cells["decay"], cells["measured"], TRAINED, panels.inside(cells), size=5, alpha=0.35)
            panel.plot(mean.index, mean["predicted"], color=INK, lw=1.1)
            panel.plot(mean.index, mean["gradient"], color=GREY, lw=0.9, ls=DOTTED)
            panel.plot(mean.index, mean["measured"], ls="", marker=TRAINED.marker, ms=3.4, mew=0, color=TRAINED.color)
            style.log_axis(panel, "x")
        panels.from_zero(panel)
        series = {"efficiency": "trained, smallest decay", "efficiency_predicted": "linearised optimum",
                  "efficiency_gradient": "gradient", "efficiency_early": "stopped early", "efficiency_free": "without decay",
                  "efficiency_random": "random in the row space"}  # fmt: skip
        strip = bottom.subplots()
        panels.rivals(strip, panels.pooled(rows), series, labels, width=30)
        strip.set(xlabel="(b) efficiency", xlim=(0, None))
        lines = [panels.line_handle("linearised optimum"), panels.line_handle("gradient", dotted=True)]
        style.legend(figure, lines + panels.trained_handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "minimum-energy",
        minimum_energy,
        needs={"rows": ("task", "efficiency"), "decays": ("task", "decay", "measured", "predicted", "gradient")},
        caption=(
            "Minimum-energy efficiency. (a) Share of the energy of a trained control that its displacement of the class "
            "margins needs, against the weight decay. Solid lines are predictions, large markers trained means over seeds, "
            "small ones single cells, dotted the gradient that displaces as far. (b) The same share for the control trained "
            "at the smallest decay and for others; every point is one task and seed, bars are medians. {n}. Nothing was "
            "fitted."
        ),
        alt=(
            "Top: efficiency against weight decay by task, predicted as lines and trained as points. Bottom: efficiency of "
            "trained, predicted, gradient and random controls."
        ),
    ),
)
