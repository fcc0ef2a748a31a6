"""C-amplitude: the LQ optimum has the trained control's size too, with no fitted scale."""

from functools import partial

import numpy as np

from ..controls import bias_setting
from ..verdict import Criterion
from .claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean, mean_excess
from .plants import own, swapped


def _rows(cell: Cell) -> list[dict]:
    m = cell.measured.record
    return [
        cell.place
        | {
            "r2": m["r2"],
            "r2_gradient": m["cosine_gradient"] ** 2,
            "log_ratio": float(np.log(m["norm"] / m["norm_predicted"])),
            "norm_predicted": m["norm_predicted"],
            "norm_trained": m["norm"],
        }
    ]


CLAIM = Claim(
    id="control-amplitude",
    nature="consistency",
    view="control",
    title="The LQ optimum has the right amplitude",
    statement="The linear-quadratic optimum predicts the trained control itself, direction and size, with the penalty that was "
    "used in training and no fitted scale.",
    equation='R^2 = 1 - frac(norm(z_"trained" - hat(z))^2, norm(z_"trained")^2), quad ell = log frac(norm(z_"trained"), norm(hat(z)))',
    equation_alt="R squared is one minus the squared relative error of the predicted control; ell is the log ratio of the norms",
    derived="the same optimum as for the direction; the rival's scale is fitted to the outcome, ours is not",
    sources=("ding2023", "li2018msa"),
    kind="tuned",
    deltas=("port-bias", "prefix"),
    rows=_rows,
    statistic=Comparison("share of the trained control explained, R²", mean("r2")),
    criteria=(
        Criterion(
            "margin",
            "R² above the best-scaled gradient",
            mean_excess("r2", "r2_gradient"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "log ratio",
            "log of trained over predicted norm",
            mean("log_ratio"),
            (-float(np.log(1.5)), float(np.log(1.5))),
            (-float(np.log(2)), float(np.log(2))),
        ),
    ),
    rivals=(Comparison("gradient, scale fitted to the outcome", mean("r2_gradient")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when R² exceeds that of the gradient scaled to fit the outcome by 0.1 and the norms agree within a factor of "
    "1.5; refuted when R² is below the rival's or the norms differ by more than a factor of 2.",
    reason="The rival is given the one constant that the prediction does without; a factor of 1.5 is the error at which a "
    "budget would be chosen wrongly by one step of a doubling grid.",
    change="Systematic overshoot of the linearised optimum, which grows with the size of the control.",
    good=partial(own, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    bad=partial(swapped, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    good_is="gated linear plants, on which the linearisation is exact",
    bad_is="the prediction made for another plant",
)
