"""Intrinsic dimension: measured and predicted, and the curve that it is read from."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def intrinsic_dimension(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted dimension, and the ratio of the two for every predictor."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        rows = rows.reset_index(drop=True)
        kept = panels.present(rows, ["spectrum", "measured"])
        for look, group in panels.groups(kept, labels):
            x, middle = group["spectrum"].to_numpy(dtype=float), group["measured"].to_numpy(dtype=float)
            low, high = (
                pd.to_numeric(group.get(end, group["measured"]), errors="coerce").to_numpy(dtype=float) for end in ("low", "high")
            )
            ends = [np.where(np.isfinite(low), low, middle / 1.6), np.where(np.isfinite(high), high, middle * 1.6)]
            left.vlines(x, *ends, color=look.color, lw=0.6, alpha=0.6 * panels.faded(len(kept)))
            for end, mark, at in ((low, CARETDOWNBASE, ends[0]), (high, CARETUPBASE, ends[1])):
                left.plot(x[~np.isfinite(end)], at[~np.isfinite(end)], ls="", marker=mark, color=look.color, ms=3.5, mew=0)
        panels.points(left, kept, "spectrum", "measured", labels)
        reach = np.concatenate([kept[c].to_numpy(dtype=float) for c in ("spectrum", "measured", "low", "high") if c in kept])
        panels.identity(left, reach, log=True, factor=2.0)
        left.set(xlabel="predicted dimension", ylabel="measured dimension", title="(a) predicted and measured")
        names = {"spectrum": "curvature spectrum", "curve": "predicted gain curve", "participation": "participation ratio",
                 "trace_rank": "trace over top eigenvalue", "parameters": "number of parameters"}  # fmt: skip
        ratios = rows[[c for c in ("task", "delta", "seed", "inside") if c in rows]].copy()
        for column in names:
            if column in rows:
                ratios[column] = rows["measured"].astype(float) / rows[column].astype(float)
        panels.rivals(right, ratios, names, labels)
        style.log_axis(right, "x")
        right.axvspan(0.5, 2.0, color=GREY, alpha=0.13, lw=0, zorder=0)
        right.axvline(1, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="measured over predicted", title="(b) by predictor")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def dimension_curve(curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the gain kept by a random subspace against its dimension, one panel per task."""
    with style.theme():
        curves = panels.present(curves, ["dimension", "predicted", "measured"])
        figure, axes = panels.multiples(labels.in_order("task", curves["task"]), labels.task)
        low = float(np.clip(curves["measured"].min(), -0.3, 0.0))
        for task, panel in axes.items():
            for look, group in panels.groups(curves[curves["task"] == task], labels):
                mean = panels.tested(group).groupby("dimension")[["predicted", "measured"]].mean()
                panel.plot(mean.index, mean["predicted"], color=look.color, ls=look.dash, lw=1.0)
                if group["seed"].nunique() > 1:
                    panels.dots(panel, group["dimension"], group["measured"], look, panels.inside(group), size=4, alpha=0.3)
                panel.scatter(mean.index, mean["measured"], s=11, marker=look.marker, color=look.color, linewidths=0, zorder=3)
            panel.axhline(1, color=GREY, lw=0.5, zorder=0)
            panel.set_ylim(low - 0.04, 1.25)
            style.log_axis(panel, "x")
        figure.supxlabel("dimension of the subspace", fontsize=8.5)
        figure.supylabel("share of the gain", fontsize=8.5)
        style.legend(figure, style.delta_handles(panels.deltas(curves, labels), labels, line=True), where="outside upper center")
    return figure


FIGURES = (
    ClaimFigure(
        "intrinsic-dimension",
        intrinsic_dimension,
        needs={"rows": ("task", "measured", "spectrum")},
        caption=(
            "Intrinsic dimension. (a) Measured against predicted dimension; the line is equality, the band a factor of two. "
            "Every point is one cell (a task, a delta and a seed), whiskers are the measurement's own interval; an "
            "interval without an end, if there is one, ends in a caret. (b) Measured over predicted dimension for the "
            "prediction and its rivals; bars are medians. "
            "{n}. Nothing was fitted."
        ),
        alt=(
            "Left: measured against predicted dimension on logarithmic axes with the line of equality. Right: ratio of "
            "measured to predicted dimension for each predictor."
        ),
    ),
    ClaimFigure(
        "dimension-curve",
        dimension_curve,
        needs={"curves": ("task", "seed", "dimension", "measured", "predicted")},
        caption=(
            "Share of the gain that training in a random subspace keeps, against the dimension of the subspace. Lines are "
            "predicted before training, large markers the mean over seeds inside the linear regime, small ones single seeds. "
            "{n}. Nothing was fitted."
        ),
        alt=("Small multiples by task: share of the gain against subspace dimension, predicted as lines and measured as points."),
    ),
)
