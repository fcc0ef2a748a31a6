"""Tuning along its tangent: the dose map, where the forecast ends, the best rate, the steps."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

BINS = 9  # of the dose, on its logarithm


def _curves(axes: Axes, rows: pd.DataFrame, y: str, labels: Labels, *, dashed: bool = False) -> None:
    """Draw the median of y over the looks in every range of doses, one line a delta."""
    edges = np.geomspace(rows["dose"].min() * 0.999, rows["dose"].max() * 1.001, BINS + 1)
    for look, group in panels.groups(rows, labels):
        which = np.digitize(group["dose"], edges)
        middle = group.groupby(which).agg(dose=("dose", "median"), y=(y, "median"), count=(y, "size"))
        middle = middle[middle["count"] >= 3]
        axes.plot(middle["dose"], middle["y"], color=look.color, lw=1.2, **panels.along(look, dotted=dashed))


def practice_path(map: pd.DataFrame, rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the dose map: cosine and share explained against the dose and against eta, and the gain, measured and foretold."""
    with style.theme():
        figure = style.canvas(4.9)
        (first, second), (third, fourth) = figure.subplots(2, 2)
        _curves(first, map, "cosine", labels)
        _curves(second, map.assign(r2=map["r2"].clip(-1, 1)), "r2", labels)
        best = map[map["chosen"]]
        _curves(third, best, "points", labels)
        _curves(third, best, "points_predicted", labels, dashed=True)
        for axes in (first, second, third):
            style.log_axis(axes, "x")
            axes.set_xlabel("dose: sum of the rates so far")
            axes.axhline(0, color=GREY, lw=0.8, zorder=0)
        second.axhline(0.5, color=GREY, lw=0.8, ls=panels.DOTTED, zorder=0)
        first.set(ylabel="cosine with the tangent path", title="(a) direction")
        second.set(ylabel="share of the shift explained", title="(b) direction and size", ylim=(-1.05, 1.05))
        third.set(ylabel="median points gained", title="(c) chosen runs; dotted: foretold")
        series = {
            "r2": "tangent path",
            "r2_optimum": "linearised optimum",
            "r2_head": "head's own path",
            "r2_gradient": "first gradient",
        }
        shown = rows.assign(**{name: rows[name].clip(-1, 1) for name in series})
        panels.rivals(fourth, shown, series, labels)
        fourth.axvline(0, color=GREY, lw=0.8, zorder=0)
        fourth.set(xlabel="share of the shift explained", title="(d) at the chosen step")
        style.legend(figure, [*panels.handles(rows, labels), panels.line_handle("one half, or foretold", dotted=True)])
    return figure


def _parity(axes: Axes, rows: pd.DataFrame, labels: Labels, words: str, factor: float) -> None:
    panels.points(axes, rows, "predicted", "measured", labels)
    panels.identity(axes, rows[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=factor)
    axes.set(xlabel=f"predicted {words}", ylabel=f"measured {words}")


def _off(axes: Axes, rows: pd.DataFrame, series: Mapping[str, str], labels: Labels, limit: float) -> None:
    panels.rivals(axes, rows, series, labels)
    axes.axvline(limit, color=GREY, lw=0.8, ls=panels.DOTTED, zorder=0)
    axes.set(xlabel="octaves off")


def practice_horizon(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted horizons, and how far each rule is off."""
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2)
        _parity(left, rows, labels, "end of the tangent path (dose)", 2.0)
        _off(right, rows, {"off": "departure on dev text", "off_rule": "one dose for all"}, labels, 1.0)
        left.set_title("(a) where the forecast ends")
        right.set_title("(b) against a rule")
        style.legend(figure, [*panels.handles(rows, labels), panels.line_handle("a factor 2", dotted=True)])
    return figure


def practice_rate(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return best against predicted rates, and how far each rule is off."""
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2)
        _parity(left, rows, labels, "best rate", 2.0)
        _off(right, rows, {"off": "adaptive sharpness", "off_rule": "one rate for all", "off_path": "tangent path"}, labels, 1.0)
        left.set_title("(a) the best rate")
        right.set_title("(b) against rules")
        style.legend(figure, [*panels.handles(rows, labels), panels.line_handle("a factor 2", dotted=True)])
    return figure


def practice_steps(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted steps to nine tenths of the gain."""
    with style.theme():
        figure = style.canvas(2.9)
        axes = figure.subplots()
        _parity(axes, rows, labels, "steps to nine tenths of the gain", 2.0)
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "practice-path",
        practice_path,
        needs={
            "map": ("dose", "cosine", "r2", "points", "points_predicted", "chosen"),
            "rows": ("r2", "r2_optimum", "r2_head", "r2_gradient"),
        },
        caption=(
            "The dose map: how far along a run its tangent holds. Dose is the sum of the learning rates so far, which "
            "bounds how far AdamW has moved a number. (a) Cosine over held-out texts of the network's shift with that of "
            "AdamW on the tangent model over the same texts; medians over tasks and rates. (b) The share of the shift "
            "that it explains; shares below -1 are drawn at -1. (c) Points of accuracy over the frozen head along the "
            "runs that dev text chose, measured and foretold. (d) The share explained at the chosen step beside rivals; "
            "every point is one cell, bars are medians. {n}."
        ),
        alt=(
            "Four panels: cosine and share explained against the dose by delta, points gained against the dose measured "
            "and foretold, and the share explained at the chosen step against rivals."
        ),
    ),
    ClaimFigure(
        "practice-horizon",
        practice_horizon,
        needs={"rows": ("measured", "predicted", "off", "off_rule")},
        caption=(
            "Where the tangent path ends. (a) The dose at which it stops explaining half of the held-out shift, against "
            "that at which it stops explaining half of what the network does at the path's own numbers, on dev text and "
            "before training; the band is a factor 2. (b) Octaves between them, and for one dose for every delta. A point"
            " is one rate of one cell. {n}."
        ),
        alt="Left: measured against predicted horizons with a band of a factor 2. Right: octaves off by rule.",
    ),
    ClaimFigure(
        "practice-rate",
        practice_rate,
        needs={"rows": ("measured", "predicted", "off", "off_rule", "off_path")},
        caption=(
            "The best learning rate. (a) The rate of the lowest dev loss, between rates by a parabola, against a constant"
            " over the largest curvature in Adam's metric; the band is a factor 2. (b) Octaves off, beside one rate for "
            "all deltas and the best rate on the tangent path. {n}."
        ),
        alt="Left: best against predicted rates with a band of a factor 2. Right: octaves off by rule.",
    ),
    ClaimFigure(
        "practice-steps",
        practice_steps,
        needs={"rows": ("measured", "predicted")},
        caption=(
            "Steps by which nine tenths of a run's own gain are made, on the network against on the tangent path at the "
            "rate and step that dev text chooses there; the band is a factor 2. {n}."
        ),
        alt="Measured against predicted steps with a band of a factor 2.",
    ),
)
