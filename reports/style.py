"""How every figure looks: one colour, marker and dash per delta, text sizes, axes, and the SVG and PNG bytes."""

import contextlib
import functools
import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextToPath
from matplotlib.ticker import Formatter, Locator, MaxNLocator, NullFormatter

TEXT_WIDTH = 6.3  # inches: the text width of the page, so that figure text is never scaled
PAGE_FONT, DRAWN_FONT = (
    "Libertinus Serif",
    "STIXGeneral",
)  # set in the page's font, measured with one that ships with matplotlib
SPARE_FONTS = ("DejaVu Sans",)  # for letters that neither has: in figures, and on the page after PAGE_SPARES
PAGE_SPARES = ("New Computer Modern Math", "DejaVu Sans Mono", *SPARE_FONTS)
TICK_SIZE = 7.5
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
INK, FAINT, GREY = "#222222", "#bdbdbd", "#7f7f7f"


@dataclass(frozen=True)
class Mark:
    """The look of one series: colour, marker and dash, so that each survives a print in grey.

    Colours are Okabe and Ito's, the light ones darkened until they stand out from white by 3 to 1.
    """

    color: str
    marker: str
    dash: str | tuple = "-"


DELTAS = {
    "port-bias": Mark("#0072B2", "o", "-"),
    "prefix": Mark("#D55E00", "s", (0, (5, 1.5))),
    "lora": Mark("#009E73", "D", (0, (1, 1))),
    "adapter": Mark("#CC79A7", "^", (0, (4, 1, 1, 1))),
    "prompt": Mark("#C47F00", "v", (0, (3, 1, 1, 1, 1, 1))),
    "bitfit": Mark("#3D97CC", "P", (0, (7, 2))),
    "ia3": Mark("#8A8A8A", "X", (0, (2, 2))),
    "full": Mark("#000000", "*", (0, (9, 1.5, 1, 1.5))),
    "attention-bias": Mark("#332288", "h", (0, (6, 1, 1, 1))),
    "attention-adapter": Mark("#882255", "<", (0, (1, 3))),
    "attention-weights": Mark("#9A8700", "p", (0, (3, 3))),
    "last-block": Mark("#004D40", ">", (0, (2, 1, 2, 3))),
    "short-prefix": Mark("#661100", "d", (0, (5, 1, 2, 1))),
    "palette": Mark("#666666", "8", (0, (8, 3))),
}
# for deltas that the lab's own studies do not name: no colour of these is one of the above
SPARE_COLORS = ("#117A8B", "#AA4499", "#6B8E23", "#5B8DC4", "#8C6D1F", "#994F00", "#5D3A9B", "#B2182B")
MARKERS = ("H", "p", "<", ">", "d", "8", "h", "o", "s", "D", "^", "v", "P", "X", "*")
VERDICTS = {
    "supported": Mark("#0a6b4b", "o"),
    "refuted": Mark("#a8322a", "X"),
    "undecided": Mark("#6b6b6b", "o"),
    "not applicable": Mark("#8a6d1d", "D"),
}


@dataclass(frozen=True)
class Labels:
    """The words for a study's raw names; a name the study does not list is spelled out from itself."""

    tasks: Mapping[str, str] = field(default_factory=dict)
    deltas: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Mapping) -> "Labels":
        """Return the labels that a study's block of tasks and deltas gives."""
        return cls(
            {t["name"]: t.get("label") or spelled(t["name"]) for t in study.get("tasks", ())},
            {d["name"]: d.get("label") or spelled(d["name"]) for d in study.get("deltas", ())},
        )

    def task(self, name: str) -> str:
        """Return the words for a task."""
        return self.tasks.get(name, spelled(name))

    def delta(self, name: str) -> str:
        """Return the words for a delta."""
        return self.deltas.get(name, spelled(name))

    def in_order(self, kind: str, present: Iterable[str]) -> list[str]:
        """Return the names that are present, in the study's order, unknown ones last by name."""
        order = list(self.tasks if kind == "task" else self.deltas)
        return sorted(set(present), key=lambda n: (order.index(n) if n in order else len(order), n))

    def showing(self, deltas: Iterable[str]) -> "Labels":
        """Return the labels of a figure that shows some deltas, so that those which the study does not list have looks too."""
        return Labels(self.tasks, {**self.deltas, **{d: self.delta(d) for d in sorted(set(deltas) - set(self.deltas))}})

    def look(self, delta: str) -> Mark:
        """Return the look of a delta, which no other delta of these labels has."""
        return mark(delta, self.deltas)


def spelled(name: str) -> str:
    """Return a raw identifier as words: separators become spaces and the first letter a capital."""
    words = " ".join(str(name).replace("_", " ").replace("-", " ").replace(".", " ").split())
    return words[:1].upper() + words[1:]


def mark(delta: str, among: Iterable[str] = ()) -> Mark:
    """Return the look of a delta among those that a figure shows: fixed for the lab's own, in turn for all others.

    No two deltas of `among` share colour and marker; the first eight that are not the lab's own share neither.
    """
    if delta in DELTAS:
        return DELTAS[delta]
    others = [name for name in dict.fromkeys([*among, delta]) if name not in DELTAS]
    return next(itertools.islice(_spare(), others.index(delta), None))


def _spare() -> Iterator[Mark]:
    """Yield looks without end, none of them twice: the spare colours with every marker, then further shades with every marker."""
    for lap in itertools.count():
        shades = SPARE_COLORS if lap == 0 else [to_hex(hsv_to_rgb(((lap * 0.618 + k / 8) % 1, 0.9, 0.6))) for k in range(8)]
        for turn in range(len(MARKERS)):
            for place, color in enumerate(shades):
                yield Mark(color, MARKERS[(place + turn) % len(MARKERS)], (0, (3 + place, 1 + turn % 3)))


def wrap(text: str, width: int, lines: int = 2) -> str:
    """Return `text` on at most `lines` lines of about `width` letters, cut with an ellipsis."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …") or [""])


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Set the report's look for the figures drawn inside, and leave matplotlib's settings as they were."""
    look = {**sns.axes_style("ticks"), **sns.plotting_context("paper")} | {
        "font.family": [DRAWN_FONT, *SPARE_FONTS], "mathtext.fontset": "stix", "axes.unicode_minus": True,
        "font.size": 8.5, "axes.labelsize": 8.5, "axes.titlesize": 8.5,
        "xtick.labelsize": TICK_SIZE, "ytick.labelsize": TICK_SIZE,
        "legend.fontsize": 8, "legend.title_fontsize": 8, "legend.frameon": False, "legend.handlelength": 1.8,
        "axes.linewidth": 0.6, "axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK,
        "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 3, "ytick.major.size": 3,
        "xtick.minor.size": 0, "ytick.minor.size": 0, "xtick.major.pad": 2.5, "ytick.major.pad": 2.5,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlepad": 5,
        "lines.linewidth": 1.2, "axes.formatter.useoffset": False, "text.parse_math": False,
        "svg.fonttype": "none", "svg.hashsalt": "costate",
    }  # fmt: skip
    with mpl.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the page's own fonts have more
        yield


def canvas(height: float, **layout) -> Figure:
    """Return an empty figure of the text width that no global plotting state knows of."""
    figure = Figure(figsize=(TEXT_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, **layout)
    return figure


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG whose text stays text in the page's font; the same figure gives the same bytes."""
    with theme():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        # the layout's solver leaves rounding that depends on where objects lie in memory, and names of clips hash every bit
        for part in figure.subfigs:
            part.bbox_relative.set_points(part.bbox_relative.get_points().round(5))
        for axes in figure.get_axes():
            axes.set_position([round(x, 5) for x in axes.get_position(original=True).bounds])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=300, metadata={"Date": None, "Creator": None})
    return buffer.getvalue().replace(DRAWN_FONT, PAGE_FONT).encode()


def png(figure: Figure, dpi: int = 200) -> bytes:
    """Return a figure as PNG for pages that show no SVG."""
    with theme():
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


def plain(value: float, decimals: int | None = None) -> str:
    """Return a tick's number in the fewest digits or with `decimals`, powers of ten as powers beyond 0.001 and 10 000."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else ""
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -3 <= exponent <= 4:
        return (f"{value:.10g}" if decimals is None else f"{value:.{decimals}f}").replace("-", "−")
    lead = f"{value / 10.0**exponent:.{max((decimals or 0) + exponent, 0)}f}" if decimals else f"{value / 10.0**exponent:.3g}"
    power = f"10{str(exponent).translate(RAISED)}"
    return power if lead == "1" else f"{lead}·{power}".replace("-", "−")


def numbers(values: Sequence[float]) -> list[str]:
    """Return the numbers of an axis: with the same decimals where they lie within a decade, each in its fewest digits beyond."""
    values = [float(v) for v in values]
    if not values or min(values) <= 0 or max(values) / min(values) > 10:
        return [plain(v) for v in values]
    decimals = next(d for d in range(32) if d == 31 or all(math.isclose(round(v, d), v, rel_tol=1e-9) for v in values))
    return [plain(v, decimals) for v in values]


class _Ticks(Locator):
    """The ticks of a logarithmic axis: three to six of them, decades where there are enough, and never more than have room."""

    def __call__(self) -> list[float]:
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return the ticks between two ends, decades first, then parts of decades, then even steps."""
        low, high = sorted((vmin, vmax))
        if low <= 0 or not math.isfinite(high):
            return []
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        decades = {stride: [10.0**k for k in range(first, last + 1) if k % stride == 0] for stride in (1, 2, 3, 4, 6)}
        parts = [[s * 10.0**k for k in range(first, last + 1) for s in of] for of in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))]
        even = [MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) for n in (5, 4, 3, 2)]
        tried = [[v for v in ticks if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)] for ticks in (*decades.values(), *parts, *even)]
        fitting = [ticks for ticks in tried if len(ticks) <= 6 and self._fit(ticks)]
        return next((ticks for ticks in fitting if len(ticks) >= 3), max(fitting, key=len, default=[]))

    def _fit(self, ticks: Sequence[float]) -> bool:
        """Return whether the numbers of these ticks stand apart, at the axis's length."""
        box, which = self.axis.axes.get_window_extent(), self.axis.axis_name
        length = 72 / self.axis.axes.get_figure(root=True).dpi * (box.width if which == "x" else box.height)
        low, high = np.log(sorted(self.axis.get_view_interval()))
        at = length * (np.log(ticks) - low) / (high - low) if len(ticks) else np.array([])
        wide = (
            np.array([width_of(text, TICK_SIZE) for text in numbers(ticks)])
            if which == "x"
            else np.full(len(ticks), 1.2 * TICK_SIZE)
        )
        return bool((np.diff(at) > (wide[1:] + wide[:-1]) / 2 + 0.4 * TICK_SIZE).all())


class _Numbers(Formatter):
    """The numbers at the ticks of a logarithmic axis."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return plain(x)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the texts of all ticks together."""
        return numbers(values)


def log_axis(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with as many plain numbers as its range asks for and its length has room for."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(_Ticks())
    axis.set_major_formatter(_Numbers())
    axis.set_minor_formatter(NullFormatter())


@functools.lru_cache(maxsize=4096)
def width_of(text: str, size: float) -> float:
    """Return the width of a text in points; 1.05: the page's font is a little wider than the one measured."""
    font = FontProperties(family=DRAWN_FONT, size=size)
    return 1.05 * TextToPath().get_text_width_height_descent(text, font, False)[0]


def legend(figure: Figure, handles: list, *, where: str = "outside lower center", size: float = 8.0) -> None:
    """Put one legend outside the axes, in as many columns as the text width holds."""
    if not handles:
        return
    wide = [width_of(h.get_label(), size) + 3.7 * size for h in handles]  # handle, its gap and the gap between columns in em
    fits = [n for n in range(1, len(wide) + 1) if sum(part.max() for part in np.array_split(wide, n)) <= 72 * TEXT_WIDTH]
    lines = math.ceil(len(wide) / max(fits, default=1))
    columns = math.ceil(len(wide) / lines)  # lines of about equal length: none has a single entry left over
    figure.legend(
        handles=handles, loc=where, ncols=columns, columnspacing=1.4, handletextpad=0.5, borderaxespad=0.1, fontsize=size
    )


def delta_handles(names: Iterable[str], labels: Labels, *, line: bool = False) -> list[Line2D]:
    """Return the legend entries of deltas: marker alone, or with its dash when `line` is set."""
    looks = [(name, labels.look(name)) for name in names]
    return [
        Line2D([], [], color=m.color, marker=m.marker, ls=m.dash if line else "", ms=4.5, lw=1.2, mew=0, label=labels.delta(n))
        for n, m in looks
    ]
