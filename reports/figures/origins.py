"""What raises the threshold dimension: permuted labels, and networks without pretraining."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

MEASURES = {
    "participation": "participation ratio",
    "trace_rank": "trace over largest eigenvalue",
    "effective": "effective dimension",
}


def shuffled_labels(rows: pd.DataFrame, arms: pd.DataFrame, labels: Labels) -> Figure:
    """Return the dimensions for permuted labels against those for the true ones, and the rise with what was said of it."""
    return _rises(rows, arms, labels, {"permuted": "permuted labels", "again": "a second permutation"}, "true labels")


def pretraining_lowers(rows: pd.DataFrame, arms: pd.DataFrame, labels: Labels) -> Figure:
    """Return the dimensions without pretraining against those with it, and the rise with what was said of it."""
    return _rises(rows, arms, labels, {"shuffled": "shuffled weights", "fresh": "fresh weights"}, "pretrained network")


def _rises(rows: pd.DataFrame, arms: pd.DataFrame, labels: Labels, names: dict[str, str], base: str) -> Figure:
    """Return two arms' dimensions, the second hollow, and the rise by predictor; arms that did not learn are left out."""
    first, second = names
    with style.theme():
        arms = panels.present(arms, ["base", "d90"])
        arms = arms[arms["arm"].isin(names) & arms["learnt"].astype(bool)]
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        for look, group in panels.groups(arms, labels):
            full = (group["arm"] == first).to_numpy()
            panels.dots(left, group["base"], group["d90"], look, full, alpha=panels.faded(len(arms)))
        panels.identity(left, arms[["base", "d90"]].to_numpy(dtype=float), log=True)
        left.set(xlabel=f"dimension, {base}", ylabel=f"dimension, {names[first]}", title="(a) threshold dimensions")
        series = {"rise": "measured", "predicted": "linearised problem", **MEASURES, "null": names[second]}
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rise of the dimension (octaves)", title="(b) rise and what was said of it")
        hollow = Line2D([], [], ls="", marker="o", mfc="none", mec=GREY, mew=0.7, ms=4.5, label=f"(a) {names[second]}")
        style.legend(figure, [*panels.handles(rows, labels), hollow])
    return figure


FIGURES = (
    ClaimFigure(
        "shuffled-labels",
        shuffled_labels,
        needs={"rows": ("task", "rise", "predicted"), "arms": ("task", "arm", "base", "d90", "learnt")},
        caption=(
            "Permuted labels. (a) Random directions that reach 90 % of full tuning's fall in training loss, for permuted "
            "labels against the true ones; hollow points are a second permutation, the line is equality. (b) Rise of the "
            "dimension by permuted labels, what the linearised problem and measures of the kernel said of it before training, "
            "and the second permutation over the first; bars are medians. {n}. Nothing was fitted."
        ),
        alt=("Left: dimension for permuted labels against true ones. Right: measured rise in octaves beside predicted ones."),
    ),
    ClaimFigure(
        "pretraining-lowers",
        pretraining_lowers,
        needs={"rows": ("task", "arm", "rise", "predicted"), "arms": ("task", "arm", "base", "d90", "learnt")},
        caption=(
            "Pretraining. (a) Random directions that reach 90 % of full tuning's fall in training loss, on a network with "
            "shuffled weights (full points) and on a fresh one (hollow) against the pretrained network; networks on which "
            "full tuning takes away less than half of the loss are left out, the line is equality. (b) Rise of the dimension "
            "without pretraining, and what the linearised problem and measures of the kernel said of it before training; bars "
            "are medians. {n}. Nothing was fitted."
        ),
        alt=("Left: dimension without pretraining against with it. Right: measured rise in octaves beside predicted ones."),
    ),
)
