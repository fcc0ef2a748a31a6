"""The subspace that other tasks span."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import DOTTED
from ..style import GREY, Labels, Mark

SUBSPACES = {
    "spanned": (Mark("#0072B2", "o", "-"), "other tasks' responses"),
    "unlabelled": (Mark("#3D97CC", "s", (0, (5, 1.5))), "their readouts on this task's text"),
    "gradients": (Mark("#D55E00", "D", (0, (4, 1, 1, 1))), "own per-example gradients"),
    "trained": (Mark("#009E73", "^", (0, (7, 2))), "other tasks' controls"),
    "shuffled": (Mark(GREY, "v", DOTTED), "weight-shuffled network"),
}


def subspace_transfer(rows: pd.DataFrame, curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the energy of the trained control that each subspace captures, by task, and the gain lost by training inside."""
    with style.theme():
        curves = panels.present(curves, ["dimension", "energy"])
        figure, axes, bottom = panels.by_task(curves, labels, 1.5, "dimension of the subspace", "(a) captured energy")
        for task, panel in axes.items():
            cells = panels.tested(curves[curves["task"] == task])
            for name, (look, _) in SUBSPACES.items():
                own = cells[cells["subspace"] == name].groupby("dimension")["energy"].mean()
                panel.plot(own.index, own, color=look.color, ls=look.dash, lw=1.1)
            style.log_axis(panel, "x")
            panel.set_ylim(0, 1.03)
        series = {"gap": "other tasks' responses", "gap_predicted": "the same, predicted",
                  "gap_random": "random in their row space", "gap_random_predicted": "random, predicted"}  # fmt: skip
        strip = bottom.subplots()
        panels.rivals(strip, panels.pooled(rows), series, labels, width=30)
        strip.axvline(0, color=GREY, lw=0.8, zorder=0)
        strip.set(xlabel="(b) share of the gain lost by training inside")
        lines = [Line2D([], [], color=look.color, ls=look.dash, lw=1.1, label=words) for look, words in SUBSPACES.values()]
        style.legend(figure, lines + panels.handles(panels.pooled(rows), labels))
    return figure


FIGURES = (
    ClaimFigure(
        "subspace-transfer",
        subspace_transfer,
        needs={"rows": ("task", "gap", "gap_random"), "curves": ("task", "subspace", "dimension", "energy")},
        caption=(
            "The subspace of other tasks. (a) Share of a trained control's energy that the leading directions of each "
            "subspace capture, against their number; means over seeds. (b) Share of the gain lost by training inside the "
            "leading directions of other tasks' responses and inside random subspaces of equal dimension; every point is one "
            "task and seed, bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Top: captured energy against dimension by task, one line per subspace. Bottom: gain lost inside the subspace of "
            "other tasks and inside random ones, trained and predicted."
        ),
    ),
)
