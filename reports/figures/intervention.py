"""What noise in training does to an adapter's sensitivity, and where its gain sits, both beside the shared gain."""

from collections.abc import Mapping

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
REACHED = {
    "error": "shared gain, through noise",
    "error_price": "price alone",
    "error_none": "frozen network",
    "error_quiet": "shared gain, no noise",
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


def _under_noise(rows: pd.DataFrame, labels: Labels, columns: Mapping[str, str], what: str) -> Figure:
    """Return trained against predicted octaves of something, and the octaves by which every rule is off."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2)
        panels.points(left, rows, "predicted", "measured", labels)
        panels.identity(left, rows[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel=f"predicted {what} (octaves)", ylabel=f"trained {what} (octaves)", title="(a) sensitivity under noise")
        panels.rivals(right, rows, columns, labels, width=18)
        right.set(xlabel="octaves off", title="(b) against rivals and a null")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def noise_intervention(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return trained against predicted change of the sensitivity, and the octaves by which every rule is off."""
    return _under_noise(rows, labels, CHANGES, "change")


def noisy_sensitivity(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return trained against predicted sensitivity under noise, and the octaves by which every rule is off."""
    return _under_noise(rows, labels, REACHED, "sensitivity")


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
        "noisy-sensitivity",
        noisy_sensitivity,
        needs={"rows": ("task", "seed", "level", "predicted", "measured", *REACHED)},
        caption=(
            "Adapters that train through noise. (a) Octaves from the frozen network's sensitivity to the adapter's, against "
            "the same of the shared gain before training; the line is equality. (b) How far the law is off, beside the price "
            "alone, the frozen network, the law without noise, the other tasks' mean and laws of dealt labels; bars are medians. "
            "Every point is one task, seed and level of noise. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: trained against predicted sensitivity under noise with the line of equality. Right: octaves by which the "
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
