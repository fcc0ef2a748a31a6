"""Deltas against full tuning with few texts: what each reached by the number of texts, and how far the deltas lead."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def facts_few_shot(rows: pd.DataFrame, sizes: pd.DataFrame, labels: Labels) -> Figure:
    """Return the mean accuracy of every delta by the number of texts, and the points by which the deltas lead full tuning."""
    rows, labels = panels.pooled(rows), labels.showing(sizes["option"])
    names = labels.in_order("delta", sizes["option"])
    with style.theme():
        figure = style.canvas(2.8)
        left, right = figure.subplots(1, 2)
        for name in names:
            mean = sizes[sizes["option"] == name].groupby("texts")["accuracy"].mean()
            left.plot(mean.index, mean, color=labels.look(name).color, lw=1.2, **panels.along(labels.look(name)))
        frozen = sizes.groupby("texts")["frozen"].mean()
        left.plot(frozen.index, frozen, color=GREY, lw=1.0, ls=panels.DOTTED)
        style.log_axis(left, "x")
        left.set(xlabel="texts", ylabel="held-out accuracy (%), mean over tasks", title="(a) by the number of texts")
        panels.rivals(right, rows, {f"lead_{key}": said for key, said in LEADS.items()}, labels)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="points by which deltas lead full tuning", title="(b) the lead")
        style.legend(figure, [*style.delta_handles(names, labels), panels.line_handle("frozen head", dotted=True)])
    return figure


LEADS = {"few": "16 texts", "some": "64 texts", "many": "256 texts"}

FIGURES = (
    ClaimFigure(
        "facts-few-shot",
        facts_few_shot,
        needs={
            "rows": ("task", "lead_few", "lead_some", "lead_many"),
            "sizes": ("option", "texts", "accuracy", "frozen"),
        },
        caption=(
            "Few texts. (a) Held-out accuracy by the number of texts to train on, mean over tasks; head and stopping step had "
            "as many of their own. (b) Mean accuracy of LoRA, adapter and BitFit less that of full tuning; every point is a "
            "task, bars are medians. {n}."
        ),
        alt="Left: accuracy against the number of texts by delta. Right: points by which deltas lead full tuning, by texts.",
    ),
)
