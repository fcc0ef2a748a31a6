"""Threshold dimensions of accuracy as a table, and other notions of dimension."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels

PITCH, LINES = 0.165, 46  # inches between lines of the table; how many a page holds


def low_dimension(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the threshold dimension of every task and delta with its interval, beside the prediction and the sizes, as a table.

    Lines show geometric means over seeds; where all tasks would not fit a page, over tasks too.
    """
    lines = _lines(rows, labels)
    height = 0.75 + PITCH * len(lines)
    with style.theme():
        figure = style.canvas(height)
        figure.set_layout_engine("none")
        left, width = 1.35 / style.TEXT_WIDTH, 2.5 / style.TEXT_WIDTH
        axes = figure.add_axes((left, 0.42 / height, width, 1 - 0.72 / height))
        places = {"measured [90 %]": 0.79, "predicted": 0.895, "tuned": 1.0}
        for head, x in places.items():
            figure.text(x, 1 - 0.2 / height, head, ha="right", fontsize=8, weight="bold")

        def write(text: str, x: float, y: float, side: str, **look) -> None:
            axes.annotate(text, (x, y), xycoords=("figure fraction", "data"), va="center", ha=side, fontsize=8, **look)

        for y, (words, look, found) in enumerate(lines):
            write(style.wrap(words, 24, 1), 0.0 if found is None else 0.09 / style.TEXT_WIDTH, y, "left",
                  weight="bold" if found is None else "normal")  # fmt: skip
            if found is not None:
                _line(axes, y, look, found)
                high = _count(found["high"]) if found["closed"] else "–"
                interval = f"{_count(found['measured']) if found['reached'] else 'not reached'} [{_count(found['low'])}, {high}]"
                shown = interval, _count(found["predicted"]), _count(found["parameters"])
                for text, x in zip(shown, places.values(), strict=True):
                    write(text, x, y, "right")
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        style.log_axis(axes, "x")
        axes.set_xlabel("dimension that reaches 90 % of the gain in accuracy")
    return figure


def _lines(rows: pd.DataFrame, labels: Labels) -> list[tuple]:
    """Return the table's lines: (a task in words, None, None), or (a delta in words, its look, its numbers)."""
    columns = ["measured", "low", "high", "predicted", "parameters", "head"]
    numbers = rows[columns].astype(float)
    logs = rows[["task", "delta", "reached", "closed"]].assign(**np.log(numbers.where(numbers > 0)))

    def of_deltas(part: pd.DataFrame) -> list[tuple]:
        means = np.exp(part.groupby("delta")[columns].mean()).join(part.groupby("delta")[["reached", "closed"]].all())
        return [(labels.delta(d), labels.look(d), means.loc[d]) for d in labels.in_order("delta", means.index)]

    tasks = labels.in_order("task", rows["task"])
    whole = [line for t in tasks for line in [(labels.task(t), None, None), *of_deltas(logs[logs["task"] == t])]]
    return whole if len(whole) <= LINES else of_deltas(logs)


def _line(axes: Axes, y: float, look: style.Mark, found: pd.Series) -> None:
    """Draw one interval with its estimate, the prediction as an upright bar, head and all numbers as grey bars."""
    axes.plot([found["low"], found["high"]], [y, y], color=look.color, lw=1.3, solid_capstyle="butt", zorder=3)
    axes.plot([found["measured"]], [y], ls="", marker=look.marker, color=look.color, ms=4, mew=0, zorder=4)
    bars = ((found["predicted"], INK, 1.4), (found["head"], GREY, 0.8), (found["parameters"], GREY, 0.8))
    for at, color, width in bars:
        if np.isfinite(at):
            axes.plot([at, at], [y - 0.32, y + 0.32], color=color, lw=width, zorder=2)


def _count(value: float) -> str:
    """Return a number of directions as a whole number, with commas from 10,000 on and to three digits from a million on."""
    if not np.isfinite(value):
        return "–"
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value:,.0f}" if value >= 1e4 else f"{value:.0f}"


def dimensions_alike(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the threshold dimension of accuracy against other notions of dimension, one panel each."""
    notions = {"effective": "effective dimension, frozen", "coefficient": "learning coefficient, trained",
               "features": "TwoNN of the trained features"}  # fmt: skip
    shown = [name for name in notions if name in rows]
    with style.theme():
        figure = style.canvas(2.7)
        for axes, name, letter in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, "abc", strict=False):
            panels.points(axes, rows, name, "accuracy", labels)
            for which in "xy":
                style.log_axis(axes, which)
            axes.set(xlabel=notions[name], title=f"({letter})")
            if letter == "a":
                axes.set_ylabel("threshold dimension of accuracy")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "low-dimension",
        low_dimension,
        needs={"rows": ("task", "delta", "measured", "low", "high", "predicted", "parameters", "head", "reached", "closed")},
        caption=(
            "Threshold dimensions of held-out accuracy. Coloured: the dimension at which accuracy reaches 90 % of full "
            "tuning's gain over the majority class, with its 90 % interval; a dash is an end beyond the dimensions tried, "
            "drawn at the last one. Dark bar: the same for the linearised problem's solutions. Grey bars: the head's numbers, "
            "and all tuned ones. {n}. Nothing was fitted."
        ),
        alt=(
            "Table by task and delta: interval of the threshold dimension on a logarithmic axis, then measured value with "
            "interval, prediction and number of tuned numbers."
        ),
    ),
    ClaimFigure(
        "dimensions-alike",
        dimensions_alike,
        needs={"rows": ("task", "accuracy", "effective", "coefficient")},
        caption=(
            "Notions of dimension. Threshold dimension of held-out accuracy against (a) the effective dimension of the frozen "
            "features' curvature at 3 % of its largest eigenvalue, (b) the local learning coefficient after training, under a "
            "prior of 3 % of the largest curvature there, (c) the TwoNN dimension of the trained features. Every point is one "
            "cell (a task, a delta and a seed). {n}."
        ),
        alt=("Three scatter plots on logarithmic axes of the threshold dimension against other notions of dimension."),
    ),
)
