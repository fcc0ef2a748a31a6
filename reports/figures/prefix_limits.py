"""A task that the decoder does not know: what each way of tuning learns."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import Labels

ARMS = ("full", "lora", "prefix")


def prefix_limits(digits: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of held-out sequences that each arm solves, by how many different digits they hold, a panel per task."""
    with style.theme():
        figure, panel = panels.multiples(labels.in_order("task", digits["task"]), labels.task)
        for task, axes in panel.items():
            for arm in ARMS:
                own, look = digits[(digits["task"] == task) & (digits["arm"] == arm)], labels.look(arm)
                panels.dots(axes, own["digits"], own["accuracy"], look, panels.inside(own), size=9)
                mean = own.groupby("digits")["accuracy"].mean()
                axes.plot(mean.index, mean, color=look.color, ls=look.dash, lw=1)
            axes.set(ylim=(-0.03, 1.03))
        figure.supxlabel("different digits in the sequence", fontsize=8)
        figure.supylabel("share of sequences solved", fontsize=8)
        style.legend(figure, style.delta_handles(ARMS, labels, line=True), where="outside upper center")
    return figure


FIGURES = (
    ClaimFigure(
        "prefix-limits",
        prefix_limits,
        needs={"digits": ("task", "seed", "arm", "digits", "accuracy")},
        caption=(
            "A task that the decoder does not know. Share of held-out sequences that full tuning, a prefix with more "
            "iterations and LoRA with as many numbers as the prefix solve, by how many different digits a sequence holds; "
            "lines are means over seeds. {n}."
        ),
        alt=(
            "Small multiples by task: share of sequences solved against the number of different digits, one line per way of "
            "tuning."
        ),
    ),
)
