"""Tuning as in practice: the direction foretold against rivals, task by task, and the points gained, foretold and measured."""

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from .. import panels, style, words
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels

RIVALS = {"gradient": "first gradient", "head": "head refitted", "constant": "one constant shift"}


def practice_direction(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the cosine of predicted and tuned logit shifts by task, beside the best rival's, and by rival."""
    series = {"cosine": "linearised optimum", **{f"cosine_{name}": said for name, said in RIVALS.items()}}
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
        for axes, letter, said in ((left, "a", "by task"), (right, "b", "against rivals and a null")):
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
            axes.set(xlabel="cosine with the tuned shift", title=f"({letter}) {said}")
        rival = Line2D([], [], ls="", marker="|", color=GREY, ms=6, mew=0.9, label="best rival")
        style.legend(figure, [*panels.handles(rows, labels), rival])
    return figure


FORECASTS = {
    "optimum": "linearised optimum",
    "path": "AdamW on the tangent",
    "relinearised_1": "1 Gauss-Newton step",
    "relinearised_2": "2 Gauss-Newton steps",
    "relinearised_3": "3 Gauss-Newton steps",
    "gradient": "first gradient",
    "head": "head refitted",
    "constant": "one constant shift",
    "shuffled": "shuffled network",
}


def practice_gain(rows: pd.DataFrame, path: pd.DataFrame, forecasts: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted gains, the gain along the runs, and what every forecast comes to."""
    with style.theme():
        names = [name for name in FORECASTS if name in set(forecasts["forecast"])]
        figure = style.canvas(3.4 + 0.24 * len(names))
        above, below = figure.subfigures(2, 1, height_ratios=(2.9, 0.5 + 0.24 * len(names)))
        points, nats, runs = above.subplots(1, 3, width_ratios=(1, 1, 1.1))
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
        style.legend(above, [*panels.handles(rows, labels), panels.line_handle("median prediction", dotted=True)])
        _compared(below, forecasts, names, labels)
    return figure


def _compared(figure: SubFigure, forecasts: pd.DataFrame, names: Sequence[str], labels: Labels) -> None:
    """Write every forecast's cosine, R² and calibration slope by delta into three grids, the ground the darker the better."""
    grids = figure.subplots(1, 3, sharey=True)
    statistics = {
        "(d) cosine, mean": lambda own: own["cosine"].mean(),
        "(e) R², median": lambda own: own["r2"].median(),
        "(f) calibration slope": _slope,
    }
    costs = forecasts.groupby("forecast")["cost"].median()
    for axes, (title, statistic) in zip(grids, statistics.items(), strict=True):
        found = pd.DataFrame(
            {
                labels.delta(delta): {name: statistic(own[own["forecast"] == name]) for name in names}
                for delta, own in ((d, forecasts[forecasts["delta"] == d]) for d in panels.deltas(forecasts, labels))
            },
            dtype=float,
        )
        shade = found.where(found <= 1, 1 / found) if "slope" in title else found  # a slope of 1 is right
        written = found.map(partial(words.number, decimals=2))
        look = {"cmap": "Greys", "vmin": 0, "vmax": 2.2, "cbar": False, "linewidths": 0.5}
        size = min(6.5, 42 / max(len(found.columns), 1))  # so that three grids of eight deltas fit
        sns.heatmap(shade.clip(0, 1), annot=written, fmt="", annot_kws={"size": size, "color": INK}, ax=axes, **look)
        axes.set_title(title)
        axes.tick_params(length=0, labelsize=7)
        axes.set_yticklabels([f"{FORECASTS[name]} ({100 * costs[name]:.1f} %)" for name in names], rotation=0)
        axes.set_xticklabels([style.wrap(name, 26, 1) for name in found], rotation=40, ha="right", rotation_mode="anchor")


def _slope(own: pd.DataFrame) -> float:
    """Return the least-squares slope, with intercept, of measured on predicted points; none where all forecasts are alike."""
    x = own["predicted"] - own["predicted"].mean()
    return float(x @ own["measured"] / (x @ x)) if x.any() else math.nan


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
            "forecasts": ("forecast", "delta", "cosine", "r2", "predicted", "measured", "cost"),
        },
        caption=(
            "How much tuning gains in practice. (a) Points of held-out accuracy over the frozen head, measured by AdamW with "
            "rate and step chosen on dev text against the linearised optimum's forecast; the line is equality. (b) The same "
            "for the fall of the held-out loss. (c) Median points gained along the chosen runs, by delta; dotted: the median "
            "forecast of all cells. (d) to (f) Every forecast by delta: cosine with the held-out shift by tuning, share of it "
            "that is explained, and slope of measured on forecast points over tasks, 1 where the forecast is calibrated; in "
            "brackets the passes of a text through the network that the forecast takes, over those of the sweep of rates. {n}."
        ),
        alt=(
            "Left: measured against predicted points of accuracy with the line of equality. Middle: the same for the fall of "
            "the held-out loss. Right: median points gained against the training step. Below: cosine, R² and calibration "
            "slope of every forecast by delta, as numbers."
        ),
    ),
)
