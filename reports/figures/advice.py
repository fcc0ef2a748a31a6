"""Advice: forecast against trained loss, option by option."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

FAMILIES = {
    "bias": (style.DELTAS["port-bias"], "bias at ports"),
    "BitFit": (style.DELTAS["bitfit"], "BitFit"),
    "IA3": (style.DELTAS["ia3"], "(IA)³"),
    "LoRA": (style.DELTAS["lora"], "LoRA"),
    "adapter": (style.DELTAS["adapter"], "adapter"),
    "prefix": (style.DELTAS["prefix"], "prefix"),
}


def advice(rows: pd.DataFrame, cells: pd.DataFrame, labels: Labels) -> Figure:
    """Return forecast against trained change of the held-out loss for every option, and the rank correlation by predictor."""
    series = {"forecast": "forecast", "slope": "gradient norm", "trace": "kernel trace", "size": "number of parameters"}
    rows = panels.present(rows, ["forecast", "trained", "frozen"])
    rows = rows.assign(predicted=rows["forecast"] - rows["frozen_forecast"], gained=rows["trained"] - rows["frozen"])
    family = rows["option"].str.split(r"[ ,]", n=1, regex=True).str[0]
    with style.theme():
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        for name, (look, _) in FAMILIES.items():
            own = rows[family == name]
            panels.dots(left, own["predicted"], own["gained"], look, panels.inside(own), size=8, alpha=panels.faded(len(rows)))
        panels.identity(left, rows[["predicted", "gained"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="forecast change of the loss (nats)", ylabel="change when trained (nats)", title="(a) every option")
        panels.rivals(right, cells, series, labels, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the trained loss", title="(b) against cheap rivals")
        shown = [(look, words) for name, (look, words) in FAMILIES.items() if (family == name).any()]
        handles = [panels.mark_handle(look, words) for look, words in shown]
        style.legend(figure, handles)
    return figure


FIGURES = (
    ClaimFigure(
        "advice",
        advice,
        needs={"rows": ("task", "option", "forecast", "trained", "frozen", "frozen_forecast"), "cells": ("task", "forecast")},
        caption=(
            "Advice without training. (a) Change of the held-out loss against the frozen model, forecast and trained, one "
            "point per option, task and seed; the line is equality. (b) Rank correlation of each predictor with the trained "
            "loss within a task and seed; every point is one of them, bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: forecast against trained change of the loss for every option with the line of equality. Right: rank "
            "correlation by predictor."
        ),
    ),
)
