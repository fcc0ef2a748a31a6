"""Tuning as in practice: the direction foretold against rivals, task by task, and the points gained, foretold and measured."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels

RIVALS = {"gradient": "first gradient", "head": "head refitted", "constant": "one constant shift"}


def practice_direction(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the cosine of predicted and tuned logit shifts by task, beside the best rival's, and by rival."""
    series = {"cosine": "linearised optimum", **{f"cosine_{name}": words for name, words in RIVALS.items()}}
    tasks = labels.in_order("task", rows["task"])
    best = rows.assign(best=rows["cosine"] - rows["margin"])
    with style.theme():
        figure = style.canvas(max(2.7, 1.3 + 0.26 * len(tasks)))
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        for place, task in enumerate(tasks):
            own = best[best["task"] == task]
            lanes = panels.groups(own, labels)
            for lane, (look, group) in enumerate(lanes):
                y = place + 0.66 * ((lane + 0.5) / len(lanes) - 0.5)
                panels.dots(left, group["cosine"], y, look, panels.inside(group), size=11)
                left.scatter(group["best"], [y] * len(group), s=26, marker="|", color=GREY, linewidths=0.9, zorder=1)
        panels.by_name(left, [labels.task(task) for task in tasks], 20)
        panels.rivals(right, rows, series | {"cosine_permuted": "permuted labels"}, labels)
        for axes, letter, words in ((left, "a", "by task"), (right, "b", "against rivals and a null")):
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
            axes.set(xlabel="cosine with the tuned shift", title=f"({letter}) {words}")
        rival = Line2D([], [], ls="", marker="|", color=GREY, ms=6, mew=0.9, label="best rival")
        style.legend(figure, [*panels.handles(rows, labels), rival])
    return figure


def practice_gain(rows: pd.DataFrame, path: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted points of accuracy and nats of loss, and the gain along the runs."""
    with style.theme():
        figure = style.canvas(2.9)
        points, nats, runs = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        for axes, x, y in ((points, "points_predicted", "points"), (nats, "predicted", "measured")):
            panels.points(axes, rows, x, y, labels)
            panels.identity(axes, rows[[x, y]].to_numpy(dtype=float), log=False)
        points.set(xlabel="predicted gain (points)", ylabel="measured gain (points)", title="(a) accuracy")
        nats.set(xlabel="predicted fall (nats)", ylabel="measured fall (nats)", title="(b) held-out loss")
        taken = path[path["step"] > 0]
        for look, group in panels.groups(taken, labels):
            middle = group.groupby("step")["points"].median()
            runs.plot(middle.index, middle, color=look.color, lw=1.2, marker=look.marker, ms=2.5, mew=0)
        style.log_axis(runs, "x")
        runs.axhline(0, color=GREY, lw=0.8, zorder=0)
        runs.axhline(float(rows["points_predicted"].median()), color=INK, lw=0.8, ls=panels.DOTTED, zorder=0)
        runs.set(xlabel="step", ylabel="median gain (points)", title="(c) along the runs")
        style.legend(figure, [*panels.handles(rows, labels), panels.line_handle("median prediction", dotted=True)])
    return figure


FIGURES = (
    ClaimFigure(
        "practice-direction",
        practice_direction,
        needs={"rows": ("task", "cosine", "cosine_gradient", "cosine_head", "cosine_constant", "cosine_permuted", "margin")},
        caption=(
            "Where tuning as in practice moves the logits. Cosine over held-out texts of the shift by AdamW, its rate and step "
            "chosen on dev text, with the forecasts made before. (a) The linearised optimum by task; a grey bar is the best of "
            "the rivals and the null in that cell. (b) The same against each of them; every point is one cell (a task, a delta "
            "and a seed), bars are medians. {n}. Ridge, scale and constant of the forecasts were chosen on dev text."
        ),
        alt=(
            "Left: cosine of the linearised optimum's shift with the tuned one by task, beside the best rival's. Right: the "
            "same by forecast."
        ),
    ),
    ClaimFigure(
        "practice-gain",
        practice_gain,
        needs={
            "rows": ("task", "points", "points_predicted", "measured", "predicted"),
            "path": ("step", "points"),
        },
        caption=(
            "How much tuning gains in practice. (a) Points of held-out accuracy over the frozen head, measured by AdamW with "
            "rate and step chosen on dev text against the linearised optimum's forecast; the line is equality. (b) The same "
            "for the fall of the held-out loss. (c) Median points gained along the chosen runs, by delta; dotted: the median "
            "forecast of all cells. {n}."
        ),
        alt=(
            "Left: measured against predicted points of accuracy with the line of equality. Middle: the same for the fall of "
            "the held-out loss. Right: median points gained against the training step."
        ),
    ),
)
