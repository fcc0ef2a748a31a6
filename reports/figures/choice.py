"""Which delta to tune: gains foretold and measured, what ranks the options, and what searches lose at a price."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels, Mark

SEARCHES = {
    "lost": (Mark("#0072B2", "o"), "race led by the forecast"),
    "lost_table": (Mark("#009E73", "P"), "race led by the means on other tasks"),
    "lost_plain": (Mark("#56B4E9", "s"), "successive halving of all runs"),
    "lost_random": (Mark("#D55E00", "^"), "random search"),
    "lost_shortened": (Mark("#E69F00", "v"), "grid with shortened runs"),
}


def choice_forecast(rows: pd.DataFrame, options: pd.DataFrame, labels: Labels) -> Figure:
    """Return the gain of every option against the one foretold, and the rank correlation with the gain by predictor."""
    series = {
        "order_forecast": "forecast",
        "order_table": "mean gain on other tasks",
        "order_optimum": "tangent optimum",
        "order_path": "path on the tangent model",
        "order_refined": "linearised anew",
        "order_gradient": "first gradient",
        "order_curvature": "largest curvature",
        "order_numbers": "number of parameters",
    }
    return ranked(rows, options, labels, series)


def ranked(rows: pd.DataFrame, options: pd.DataFrame, labels: Labels, series: Mapping[str, str]) -> Figure:
    """Return gains against those foretold, and the rank correlation with the gain by predictor, series {column: words}."""
    rows, options = panels.pooled(rows), panels.present(options, ["foretold", "gained", "reach"])
    labels = labels.showing(options["option"])
    looks = {name: labels.look(name) for name in labels.in_order("delta", options["option"])}
    with style.theme():
        figure = style.canvas(3.3)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        for name, look in looks.items():
            own = options[options["option"] == name]
            panels.dots(left, own["foretold"], own["gained"], look, panels.inside(own), size=10, alpha=panels.faded(len(options)))
        panels.identity(left, options[["foretold", "gained"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="gain foretold (points)", ylabel="gain measured (points)", title="(a) every option and task")
        panels.rivals(right, rows, series, labels, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the gain", title="(b) what ranks the options")
        style.legend(figure, style.delta_handles(list(looks), labels))
    return figure


def choice_gain(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of options in their intervals by task, and how far forecasts and means on other tasks are off."""
    rows = panels.pooled(rows)
    tasks = labels.in_order("task", rows["task"])
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2)
        for place, task in enumerate(tasks):
            own = rows[rows["task"] == task]
            panels.dots(left, own["covered"], place, panels.PLAIN, panels.inside(own), size=18)
        panels.by_name(left, [labels.task(task) for task in tasks], 20)
        left.axvline(0.9, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="share of options in their intervals", title="(a) intervals of nine tenths")
        series = {"off": "forecast", "off_usual": "mean gain on other tasks", "reach": "half-width of the intervals"}
        panels.rivals(right, rows, series, labels, width=20)
        right.set(xlabel="distance from the gain (points)", title="(b) how far off")
    return figure


def choice_race(budgets: pd.DataFrame, labels: Labels) -> Figure:
    """Return the mean points lost against the whole grid's choice by the share of its price, for every way of searching."""
    with style.theme():
        figure = style.canvas(2.7)
        axes = figure.subplots()
        for column, (look, _) in SEARCHES.items():
            mean = budgets.groupby("share")[column].mean()
            axes.plot(mean.index, mean, color=look.color, lw=1.2, **panels.along(look))
        told = budgets[["cost_forecast", "lost_forecast"]].mean()
        panels.dots(
            axes, [told["cost_forecast"]], [told["lost_forecast"]], Mark("#000000", "D"), panels.inside(budgets[:1]), size=22
        )
        axes.axhline(0, color=GREY, lw=0.8, zorder=0)
        style.log_axis(axes, "x")
        axes.set(xlabel="passes over those of the whole grid", ylabel="points lost against the grid's choice")
        lines = [Line2D([], [], color=m.color, marker=m.marker, ms=4, mew=0, lw=1.2, label=w) for m, w in SEARCHES.values()]
        style.legend(figure, [*lines, panels.mark_handle(Mark("#000000", "D"), "the forecast's choice, trained once")])
    return figure


FIGURES = (
    ClaimFigure(
        "choice-forecast",
        choice_forecast,
        needs={
            "rows": ("task", "order_forecast", "order_table", "order_numbers", "order_gradient", "order_curvature"),
            "options": ("task", "option", "foretold", "gained", "reach"),
        },
        caption=(
            "Which delta to tune. (a) Points of held-out accuracy over the frozen head that every option gained on every task, "
            "against those foretold from the frozen model and the other tasks; the line is equality. (b) Rank correlation over "
            "options of what was foretold with what was gained; every point is a task, bars are medians. {n}. The forecast for a "
            "task was calibrated on the other ones."
        ),
        alt="Left: measured against foretold gain of every option, with the line of equality. Right: rank correlations.",
    ),
    ClaimFigure(
        "choice-gain",
        choice_gain,
        needs={"rows": ("task", "covered", "off", "off_usual", "reach")},
        caption=(
            "How far gains are foretold. (a) Share of a task's options whose gain lies in its interval; the line is their level. "
            "(b) Mean distance over a task's options of the gain from the forecast, and from the option's mean on other tasks; "
            "half of the intervals' width beside them. Every point is a task, bars are medians. {n}."
        ),
        alt="Left: share of options in their intervals by task. Right: distances of forecasts and of means on other tasks.",
    ),
    ClaimFigure(
        "choice-race",
        choice_race,
        needs={
            "budgets": (
                "task",
                "share",
                "lost",
                "lost_table",
                "lost_plain",
                "lost_random",
                "lost_shortened",
                "lost_forecast",
                "cost_forecast",
            ),
        },
        caption=(
            "What searches lose. Points of held-out accuracy lost against the choice of the whole grid of options and rates, by "
            "the passes of a text through the network that a search may take over those of the grid; mean over tasks. Passes of "
            "forecasts are among them. {n}. Races were run on the stored paths of whole runs."
        ),
        alt="Points lost against the share of the grid's price, one line for each way of searching.",
    ),
)
