"""Planted dimensions: every run, every interval, and the errors of other answers."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels


def planted_dimension(rows: pd.DataFrame, curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the gain against the dimension over k, the intervals over the known dimension, and the rivals."""
    series = {"error": "measured", "error_first": "first to cross, one draw", "error_curve": "least squares in the subspaces",
              "error_larsen": "formula of Larsen et al.", "error_unwhitened": "directions not made alike",
              "error_participation": "participation ratio", "error_other": "twice as many directions"}  # fmt: skip
    with style.theme():
        rows = panels.present(rows, ["known", "measured", "low", "high", "error"])
        curves = panels.present(curves, ["relative", "measured"])
        figure = style.canvas(5.2)
        placed = figure.subplot_mosaic([["runs", "intervals"], ["errors", "errors"]])
        left, right, lower = placed["runs"], placed["intervals"], placed["errors"]
        panels.points(left, curves, "relative", "measured", labels, size=6)
        at = curves.groupby("relative")["measured"].median()
        left.plot(at.index, at.to_numpy(), color=INK, lw=1.1, zorder=3)
        expected = np.geomspace(curves["relative"].min(), curves["relative"].max(), 200)
        left.plot(expected, np.minimum(expected, 1.0), color=GREY, lw=0.9, ls="--", zorder=2)
        style.log_axis(left, "x")
        left.set(xlabel="subspace dimension over k", ylabel="share of the gain", title="(a) every run")
        _intervals(right, rows, labels)
        panels.rivals(lower, rows, series, labels, width=34)
        lower.axvline(0, color=GREY, lw=0.8, zorder=0)
        lower.set(xlabel="octaves off, in either direction", title="(c) errors")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def _intervals(axes, rows: pd.DataFrame, labels: Labels) -> None:
    """Draw every problem's measured dimension and interval against the known one, in octaves and in order."""
    ends = {name: np.log2(rows[name] / rows["known"]) for name in ("low", "measured", "high")}
    rows = rows.assign(**ends).sort_values("measured", kind="stable").reset_index(drop=True)
    for look, group in panels.groups(rows, labels):
        axes.hlines(group.index, group["low"], group["high"], color=look.color, lw=0.9, alpha=0.6)
        panels.dots(axes, group["measured"], group.index, look, panels.inside(group), size=9)
    axes.axvline(0, color=GREY, lw=0.8, zorder=0)
    axes.set_yticks([])
    axes.set(xlabel="measured less known dimension (octaves)", ylabel="problems", title="(b) intervals")


FIGURES = (
    ClaimFigure(
        "planted-dimension",
        planted_dimension,
        needs={"rows": ("task", "known", "measured", "low", "high", "error"), "curves": ("task", "relative", "measured")},
        caption=(
            "Problems of known dimension, planted on the frozen network. (a) Share of the gain that training in a random "
            "subspace makes, against its dimension over the known number k of directions; the dark line is the median of all "
            "runs, the dashed one the mean that theory expects, d/k. (b) Measured less known dimension with its 90 % "
            "interval. (c) Error of the measurement, and its distance from what other answers would have been; bars are "
            "medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Top left: share of the gain against dimension over k. Top right: intervals about the known dimension. Bottom: "
            "errors of the measurement and of rivals."
        ),
    ),
)
