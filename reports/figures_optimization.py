"""Figures of the optimization view: intrinsic dimension, linearised optimum, restricted optimum."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE

from . import panels, style
from .style import GREY, INK, Labels


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


def linearised_optimum(rows: pd.DataFrame, points: pd.DataFrame, labels: Labels) -> Figure:
    """Return held-out logit shifts against their prediction, and the variance explained by it and by its rivals."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, points, "predicted", "measured", labels, size=6)
        panels.identity(left, points[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted logit shift", ylabel="measured logit shift", title="(a) held-out logit shifts")
        panels.rivals(right, rows, {"r2": "linearised optimum", "r2_gradient": "one gradient step", "r2_constant": "best shift",
                                    "r2_permuted": "permuted examples"}, labels, floor=-1.0)  # fmt: skip
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlim=(-1.08, 1.05), xlabel="share of variance explained, R²", title="(b) against rivals and nulls")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def restricted_optimum(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return each bound against the gap it bounds, and how far above the gap it lies."""
    bounds = {"published": "as published", "one_sided": "one-sided", "hessian": "with the Hessian"}
    looks = {"published": (GREY, "s", "none"), "one_sided": (INK, "o", "none"), "hessian": (INK, "D", INK)}
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        reach = [rows["gap"].to_numpy(dtype=float)]
        for column in bounds:
            if column in rows:
                kept = panels.present(rows, ["gap", column])
                kept = kept[(kept["gap"] > 0) & (kept[column] > 0)]
                edge, marker, face = looks[column]
                left.scatter(kept["gap"], kept[column], s=11, marker=marker, facecolors=face, edgecolors=edge,
                             linewidths=0.6 if face == "none" else 0, alpha=panels.faded(len(kept)),
                             rasterized=len(kept) > panels.RASTER)  # fmt: skip
                reach.append(kept[column].to_numpy(dtype=float))
        panels.identity(left, np.concatenate(reach), log=True)
        left.set(xlabel="gap to the full optimum (nats)", ylabel="bound (nats)", title="(a) bound and gap")
        panels.rivals(right, rows, {f"tightness_{c}": words for c, words in bounds.items()}, labels)
        style.log_axis(right, "x")
        right.axvline(1, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="bound over gap", title="(b) tightness")
        handles = [
            Line2D([], [], ls="", marker=m, mfc=face, mec=edge, mew=0.6, ms=4.5, label=f"(a) bound {bounds[c]}")
            for c, (edge, m, face) in looks.items()
            if c in rows
        ]
        style.legend(figure, handles + panels.handles(rows, labels))
    return figure
