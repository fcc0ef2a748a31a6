"""The gain that an ensemble shares: predicted beside trained, against rivals, and the sensitivity of the closed loop."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import port_words
from ..style import FAINT, GREY, Labels

SERIES = {
    "cosine": "shared gain",
    "cosine_first": "first order, whitened",
    "cosine_raw": "first order, raw",
    "cosine_principal": "four principal directions",
    "cosine_lq": "single regulators",
    "cosine_permuted": "permuted labels (97.5 %)",
    "cosine_rotated": "turned directions (97.5 %)",
}


def shared_gain(rows: pd.DataFrame, gains: pd.DataFrame, labels: Labels) -> Figure:
    """Return maps of predicted and trained gains of the middle cell, cosines of every law, and sensitivities."""
    with style.theme():
        figure = style.canvas(5.6)
        top, bottom = figure.subfigures(2, 1, height_ratios=(2.7, 2.9))
        _maps(top, _of_the_middle(rows, gains), labels)
        left, right = bottom.subplots(1, 2)
        panels.rivals(left, rows, SERIES, labels, width=18)
        left.axvline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="cosine with the adapter's Jacobian", title="(b) against rivals and nulls")
        panels.points(right, rows, "predicted", "measured", labels)
        panels.identity(right, rows[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2)
        right.set(xlabel="predicted sensitivity", ylabel="trained sensitivity", title="(c) closed over open loop")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def _of_the_middle(rows: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """Return the gains of the cell whose cosine is the lower median, among the first delta's cells."""
    keys = [name for name in ("task", "delta", "seed") if name in rows and name in gains]
    kept = rows[rows["delta"] == rows["delta"].iloc[0]] if "delta" in keys else rows
    middle = kept.sort_values("cosine", kind="stable").iloc[(len(kept) - 1) // 2]
    return gains[(gains[keys] == middle[keys]).all(axis=1)]


def _maps(figure: SubFigure, gains: pd.DataFrame, labels: Labels) -> None:
    """Draw a port's predicted gain above its trained one, port by port, each matrix over its own largest entry."""
    ports = list(dict.fromkeys(gains["port"]))
    panel = figure.subplots(2, len(ports), squeeze=False)
    for column, port in enumerate(ports):
        own = gains[gains["port"] == port]
        for row, what in enumerate(("predicted", "trained")):
            grid = own.pivot(index="written", columns="read", values=what).to_numpy(dtype=float)
            axes, largest = panel[row, column], np.abs(grid).max() or 1.0
            image = axes.imshow(grid / largest, cmap="RdBu_r", vmin=-1, vmax=1, origin="upper")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(FAINT)
            axes.set_ylabel(what if column == 0 else "", fontsize=8)
        block, site = port_words(port)
        panel[0, column].set_title(f"{block} {site}", fontsize=8)
    figure.suptitle(f"(a) gains between leading state directions, {labels.task(gains['task'].iloc[0])}", fontsize=9)
    bar = figure.colorbar(image, ax=panel, fraction=0.05, pad=0.01, aspect=14, ticks=[-1, 0, 1])
    bar.outline.set_visible(False)
    bar.set_label("over the largest entry", fontsize=7.5)


FIGURES = (
    ClaimFigure(
        "shared-gain",
        shared_gain,
        needs={
            "rows": ("task", "seed", "cosine", "predicted", "measured"),
            "gains": ("task", "seed", "port", "written", "read", "predicted", "trained"),
        },
        caption=(
            "One gain for all examples. (a) Predicted gains above trained ones at the attention ports, in the cell of the "
            "median cosine: from the leading directions in which examples differ, per standard deviation of the state, to the "
            "same directions; each matrix over its largest entry. (b) Cosine of the trained adapter's Jacobian with the "
            "shared gain, with its rivals and with nulls; bars are medians. (c) Response of held-out logits to disturbances "
            "with the loop closed over that of the frozen network, predicted with the law installed and measured after "
            "training; the band is one octave. {n}. Nothing was fitted."
        ),
        alt=(
            "Top: heat maps of the predicted and the trained gain of each port. Left: cosines of the adapter's Jacobian with "
            "the shared gain, its rivals and nulls. Right: trained against predicted sensitivity with the line of equality."
        ),
    ),
)
