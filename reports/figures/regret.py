"""LoRA without regret: rates, layers, ranks, batches and first steps, measured and as the tangent model foretold them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import Bars, ClaimFigure
from ..style import GREY, INK, Labels, Mark

FULL = style.DELTAS["full"]
LORA, ATTENTION = style.DELTAS["lora"], style.DELTAS["attention-adapter"]
RANKS = {1: Mark("#D55E00", "o"), 4: LORA, 16: Mark("#0072B2", "s")}
DASHED = (0, (2.5, 1.5))


def _words(rank: int) -> str:
    return f"LoRA of rank {rank}" if rank else "full tuning"


def _handles(ranks: Mapping[int, Mark], foretold: bool = True) -> list[Line2D]:
    """Return the legend entries of ranks, rank 0 standing for full tuning, and of what was foretold."""
    made = [Line2D([], [], color=m.color, marker=m.marker, ms=4, mew=0, lw=1.2, label=_words(r)) for r, m in ranks.items()]
    return made + [Line2D([], [], color=GREY, lw=1, ls=DASHED, label="foretold by the tangent path")] * foretold


def _curves(axes: Axes, rows: pd.DataFrame, x: str, y: str, ranks: Mapping[int, Mark], *, dashed: bool = False) -> None:
    """Draw the median over cells of y at every x, one line a rank."""
    for rank, look in ranks.items():
        middle = rows[rows["rank"] == rank].groupby(x)[y].median()
        line = panels.along(look, dotted=dashed) | ({"ls": DASHED, "alpha": 0.75} if dashed else {})
        axes.plot(middle.index, middle, color=look.color, lw=1.2, **line)


def _ratio_panel(axes: Axes, ranks: pd.DataFrame, bar: tuple[float | None, float | None]) -> None:
    """Strip the ratio of best rates by rank, measured and beside it foretold."""
    for place, (rank, look) in enumerate(RANKS.items()):
        own = ranks[ranks["rank"] == rank]
        for lane, (column, filled) in enumerate((("measured", True), ("predicted", False))):
            y = place + 0.4 * (lane - 0.5)
            panels.dots(axes, 2.0 ** own[column], y, look, np.full(len(own), filled), size=13)
            centre = float(2.0 ** own[column].median())
            axes.plot([centre] * 2, [y - 0.17, y + 0.17], color=INK, lw=1.4, solid_capstyle="butt", zorder=4)
    axes.axvspan(*(2.0**end for end in bar), color=GREY, alpha=0.13, lw=0, zorder=0)
    axes.axvline(10, color=GREY, lw=0.8, zorder=0)
    style.log_axis(axes, "x")
    panels.by_name(axes, [f"rank {rank}" for rank in RANKS])
    axes.set(xlabel="LoRA's best rate over full tuning's", title="(b) ratio of best rates")


def regret_rate(rows: pd.DataFrame, ranks: pd.DataFrame, sweeps: pd.DataFrame, labels: Labels, bars: Bars) -> Figure:
    """Return the dev loss over the rates of the sweeps and the ratio of best rates by rank, measured and foretold."""
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _curves(left, sweeps, "rate", "above", {0: FULL} | RANKS)
        style.log_axis(left, "x")
        left.axhline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="rate", ylabel="dev loss above the best (nats)", title="(a) sweeps, median")
        _ratio_panel(right, ranks, bars["ratio"])
        hollow = Line2D([], [], ls="", marker="o", mfc="none", mec=GREY, ms=4, label="foretold by the adaptive sharpness")
        style.legend(figure, [*_handles({0: FULL} | RANKS, foretold=False), hollow])
    return figure


def _by_task(axes: Axes, rows: pd.DataFrame, labels: Labels, columns: Mapping[str, Mark]) -> None:
    """Put the marks of some columns on one row a task, a grey line from the first to the second."""
    tasks = labels.in_order("task", rows["task"])
    for place, task in enumerate(tasks):
        own = rows[rows["task"] == task]
        first, second = list(columns)[:2]
        axes.plot([own[first].mean(), own[second].mean()], [place] * 2, color=GREY, lw=0.9, zorder=1)
        for column, look in columns.items():
            panels.dots(axes, own[column], place, look, np.full(len(own), True), size=20)
    panels.by_name(axes, [labels.task(task) for task in tasks], 20)
    axes.axvline(0, color=GREY, lw=0.8, zorder=0)


def _mark(look: Mark, words: str) -> Line2D:
    return Line2D([], [], ls="", color=look.color, marker=look.marker, ms=4.5, mew=0, label=words)


def _foretold(axes: Axes, rows: pd.DataFrame, measured: str, labels: Labels) -> None:
    """Scatter what was measured against what was foretold, with the line of equality."""
    panels.points(axes, panels.pooled(rows), "predicted", measured, labels, size=16)
    panels.identity(axes, rows[["predicted", measured]].to_numpy(dtype=float), log=False)


def regret_layers(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the gains of LoRA on the MLP and on attention by task, and the lead, measured against foretold."""
    marks = {"gain_attention": ATTENTION, "gain_mlp": LORA, "gain_full": FULL}
    with style.theme():
        figure = style.canvas(max(2.8, 1.3 + 0.24 * rows["task"].nunique()))
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        _by_task(left, rows, labels, marks)
        left.set(xlabel="fall of the held-out loss (nats)", title="(a) by task")
        _foretold(right, rows, "advantage", labels)
        right.set(xlabel="lead of the tangent optima (nats)", ylabel="lead of the MLP (nats)", title="(b) lead, foretold")
        words = ("LoRA on attention", "LoRA on the MLP", "full tuning")
        style.legend(figure, [_mark(look, text) for look, text in zip(marks.values(), words, strict=True)])
    return figure


def regret_capacity(rows: pd.DataFrame, curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the gain along the runs by rank, measured and foretold, and the step at which each rank leaves full tuning."""
    with style.theme():
        figure = style.canvas(2.9)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
        for axes, column, letter, words in ((left, "share", "a", "measured"), (middle, "predicted", "b", "foretold")):
            _curves(axes, curves, "step", column, {0: FULL} | RANKS)
            style.log_axis(axes, "x")
            axes.axhline(0, color=GREY, lw=0.8, zorder=0)
            axes.set(xlabel="step", title=f"({letter}) {words}, median")
        left.set_ylabel("gain over full tuning's at the end")
        middle.set_ylim(left.get_ylim())
        for place, (rank, look) in enumerate(RANKS.items()):
            steps = rows[f"left_{rank}"].to_numpy(dtype=float)
            spread = place + 0.5 * (np.argsort(np.argsort(steps, kind="stable")) + 0.5) / len(steps) - 0.25
            panels.dots(right, steps, spread, look, np.full(len(steps), True), size=13)
            panels.median(right, float(np.median(steps)), place)
        style.log_axis(right, "x")
        panels.by_name(right, [f"rank {rank}" for rank in RANKS])
        right.set(xlabel="step of leaving", title="(c) leaving full tuning")
        style.legend(figure, _handles({0: FULL} | RANKS, foretold=False))
    return figure


def regret_batch(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return what the large batch costs LoRA and full tuning by task, and the excess, measured against foretold."""
    marks = {"penalty_full": FULL, "penalty": LORA}
    with style.theme():
        figure = style.canvas(max(2.8, 1.3 + 0.24 * rows["task"].nunique()))
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        _by_task(left, rows, labels, marks)
        left.set(xlabel="held-out loss that a large batch adds (nats)", title="(a) by task")
        _foretold(right, rows, "excess", labels)
        right.set(xlabel="excess on the tangent paths (nats)", ylabel="excess of LoRA (nats)", title="(b) excess, foretold")
        style.legend(figure, [_mark(FULL, "full tuning"), _mark(LORA, "LoRA")])
    return figure


def regret_early(rows: pd.DataFrame, looks: pd.DataFrame, labels: Labels) -> Figure:
    """Return the first falls of the held-out loss by rank, measured and foretold, and how far ranks are apart."""
    series = {
        "spread": "fall of the loss",
        "spread_size": "size of the shift",
        "predicted": "fall, on the tangent path",
        "spread_counted": "if falls went with the count of numbers",
    }
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        _curves(left, looks, "step", "predicted", RANKS, dashed=True)
        _curves(left, looks, "step", "fall", RANKS)
        style.log_axis(left, "x")
        left.axhline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="step", ylabel="fall of the held-out loss (nats)", title="(a) first tenth of the steps, median")
        panels.rivals(right, panels.pooled(rows), series, labels, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="distance of the furthest rank, over rank 16", title="(b) how far ranks are apart")
        style.legend(figure, _handles(RANKS))
    return figure


FIGURES = (
    ClaimFigure(
        "regret-rate",
        regret_rate,
        needs={
            "rows": ("task", "measured", "predicted", "spread"),
            "ranks": ("rank", "measured", "predicted"),
            "sweeps": ("rank", "rate", "above"),
        },
        bars=("ratio",),
        caption=(
            "The best rate of LoRA and of full tuning. (a) Least dev loss along the run of every rate, above that of the best "
            "one; medians over tasks. (b) Best rate over full tuning's by rank: full marks are measured, hollow ones the "
            "inverse ratio of adaptive sharpnesses on the tangent models; bars are medians, the line is ten and the band "
            "what the claim allows for the mean over ranks. {n}."
        ),
        alt="Left: dev loss against rate, full tuning and three ranks. Right: ratio of best rates by rank, measured, foretold.",
    ),
    ClaimFigure(
        "regret-layers",
        regret_layers,
        needs={"rows": ("task", "gain_attention", "gain_mlp", "gain_full", "advantage", "predicted")},
        caption=(
            "LoRA on attention alone and on the MLP alone, with about as many numbers. (a) Fall of the held-out loss by task, "
            "beside that of full tuning. (b) The MLP's lead in nats, measured against that of the two tangent optima; the "
            "line is equality. {n}."
        ),
        alt="Left: fall of the held-out loss by task for attention, MLP and full tuning. Right: measured against foretold lead.",
    ),
    ClaimFigure(
        "regret-capacity",
        regret_capacity,
        needs={"rows": ("task", "left_1", "left_4", "left_16"), "curves": ("rank", "step", "share", "predicted")},
        caption=(
            "When a rank is too small. (a) Fall of the held-out loss at the lowest dev loss so far, over full tuning's at the "
            "end, every delta at its own best rate; medians over tasks. (b) The same on the tangent models. (c) Step from which "
            "a rank stays a tenth of full tuning's gain below it, the last step where it does not; bars are medians. {n}."
        ),
        alt="Left and middle: gain against step for full tuning and three ranks, measured and foretold. Right: steps of leaving.",
    ),
    ClaimFigure(
        "regret-batch",
        regret_batch,
        needs={"rows": ("task", "penalty", "penalty_full", "excess", "predicted")},
        caption=(
            "What four times the batch costs over as many passes through the text. (a) Held-out loss that it adds to LoRA and to "
            "full tuning, by task. (b) LoRA's excess, measured against that of AdamW's paths on the tangent models; the line is "
            "equality. {n}."
        ),
        alt="Left: loss that a large batch adds to LoRA and full tuning by task. Right: measured against foretold excess.",
    ),
    ClaimFigure(
        "regret-early",
        regret_early,
        needs={
            "rows": ("task", "spread", "spread_size", "predicted", "spread_counted"),
            "looks": ("rank", "step", "fall", "predicted"),
        },
        caption=(
            "The first steps of three ranks at one rate. (a) Fall of the held-out loss, and dashed as AdamW's paths on the "
            "tangent models foretold it; medians over tasks. (b) Distance of the furthest rank from rank 16, over that; every "
            "point is one task and seed, bars are medians. {n}."
        ),
        alt="Left: fall of the held-out loss over the first steps by rank, with foretold lines. Right: distances between ranks.",
    ),
)
