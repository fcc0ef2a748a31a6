"""Which gates a prefix opens: by head, foretold and as trained, and how near forecasts come over heads and tokens."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

FORECASTS = {"": "tangent path", "_optimum": "linearised optimum", "_gradient": "first gradient", "_permuted": "permuted labels"}


def prefix_gate(rows: pd.DataFrame, heads: pd.DataFrame, labels: Labels) -> Figure:
    """Return the heads' mean changes, measured against foretold, and cosines over all heads and tokens and within heads."""
    with style.theme():
        figure = style.canvas(2.9)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.0, 1.15, 1.15))
        panels.points(left, heads, "path", "trained", labels, size=7)
        panels.identity(left, heads[["path", "trained"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="foretold change of log-odds", ylabel="trained", title="(a) by head")
        for axes, part, title in ((middle, "whole", "(b) heads and tokens"), (right, "within", "(c) tokens within heads")):
            panels.rivals(axes, rows, {f"{part}{end}": said for end, said in FORECASTS.items()}, labels, width=12)
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
            axes.set(xlabel="cosine with the trained change", title=title)
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "prefix-gate",
        prefix_gate,
        needs={
            "rows": ("task", "seed", "delta", *(f"{part}{end}" for part in ("whole", "within") for end in FORECASTS)),
            "heads": ("task", "delta", "trained", "path"),
        },
        caption=(
            "Which gates a prefix opens on held-out text. (a) Mean change of every head's log-odds of attention on the prefix, "
            "as trained and in the network at the end of AdamW's path on the tangent model, known before training; a point is a "
            "head of a task. (b) Cosine of the changes over all heads and tokens, by forecast; a point is a cell, a line the "
            "median. (c) The same with every head's mean taken off, which leaves what a head reads of its tokens. {n}."
        ),
        alt=(
            "Left: trained against foretold mean changes of log-odds by head. Middle and right: cosines of four forecasts with "
            "the trained changes, over heads and tokens, and within heads."
        ),
    ),
)
