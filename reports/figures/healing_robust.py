"""Control under perturbation: what each controller recovers."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

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


FIGURES = (
    ClaimFigure(
        "healing-robust",
        healing_robust,
        needs={"rows": ("task", "lost_oblivious", "healing_oblivious", "healing_embedding", "healing_port", "healing_clean")},
        caption=(
            "Control under perturbation. Loss that the perturbation costs the uncontrolled model, and how much of it each "
            "controller recovers on held-out text: (a) from perturbed text and attacks made against the uncontrolled model, "
            "(b) and (c) from attacks made through the controller, over the loss to the attack made without it. (d) Loss that "
            "the controller adds on clean text. Every point is one task and seed, bars are medians. {n}. Healing's rank and "
            "cost were chosen on training text; nothing was fitted to the outcome."
        ),
        alt=(
            "Four strips of points: loss recovered by controller under oblivious perturbations and under adaptive attacks at "
            "the embedding and at the first port, and loss added on clean text."
        ),
    ),
)
