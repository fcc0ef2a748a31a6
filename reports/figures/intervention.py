"""What noise in training does to an adapter's sensitivity, and where its gain sits, both beside the shared gain."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

CHANGES = {
    "error": "shared gain, through noise",
    "error_price": "price alone",
    "error_none": "no change",
    "error_shrinkage": "1 / (1 + level²)",
    "error_others": "other tasks' mean",
    "error_dealt": "dealt labels",
}
PROFILES = {
    "distance": "shared gain",
    "distance_first": "first order, whitened",
    "distance_inverse": "inverse variance",
    "distance_uniform": "equal shares",
    "distance_dealt": "dealt labels",
}


def noise_intervention(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return trained against predicted change of the sensitivity, and the octaves by which every rule is off."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2)
        panels.points(left, rows, "predicted", "measured", labels)
        panels.identity(left, rows[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted change (octaves)", ylabel="trained change (octaves)", title="(a) sensitivity under noise")
        panels.rivals(right, rows, CHANGES, labels, width=18)
        right.set(xlabel="octaves off", title="(b) against rivals and a null")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def amplification(rows: pd.DataFrame, profile: pd.DataFrame, labels: Labels) -> Figure:
    """Return the mean shares of the gain by variance, predicted and trained, and every rule's distance from the trained ones."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2)
        for column in ("trained", "predicted"):
            means = profile.groupby("group")[column].mean()
            left.plot(
                means.index,
                means.to_numpy(),
                color=GREY,
                lw=1.2,
                ls="-" if column == "trained" else panels.DOTTED,
                marker=".",
                ms=4,
            )
        left.set_xticks(np.unique(profile["group"]))
        left.set(
            xlabel="eighth of directions, least variance first", ylabel="share of the squared gain", title="(a) mean profile"
        )
        panels.rivals(right, rows, PROFILES, labels, width=18)
        right.set(xlabel="distance from the trained profile", title="(b) against rivals and a null")
        lines = [panels.line_handle("trained"), panels.line_handle("predicted", dotted=True)]
        style.legend(figure, [*lines, *panels.handles(rows, labels)])
    return figure


FIGURES = (
    ClaimFigure(
        "noise-intervention",
        noise_intervention,
        needs={"rows": ("task", "seed", "level", "predicted", "measured", *CHANGES)},
        caption=(
            "Training through noise. (a) Octaves from the sensitivity of the adapter that was trained without noise to that of "
            "one trained through noise on what it reads, against the same of the shared gain before training; the line is "
            "equality. (b) How far the law is off, beside the price alone, rules without a law and laws of dealt labels; bars "
            "are medians. Every point is one task, seed and level of noise. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: trained against predicted change of the sensitivity with the line of equality. Right: octaves by which the "
            "shared gain, its rivals and a null are off."
        ),
    ),
    ClaimFigure(
        "amplification",
        amplification,
        needs={
            "rows": ("task", "seed", "predicted", "measured", *PROFILES),
            "profile": ("task", "seed", "group", "predicted", "trained"),
        },
        caption=(
            "Where the gain sits. (a) Share of the squared gain in eighths of the state directions, ordered by variance, mean "
            "over cells; each cell's is a mean over ports. (b) Half the summed difference of a profile from the trained one, "
            "for the shared gain, cheaper profiles and laws of dealt labels; bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: mean shares of the squared gain by eighths of directions, predicted and trained. Right: distances of the "
            "shared gain's profile, its rivals and a null from the trained profile."
        ),
    ),
)
