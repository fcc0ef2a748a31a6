"""Adversarial training: the gain that it reaches beside the disturbance game's."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import Bars, ClaimFigure
from ..style import GREY, INK, Labels, Mark

GAINS = {
    "trained": (style.DELTAS["adapter"], "trained adapter"),
    "robust": (Mark(INK, "D"), "robust adapter"),
    "open": (style.DELTAS["prefix"], "open loop"),
    "game": (Mark(GREY, "v"), "least of the game"),
}


def robust_gain(rows: pd.DataFrame, labels: Labels, bars: Bars) -> Figure:
    """Return the gains before and after adversarial training and the game's, task by task, and the share of the way made."""
    series = {"closed": "adversarial training", "closed_random": "random disturbances", "closed_removed": "adapter removed"}
    own = panels.pooled(rows)
    with style.theme():
        tasks = labels.in_order("task", rows["task"])
        figure = style.canvas(max(2.7, 0.8 + 0.26 * len(tasks)))
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        for place, task in enumerate(tasks):
            cells = own[own["task"] == task]
            for lane, (column, (look, _)) in enumerate(GAINS.items()):
                panels.dots(left, cells[column], place + 0.18 * (lane - 1.5), look, panels.inside(cells), size=14)
        panels.by_name(left, [labels.task(t) for t in tasks], 22)
        if (own[list(GAINS)] > 0).to_numpy().all():
            style.log_axis(left, "x")
        left.set(xlabel="gain from disturbance to output and control", title="(a) gains")
        panels.rivals(right, own, series, labels, floor=-1.0, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.axvline(bars["closed"][0], color=GREY, lw=0.8, ls=(0, (3, 2)), zorder=0)
        right.set(xlabel="share of the way to the game's gain", title="(b) what closes the distance")
        handles = [panels.mark_handle(look, words) for look, words in GAINS.values()]
        style.legend(figure, handles + panels.handles(own, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "robust-gain",
        robust_gain,
        needs={"rows": ("task", "trained", "robust", "game", "open", "closed")},
        bars=("closed",),
        caption=(
            "Adversarial training. (a) Gain of the loop that the trained adapter closes, before and after adversarial "
            "training, beside the open loop's and the least that the disturbance game allows. (b) Share of the distance from "
            "the trained adapter's to the game's gain that each closes; the broken line is the rule's {closed}. Every point is "
            "one task and seed, bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: gains by task on a logarithmic axis. Right: share of the distance to the game's gain closed by adversarial "
            "training, by random disturbances and by removing the adapter."
        ),
    ),
)
