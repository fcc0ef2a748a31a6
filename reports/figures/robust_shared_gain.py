"""What training under attack saves, beside the robust shared gain, and what every adapter loses to an attacker who sees it."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import Labels

RULES = {
    "error": "robust gain",
    "error_removed": "nothing saved",
    "error_shrunk": "plain law, shrunk",
    "error_others": "others' mean",
    "error_dealt": "dealt labels",
}
ARMS = {
    "loss_robust": "under attack",
    "loss_removed": "removed",
    "loss_shrunk": "plain, shrunk",
}


def robust_shared_gain(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted saving, the nats by which every rule is off, and the losses under attack."""
    return savings(rows, labels, RULES, ARMS, "over no adapter")


def savings(rows: pd.DataFrame, labels: Labels, rules: Mapping[str, str], arms: Mapping[str, str], over: str) -> Figure:
    """Return the same of columns by their words: how far rules are off, and losses of arms; over: what is saved upon."""
    with style.theme():
        figure = style.canvas(3.2)
        left, middle, right = figure.subplots(1, 3)
        panels.points(left, rows, "predicted", "measured", labels)
        panels.identity(left, rows[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted saving (nats)", ylabel="trained saving (nats)", title=f"(a) {over}")
        panels.rivals(middle, rows, rules, labels, width=10)
        middle.set(xlabel="nats off", title="(b) rules and a null")
        panels.rivals(right, rows, arms, labels, width=10)
        right.set(xlabel="loss under attack (nats)", title="(c) what is lost")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "robust-shared-gain",
        robust_shared_gain,
        needs={"rows": ("task", "seed", "predicted", "measured", *RULES, *ARMS)},
        caption=(
            "Training under attack. (a) Nats that the adapter trained against the worst disturbances saves over none, under an "
            "attacker who sees it, against those of the robust shared gain before training; the line is equality. (b) How far "
            "the law is off, beside rules without it and laws of dealt labels. (c) Held-out loss under the attacker who sees it: "
            "trained under attack, none, and trained plainly and shrunk by the factor that is best on training text. "
            "Bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: trained against predicted saving with the line of equality. Middle: nats by which the robust shared gain, its "
            "rivals and a null are off. Right: losses under attack of three adapters."
        ),
    ),
)
