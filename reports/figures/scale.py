"""The facts of scale: what the family of backbones says along its sizes and along the pretraining of one of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import FAINT, GREY, INK, Labels

COMMON = "2x64"
FIRST = 100  # steps that are added to those of pretraining, so that none have a place
AXES = {"parameters": "parameters of the backbone", "steps": f"steps of pretraining, and {FIRST}"}
TITLES = ("(a) by size", "(b) by pretraining")
REACH = 2.0  # standard errors on either side of a mean


def _along(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Return the rows of an axis's members, with their place in x."""
    stages = rows["member"].str.startswith("step-")
    kept = rows[~stages] if axis == "parameters" else rows[stages | (rows["member"] == COMMON)]
    return kept.assign(x=kept[axis] + FIRST * (axis == "steps"))


def _tasks(axes: Axes, rows: pd.DataFrame, column: str, color: str = INK, marker: str = "o") -> None:
    """Draw every task faintly, and the mean over tasks with two standard errors."""
    each = rows.pivot_table(index="x", columns="task", values=column)
    for task in each:
        axes.plot(each.index, each[task], color=FAINT, lw=0.6, zorder=1)
    mean, error = each.mean(axis=1), each.std(axis=1) / np.sqrt(each.count(axis=1))
    axes.errorbar(mean.index, mean, REACH * error, color=color, marker=marker, ms=3.5, lw=1.3, elinewidth=0.8, zorder=3)


def _two(rows: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame], None], ylabel: str) -> Figure:
    """Return a panel for either axis, its members along x."""
    figure = style.canvas(2.9)
    for place, (axes, axis) in enumerate(zip(figure.subplots(1, 2, sharey=True), AXES, strict=True)):
        draw(axes, _along(rows, axis))
        style.log_axis(axes, "x")
        axes.set(xlabel=AXES[axis], ylabel="" if place else ylabel, title=TITLES[place])
    return figure


def scale_gap(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the points by which each delta is behind full tuning, task by task, along both axes."""
    names = panels.deltas(rows, labels)

    def draw(axes: Axes, shown: pd.DataFrame) -> None:
        for name in names:
            look = labels.look(name)
            _tasks(axes, shown[shown["delta"] == name], "behind", look.color, look.marker)
        axes.axhline(0, color=GREY, lw=0.8, zorder=0)

    with style.theme():
        figure = _two(rows, draw, "points behind full tuning")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def _by_option(rows: pd.DataFrame, labels: Labels, column: str, ylabel: str) -> Figure:
    """Return the mean over tasks of a column for every delta along both axes, and every task's mean over deltas faintly."""
    rows, labels = panels.pooled(rows), labels.showing(rows["option"])
    names = labels.in_order("delta", rows["option"])

    def draw(axes: Axes, shown: pd.DataFrame) -> None:
        _tasks(axes, shown.groupby(["task", "x"], as_index=False)[column].mean(), column)
        for name in names if len(names) > 1 else ():
            mean, look = shown[shown["option"] == name].groupby("x")[column].mean(), labels.look(name)
            axes.plot(mean.index, mean, color=look.color, lw=1.0, zorder=2, **panels.along(look))

    with style.theme():
        figure = _two(rows, draw, ylabel)
        own = style.delta_handles(names, labels) if len(names) > 1 else []
        style.legend(figure, [*own, panels.line_handle("mean over tasks and deltas")])
    return figure


def scale_convergence(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the steps to 95 % of the own final fall along both axes."""
    return _by_option(rows, labels, "later", "octaves of steps to 95 %")


def scale_linearity(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the shift that the derivative at the start explains along both axes."""
    return _by_option(rows, labels, "explained", "share of the shift explained")


def scale_d90(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of full tuning's gain that random directions make, summed over tasks, a line for every member."""
    rows = panels.pooled(rows)
    summed = rows.groupby(["member", "parameters", "steps", "dimension"], as_index=False)[["gain", "full"]].sum()
    summed["share"] = summed["gain"] / summed["full"].where(summed["full"] > 0)
    with style.theme():
        figure = style.canvas(3.1)
        for place, (axes, axis) in enumerate(zip(figure.subplots(1, 2, sharey=True), AXES, strict=True)):
            _members(axes, _along(summed, axis), LOOKS[axis])
            axes.set(xlabel="random directions", ylabel="" if place else "share of full tuning's gain", title=TITLES[place])
    return figure


MARKERS = "osD^v"
LOOKS: Mapping[str, Sequence[str]] = {
    "parameters": ("#9ecae1", "#6baed6", "#2171b5", "#08306b"),
    "steps": ("#fdbe85", "#fd8d3c", "#e6550d", "#a63603", "#3d1500"),
}


def _members(axes: Axes, rows: pd.DataFrame, colors: Sequence[str]) -> None:
    """Draw the share by the number of directions, darker the further along, each line named at its end."""
    for color, marker, (_, own) in zip(colors, MARKERS, rows.groupby("x"), strict=False):
        own = own.sort_values("dimension")
        axes.plot(own["dimension"], own["share"], color=color, lw=1.3, marker=marker, ms=3, label=own["member"].iloc[0])
    axes.axhline(0.9, color=GREY, lw=0.8, ls=panels.DOTTED, zorder=0)
    axes.axhline(0, color=GREY, lw=0.8, zorder=0)
    style.log_axis(axes, "x")
    axes.legend(fontsize=7, frameon=False, handlelength=1.4)


FIGURES = (
    ClaimFigure(
        "scale-gap",
        scale_gap,
        needs={"rows": ("task", "delta", "member", "parameters", "steps", "behind")},
        caption=(
            "How far deltas are behind full tuning on one family of backbones, in points of held-out accuracy. (a) "
            "Four sizes of one recipe. (b) Five stages of the pretraining of one size. Every faint line is a task and"
            " a delta, bars are two standard errors of the mean over tasks. {n}."
        ),
        alt="Points behind full tuning against parameters and against steps of pretraining, by delta, with means over tasks.",
    ),
    ClaimFigure(
        "scale-convergence",
        scale_convergence,
        needs={"rows": ("task", "option", "member", "parameters", "steps", "later")},
        caption=(
            "How soon tuning arrives on one family of backbones: the step by which 95 % of a run's own final fall of "
            "the held-out loss are made, in octaves. (a) Four sizes. (b) Five stages of pretraining. Every faint line"
            " is a task, its deltas averaged; bars are two standard errors of the mean over tasks. {n}."
        ),
        alt="Octaves of steps to 95 % of the final fall against parameters and against steps of pretraining, by delta.",
    ),
    ClaimFigure(
        "scale-d90",
        scale_d90,
        needs={"rows": ("task", "member", "parameters", "steps", "dimension", "gain", "full")},
        caption=(
            "What random directions of all weights and the head make of full tuning's gain over the frozen head, both"
            " summed over tasks, on every backbone of the family. (a) Four sizes. (b) Five stages of pretraining. "
            "Dotted: nine tenths, where d90 is read. {n}."
        ),
        alt="Share of full tuning's gain against the number of random directions, a line for every backbone of both axes.",
    ),
    ClaimFigure(
        "scale-linearity",
        scale_linearity,
        needs={"rows": ("task", "option", "member", "parameters", "steps", "explained")},
        caption=(
            "How near tuning is to linear on one family of backbones: the share of the held-out shift of the logits "
            "that the derivative at the start along the trained numbers explains; shares below -1 count as -1. (a) "
            "Four sizes. (b) Five stages of pretraining. Every faint line is a task, its deltas averaged; bars are "
            "two standard errors of the mean over tasks. {n}."
        ),
        alt="Share of the shift explained against parameters and against steps of pretraining, by delta, with means over tasks.",
    ),
)
