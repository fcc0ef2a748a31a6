"""The gap to the full optimum and its bounds."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels


def restricted_optimum(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return each bound against the gap it bounds, and how far above the gap it lies."""
    bounds = {"published": "as published", "one_sided": "one-sided", "hessian": "with the Hessian"}
    looks = {"published": (GREY, "s", "none"), "one_sided": (INK, "o", "none"), "hessian": (INK, "D", INK)}
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        reach = [rows["gap"].to_numpy(dtype=float)]
        for column in bounds:
            if column in rows:
                kept = panels.present(rows, ["gap", column])
                kept = kept[(kept["gap"] > 0) & (kept[column] > 0)]
                edge, marker, face = looks[column]
                left.scatter(kept["gap"], kept[column], s=11, marker=marker, facecolors=face, edgecolors=edge,
                             linewidths=0.6 if face == "none" else 0, alpha=panels.faded(len(kept)),
                             rasterized=len(kept) > panels.RASTER)  # fmt: skip
                reach.append(kept[column].to_numpy(dtype=float))
        panels.identity(left, np.concatenate(reach), log=True)
        left.set(xlabel="gap to the full optimum (nats)", ylabel="bound (nats)", title="(a) bound and gap")
        panels.rivals(right, rows, {f"tightness_{c}": words for c, words in bounds.items()}, labels)
        style.log_axis(right, "x")
        right.axvline(1, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="bound over gap", title="(b) tightness")
        handles = [
            Line2D([], [], ls="", marker=m, mfc=face, mec=edge, mew=0.6, ms=4.5, label=f"(a) bound {bounds[c]}")
            for c, (edge, m, face) in looks.items()
            if c in rows
        ]
        style.legend(figure, handles + panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "restricted-optimum",
        restricted_optimum,
        needs={"rows": ("task", "gap")},
        caption=(
            "Gap to the full optimum and its bounds. (a) Bound against gap; a bound holds above the line. (b) How many times "
            "the bound exceeds the gap. Every point is one cell (a task, a delta and a seed), bars are medians. {n}. Nothing "
            "was fitted."
        ),
        alt=("Left: three bounds against the gap on logarithmic axes with the line of equality. Right: ratio of bound to gap."),
        also=("published-bound",),
    ),
)
