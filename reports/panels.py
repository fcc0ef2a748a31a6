"""The panels that figures are put together from: parity, rivals, regime, small multiples, and the legends of their marks."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from . import style
from .style import FAINT, GREY, INK, Labels, Mark

PLAIN = Mark("#555555", "o")
TRAINED = style.DELTAS["port-bias"]  # controls at all ports, where a figure shows one delta only
DOTTED = (0, (1, 1.2))
RASTER = 1200  # above this many points a panel's points become one image, so that the page stays light


def present(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows in which every one of `columns` is a finite number."""
    numbers = rows[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    return rows[np.isfinite(numbers).all(axis=1)]


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without their deltas, which then share one look."""
    return rows.drop(columns="delta", errors="ignore")


def groups(rows: pd.DataFrame, labels: Labels) -> list[tuple[Mark, pd.DataFrame]]:
    """Return the rows of each delta with its look, in the study's order; rows without a delta are one grey group."""
    if "delta" not in rows:
        return [(PLAIN, rows)]
    return [(labels.look(d), rows[rows["delta"] == d]) for d in labels.in_order("delta", rows["delta"])]


def deltas(rows: pd.DataFrame, labels: Labels) -> list[str]:
    """Return the deltas that occur in `rows`, in the study's order."""
    return labels.in_order("delta", rows["delta"]) if "delta" in rows else []


def faded(count: int) -> float:
    """Return the opacity at which `count` points still let one see through."""
    return float(np.clip(0.85 - 0.2 * math.log10(max(count, 1) / 30), 0.25, 0.85))


def points(axes: Axes, rows: pd.DataFrame, x: str, y: str, labels: Labels, *, size: float = 12) -> None:
    """Scatter y against x, one look per delta; rows outside the linear regime are hollow."""
    rows = present(rows, [x, y])
    for look, group in groups(rows, labels):
        dots(axes, group[x], group[y], look, inside(group), size=size, alpha=faded(len(rows)), image=len(rows) > RASTER)


def inside(rows: pd.DataFrame) -> np.ndarray:
    """Return which rows lie inside the linear regime; all of them where the claim has no such gate."""
    return rows["inside"].to_numpy(dtype=bool) if "inside" in rows else np.ones(len(rows), dtype=bool)


def tested(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows inside the linear regime, or all of them when none is."""
    return rows[inside(rows)] if inside(rows).any() else rows


def dots(axes: Axes, x: Sequence[float], y: Sequence[float], look: Mark, kept: np.ndarray, *,
         size: float = 12, alpha: float = 0.8, image: bool = False) -> None:  # fmt: skip
    """Scatter one series in its look, full where `kept` and hollow elsewhere."""
    x, y = np.asarray(x, dtype=float), np.broadcast_to(np.asarray(y, dtype=float), np.shape(x))
    for which, face, edge in ((kept, look.color, 0.0), (~kept, "none", 0.7)):
        if which.any():
            axes.scatter(x[which], y[which], s=size, marker=look.marker, facecolors=face, edgecolors=look.color,
                         linewidths=edge, alpha=alpha, rasterized=image)  # fmt: skip


def identity(axes: Axes, values: np.ndarray, *, log: bool, factor: float | None = None) -> None:
    """Give both axes one range that holds all `values`, draw the line of equality and a band of `factor` around it."""
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.5, 2.0)
    if log:
        pad = (high / low) ** 0.06 * 1.05
        low, high = low / pad, high * pad
    else:
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - pad, high + pad
    axes.set(xlim=(low, high), ylim=(low, high))
    if log:
        style.log_axis(axes, "x")
        style.log_axis(axes, "y")
    axes.set_box_aspect(1)
    ends = np.array([low, high])
    axes.plot(ends, ends, color=GREY, lw=0.8, zorder=0)
    if factor:
        axes.fill_between(ends, ends / factor, ends * factor, color=GREY, alpha=0.13, lw=0, zorder=0)
    if not log and low < 0 < high:
        axes.axhline(0, color=FAINT, lw=0.5, zorder=0)
        axes.axvline(0, color=FAINT, lw=0.5, zorder=0)


def median(axes: Axes, value: float, place: float) -> None:
    """Mark the centre of one row of points by an upright bar."""
    axes.plot([value, value], [place - 0.36, place + 0.36], color=INK, lw=1.5, solid_capstyle="butt", zorder=4)


def by_name(axes: Axes, names: Sequence[str], width: int = 24) -> None:
    """Turn the y axis into one named row per entry, the first on top."""
    axes.set_yticks(range(len(names)), [style.wrap(name, width) for name in names], linespacing=0.9)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color="#eeeeee", lw=0.6)
    axes.set_axisbelow(True)


def rivals(axes: Axes, rows: pd.DataFrame, series: Mapping[str, str], labels: Labels, *,
           floor: float | None = None, width: int = 16) -> None:  # fmt: skip
    """Strip every series of `series` (column: words) as one row of points in lanes by delta; a bar marks the median.

    Columns that the study did not record are left out. Points outside the linear regime are hollow and do not enter the
    median. Values below `floor` are drawn as arrows at the edge.
    """
    shown = [(column, words) for column, words in series.items() if column in rows and len(present(rows, [column]))]
    for place, (column, _) in enumerate(shown):
        kept = present(rows, [column])
        lanes = groups(kept, labels)
        for lane, (look, group) in enumerate(lanes):
            y = place + 0.62 * ((lane + 0.5) / len(lanes) - 0.5)
            x = group[column].to_numpy(dtype=float)
            off = x < floor if floor is not None else np.zeros(len(x), dtype=bool)
            dots(axes, x[~off], y, look, inside(group)[~off], size=10, alpha=faded(len(kept)) * (1.0 if place == 0 else 0.75))
            if off.any():
                axes.scatter([floor], [y], s=60, marker="$←$", color=GREY, linewidths=0)
                axes.scatter([floor], [y], s=10, marker=look.marker, color=look.color, linewidths=0)
        centre = float(kept.loc[inside(kept), column].median())
        if np.isfinite(centre) and (floor is None or centre >= floor):
            median(axes, centre, place)
    by_name(axes, [words for _, words in shown], width)


def from_zero(axes: Axes) -> None:
    """Give the y axis, which its neighbours may share, a start a little below zero and room for the highest of their points.

    To be called when all is drawn: an axis whose end is set no longer follows what is drawn afterwards.
    """
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.03 * top, top)


def regime(axes: Axes, rows: pd.DataFrame, y: str, labels: Labels) -> None:
    """Plot a quantity against the relative curvature eta of each cell's training, hollow where outside the linear regime."""
    points(axes, rows, "eta", y, labels)
    if (present(rows, ["eta"])["eta"] > 0).any():
        style.log_axis(axes, "x")
    axes.set_xlabel("departure from linearity η")


def handles(rows: pd.DataFrame, labels: Labels) -> list[Line2D]:
    """Return the legend entries of a table's points: its deltas, and hollow markers where some are drawn."""
    own = style.delta_handles(deltas(rows, labels), labels)
    if inside(rows).all():
        return own
    return [*own, Line2D([], [], ls="", marker="o", mfc="none", mec=GREY, mew=0.7, ms=4.5, label="outside the linear regime")]


def along(look: Mark, *, dotted: bool = False) -> dict:
    """Return the settings of a line whose points are marked: full on a solid line, hollow on a dotted one."""
    if dotted:
        return {"ls": DOTTED, "marker": look.marker, "ms": 3.2, "mfc": "white", "mec": look.color, "mew": 0.6}
    return {"marker": look.marker, "ms": 3.2, "mew": 0}


def mark_handle(look: Mark, words: str) -> Line2D:
    """Return the legend entry of one series of points in its look."""
    return Line2D([], [], ls="", marker=look.marker, color=look.color, ms=4.5, mew=0, label=words)


def columns_for(count: int) -> int:
    """Return how many small multiples stand side by side."""
    return max(count, 1) if count <= 4 else 3 if count <= 6 else 4 if count <= 16 else 5


def multiples(
    names: Sequence[str], title: Callable[[str], str], *, each: float = 1.45, share: bool = True
) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure of small multiples, one per name, that never exceeds a page, and the axes by name."""
    count = max(len(names), 1)
    columns = columns_for(count)
    lines = math.ceil(count / columns)
    figure = style.canvas(min(max(0.6 + each * lines, 2.3), 8.3))
    axes = figure.subplots(lines, columns, sharex=share, sharey=share, squeeze=False).ravel()
    for place, name in enumerate(names):
        axes[place].set_title(style.wrap(title(name), int(84 / columns)), fontsize=8, linespacing=0.95)
    for place in range(len(names), len(axes)):
        axes[place].set_visible(False)
        if place >= columns:
            axes[place - columns].tick_params(axis="x", labelbottom=True)
    return figure, dict(zip(names, axes, strict=False))


def by_task(rows: pd.DataFrame, labels: Labels, strip: float, x: str, y: str) -> tuple[Figure, dict[str, Axes], SubFigure]:
    """Return a figure with one titled panel per task above, the panels by task, and a subfigure of the height `strip` below."""
    tasks = labels.in_order("task", rows["task"])
    columns = columns_for(len(tasks))
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


def line_handle(words: str, *, dotted: bool = False) -> Line2D:
    """Return the legend entry of a prediction's line, or of a rival's dotted one."""
    return Line2D([], [], color=GREY if dotted else INK, lw=0.9 if dotted else 1.1, ls=DOTTED if dotted else "-", label=words)


def trained_handles(rows: pd.DataFrame, labels: Labels) -> list[Line2D]:
    """Return the legend entries of trained points, and of hollow ones where some are drawn."""
    return [mark_handle(TRAINED, "trained"), *handles(pooled(rows), labels)]


def port_words(port: str) -> tuple[str, str]:
    """Return block (counted from 1) and site of a port, written as "1 attention" or as the key "0.attention"."""
    if "." in str(port):
        block, site = str(port).split(".", 1)
        return (str(int(block) + 1) if block.isdigit() else block), site
    block, _, site = str(port).partition(" ")
    return block, site
