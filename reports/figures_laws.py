"""Figures of controllers that are written down rather than trained: synthesised laws, and control under perturbation."""

import pandas as pd
from matplotlib.figure import Figure

from . import panels, style
from .style import GREY, Labels

EQUAL = {"gain_trained": "trained adapter", "gain": "synthesised adapter", "gain_regression": "regressed optima",
         "gain_gradient": "one gradient step", "gain_random": "random feedback", "gain_constant": "best constant"}  # fmt: skip
OWN = {"adapter": "trained adapter", "synthesised": "synthesised adapter", "regression": "regressed optima",
       "lq": "LQ gain", "game": "disturbance game", "healing": "self-healing", "shared": "constant, LQ",
       "bias": "constant, trained"}  # fmt: skip


def synthesised_adapter(rows: pd.DataFrame, laws: pd.DataFrame, labels: Labels) -> Figure:
    """Return the held-out gain of every controller, at the trained adapter's energy and at its own."""
    place = [c for c in ("task", "seed", "delta") if c in laws]
    wide = laws.pivot(index=place, columns="law", values="loss")
    gains = wide.rsub(wide["frozen"], axis=0).reset_index()
    if "inside" in rows:
        gains = gains.merge(rows[[*place, "inside"]], on=place)
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2)
        for axes, table, series, title in (
            (left, rows, EQUAL, "(a) at the trained adapter's energy"),
            (right, gains, OWN, "(b) at their own energy"),
        ):
            panels.rivals(axes, table, series, labels, width=20)
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
            axes.set(xlabel="gain on held-out text (nats)", title=title)
        style.legend(figure, panels.handles(rows, labels))
    return figure


CONTROLLERS = {"healing": "self-healing", "shrinkage": "shrinkage", "random": "random subspaces",
               "prefix": "test-time prefix", "batch": "healing, batch mean"}  # fmt: skip
ATTACKS = {"oblivious": "(a) oblivious perturbations", "embedding": "(b) adaptive attack, embedding",
           "port": "(c) adaptive attack, first port"}  # fmt: skip


def healing_robust(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return what each perturbation costs and what each controller recovers of it, and the price of control on clean text."""
    with style.theme():
        figure = style.canvas(4.6)
        grid = figure.subplots(2, 2).ravel()
        for axes, (attack, title) in zip(grid, ATTACKS.items(), strict=False):
            series = {f"lost_{attack}": "lost, uncontrolled"} | {f"{k}_{attack}": v for k, v in CONTROLLERS.items()}
            panels.rivals(axes, rows, series, labels, width=20)
            axes.set(xlabel="loss recovered (nats)", title=title)
        panels.rivals(grid[3], rows, {f"{k}_clean": v for k, v in CONTROLLERS.items()}, labels, width=20)
        grid[3].set(xlabel="loss added by control (nats)", title="(d) clean text")
        for axes in grid:
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        style.legend(figure, panels.handles(rows, labels))
    return figure
