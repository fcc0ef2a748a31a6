"""The two overviews: the forest of all criteria on one scale, and measured against predicted, as pure functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import panels, style
from .style import INK, Labels


@dataclass(frozen=True)
class ForestRow:
    """One criterion of the forest plot: its words, where it lies, and what it came to."""

    claim: str
    label: str
    delta: str
    value: str
    outcome: str
    span: tuple[float, float, float] | None
    bar: float | None


def refutation_bar(criterion: Mapping) -> float | None:
    """Return where refutation begins on the forest's scale: -1, or 0 where it begins at the support bar, or nowhere."""
    pairs = [(s, t) for s, t in zip(criterion["supported"], criterion["tolerated"], strict=True) if None not in (s, t)]
    return None if not pairs else -1.0 if any(s != t for s, t in pairs) else 0.0


def units(criterion: Mapping) -> list[float]:
    """Return, for the lower and the upper end, the distance from support bar to refutation bar.

    An end whose bars coincide, or that cannot refute, has the other end's unit, or the size of its bar.
    """
    supported, tolerated = criterion["supported"], criterion["tolerated"]
    own = [abs(s - t) if None not in (s, t) else 0.0 for s, t in zip(supported, tolerated, strict=True)]
    spare = max(own) or max((abs(s) for s in supported if s is not None), default=0.0) or 1.0
    return [unit or spare for unit in own]


def margin(value: float, criterion: Mapping) -> float:
    """Return how far inside the support region a value lies: 0 on its bar, below the refutation bar where it refutes.

    For supported [a, b] and tolerated [A, B] this is min((v - a) / (a - A), (b - v) / (B - b)). An end whose two bars
    coincide continues below the refutation bar at once, and an end that cannot refute stops at that bar.
    """
    bar, distances = refutation_bar(criterion), []
    ends = zip(criterion["supported"], criterion["tolerated"], units(criterion), (1.0, -1.0), strict=True)
    for support, tolerated, unit, sign in ends:
        if support is not None:
            distance = sign * (value - support) / unit
            if tolerated is None and bar is not None:
                distance = max(distance, bar)
            elif tolerated == support and distance < 0:
                distance += bar
            distances.append(distance)
    return min(distances, default=math.inf)


def span(criterion: Mapping) -> tuple[float, float, float] | None:
    """Return the least margin over a criterion's interval, the estimate's, and the greatest, or None without numbers."""
    middle, (a, b) = criterion["estimate"], criterion["supported"]
    if middle is None or (a is None and b is None):
        return None
    low, high = (middle if criterion[k] is None else criterion[k] for k in ("low", "high"))
    inner = [low, middle, high]
    if a is not None and b is not None:  # the margin of a two-sided region is greatest where its two lines cross
        lower, upper = units(criterion)
        inner.append(min(max((a * upper + b * lower) / (lower + upper), low), high))
    values = [margin(v, criterion) for v in inner]
    return min(values), values[1], max(values)


def forest_rows(claims: Sequence[Mapping], value: Callable[[Mapping], str]) -> list[ForestRow]:
    """Return the forest's rows, a criterion's deltas one below the other; `value` writes its number with interval and unit."""
    rows = []
    for claim in claims:
        several = len(claim["verdicts"]) > 1
        found = [(place, v["label"], k) for v in claim["verdicts"] for place, k in enumerate(v["criteria"])]
        for _, label, k in sorted(found, key=lambda one: one[0]):
            delta = label if several else ""
            rows.append(ForestRow(claim["title"], k["label"], delta, value(k), k["outcome"], span(k), refutation_bar(k)))
    return rows


def forest(rows: Sequence[ForestRow]) -> Figure:
    """Return every criterion as an interval on one scale whose zero is its support bar and -1 its refutation bar."""
    lines: list[tuple[float, str, ForestRow | None]] = []  # height, text, and the row that it stands beside
    y = 0.0
    for place, row in enumerate(rows):
        before = rows[place - 1] if place else None
        if before is None or before.claim != row.claim:
            title = style.wrap(row.claim, 62, 2)
            y += (0.35 if place else 0.0) + 1.0 * (1 + title.count("\n"))
            lines.append((y - 0.5 * title.count("\n"), title, None))
            before = None
        if row.delta and (before is None or before.label != row.label):
            y += 1.0
            lines.append((y, f"  {style.wrap(row.label, 96, 1)}", None))
        label = style.wrap(row.delta, 40, 1) if row.delta else style.wrap(row.label, 44, 2)
        y += 1.0 if "\n" not in label else 1.75
        lines.append((y, label, row))
    pitch = min(0.165, 7.6 / (y + 1))
    height = pitch * (y + 1.2) + 0.42
    with style.theme():
        figure = style.canvas(height)
        figure.set_layout_engine("none")
        left, width = 2.45 / style.TEXT_WIDTH, 2.1 / style.TEXT_WIDTH
        axes = figure.add_axes((left, 0.4 / height, width, 1 - 0.42 / height))
        spans = [r.span for r in rows if r.span]
        low = max(min([-1.6, *(s[0] for s in spans)]) - 0.2, -4.0)
        high = min(max([1.2, *(s[2] for s in spans)]) + 0.2, 5.0)
        for y, text, row in lines:
            if row is None:
                own = text.startswith("  ")
                at, look = (0.09, {"fontsize": 8, "style": "italic"}) if own else (0.0, {"fontsize": 8.3, "weight": "bold"})
                place = (at / style.TEXT_WIDTH, y)
                axes.annotate(text.strip(), place, xycoords=("figure fraction", "data"), va="center", linespacing=0.95, **look)
                continue
            shift = 0.36 if "\n" in text else 0.0
            axes.annotate(
                text,
                ((0.2 if row.delta else 0.09) / style.TEXT_WIDTH, y - shift),
                xycoords=("figure fraction", "data"),
                va="center",
                fontsize=8,
                linespacing=0.92,
            )
            axes.annotate(row.value, (1, y - shift), xycoords=("figure fraction", "data"), va="center", ha="right", fontsize=8)
            _interval(axes, row, y - shift, low, high)
            beside = axes.get_yaxis_transform()
            axes.plot([1.06], [y - shift], transform=beside, clip_on=False, **_glyph(row.outcome) | {"ls": "", "ms": 4})
        axes.set(xlim=(low, high), ylim=(lines[-1][0] + 0.8 if lines else 1, 0.2), xlabel="distance from the support bar")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = [t for t in range(math.ceil(low), math.floor(high) + 1)]
        axes.set_xticks(ticks, [style.plain(t) for t in ticks])
        words = [("supported", "supported"), ("undecided", "undecided"), ("refuted", "refuted")]
        handles = [axes.plot([], [], ls="", **_glyph(w), label=t)[0] for w, t in words]
        figure.legend(handles=handles, loc="lower left", ncols=3, borderaxespad=0, columnspacing=1, handletextpad=0.2)
    return figure


def _glyph(outcome: str) -> dict:
    """Return the marker settings of an outcome: a full disc, an open disc or a cross."""
    look = style.VERDICTS.get(outcome, style.VERDICTS["undecided"])
    full = outcome in ("supported", "refuted")
    face, edge = (look.color, 0.0) if full else ("white", 1.0)
    return {"marker": look.marker, "color": look.color, "ms": 5, "mfc": face, "mec": look.color, "mew": edge}


def _interval(axes: Axes, row: ForestRow, y: float, low: float, high: float) -> None:
    """Draw one row of the forest: the support and refutation regions, the interval, arrows where it leaves the page."""
    axes.barh(y, high, height=0.82, left=0, color="#0a6b4b", alpha=0.09, lw=0, zorder=0)
    axes.plot([0, 0], [y - 0.5, y + 0.5], color=INK, lw=0.8, zorder=1)
    if row.bar is not None:
        axes.barh(y, row.bar - low, height=0.82, left=low, color="#a8322a", alpha=0.09, lw=0, zorder=0)
    if row.span is None:
        return
    color = style.VERDICTS.get(row.outcome, style.VERDICTS["undecided"]).color
    start, middle, end = (min(max(v, low), high) for v in row.span)
    axes.plot([start, end], [y, y], color=color, lw=1.3, solid_capstyle="butt", zorder=3)
    for beyond, edge, marker in ((row.span[0] < low, low, "<"), (row.span[2] > high, high, ">")):
        if beyond:
            axes.plot([edge], [y], marker=marker, color=color, ms=4, mew=0, zorder=4, clip_on=False)
    if low <= row.span[1] <= high:
        axes.plot([middle], [y], zorder=5, **_glyph(row.outcome))


@dataclass(frozen=True)
class Pairs:
    """One panel of the parity plots: a frame with `predicted`, `measured` and perhaps `delta` and `inside`."""

    title: str
    quantity: str
    logarithmic: bool
    frame: pd.DataFrame


def parity(shown: Sequence[Pairs], labels: Labels) -> Figure:
    """Return measured against predicted, one square panel per quantity, colour and marker by delta."""
    columns = min(max(len(shown), 1), 2)
    lines = math.ceil(len(shown) / 2)
    with style.theme():
        figure = style.canvas(0.3 + 2.75 * lines)
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for place, pairs in enumerate(shown):
            panels.points(axes[place], pairs.frame, "predicted", "measured", labels, size=9)
            values = panels.present(pairs.frame, ["predicted", "measured"])[["predicted", "measured"]].to_numpy(dtype=float)
            panels.identity(axes[place], values, log=pairs.logarithmic, factor=2.0 if pairs.logarithmic else None)
            axes[place].set(xlabel=f"predicted {pairs.quantity}", ylabel=f"measured {pairs.quantity}",
                            title=f"({'abcd'[place]}) {pairs.title}")  # fmt: skip
        for spare in axes[len(shown) :]:
            spare.set_visible(False)
        seen = {d for pairs in shown for d in panels.deltas(pairs.frame, labels)}
        style.legend(figure, style.delta_handles(labels.in_order("delta", seen), labels))
    return figure
