"""Figures of what curvature says about tuning: a LoRA's multiplets, the pace of descent, sharpness and the generalisation gap."""

import pandas as pd
from matplotlib.figure import Figure

from . import panels, style
from .style import GREY, Labels


def lora_multiplets(rows: pd.DataFrame, spectra: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted eigenvalues at both ends, over the penalty, and the errors of all predictors."""
    series = {"error": "prediction", "error_modules": "last modules alone", "error_start": "not cut at the penalty",
              "error_multiplets": "without Gauss–Newton part", "error_once": "each singular value once",
              "error_gauss_newton": "Gauss–Newton part alone", "error_permuted": "permuted labels"}  # fmt: skip
    with style.theme():
        spectra = panels.present(spectra, ["predicted", "measured"])
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, spectra, "predicted", "measured", labels, size=8)
        panels.identity(left, spectra[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted eigenvalue over penalty", ylabel="measured eigenvalue over penalty", title="(a) both ends")
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="|log ratio| of eigenvalues, median over places", title="(b) against rivals")
        style.legend(figure, panels.handles(spectra, labels))
    return figure


def convergence_order(rows: pd.DataFrame, deltas: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted steps, delta by delta, and the rank correlation of each predictor with the steps."""
    series = {"predicted": "spectrum and gradient", "linear": "descent on the linear model", "condition": "condition number",
              "trace": "trace over largest", "gradient_norm": "gradient norm", "size": "number of parameters",
              "permuted": "permuted labels"}  # fmt: skip
    with style.theme():
        deltas = panels.present(deltas, ["predicted", "measured"])
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, deltas, "predicted", "measured", labels)
        panels.identity(left, deltas[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2.0)
        left.set(xlabel="predicted steps", ylabel="measured steps", title="(a) every delta")
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the measured steps", title="(b) against rivals")
        style.legend(figure, panels.handles(deltas, labels))
    return figure


def sharpness_gap(rows: pd.DataFrame, points: pd.DataFrame, labels: Labels) -> Figure:
    """Return the generalisation gap against the sharpness, each about its cell's middle, and the partial rank correlations."""
    series = {"sharpness": "sharpness", "adaptive": "in units of the change", "trace": "trace", "norm": "distance from the start",
              "effective_dimension": "effective dimension", "size": "number of parameters",
              "permuted": "another point's sharpness"}  # fmt: skip
    with style.theme():
        points = panels.present(points, ["sharpness", "gap"])
        points = points[points["sharpness"] > 0]
        cells = points.groupby(["task", "seed"])
        middle = cells[["sharpness", "gap"]].transform("median")
        points = points.assign(relative=points["sharpness"] / middle["sharpness"], more=points["gap"] - middle["gap"])
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, points, "relative", "more", labels, size=9)
        style.log_axis(left, "x")
        left.axhline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="sharpness over the cell's median", ylabel="gap less the cell's median (nats)", title="(a) every point")
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the gap, given training loss", title="(b) by predictor")
        style.legend(figure, panels.handles(points, labels))
    return figure
