"""Pictures of intrinsic dimensions: the score against the dimension of a subspace, and dimensions along the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from probes.dimension.threshold import DimensionEstimate
from probes.drawing.files import GREY, LOWER, SERIES, SHARE, UPPER, legend, theme
from probes.records import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dimension_figure(
    estimate: DimensionEstimate,
    dimensions: Sequence[float],
    scores: Sequence[float],
    *,
    seeds: Sequence[int] | None = None,
    baseline: Sequence[float] = (),
    chance: float | None = None,
    score: str = "score",
) -> Figure:
    """Return every run by its seed, the fitted curve with its band, the threshold, and the dimension with its interval.

    dimensions, scores and seeds are one row per run, as `threshold_dimension` took them; runs of one seed share a
    shade. An interval that runs out of the dimensions tried ends in an arrow, and an estimate beyond them is said
    in the title instead of drawn. Raises ValueError for lengths that differ.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    d, y = np.asarray(dimensions, dtype=float), np.asarray(scores, dtype=float)
    of = np.zeros(len(d), dtype=int) if seeds is None else np.unique(seeds, return_inverse=True)[1]
    if not d.shape == y.shape == of.shape:
        raise ValueError(f"dimensions, scores and seeds must be one row per run, got {d.shape}, {y.shape} and {of.shape}")
    curve, goal, share = estimate.curve, estimate.threshold, f"{100 * estimate.share:.3g}"
    with theme():
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(
            curve.dimension, curve.lower, curve.upper, color=UPPER, alpha=0.18, lw=0, label=f"{100 * curve.confidence:.3g} % band"
        )
        axes.plot(curve.dimension, curve.value, color=UPPER, lw=1.4, label="curve")
        shades = np.linspace(0.15, 0.65, of.max() + 1)
        for seed, shade in enumerate(shades):
            axes.scatter(
                d[of == seed],
                y[of == seed],
                s=16,
                color=str(shade),
                zorder=3,
                lw=0,
                label="runs, a shade per seed" if seed == 0 and len(shades) > 1 else "runs" if seed == 0 else None,
            )
        if len(baseline):
            axes.axhline(np.mean(baseline), color=GREY, lw=0.9, ls="-.", label="full runs, mean")
        if chance is not None:
            axes.axhline(chance, color=GREY, lw=0.9, ls=":", label="chance")
        axes.axhline(goal, color=LOWER, lw=0.9, ls="--", label=f"threshold, {share} % of the gain")
        low, high = d.min(), d.max()
        if low <= estimate.isotonic <= high:
            axes.plot(
                estimate.isotonic,
                goal,
                marker="D",
                ms=9,
                mfc="none",
                mec=SHARE,
                mew=1.3,
                ls="",
                zorder=6,
                label="isotonic estimate",
            )
        if low <= estimate.value <= high:
            ends = estimate.interval
            inside = (max(ends[0], low), min(ends[1], high))
            axes.plot(inside, (goal, goal), color=LOWER, lw=3, solid_capstyle="butt", zorder=4)
            for end, at, arrow in ((ends[0], inside[0], "<"), (ends[1], inside[1], ">")):
                axes.plot(at, goal, marker="|" if end == at else arrow, ms=9, color=LOWER, zorder=4, clip_on=False)
            axes.plot(estimate.value, goal, marker="o", ms=6, color=LOWER, zorder=5, ls="", label=_words(estimate))
        axes.set_xscale("log", base=2)
        axes.set_xticks(_apart(np.unique(d)), labels=[f"{x:g}" for x in _apart(np.unique(d))])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(low / 1.15, high * 1.15)
        axes.set(xlabel="dimension of the subspace", ylabel=score)
        axes.set_title(_words(estimate) + (f"\n{estimate.warning}" if estimate.warning else ""), fontsize=8.5, wrap=True)
        legend(figure, "lower left", *axes.get_legend_handles_labels())
    return figure


def layers_figure(rows: Mapping[str, Mapping[str, Sequence[Estimate]]], layers: Sequence[str]) -> Figure:
    """Return dimensions along the layers with their intervals: a panel per estimator, a line per point in training.

    rows maps a label ("initial", "checkpoint") to {estimator: one Estimate per layer}. Raises ValueError when a
    series is not as long as layers.
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(name for series in rows.values() for name in series))
    at, columns = np.arange(len(layers)), min(3, len(panels))
    with theme():
        figure = Figure(figsize=(2.8 * columns + 0.6, 2.3 * math.ceil(len(panels) / columns) + 0.3), layout="constrained")
        grid = figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False).ravel()
        for number, (axes, name) in enumerate(zip(grid, panels, strict=False)):
            for (label, series), (color, marker, dash), shift in zip(rows.items(), SERIES, (-0.06, 0.06, 0), strict=False):
                found = series.get(name, ())
                if len(found) != len(layers):
                    raise ValueError(f"{name} of {label} must hold an estimate per layer, {len(layers)}, got {len(found)}")
                value = np.array([e.value for e in found])
                reach = np.abs(np.array([e.interval for e in found]).T - value)
                axes.errorbar(at + shift, value, reach, color=color, ls=dash, elinewidth=0.8, marker=marker, ms=3, label=label)
            axes.set_title(name.replace("_", " "), fontsize=8.5)
            lowest = number + columns >= len(panels)
            axes.set_xticks(at, layers if lowest else [""] * len(at), rotation=90 if max(map(len, layers)) > 3 else 0)
            axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        if len(rows) > 1:
            legend(figure, "upper right", *grid[0].get_legend_handles_labels())
        figure.supylabel("dimension", fontsize=8.5)
    return figure


def _apart(at: np.ndarray) -> list[float]:
    """The dimensions whose numbers have room beside each other on a logarithmic axis: a twelfth of it or more apart."""
    made: list[float] = []
    for x in at:
        if not made or math.log(x / made[-1]) >= math.log(at[-1] / at[0]) / 12:
            made.append(float(x))
    return made


def _words(estimate: DimensionEstimate) -> str:
    """The estimate as words: d90 = 210 [180, 250], or on which side of the dimensions tried it lies."""
    name = f"d{100 * estimate.share:.3g}"
    if estimate.value == 0 or math.isinf(estimate.value):
        side, p = ("below", estimate.below) if estimate.value == 0 else ("above", estimate.not_reached)
        return f"{name} is {side} the dimensions tried, with probability {p:.2g}"
    low, high = estimate.interval
    value, *ends = (f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in (estimate.value, low, high))
    first, last = "below the first" if low == 0 else ends[0], "beyond the last" if math.isinf(high) else ends[1]
    return f"{name} = {value} [{first}, {last}]"
