"""Ports switched off: what that costs, with the others kept or trained anew."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels, Mark

COUNTS = {1: (Mark("#0072B2", "o"), "one port"), 2: (Mark("#D55E00", "s"), "two ports")}


def ablation(rows: pd.DataFrame, sets: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted increase of the loss for every set of ports, and each predictor's rank correlation."""
    series = {"predicted": "quadratic form", "diagonal": "its diagonal", "norm": "size of predicted control",
              "norm_trained": "size of trained control", "gradient": "gradient times control",
              "permuted": "permuted labels"}  # fmt: skip
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        sets = panels.present(sets, ["predicted", "measured"])
        shown = {count: look for count, look in COUNTS.items() if (sets["count"] == count).any()}
        for count, (look, _) in shown.items():
            own = sets[sets["count"] == count]
            panels.dots(left, own["predicted"], own["measured"], look, panels.inside(own), size=9, alpha=panels.faded(len(sets)))
        panels.identity(left, sets[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2.0)
        left.set(xlabel="predicted increase (nats)", ylabel="measured increase (nats)", title="(a) predicted and measured")
        panels.rivals(right, rows, series, labels, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the increase", title="(b) against rivals and a null")
        handles = [panels.mark_handle(look, words) for look, words in shown.values()]
        style.legend(figure, handles + panels.handles(panels.pooled(rows), labels))
    return figure


FIGURES = tuple(
    ClaimFigure(
        f"ablation-{rest}",
        ablation,
        needs={"rows": ("task", "predicted"), "sets": ("count", "predicted", "measured")},
        caption=(
            f"Ports switched off, {others}. (a) Measured against predicted increase of the training objective when the "
            "controls at one port or at two are zeroed; the line is equality, the band a factor of two. (b) Rank correlation "
            "with the measured increase over the sets of ports of a cell; every point is one task and seed, bars are medians. "
            "{n}. Nothing was fitted."
        ),
        alt=(
            "Left: measured against predicted increase on logarithmic axes with the line of equality. Right: rank "
            "correlations of the prediction, its rivals and a null."
        ),
    )
    for rest, others in (("frozen", "the others kept"), ("retrained", "the others trained anew"))
)
