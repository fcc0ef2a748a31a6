"""Feedback: the adapter's Jacobian beside the regulator's gain."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def lq_feedback(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the cosine of learned and predicted gain beside its rivals, and the loop's sensitivity task by task."""
    series = {"cosine": "regulator's gain", "cosine_gradient": "static gradient", "cosine_rotated": "rotated adapter (97.5 %)"}
    look = style.DELTAS["adapter"]
    with style.theme():
        tasks = labels.in_order("task", rows["task"])
        figure = style.canvas(max(2.5, 0.6 + 0.24 * len(tasks)))
        left, right = figure.subplots(1, 2)
        own = rows if "delta" in rows else rows.assign(delta="adapter")
        panels.rivals(left, own, series, labels)
        left.axvline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="cosine with the adapter's Jacobian", title="(a) against rivals and nulls")
        kept = panels.present(rows, ["sensitivity"])
        for place, task in enumerate(tasks):
            cells = kept[kept["task"] == task]
            panels.dots(right, cells["sensitivity"], place, look, panels.inside(cells))
            tested = cells.loc[panels.inside(cells), "sensitivity"]
            if len(tested):
                panels.median(right, tested.median(), place)
        panels.by_name(right, [labels.task(t) for t in tasks])
        if (kept["sensitivity"] > 0).all():
            style.log_axis(right, "x")
        right.axvline(1, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="sensitivity, closed over open loop", title="(b) what feedback does")
        style.legend(figure, panels.handles(own, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "lq-feedback",
        lq_feedback,
        needs={"rows": ("task", "cosine", "sensitivity")},
        caption=(
            "Feedback. (a) Cosine between the adapter's Jacobian and the predicted gain, its rivals and a null. (b) "
            "Sensitivity of the logits to a disturbance with the adapter's loop closed, over that of the frozen network; "
            "below one the loop damps. Every point is one task and seed, bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: cosines of the adapter's Jacobian with the predicted gain and its rivals. Right: closed over open loop "
            "sensitivity by task."
        ),
    ),
)
