"""O-kernel: the trained delta's held-out logits are those of the linearised model's optimum."""

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
            "r2": m["r2_logits"],
            "r2_gradient": m["r2_logits_gradient"],
            "r2_constant": m["r2_logits_constant"],
            "r2_permuted": m["r2_logits_permuted"],
            "accuracy": m["accuracy"],
            "accuracy_predicted": cell.predicted.record["predicted_accuracy"],
            "accuracy_reference": cell.predicted.record["reference_accuracy"],
        }
    ]


def _points(cell: Cell) -> list[dict]:
    """Return twelve evenly spaced held-out examples: the predicted and the measured shift of their largest-moving logit."""
    predicted = cell.predicted.arrays["shift"]
    actual = cell.measured.arrays["outputs"] - cell.predicted.arrays["y0"]
    predicted = predicted - predicted.mean(1, keepdims=True)
    actual = actual - actual.mean(1, keepdims=True)
    chosen = np.linspace(0, len(actual) - 1, 12).astype(int)
    column = np.abs(predicted[chosen]).argmax(1)
    return [
        cell.place | {"predicted": float(predicted[i, c]), "measured": float(actual[i, c])}
        for i, c in zip(chosen, column, strict=True)
    ]


CLAIM = Claim(
    id="linearised-optimum",
    nature="consistency",
    view="optimization",
    title="Tuning solves the linearised problem",
    statement="Inside the linear regime, the held-out logits of the trained delta are those of the optimum of the problem "
    "linearised at the delta's reference point, computed from the frozen model alone.",
    equation="hat(y)(x) = y_0 (x) + G(x) hat(z), quad hat(z) = arg min_z 1/N sum_i ell_i (y_(0,i) + G_i z) + r/2 norm(z)^2",
    equation_alt="predicted logits are the frozen logits plus the response times the optimum of the linearised penalised loss",
    derived="the response G of the frozen model on training and held-out text, its logits, the labels and the penalty",
    sources=("jacot2018", "malladi2023", "ding2023"),
    kind="tuned",
    rows=_rows,
    parts={"points": _points},
    statistic=Comparison("share of the held-out logit shift explained, R²", mean("r2")),
    criteria=(
        Criterion("explained", "R² of the predicted shift", mean("r2"), (0.5, np.inf), (0.0, np.inf)),
        Criterion(
            "margin",
            "R² above the best cheap rival",
            mean_excess("r2", "r2_gradient", "r2_constant"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("one gradient step, best scale", mean("r2_gradient")),
        Comparison("best constant shift, fitted to the outcome", mean("r2_constant")),
    ),
    nulls=(Comparison("optimum for permuted labels, 97.5 % quantile", mean("r2_permuted")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when R² exceeds one half and exceeds the best rival by 0.1; refuted when it is no better than predicting "
    "no change, or than the best rival.",
    reason="Half of the shift explained with no fitted constant is the least that would let a reader use the prediction "
    "instead of a run; 0.1 is the resolution of a dozen clusters.",
    change="A penalty so small that training leaves the linear regime, or a rival that explains the shift as well.",
    good=partial(own, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    bad=partial(swapped, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    good_is="gated linear plants, on which the linearisation is exact",
    bad_is="the prediction made for another plant",
)
