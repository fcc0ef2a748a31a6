"""Figures of what controls can reach: the loss under a budget, the energy of a displacement, the subspace that tasks share."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from . import panels, style
from .style import GREY, INK, Labels, Mark

LOOK = style.DELTAS["port-bias"]
DOTTED = (0, (1, 1.2))
FLOOR = 1e-4
SUBSPACES = {
    "spanned": (Mark("#0072B2", "o", "-"), "other tasks' responses"),
    "unlabelled": (Mark("#56B4E9", "s", (0, (5, 1.5))), "their readouts on this task's text"),
    "gradients": (Mark("#D55E00", "D", (0, (4, 1, 1, 1))), "own per-example gradients"),
    "trained": (Mark("#009E73", "^", (0, (7, 2))), "other tasks' controls"),
    "shuffled": (Mark(GREY, "v", DOTTED), "weight-shuffled network"),
}


def budget_law(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the loss that a control of bounded norm takes away against the bound, by task, and the errors."""
    with style.theme():
        rows = panels.present(rows, ["share", "predicted", "measured", "power"])
        figure, axes, bottom = _by_task(rows, labels, 1.5, "norm, over that at the edge of the regime", "(a) loss taken away")
        for task, panel in axes.items():
            cells = rows[rows["task"] == task]
            mean = cells.assign(share=cells["share"].round(6)).groupby("share")[["predicted", "measured", "power"]].mean()
            panels.dots(panel, cells["share"], cells["measured"], LOOK, panels.inside(cells), size=5, alpha=0.35)
            panel.plot(mean.index, mean["predicted"], color=INK, lw=1.1)
            panel.plot(mean.index, mean["power"], color=GREY, lw=0.9, ls=DOTTED)
            panel.plot(mean.index, mean["measured"], ls="", marker=LOOK.marker, ms=3.4, mew=0, color=LOOK.color)
            panel.axvline(1, color=GREY, lw=0.6, zorder=0)
            style.log_axis(panel, "x")
            panel.set_ylim(bottom=0)
        series = {"error": "convex program", "error_power": "power law fitted to half", "error_gradient": "gradient's direction",
                  "error_test": "convex program, held-out text"}  # fmt: skip
        strip, shown = bottom.subplots(), [name for name in series if name in rows]
        kept = rows.drop(columns="delta", errors="ignore")
        panels.rivals(strip, kept.assign(**kept[shown].clip(lower=FLOOR)), series, labels, width=30)
        style.log_axis(strip, "x")
        strip.set(xlabel="(b) error of the gain, over the predicted gain (0.0001 and below at the left)")
        style.legend(figure, [_line("convex program"), _line("power law fitted to half", dotted=True), *_points(rows, labels)])
    return figure


def minimum_energy(rows: pd.DataFrame, decays: pd.DataFrame, labels: Labels) -> Figure:
    """Return the minimum-energy efficiency of trained controls against the weight decay, by task, and of other controls."""
    with style.theme():
        decays = panels.present(decays, ["decay", "measured", "predicted", "gradient"])
        figure, axes, bottom = _by_task(decays, labels, 1.9, "weight decay, over its smallest value", "(a) efficiency")
        for task, panel in axes.items():
            cells = decays[decays["task"] == task]
            mean = panels.tested(cells).groupby("decay")[["measured", "predicted", "gradient"]].mean()
            panels.dots(panel, cells["decay"], cells["measured"], LOOK, panels.inside(cells), size=5, alpha=0.35)
            panel.plot(mean.index, mean["predicted"], color=INK, lw=1.1)
            panel.plot(mean.index, mean["gradient"], color=GREY, lw=0.9, ls=DOTTED)
            panel.plot(mean.index, mean["measured"], ls="", marker=LOOK.marker, ms=3.4, mew=0, color=LOOK.color)
            style.log_axis(panel, "x")
            panel.set_ylim(bottom=0)
        series = {"efficiency": "trained, smallest decay", "efficiency_predicted": "linearised optimum",
                  "efficiency_gradient": "gradient", "efficiency_early": "stopped early", "efficiency_free": "without decay",
                  "efficiency_random": "random in the row space"}  # fmt: skip
        strip = bottom.subplots()
        panels.rivals(strip, rows.drop(columns="delta", errors="ignore"), series, labels, width=30)
        strip.set(xlabel="(b) efficiency", xlim=(0, None))
        style.legend(figure, [_line("linearised optimum"), _line("gradient", dotted=True), *_points(rows, labels)])
    return figure


def subspace_transfer(rows: pd.DataFrame, curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the energy of the trained control that each subspace captures, by task, and the gain lost by training inside."""
    with style.theme():
        curves = panels.present(curves, ["dimension", "energy"])
        figure, axes, bottom = _by_task(curves, labels, 1.5, "dimension of the subspace", "(a) captured energy")
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
        panels.rivals(strip, rows.drop(columns="delta", errors="ignore"), series, labels, width=30)
        strip.axvline(0, color=GREY, lw=0.8, zorder=0)
        strip.set(xlabel="(b) share of the gain lost by training inside")
        lines = [Line2D([], [], color=look.color, ls=look.dash, lw=1.1, label=words) for look, words in SUBSPACES.values()]
        style.legend(figure, lines + panels.handles(rows.drop(columns="delta", errors="ignore"), labels))
    return figure


def _by_task(rows: pd.DataFrame, labels: Labels, strip: float, x: str, y: str) -> tuple[Figure, dict[str, Axes], SubFigure]:
    """Return a figure with one titled panel per task above, and a subfigure of the height `strip` below."""
    tasks = labels.in_order("task", rows["task"])
    columns = panels.columns_for(len(tasks))
    lines = -(-len(tasks) // columns)
    each = min(1.6, (8.2 - strip) / lines)
    figure = style.canvas(0.7 + each * lines + strip)
    top, bottom = figure.subfigures(2, 1, height_ratios=(0.45 + each * lines, strip))
    panel = top.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for place, axes in enumerate(panel):
        if place < len(tasks):
            axes.set_title(style.wrap(labels.task(tasks[place]), int(84 / columns)), fontsize=8, linespacing=0.95)
        else:
            axes.set_visible(False)
            panel[place - columns].tick_params(axis="x", labelbottom=True)
    top.supxlabel(x, fontsize=8.5)
    top.supylabel(y, fontsize=8.5)
    return figure, dict(zip(tasks, panel, strict=False)), bottom


def _line(words: str, *, dotted: bool = False) -> Line2D:
    return Line2D([], [], color=GREY if dotted else INK, lw=0.9 if dotted else 1.1, ls=DOTTED if dotted else "-", label=words)


def _points(rows: pd.DataFrame, labels: Labels, words: str = "trained") -> Sequence[Line2D]:
    """Return the legend entries of the trained points, and of hollow ones where some are drawn."""
    own = Line2D([], [], ls="", marker=LOOK.marker, color=LOOK.color, ms=4.5, mew=0, label=words)
    return [own, *panels.handles(rows.drop(columns="delta", errors="ignore"), labels)]
