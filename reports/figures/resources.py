"""What steps of training take: memory that deltas save and time that they are faster by, against batch, counted and measured."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels

DASHED = (0, (2.5, 1.5))


def _against_batch(axes: Axes, rows: pd.DataFrame, measured: str, counted: str, labels: Labels) -> None:
    """Draw the medians over protocols of a column and of its count against the batch, a colour a delta."""
    for look, group in panels.groups(rows, labels):
        for column, line in ((measured, {"mew": 0}), (counted, {"ls": DASHED, "mfc": "white", "mew": 0.7, "alpha": 0.8})):
            middle = group.groupby("batch")[column].median()
            axes.plot(middle.index, middle, color=look.color, lw=1.2, marker=look.marker, ms=3.5, **line)
    style.log_axis(axes, "x")
    axes.set_xlabel("texts a step")


def _published(axes: Axes, *levels: float) -> None:
    for level in levels:
        axes.axhline(level, color=INK, lw=0.8, ls=panels.DOTTED, zorder=0)


def _legend(figure: Figure, names: list[str], labels: Labels) -> None:
    lines = [
        Line2D([], [], color=GREY, lw=1, ls=DASHED, label="counted"),
        Line2D([], [], color=INK, lw=0.8, ls=panels.DOTTED, label="published"),
    ]
    style.legend(figure, [*style.delta_handles(names, labels), *lines])


def facts_memory(rows: pd.DataFrame, peaks: pd.DataFrame, labels: Labels) -> Figure:
    """Return the saved share of memory against the batch, and bytes above the model, measured against counted."""
    labels = labels.showing(peaks["option"])
    with style.theme():
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2)
        _against_batch(left, rows, "saved", "saved_counted", labels)
        _published(left, 0.75, 1 / 3)
        left.set(ylabel="share of full tuning's memory saved", title="(a) saved", ylim=(min(0.0, rows["saved"].min()), 0.85))
        megabytes = peaks.assign(**{name: peaks[name] / 1e6 for name in ("counted_bytes", "held_bytes")})
        named = megabytes.drop(columns="delta", errors="ignore").rename(columns={"option": "delta"})
        panels.points(right, named, "counted_bytes", "held_bytes", labels)
        panels.identity(right, named[["counted_bytes", "held_bytes"]].to_numpy(dtype=float), log=True)
        right.set(xlabel="counted (MB)", ylabel="held at most (MB)", title="(b) above the loaded model")
        _legend(figure, labels.in_order("delta", peaks["option"]), labels)
    return figure


def facts_time(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return full tuning's time over the delta's against the batch, and how far that is from what was foretold."""
    with style.theme():
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2)
        _against_batch(left, rows, "speed", "speed_counted", labels)
        _published(left, 1.6)
        left.axhline(1.0, color=GREY, lw=0.8, zorder=0)
        left.set(ylabel="full tuning's time over the delta's", title="(a) CPU time of a step")
        series = {"error_counted": "counted", "error_published": "published, 1.6", "error_none": "no change"}
        panels.rivals(right, rows, series, labels, width=14)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="octaves off", title="(b) forecasts")
        _legend(figure, panels.deltas(rows, labels), labels)
    return figure


FIGURES = (
    ClaimFigure(
        "facts-memory",
        facts_memory,
        needs={
            "rows": ("task", "batch", "saved", "saved_counted"),
            "peaks": ("option", "batch", "counted_bytes", "held_bytes"),
        },
        caption=(
            "Memory of a training step. (a) Share of full tuning's memory, the loaded model's with it, that a delta saves, "
            "medians over backbones and lengths: measured (marks), counted from shapes (dashed), and published for small and "
            "large batches, as recalled (dotted). (b) Bytes that a step holds at most above the loaded model against what is "
            "counted; every point is a delta, or full tuning, on a backbone, length and batch, the line is equality. {n}."
        ),
        alt="Left: share of memory saved against the batch, by delta. Right: measured bytes against counted bytes.",
    ),
    ClaimFigure(
        "facts-time",
        facts_time,
        needs={"rows": ("task", "batch", "speed", "speed_counted", "error_counted", "error_none", "error_published")},
        caption=(
            "CPU time of a training step. (a) Full tuning's over the delta's, medians over backbones and lengths: measured "
            "(marks), counted multiplications (dashed), and published for adapters, as recalled (dotted). (b) Octaves between "
            "the measured ratio and forecasts of it; every point is a delta on a backbone, length and batch, bars are "
            "medians. {n}."
        ),
        alt="Left: ratio of times against the batch, by delta. Right: distances of three forecasts from it.",
    ),
)
