"""Solvers of optimal control: residuals of the maximum principle by layer, and what every solver pays for an accuracy."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels, Mark

LEAST = 1e-5  # residuals below are drawn there
SOLVERS = {
    "lq": ("iterative LQ", Mark("#B2182B", "o")),
    "lbfgs": ("L-BFGS", Mark("#5B8DC4", "s")),
    "adamw": ("AdamW", Mark("#6B8E23", "^")),
    "msa": ("extended successive approximation", Mark("#8C6D1F", "D")),
}


def _handles(names: Sequence[str]) -> list[Line2D]:
    return [panels.mark_handle(SOLVERS[name][1], SOLVERS[name][0]) for name in names]


def pmp_residual(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the residual by layer at the trained control and where AdamW stops, and the latter against its forecast."""
    with style.theme():
        rows = panels.present(panels.pooled(rows), ["measured", "predicted", "trained"])
        rows = rows.assign(**{name: rows[name].clip(lower=LEAST) for name in ("measured", "predicted", "trained")})
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2)
        ports = list(dict.fromkeys(rows["port"]))
        for name, solver in (("trained", "lbfgs"), ("measured", "adamw")):
            for place, port in enumerate(ports):
                values = rows.loc[rows["port"] == port, name]
                panels.dots(left, np.full(len(values), place), values, SOLVERS[solver][1], np.ones(len(values), bool), alpha=0.6)
        left.set_xticks(range(len(ports)), [f"{block}{site[:1]}" for block, site in map(panels.port_words, ports)])
        style.log_axis(left, "y")
        left.set(xlabel="layer", ylabel="slope of the Hamiltonian, over the frozen one", title="(a) layer by layer")
        panels.points(right, rows, "predicted", "measured", labels)
        panels.identity(right, rows[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2.0**0.5)
        right.set(xlabel="foretold where AdamW stops", ylabel="measured where AdamW stops", title="(b) forecast")
        style.legend(figure, [*_handles(["lbfgs", "adamw"]), *panels.handles(rows, labels)])
    return figure


def control_solver(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return what every solver paid against the accuracy that was asked for, and the lead of iterative LQ."""
    with style.theme():
        rows = panels.pooled(rows)
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2)
        asked = sorted(set(rows["accuracy_asked"]))
        for place, accuracy in enumerate(asked):
            own = rows[rows["accuracy_asked"] == accuracy]
            for lane, (name, (_, look)) in enumerate(SOLVERS.items()):
                values = own[f"cost_{name}"]
                panels.dots(
                    left, np.full(len(values), place + 0.18 * (lane - 1.5)), values, look, np.ones(len(values), bool), alpha=0.5
                )
        _accuracies(left, asked)
        style.log_axis(left, "y")
        left.set(ylabel="paid, in gradients of all texts", title="(a) the price of an accuracy")
        for place, accuracy in enumerate(asked):
            own = rows[rows["accuracy_asked"] == accuracy]
            sure = own["sure"].to_numpy(dtype=bool)
            panels.dots(right, np.full(len(own), place), own["lead"], panels.PLAIN, sure, alpha=0.7)
        _accuracies(right, asked)
        right.axhline(0, color=GREY, lw=0.8, zorder=0)
        right.set(ylabel="octaves cheaper than L-BFGS", title="(b) iterative LQ; full: foretold to contract")
        style.legend(figure, _handles(list(SOLVERS)))
    return figure


def _accuracies(axes: Axes, asked: Sequence[float]) -> None:
    axes.set_xticks(range(len(asked)), [f"{100 * accuracy:g} %" for accuracy in asked])
    axes.set(xlabel="share of the whole fall", xlim=(-0.6, len(asked) - 0.4))


def solver_cost(rows: pd.DataFrame, paths: pd.DataFrame, labels: Labels) -> Figure:
    """Return the falls of the objective along every solver's path, and measured against foretold costs."""
    with style.theme():
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2)
        shown = paths[(paths["left"] > 1e-4) & (paths["cost"] >= 0.5)]
        for name, (_, look) in SOLVERS.items():
            for _, path in shown[shown["option"] == name].groupby(["task", "seed", "share"]):
                left.plot(path["cost"], path["left"], color=look.color, lw=0.7, alpha=0.5)
        style.log_axis(left, "x")
        style.log_axis(left, "y")
        left.set(xlabel="paid, in gradients", ylabel="share of the fall still to make", title="(a) all paths")
        named = [name for name in SOLVERS if name in set(rows["option"])]
        for name in named:
            own = rows[rows["option"] == name]
            panels.dots(right, own["predicted"], own["measured"], SOLVERS[name][1], np.ones(len(own), bool), alpha=0.6)
        panels.identity(right, rows[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2.0**0.5)
        right.set(xlabel="foretold gradients", ylabel="measured gradients", title="(b) what an accuracy costs")
        style.legend(figure, _handles(list(SOLVERS)))
    return figure


FIGURES = (
    ClaimFigure(
        "pmp-residual",
        pmp_residual,
        needs={"rows": ("port", "measured", "predicted", "trained")},
        caption=(
            "The maximum principle, layer by layer. (a) Slope of the Hamiltonian in each layer's control over that of the "
            "frozen network: 0 at an extremal, 1 where nothing was trained; squares are controls that L-BFGS trained, "
            "triangles where AdamW stops; a: attention, m: feed-forward. (b) The latter against AdamW on the linearised network, "
            "within half an octave in the band. {n}."
        ),
        alt="Left: residuals of the maximum principle by layer, trained and where AdamW stops. Right: measured against foretold.",
    ),
    ClaimFigure(
        "control-solver",
        control_solver,
        needs={"rows": ("accuracy_asked", "cost_lq", "cost_msa", "cost_lbfgs", "cost_adamw", "lead", "sure")},
        caption=(
            "Solvers at equal passes. (a) What each had paid when it had made a share of the whole fall of the objective; a "
            "solver that never did is drawn at its whole budget. (b) By how many octaves iterative LQ was cheaper than "
            "L-BFGS; full where its sweeps were foretold to contract so far, hollow elsewhere. {n}."
        ),
        alt="Left: gradients paid by four solvers for four accuracies. Right: lead of iterative LQ over L-BFGS at these.",
    ),
    ClaimFigure(
        "solver-cost",
        solver_cost,
        needs={"rows": ("option", "predicted", "measured"), "paths": ("task", "seed", "share", "option", "cost", "left")},
        caption=(
            "What a solver pays. (a) Share of the whole fall of the objective still to make against what had been paid, all "
            "cells and prices. (b) Gradients paid for an accuracy on the network against those on its linearisation; the "
            "band is half an octave. {n}."
        ),
        alt="Left: falls of the objective by four solvers against cost. Right: measured against foretold costs.",
    ),
)
