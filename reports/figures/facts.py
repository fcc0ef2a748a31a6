"""The published facts over many tasks: what every delta reaches, how near it comes to full tuning, how soon it arrives."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels


def facts_order(rows: pd.DataFrame, deltas: pd.DataFrame, published: pd.DataFrame, labels: Labels) -> Figure:
    """Return every delta's accuracy by task beside the frozen head's and the published average, and the rank correlations."""
    rows, labels = panels.pooled(rows), labels.showing(deltas["option"])
    names = labels.in_order("delta", deltas["option"])
    with style.theme():
        figure = style.canvas(1.0 + 0.32 * (len(names) + 1))
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for place, name in enumerate(names):
            own = deltas[deltas["option"] == name]
            panels.dots(left, own["accuracy"], place + _fan(own), labels.look(name), panels.inside(own), size=8,
                        alpha=panels.faded(len(deltas)))  # fmt: skip
            panels.median(left, float(own["accuracy"].mean()), place)
            told = published[published["option"] == name]["published"][:1]
            left.scatter(
                told, [place] * len(told), s=26, marker="D", facecolors="white", edgecolors=INK, linewidths=0.9, zorder=5
            )
        frozen = deltas.drop_duplicates(["task", "seed"])
        panels.dots(left, frozen["frozen"], len(names) + _fan(frozen), panels.PLAIN, panels.inside(frozen), size=8,
                    alpha=panels.faded(len(deltas)))  # fmt: skip
        panels.median(left, float(frozen["frozen"].mean()), len(names))
        panels.by_name(left, [*(labels.delta(name) for name in names), "frozen head"], 20)
        left.set(xlabel="held-out accuracy (%)", title="(a) every task")
        series = {"order": "with the published order", "order_counted": "with the number of parameters"}
        panels.rivals(right, rows, series, labels, width=18)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation within a task", title="(b) the order")
    return figure


def _fan(rows: pd.DataFrame) -> np.ndarray:
    """Return small steps up and down, so that points of a row do not hide each other."""
    return 0.5 * ((np.arange(len(rows)) * 0.618) % 1 - 0.5)


def facts_gap(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return every delta's accuracy above the largest class against full tuning's, task by task."""
    with style.theme():
        figure = style.canvas(3.3)
        axes = figure.subplots()
        panels.points(axes, rows, "over_full", "over", labels)
        panels.identity(axes, rows[["over_full", "over"]].to_numpy(dtype=float), log=False)
        axes.set(xlabel="full tuning, points above the largest class", ylabel="delta, points above the largest class")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def facts_convergence(rows: pd.DataFrame, curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the own final fall along the runs, and how much later than full tuning the deltas arrive."""
    rows, labels = panels.pooled(rows), labels.showing(curves["option"])
    names = labels.in_order("delta", curves["option"])
    with style.theme():
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2)
        for name in names:
            middle = curves[curves["option"] == name].groupby("step")["made"].median()
            look = labels.look(name)
            left.plot(middle.index, middle.clip(lower=-0.5), color=look.color, lw=1.2, marker=look.marker, ms=3, mew=0)
        style.log_axis(left, "x")
        left.axhline(0.95, color=GREY, lw=0.8, ls=panels.DOTTED, zorder=0)
        left.axhline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="step", ylabel="share of the final fall, median", title="(a) along the runs")
        series = {"first": "LoRA and adapter", "prefix_later": "prefix", "prompt_later": "prompt"}
        panels.rivals(right, rows, series, labels, width=18)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="octaves later than full tuning", title="(b) step to 95 %")
        style.legend(figure, style.delta_handles(names, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "facts-order",
        facts_order,
        needs={
            "rows": ("task", "order", "order_counted"),
            "deltas": ("task", "seed", "option", "accuracy", "frozen"),
            "published": ("option", "published"),
        },
        caption=(
            "What each delta reaches. (a) Held-out accuracy on every task at the step that dev text chose; bars are means over "
            "tasks, white diamonds the published averages over other tasks on T5-base, as recalled. (b) Rank correlation of the "
            "five deltas' accuracy with the published order, and with their number of parameters; every point is a task, bars "
            "are medians. {n}."
        ),
        alt="Left: accuracy of every delta by task, with means and published averages. Right: rank correlations within tasks.",
    ),
    ClaimFigure(
        "facts-gap",
        facts_gap,
        needs={"rows": ("task", "over", "over_full")},
        caption=(
            "How near each delta comes to full tuning. Held-out accuracy above the share of the largest class, against full "
            "tuning's; every point is a task and a delta, the line is equality. {n}."
        ),
        alt="Accuracy above the largest class of every delta against full tuning's, with the line of equality.",
    ),
    ClaimFigure(
        "facts-convergence",
        facts_convergence,
        needs={
            "rows": ("task", "first", "prefix_later", "prompt_later"),
            "curves": ("option", "step", "made"),
        },
        caption=(
            "How soon each delta arrives. (a) Share of a run's own final fall of the held-out loss along the run, median over "
            "the tasks on which it falls; dotted: 95 %. (b) Octaves from full tuning's step to 95 % of the own final fall to "
            "that of others; every point is a task, bars are medians. {n}."
        ),
        alt="Left: share of the final fall against the step by delta. Right: octaves by which deltas are later than full tuning.",
    ),
)
