"""A picture of reach: what a unit of control energy moves, along every direction of the outputs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from probes.drawing.files import SERIES, log_axis, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 12  # directions up to which each has a marker


def reach_figure(values: Mapping[str, Sequence[float]]) -> Figure:
    """Return the reachable singular values of every delta against their index, on logarithmic axes, largest first."""
    from matplotlib.figure import Figure

    with theme():
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for (name, found), (color, marker, dash) in zip(values.items(), itertools.cycle(SERIES), strict=False):
            few = {"marker": marker, "ms": 4} if len(found) <= FEW else {}
            axes.plot(range(1, len(found) + 1), found, color=color, ls=dash, label=name, **few)
        for which in "xy":
            log_axis(axes, which)
        axes.set(xlabel="output direction", ylabel="reach per root of control energy")
        figure.legend(loc="outside upper left", ncols=3)
    return figure
