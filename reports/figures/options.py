"""Deltas at their rates: gains foretold and measured, what ranks the options, what searches lose, and the rate by itself."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels
from .choice import choice_gain, choice_race, ranked


def options_forecast(rows: pd.DataFrame, options: pd.DataFrame, labels: Labels) -> Figure:
    """Return the gain of every option against the one foretold, and the rank correlation with the gain by predictor."""
    series = {
        "order_forecast": "forecast",
        "order_table": "mean gain on other tasks",
        "order_nearest": "gain on the nearest task",
        "order_numbers": "number of parameters",
        "order_gradient": "norm of the gradient",
        "order_fisher": "Fisher trace",
        "order_condition": "condition of the kernel",
        "order_features": "feature norms",
    }
    return ranked(rows, options, labels, series)


def options_rate(rates: pd.DataFrame, rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the best rate of every delta's sweep against the one foretold, and the shares within a factor of two."""
    rows, labels = panels.pooled(rows), labels.showing(rates["option"])
    looks = {name: labels.look(name) for name in labels.in_order("delta", rates["option"])}
    series = {
        "within_forecast": "forecast",
        "within_usual": "usual rate on other tasks",
        "within_paths": "paths on the tangent model",
        "within_stable": "bound of stability",
    }
    with style.theme():
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        for name, look in looks.items():
            own = rates[rates["option"] == name]
            met = own["censored"].to_numpy(dtype=float) < 1.0
            panels.dots(left, own["rate_forecast"], own["rate"], look, met, size=12, alpha=panels.faded(len(rates)))
        panels.identity(left, rates[["rate_forecast", "rate"]].to_numpy(dtype=float), log=True, factor=2.0)
        left.set(xlabel="rate foretold", ylabel="best rate of the sweep", title="(a) every delta and task")
        panels.rivals(right, rows, series, labels, width=20)
        right.axvline(0.8, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="share within a factor of two", title="(b) what tells the rate")
        style.legend(figure, style.delta_handles(list(looks), labels))
    return figure


FIGURES = (
    ClaimFigure(
        "options-forecast",
        options_forecast,
        needs={
            "rows": (
                "task",
                "order_forecast",
                "order_table",
                "order_nearest",
                "order_numbers",
                "order_gradient",
                "order_fisher",
                "order_condition",
                "order_features",
            ),
            "options": ("task", "option", "foretold", "gained", "reach"),
        },
        caption=(
            "Which delta at which rate. (a) Points of held-out accuracy over the frozen head that every delta gained at each "
            "of its rates on every task, against those foretold from the frozen model and the other tasks; the line is "
            "equality. (b) Rank correlation over options of what was foretold with what was gained; every point is a task, "
            "bars are medians. {n}. The forecast for a task was calibrated on the other ones."
        ),
        alt="Left: measured against foretold gain of every option, with the line of equality. Right: rank correlations.",
    ),
    ClaimFigure(
        "options-gain",
        choice_gain,
        needs={"rows": ("task", "covered", "off", "off_usual", "reach")},
        caption=(
            "How far gains at a rate are foretold. (a) Share of a task's options whose gain lies in its interval; the line is "
            "their level. (b) Mean distance over a task's options of the gain from the forecast, and from the option's mean "
            "on other tasks; half of the intervals' width beside them. Every point is a task, bars are medians. {n}."
        ),
        alt="Left: share of options in their intervals by task. Right: distances of forecasts and of means on other tasks.",
    ),
    ClaimFigure(
        "options-race",
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
            "What searches among deltas and rates lose. Points of held-out accuracy lost against the choice of the whole "
            "grid, by the passes of a text through the network that a search may take over those of the grid; mean over "
            "tasks. Passes of forecasts are among them. {n}. Races were run on the stored paths of whole runs."
        ),
        alt="Points lost against the share of the grid's price, one line for each way of searching.",
    ),
    ClaimFigure(
        "options-rate",
        options_rate,
        needs={
            "rates": ("task", "option", "rate", "rate_forecast", "censored"),
            "rows": ("task", "within_forecast", "within_usual", "within_paths", "within_stable"),
        },
        caption=(
            "The learning rate. (a) The rate of the least dev loss of every delta's sweep on every task, between the rates "
            "that were tried, against the rate foretold; the band is a factor of two, and rings are best rates at an end of a "
            "sweep. (b) Share of a task's deltas whose best rate is within a factor of two of what is told; every point is a "
            "task, bars are medians. {n}."
        ),
        alt="Left: best against foretold rate of every delta, with a band of a factor of two. Right: shares within it.",
    ),
)
