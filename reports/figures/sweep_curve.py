"""Sweeps over random subspaces: the share of the gain."""

import pandas as pd
from matplotlib.figure import Figure

from ..claim_figure import ClaimFigure
from ..style import Labels
from .intrinsic_dimension import dimension_curve


def sweep_curve(curves: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the gain against the dimension, one panel per task, lines predicted from the head alone."""
    return dimension_curve(curves.rename(columns={"curve": "predicted"}), labels)


FIGURES = (
    ClaimFigure(
        "sweep-curve",
        sweep_curve,
        needs={"curves": ("task", "seed", "dimension", "measured", "curve")},
        caption=(
            "Sweeps over random subspaces, head included and starting at zero. Share of full training's gain in the penalised "
            "objective against the dimension of the subspace; markers are trained, lines the linearised problem, in which "
            "only the head moves, in other random subspaces. {n}. Nothing was fitted."
        ),
        alt=("Small multiples by task: share of the gain against subspace dimension, predicted as lines and measured as points."),
    ),
)
