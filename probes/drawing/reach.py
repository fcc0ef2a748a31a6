"""A picture of reach: what a unit of control energy moves, along every direction of the outputs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from probes.drawing.files import SERIES, legend, log_axis, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 12  # directions up to which each has a marker


def reach_figure(values: Mapping[str, Sequence[float]]) -> Figure:
    """Return the reachable singular values of every delta against their index, on logarithmic axes, largest first."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, NullLocator

    with theme():
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for (name, found), (color, marker, dash) in zip(values.items(), itertools.cycle(SERIES), strict=False):
            few = {"marker": marker, "ms": 4} if len(found) <= FEW else {}
            axes.plot(range(1, len(found) + 1), found, color=color, ls=dash, label=name, **few)
        log_axis(axes, "y")
        last = max(2, *map(len, values.values()))
        axes.set_xscale("log")
        axes.set_xlim(0.9, 1.1 * last)
        axes.set_xticks([d * 10**k for k in range(6) for d in (1, 2, 5) if d * 10**k <= last and (last <= 100 or d == 1)])
        axes.xaxis.set(major_formatter=FormatStrFormatter("%d"), minor_locator=NullLocator())
        axes.set(xlabel="output direction", ylabel="reach per root of control energy")
        legend(figure, "upper left", *axes.get_legend_handles_labels())
    return figure
