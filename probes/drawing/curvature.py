"""A picture of curvature: the summaries of blocks and layers as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probes.curvature.density import DensityCurve
from probes.curvature.summary import BlockSummary
from probes.drawing.files import GREY, LOWER, SHARE, UPPER, log_axis, signed_ticks, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curvature_figure(
    whole: BlockSummary,
    layers: Sequence[BlockSummary],
    blocks: Sequence[BlockSummary],
    *,
    unit: str = "loss per squared parameter",
) -> Figure:
    """Return the eigenvalue ends of every block, the whole's spectral density with its band, the layers' dimensions."""
    from matplotlib.figure import Figure

    rows = max(len(blocks), 12)
    with theme():
        figure = Figure(figsize=(8, 1 + 0.21 * rows + 0.1), layout="constrained")
        panels = figure.subplot_mosaic([["ends", "density"], ["ends", "dimension"]], width_ratios=(1, 1.15))
        _ends(panels["ends"], blocks, unit)
        _density(panels["density"], whole, unit)
        _dimensions(panels["dimension"], layers)
    return figure


def density_curve(row: BlockSummary) -> DensityCurve:
    """Return a block's spectral density over its whole range: smoothed by 5 % of each eigenvalue, and by `finest` near zero."""
    width, nodes = finest(row), row.density.nodes
    low, high = row.smallest.value, row.largest.value
    ends = np.arcsinh(np.array([low - 4 * max(width, 0.05 * -low), high + 4 * max(width, 0.05 * high)]) / width)
    grid = width * np.sinh(np.linspace(*ends, 800))
    return row.density.on(grid, np.maximum(width, 0.05 * np.abs(nodes)))


def finest(row: BlockSummary) -> float:
    """Return the finest smoothing that a block's density resolves, or a thousandth of its range where it is exact."""
    return row.density.width / (20 if row.density.status == "exact" else 1)


def _ends(axes: Axes, blocks: Sequence[BlockSummary], unit: str) -> None:
    """A bar from the smallest to the largest eigenvalue per block, hollow where it did not converge."""
    at = np.arange(len(blocks))
    low, high = (np.array([getattr(b, end).value for b in blocks]) for end in ("smallest", "largest"))
    axes.hlines(at, low, high, color=GREY, lw=0.8, zorder=1)
    for values, end, color, marker, size in ((low, "smallest", LOWER, "o", 26), (high, "largest", UPPER, "D", 9)):
        ready = np.array([getattr(b, end).converged for b in blocks])
        faces = [color if r else "white" for r in ready]
        axes.scatter(
            values, at, s=size, marker=marker, c=faces, edgecolors=color, linewidths=1, zorder=2, label=end, clip_on=False
        )
    scale = max(np.abs(low).max(), np.abs(high).max()) or 1.0
    axes.axvline(0, color=GREY, lw=0.6, zorder=0)
    axes.margins(x=0.06)
    axes.set_xscale("symlog", linthresh=10.0 ** np.floor(np.log10(scale) - 2), linscale=0.5)
    signed_ticks(axes)
    axes.set_yticks(at, [b.name for b in blocks])
    axes.set_ylim(len(blocks) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"eigenvalue ({unit})")
    axes.set_title("Ends of the spectrum, by block", pad=20)
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def _density(axes: Axes, whole: BlockSummary, unit: str) -> None:
    """The density on axes that are linear near zero, with its band, down to a tenth of one eigenvalue."""
    from matplotlib.ticker import NullLocator

    curve = density_curve(whole)
    width = finest(whole)
    widest = max(width, 0.05 * np.abs(curve.grid).max())
    floor = 0.04 / (whole.size * widest)  # a tenth of what one eigenvalue reaches
    axes.semilogy(curve.grid, np.maximum(curve.value, floor), color=UPPER, lw=1.2)
    if whole.density.status != "exact":
        axes.fill_between(
            curve.grid,
            np.maximum(curve.lower, floor),
            np.maximum(curve.upper, floor),
            color=UPPER,
            alpha=0.25,
            lw=0,
            label=f"{curve.confidence:.0%} band over {len(whole.density.nodes)} probes",
        )
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    axes.set_ylim(floor, None)
    log_axis(axes, "y")
    axes.set_xscale("asinh", linear_width=3 * width)
    signed_ticks(axes)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=f"eigenvalue ({unit})", ylabel="density")
    axes.set_title(f"Spectral density: {whole.name}, D = {whole.size:,}", pad=20)


def _dimensions(axes: Axes, layers: Sequence[BlockSummary]) -> None:
    """A bar per layer, with a standard error where the dimension is an estimate."""
    at = np.arange(len(layers))
    found = [b.effective_dimension for b in layers]
    errors = [e.stderr for e in found]
    axes.barh(at, [e.value for e in found], color=SHARE, height=0.6, xerr=errors if any(errors) else None, capsize=2)
    axes.set_yticks(at, [b.name for b in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=f"effective dimension at ridge {layers[0].ridge:g}", title="Effective dimension, by layer")
