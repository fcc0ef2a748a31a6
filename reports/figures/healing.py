"""What healing of the whole state leaves of an attack, layer by layer, and how often the healed model is right."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels

RULES = {
    "error": "schedule",
    "error_none": "all left",
    "error_random": "random subspace",
    "error_others": "others' mean",
    "error_linear": "linearised layers",
}
CONTROLLERS = {"none": "no control", "healing": "healing", "shrinkage": "shrinkage", "random": "random subspaces"}
ATTACKERS = {"clean": "(a) clean text", "oblivious": "(b) oblivious attack", "adaptive": "(c) adaptive attack"}


def healing_displacement(layers: pd.DataFrame, rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return what is left at every state, foretold and measured, the same behind the last block, and how far rules are off."""
    with style.theme():
        figure = style.canvas(3.2)
        left, middle, right = figure.subplots(1, 3)
        for _, cell in layers.groupby(["task", "seed"]):
            left.plot(cell["layer"], cell["left"], color=GREY, lw=0.6, alpha=0.6)
        mean = layers.groupby("layer")[["orthogonal", "linear", "left"]].mean()
        left.plot(mean.index, mean["left"], color=INK, lw=1.4, marker="o", ms=3)
        left.plot(mean.index, mean["orthogonal"], color=INK, lw=1.2, ls=panels.DOTTED)
        left.plot(mean.index, mean["linear"], color=INK, lw=1.2, ls="--")
        left.set(xlabel="blocks before the state", ylabel="share of the displacement left", title="(a) layer by layer")
        left.set_ylim(bottom=0.0)
        panels.points(middle, rows, "predicted", "measured", labels)
        panels.identity(middle, rows[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        middle.set(xlabel="share that the schedule leaves", ylabel="share left", title="(b) behind the last block")
        panels.rivals(right, rows, RULES, labels, width=10)
        right.set(xlabel="share off, mean over blocks", title="(c) rules")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def healing_state(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the held-out accuracy under every control, on clean text and under both attackers."""
    with style.theme():
        figure = style.canvas(3.2)
        grid = figure.subplots(1, 3, sharex=True)
        for axes, (attacker, title) in zip(grid, ATTACKERS.items(), strict=True):
            series = {f"{name}_{attacker}": words for name, words in CONTROLLERS.items()}
            panels.rivals(axes, rows, series, labels, width=10)
            axes.set(xlabel="held-out accuracy", title=title)
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "healing-displacement",
        healing_displacement,
        needs={
            "layers": ("task", "seed", "layer", "orthogonal", "linear", "left"),
            "rows": ("task", "seed", "predicted", "measured", *RULES),
        },
        caption=(
            "Healing of the whole state. (a) Displacement by an attack at the embedding that is left under control, "
            "over the same without it, at the states between blocks: a grey line per task and seed, their mean in "
            "black; dotted what the schedule leaves in orthogonal layers, dashed what the linearised frozen layers "
            "leave, both before tuning. (b) The same behind the last block; the line is equality. (c) How far the "
            "schedule is off, beside rules without its subspace and the linearised layers. Bars are medians. {n}. "
            "Nothing was fitted."
        ),
        alt=(
            "Left: share of an attack's displacement left at every state, foretold and measured. Middle: measured "
            "against foretold share with the line of equality. Right: how far five rules are off."
        ),
    ),
    ClaimFigure(
        "healing-state",
        healing_state,
        needs={"rows": ("task", "seed", *(f"{name}_{attacker}" for name in CONTROLLERS for attacker in ATTACKERS))},
        caption=(
            "Accuracy of a tuned model whose states are controlled between blocks, on held-out text: (a) undisturbed, "
            "(b) under attacks at the embedding made against the uncontrolled model, (c) under the worse, by example, "
            "of those and attacks made through the control. Shrinkage spends what healing spends, random subspaces have"
            " the ranks of healing's. Bars are medians. {n}. Rank and price were chosen on training text before tuning."
        ),
        alt="Three strips of points: held-out accuracy by control on clean text, under an oblivious and an adaptive attack.",
    ),
)
