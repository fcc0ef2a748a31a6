"""The price of noise, open and closed loop."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import Bars, ClaimFigure
from ..style import GREY, Labels

ARMS = {"prefix": "prefix, open loop", "adapter": "adapter, closed loop"}


def noise_response(rows: pd.DataFrame, labels: Labels, bars: Bars) -> Figure:
    """Return observed over predicted price of noise by departure from linearity, and the adapter's excess over the prefix."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1.12, 1))
        for arm in ARMS:
            kept = panels.present(rows, ["eta", arm])
            panels.dots(left, kept["eta"], kept[arm], style.DELTAS[arm], panels.inside(kept), size=14)
        factor = bars["prefix"][1]
        left.axhspan(1 / factor, factor, color=GREY, alpha=0.13, lw=0, zorder=0)
        left.axhline(1, color=GREY, lw=0.8, zorder=0)
        style.log_axis(left, "x")
        left.set(
            xlabel="departure from linearity η",
            ylabel="observed over predicted price",
            title="(a) by distance from the linear regime",
        )
        panels.dots(right, rows["predicted"], rows["measured"], panels.PLAIN, panels.inside(rows), size=14)
        panels.identity(right, rows[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        right.set(xlabel="predicted excess", ylabel="observed excess", title="(b) adapter less prefix")
        handles = [panels.mark_handle(style.DELTAS[arm], words) for arm, words in ARMS.items()]
        style.legend(figure, handles + panels.handles(panels.pooled(rows), labels))
    return figure


FIGURES = (
    ClaimFigure(
        "noise-response",
        noise_response,
        needs={"rows": ("task", "eta", "prefix", "adapter", "predicted", "measured")},
        bars=("prefix",),
        caption=(
            "The price of noise. (a) Observed over predicted rise of the held-out loss per unit of the noise's variance, "
            "against the departure from linearity; the band is the rule's factor of {prefix}. (b) How much more noise costs the "
            "adapter than the prefix, observed against predicted; the line is equality. Every point is one task, seed and "
            "noise level. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: ratio of observed to predicted price of noise for prefix and adapter against departure from linearity. "
            "Right: observed against predicted difference between adapter and prefix with the line of equality."
        ),
    ),
)
