"""Re-solves of the shared gain: what the law makes of the objective beside training, and what solvers pay for such a law."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels, Mark

KINDS = {
    "share_dealt": ("dealt labels", Mark("#8C8C8C", "X")),
    "share_once": ("solved once", Mark("#5B8DC4", "s")),
    "share_lbfgs": ("L-BFGS, as many passes", Mark("#6B8E23", "^")),
    "share": ("solved again", Mark("#B2182B", "o")),
}
SOLVERS = {
    "again": ("re-solves", Mark("#B2182B", "o")),
    "lbfgs": ("L-BFGS", Mark("#5B8DC4", "s")),
    "adamw": ("AdamW", Mark("#6B8E23", "^")),
}
LEAST = -1.0  # shares below are drawn there


def _handles(looks: dict[str, tuple[str, Mark]]) -> list:
    return [panels.mark_handle(look, name) for name, look in looks.values()]


def receding_gain(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return by task the share of the trained fall that each law makes, and the passes of both against each other."""
    with style.theme():
        rows = panels.pooled(rows)
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2)
        tasks = sorted(set(rows["task"]), key=lambda task: -rows.loc[rows["task"] == task, "share"].mean())
        for name, (_, look) in KINDS.items():
            values = [rows.loc[rows["task"] == task, name].mean() for task in tasks]
            panels.dots(left, np.maximum(values, LEAST), np.arange(len(tasks)), look, np.ones(len(tasks), bool))
        left.axvline(1.0, color=GREY, lw=0.8, zorder=0)
        left.set_yticks(range(len(tasks)), [labels.task(task) for task in tasks])
        left.invert_yaxis()
        left.set(xlabel="share of the trained adapter's fall", title="(a) objective with the law installed")
        panels.points(right, rows, "cost", "passes", labels)
        panels.identity(right, rows[["cost", "passes"]].to_numpy(dtype=float), log=True, factor=2.0**0.5)
        right.set(xlabel="gradients, re-solves", ylabel="gradients, training so far", title="(b) passes")
        style.legend(figure, [*_handles(KINDS), *panels.handles(rows, labels)])
    return figure


def receding_solver(rows: pd.DataFrame, paths: pd.DataFrame, labels: Labels) -> Figure:
    """Return the falls along every solver's path at the middle price, and what each paid for an accuracy by price."""
    with style.theme():
        figure = style.canvas(3.1)
        left, right = figure.subplots(1, 2)
        middle = sorted(set(paths["share"]))[len(set(paths["share"])) // 2]
        shown = paths[(paths["left"] > 1e-3) & (paths["cost"] >= 0.5) & (paths["share"] == middle)]
        for name, (_, look) in SOLVERS.items():
            for _, path in shown[shown["option"] == name].groupby(["task", "seed"]):
                left.plot(path["cost"], path["left"], color=look.color, lw=0.7, alpha=0.6)
        style.log_axis(left, "x")
        style.log_axis(left, "y")
        left.set(xlabel="paid, in gradients", ylabel="share of the fall still to make", title="(a) paths at one price")
        _costs(right, rows)
        style.legend(figure, _handles(SOLVERS))
    return figure


def _costs(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw what solvers paid for nine tenths of the fall, by price."""
    asked = sorted(set(rows["accuracy_asked"]))
    own = rows[rows["accuracy_asked"] == asked[len(asked) // 2]]
    prices = sorted(set(own["share"]), reverse=True)
    for lane, (name, (_, look)) in enumerate(SOLVERS.items()):
        for place, price in enumerate(prices):
            values = own.loc[own["share"] == price, f"cost_{name}"]
            at = np.full(len(values), place + 0.2 * (lane - 1))
            panels.dots(axes, at, values, look, np.ones(len(values), bool), alpha=0.6)
    axes.set_xticks(range(len(prices)), [f"{price:g}" for price in prices])
    style.log_axis(axes, "y")
    axes.set(
        xlabel="price, over that of the linear regime",
        ylabel="paid, in gradients",
        title=f"(b) {100 * asked[len(asked) // 2]:g} % of the fall",
        xlim=(-0.6, len(prices) - 0.4),
    )


FIGURES = (
    ClaimFigure(
        "receding-gain",
        receding_gain,
        needs={"rows": ("share", "share_once", "share_lbfgs", "share_dealt", "cost", "passes")},
        caption=(
            "The shared gain solved again in its own loop. (a) Share of the trained adapter's fall of the training objective "
            "that a law makes once it is cut to the adapter's rank and installed; shares below -1 are drawn there. (b) Gradients "
            "that training paid to come as far, against those of the re-solves; the band is half an octave. {n}."
        ),
        alt="Left: share of the trained fall by task for four laws. Right: passes of training against passes of re-solves.",
    ),
    ClaimFigure(
        "receding-solver",
        receding_solver,
        needs={
            "rows": ("share", "accuracy_asked", "cost_again", "cost_lbfgs", "cost_adamw"),
            "paths": ("task", "seed", "share", "option", "cost", "left"),
        },
        caption=(
            "Three solvers for one affine feedback law of full rank. (a) Share of the largest fall still to make against what "
            "had been paid, at the middle price. (b) What each paid for the middle accuracy by the price; a solver "
            "that never reached it is drawn at its whole budget. {n}."
        ),
        alt="Left: falls of the objective by three solvers against cost. Right: their costs of an accuracy by price.",
    ),
)
