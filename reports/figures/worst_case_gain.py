"""The worst disturbance: how tight its bound is, and where it points."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import Bars, ClaimFigure
from ..style import GREY, Labels


def worst_case_gain(rows: pd.DataFrame, labels: Labels, bars: Bars) -> Figure:
    """Return the worst shift found over its bound beside the rivals' bounds, and the directions of the attacks."""
    bounds = {
        "tightness_gamma": "gain",
        "tightness_ports_apart": "port by port",
        "tightness_frobenius": "Frobenius norm",
        "tightness_layered": "layer norms",
        "tightness_gamma_mean": "mean response",
        "tightness_gamma_permuted": "another example's gain",
    }
    ways = {"cosine": "gain's direction", "cosine_shared": "one direction for all", "cosine_random": "random leading (97.5 %)"}
    own = panels.pooled(rows)
    with style.theme():
        figure = style.canvas(2.8)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        panels.rivals(left, own, bounds, labels)
        left.axvspan(*bars["tightness"], color=GREY, alpha=0.13, lw=0, zorder=0)
        left.axvline(1, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="shift found over bound", title="(a) tightness of the bound")
        panels.rivals(right, own, ways, labels)
        right.set(xlabel="cosine with the attack", xlim=(0, 1.02), title="(b) direction of the attack")
        style.legend(figure, panels.handles(own, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "worst-case-gain",
        worst_case_gain,
        needs={"rows": ("task", "tightness_gamma", "cosine", "cosine_random")},
        bars=("tightness",),
        caption=(
            "The worst disturbance. (a) Shift of the class contrasts that gradient ascent finds on the trained prefix, over "
            "the bound of the frozen network and of rivals, median over examples; the band is the rule's. (b) Cosine of the "
            "disturbance found with the predicted direction and with others. Every point is one task, seed and size of the "
            "disturbance, bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: shift found over the bound by the gain and by rival bounds. Right: cosine of the attack with the gain's "
            "direction, with one direction for all examples and with random ones."
        ),
    ),
)
