"""What training a prefix under attack saves, beside its gates' response, and what prefixes lose to an attacker who sees them."""

import pandas as pd
from matplotlib.figure import Figure

from ..claim_figure import ClaimFigure
from ..style import Labels
from .robust_shared_gain import savings

RULES = {
    "error": "gates' response",
    "error_still": "response still",
    "error_shrunk": "plain law, shrunk",
    "error_others": "others' mean",
    "error_dealt": "dealt labels",
}
ARMS = {
    "loss_robust": "under attack",
    "loss_shrunk": "plain, shrunk",
    "loss_start": "untrained",
    "loss_removed": "removed",
}


def robust_prefix(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted saving, the nats by which every rule is off, and the losses under attack."""
    return savings(rows, labels, RULES, ARMS, "over the start")


FIGURES = (
    ClaimFigure(
        "robust-prefix",
        robust_prefix,
        needs={"rows": ("task", "seed", "predicted", "measured", *RULES, *ARMS)},
        caption=(
            "Prefixes trained under attack. (a) Nats that the prefix trained against the worst disturbances saves over the "
            "untrained one, under an attacker who sees it, against those foretold by the response of its gates; the line is "
            "equality. (b) How far that is off, beside rules without it and laws of dealt labels. (c) Held-out loss under the "
            "attacker who sees it: trained under attack, trained plainly and shrunk by the factor that is best on training text, "
            "untrained, and without a prefix. Bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: trained against predicted saving with the line of equality. Middle: nats by which the gates' response, its "
            "rivals and a null are off. Right: losses under attack of four prefixes."
        ),
    ),
)
