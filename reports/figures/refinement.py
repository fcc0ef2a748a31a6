"""What linearising anew reaches, and what it foretells."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def practice_refined(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return points reached by three linearisations against those of tuning, and cosines of the first and the last."""
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2)
        panels.points(left, rows, "points_predicted", "points", labels)
        panels.identity(left, rows[["points_predicted", "points"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="reached by linearising anew (points)", ylabel="gained by tuning (points)", title="(a) accuracy")
        panels.rivals(right, rows, {"cosine": "last linearisation", "cosine_optimum": "first alone"}, labels)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="cosine with the tuned shift", title="(b) direction")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def practice_features(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return what tuning gained beyond the tangent optimum against what linearising anew added on dev text."""
    with style.theme():
        figure = style.canvas(2.9)
        axes = figure.subplots()
        panels.points(axes, rows, "further", "shortfall", labels)
        axes.axhline(0, color=GREY, lw=0.8, zorder=0)
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        axes.set(xlabel="added on dev text by linearising anew (nats)", ylabel="gained beyond the forecast (nats)")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "practice-refined",
        practice_refined,
        needs={"rows": ("points", "points_predicted", "cosine", "cosine_optimum")},
        caption=(
            "Linearising anew. (a) Points of held-out accuracy over the frozen head after at most three Gauss-Newton "
            "steps on the network, against those of AdamW; the line is equality. (b) Cosine with the tuned shift, of the "
            "last and of the first linearisation. {n}."
        ),
        alt="Left: points gained by tuning against those reached by linearising anew. Right: cosines of the last and first.",
    ),
    ClaimFigure(
        "practice-features",
        practice_features,
        needs={"rows": ("further", "shortfall")},
        caption=(
            "What the tangent model misses. The fall of the held-out loss by tuning beyond that which the linearised "
            "optimum foretold, against the fall of the dev loss that further linearisations add to it before training. "
            "{n}."
        ),
        alt="Gain beyond the forecast against the gain on dev text by linearising anew.",
    ),
)
