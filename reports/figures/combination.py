"""Deltas together against deltas alone: what every option reached, task by task, and how far the chosen combination leads."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def facts_combination(rows: pd.DataFrame, options: pd.DataFrame, labels: Labels) -> Figure:
    """Return the accuracy of every option over its task's mean, and the lead of combinations over single deltas."""
    rows, labels = panels.pooled(rows), labels.showing(options["option"])
    names = labels.in_order("delta", options["option"])
    means = options.groupby(["task", "seed"])["accuracy"].transform("mean")
    options = options.assign(over=options["accuracy"] - means)
    with style.theme():
        figure = style.canvas(1.0 + 0.3 * len(names))
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        for place, name in enumerate(names):
            own = options[options["option"] == name]
            panels.dots(left, own["over"], place, panels.PLAIN, panels.inside(own), size=9, alpha=panels.faded(len(options)))
            panels.median(left, float(own["over"].median()), place)
        panels.by_name(left, [labels.delta(name) for name in names], 24)
        left.set(xlabel="points over the task's mean", title="(a) every option")
        series = {"lead": "chosen on other tasks", "lead_mean": "mean of all", "lead_hindsight": "best in hindsight"}
        panels.rivals(right, rows, series, labels, width=14)
        right.set(xlabel="lead over single deltas (points)", title="(b) together against alone")
        for axes in (left, right):
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
    return figure


FIGURES = (
    ClaimFigure(
        "facts-combination",
        facts_combination,
        needs={
            "rows": ("task", "lead", "lead_hindsight", "lead_mean"),
            "options": ("task", "seed", "option", "accuracy"),
        },
        caption=(
            "Deltas together. (a) Held-out accuracy of every option over the mean of all options on the task. (b) Points by "
            "which combinations lead single deltas: those that are best on the other tasks, the means of all, and the best in "
            "hindsight, which favours what there are more of. Every point is a task, bars are medians. {n}."
        ),
        alt="Left: accuracy of single deltas, combinations and sequences over the task's mean. Right: leads of combinations.",
        also=("facts-sequence",),
    ),
)
