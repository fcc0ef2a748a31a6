"""Figures of disturbances: the price of noise, the worst case and its bound, what adversarial training gains."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import panels, style
from .style import GREY, INK, Labels, Mark

ARMS = {"prefix": "prefix, open loop", "adapter": "adapter, closed loop"}
GAINS = {
    "trained": (style.DELTAS["adapter"], "trained adapter"),
    "robust": (Mark(INK, "D"), "robust adapter"),
    "open": (style.DELTAS["prefix"], "open loop"),
    "game": (Mark(GREY, "v"), "least of the game"),
}


def noise_response(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return observed over predicted price of noise by departure from linearity, and the adapter's excess over the prefix."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1.12, 1))
        for arm in ARMS:
            kept = panels.present(rows, ["eta", arm])
            panels.dots(left, kept["eta"], kept[arm], style.DELTAS[arm], panels.inside(kept), size=14)
        left.axhspan(0.8, 1.25, color=GREY, alpha=0.13, lw=0, zorder=0)
        left.axhline(1, color=GREY, lw=0.8, zorder=0)
        style.log_axis(left, "x")
        left.set(
            xlabel="departure from linearity η",
            ylabel="observed over predicted price",
            title="(a) by distance from the linear regime",
        )
        panels.dots(right, rows["predicted"], rows["measured"], panels.PLAIN, panels.inside(rows), size=14)
        panels.identity(right, rows[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        right.set(xlabel="predicted excess", ylabel="observed excess", title="(b) adapter less prefix")
        handles = [
            Line2D([], [], ls="", marker=style.DELTAS[a].marker, color=style.DELTAS[a].color, ms=4.5, mew=0, label=words)
            for a, words in ARMS.items()
        ]
        style.legend(figure, handles + panels.handles(rows.drop(columns="delta", errors="ignore"), labels))
    return figure


def worst_case_gain(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the worst shift found over its bound beside the rivals' bounds, and the directions of the attacks."""
    bounds = {
        "tightness_gamma": "gain",
        "tightness_ports_apart": "port by port",
        "tightness_frobenius": "Frobenius norm",
        "tightness_layered": "layer norms",
        "tightness_gamma_mean": "mean response",
        "tightness_gamma_permuted": "another example's gain",
    }
    ways = {"cosine": "gain's direction", "cosine_shared": "one direction for all", "cosine_random": "random leading (97.5 %)"}
    own = rows.drop(columns="delta", errors="ignore")
    with style.theme():
        figure = style.canvas(2.8)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        panels.rivals(left, own, bounds, labels)
        left.axvspan(0.6, 1.05, color=GREY, alpha=0.13, lw=0, zorder=0)
        left.axvline(1, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="shift found over bound", title="(a) tightness of the bound")
        panels.rivals(right, own, ways, labels)
        right.set(xlabel="cosine with the attack", xlim=(0, 1.02), title="(b) direction of the attack")
        style.legend(figure, panels.handles(own, labels))
    return figure


def robust_gain(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the gains before and after adversarial training and the game's, task by task, and the share of the way made."""
    series = {"closed": "adversarial training", "closed_random": "random disturbances", "closed_removed": "adapter removed"}
    own = rows.drop(columns="delta", errors="ignore")
    with style.theme():
        tasks = labels.in_order("task", rows["task"])
        figure = style.canvas(max(2.7, 0.8 + 0.26 * len(tasks)))
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        for place, task in enumerate(tasks):
            cells = own[own["task"] == task]
            for lane, (column, (look, _)) in enumerate(GAINS.items()):
                panels.dots(left, cells[column], place + 0.18 * (lane - 1.5), look, panels.inside(cells), size=14)
        panels.by_name(left, [labels.task(t) for t in tasks], 22)
        if (own[list(GAINS)] > 0).to_numpy().all():
            style.log_axis(left, "x")
        left.set(xlabel="gain from disturbance to output and control", title="(a) gains")
        panels.rivals(right, own, series, labels, floor=-1.0, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.axvline(0.25, color=GREY, lw=0.8, ls=(0, (3, 2)), zorder=0)
        right.set(xlabel="share of the way to the game's gain", title="(b) what closes the distance")
        handles = [
            Line2D([], [], ls="", marker=look.marker, color=look.color, ms=4.5, mew=0, label=words)
            for look, words in GAINS.values()
        ]
        style.legend(figure, handles + panels.handles(own, labels))
    return figure
