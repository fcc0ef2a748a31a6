"""What all pictures share: the look of the report's figures, their logarithmic axes, and a figure as the bytes of a file."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
UPPER, LOWER, SHARE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#7f7f7f", "#222222"  # Okabe and Ito's, as in the report
SERIES = (  # colour, marker and dash, so that each survives a print in grey
    (UPPER, "o", "-"),
    (LOWER, "s", (0, (5, 1.5))),
    (SHARE, "D", (0, (1, 1))),
    ("#CC79A7", "^", (0, (4, 1, 1, 1))),
    ("#C47F00", "v", (0, (3, 1, 1, 1, 1, 1))),
    ("#3D97CC", "P", (0, (7, 2))),
    ("#8A8A8A", "X", (0, (2, 2))),
    ("#000000", "*", (0, (9, 1.5, 1, 1.5))),
)
FONTS = ("STIXGeneral", "DejaVu Sans")  # which ship with matplotlib
ROOM = 0.14  # between two numbers of a signed axis, of its length
LOOK = {  # the report's, which a test compares
    "font.family": list(FONTS),
    "mathtext.fontset": "stix",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "lines.linewidth": 1.2,
    "axes.formatter.useoffset": False,
}


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Set the look of the figures drawn inside, and leave matplotlib's settings as they were."""
    import matplotlib

    with matplotlib.rc_context(LOOK):
        yield


def log_axis(axes: Axes, which: str) -> None:
    """Make an axis logarithmic with at least two numbers: decades where it spans two of them, else parts of a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    getattr(axes, f"set_{which}scale")("log")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    axis, decades = getattr(axes, f"{which}axis"), math.log10(high / low)
    subs = (1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=subs, numticks=7) if decades > 0.8 else MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: _number(x)))


def signed_ticks(axes: Axes) -> None:
    """Set the numbers of an x axis that is linear near zero and logarithmic beyond: zero, then decades from the ends inwards."""
    import numpy as np

    low, high = axes.get_xlim()
    start, end = axes.xaxis.get_transform().transform(np.array([low, high]))
    top = math.floor(math.log10(max(-low, high)))
    chosen: dict[float, float] = {}
    for x in (0.0, *(sign * m * 10.0**k for m in (1, 3) for k in range(top, top - 12, -1) for sign in (1, -1))):
        at = (float(axes.xaxis.get_transform().transform(np.array([x]))[0]) - start) / (end - start)
        if low <= x <= high and all(abs(at - other) > ROOM for other in chosen.values()):
            chosen[x] = at
    axes.set_xticks(sorted(chosen), labels=[_number(x) for x in sorted(chosen)])
    axes.set_xlim(low, high)


def _number(x: float) -> str:
    """A tick's number in the fewest digits."""
    said = f"{x:g}" if x == 0 or 1e-3 <= abs(x) < 1e5 else f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return said.replace("-", "−")


def legend(figure: Figure, where: str, handles: Sequence, labels: Sequence[str]) -> None:
    """Put a legend outside the axes in as many columns as the figure is wide for."""
    longest = 0.5 + 0.075 * max(map(len, map(shown, labels)))  # inches of an entry; half an em of 8.5 points for each letter
    columns = max(1, int(figure.get_figwidth() / longest))
    figure.legend(handles, labels, loc=f"outside {where}", ncols=min(columns, len(labels)))


def file_bytes(figure: Figure, kind: str) -> bytes:
    """Return the figure as svg, pdf or png, the same bytes each time.

    Letters that the figure's fonts lack stand as their code points in brackets, as in the report: [U+4E2D].
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not (said := text.get_text()).isascii():
            text.set_text(shown(said))
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
    held = io.BytesIO()
    with theme(), matplotlib.rc_context({"svg.hashsalt": "costate"}):
        figure.savefig(held, format=kind, dpi=150, metadata=dates[kind])
    return held.getvalue()


def shown(text: str) -> str:
    """Return a text whose letters all are in the figures' fonts: those that are not as their code points in brackets."""
    runs = itertools.groupby(text, lambda c: c.isascii() or ord(c) in _letters())
    return "".join("".join(run) if fine else f"[{' '.join(f'U+{ord(c):04X}' for c in run)}]" for fine, run in runs)


@functools.cache
def _letters() -> frozenset[int]:
    """The code points that the figures' fonts can draw."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(code for name in FONTS for code in get_font(findfont(name)).get_charmap())
