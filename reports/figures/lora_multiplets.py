"""A LoRA's multiplets: both ends of its Hessian."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def lora_multiplets(rows: pd.DataFrame, spectra: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted eigenvalues at both ends, over the penalty, and the errors of all predictors."""
    series = {"error": "prediction", "error_modules": "last modules alone", "error_start": "not cut at the penalty",
              "error_multiplets": "without Gauss–Newton part", "error_once": "each singular value once",
              "error_gauss_newton": "Gauss–Newton part alone", "error_permuted": "permuted labels"}  # fmt: skip
    with style.theme():
        spectra = panels.present(spectra, ["predicted", "measured"])
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, spectra, "predicted", "measured", labels, size=8)
        panels.identity(left, spectra[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted eigenvalue over penalty", ylabel="measured eigenvalue over penalty", title="(a) both ends")
        panels.rivals(right, rows, series, labels, width=22)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="|log ratio| of eigenvalues, median over places", title="(b) against rivals")
        style.legend(figure, panels.handles(spectra, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "lora-multiplets",
        lora_multiplets,
        needs={"rows": ("task", "error"), "spectra": ("task", "predicted", "measured")},
        caption=(
            "Both ends of a tuned LoRA's Hessian. (a) Outermost eigenvalues, all modules together, over the penalty: measured "
            "at the tuned delta against predicted from the frozen model; the line is equality. (b) Error of the prediction, "
            "of parts of it and of rivals; every point is one task, seed and penalty, bars are medians. {n}. Nothing was "
            "fitted."
        ),
        alt=(
            "Left: measured against predicted eigenvalues, negative and positive, with the line of equality. Right: errors of "
            "the prediction, of its parts and of its rivals."
        ),
    ),
)
