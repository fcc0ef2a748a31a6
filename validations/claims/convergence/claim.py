"""In which order deltas converge, and in how many steps, from the spectrum at the start."""

from functools import partial

import numpy as np

from ...statistics import partial_rank_correlation
from ...verdict import Criterion
from ..shared.claim import CONVERGED, Cell, Claim, Comparison, Row, lead, mean
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import pace_setting, saddle_setting

RIVALS = ("size", "gradient_norm", "condition", "trace")
ORDERED = ("predicted", "linear", *RIVALS, "permuted")


def _deltas(cell: Cell) -> list[Row]:
    """Return every delta's predicted and measured steps."""
    return [
        cell.place
        | {"delta": before["delta"], "predicted": before["steps"], "measured": after["steps"]}
        | {"permuted": before["steps_permuted"], "linear": before["steps_linear"]}
        | {name: before[name] for name in RIVALS}
        for before, after in zip(cell.predicted.values["deltas"], cell.measured.values["deltas"], strict=True)
    ]


def _rows(cell: Cell) -> list[Row]:
    """Return a cell's rank correlations with the measured steps over its deltas, and the mean log2 ratios of steps."""
    rows = _deltas(cell)
    columns = {name: np.array([row[name] for row in rows]) for name in ("measured", *ORDERED)}
    one = np.zeros(len(rows))
    ranks = {name: partial_rank_correlation(columns[name], columns["measured"], [], one) for name in ORDERED}
    ratios = {
        f"log_ratio_{name}": float(np.mean(np.log2(columns["measured"] / columns[name]))) for name in ("predicted", "linear")
    }
    return [cell.place | ranks | ratios]


CONVERGENCE_ORDER = Claim(
    id="convergence-order",
    nature="consistency",
    view="optimization",
    title="The spectrum and the first gradient say how fast a delta converges",
    statement="The steps that gradient descent takes to nine tenths of the decrease that a delta allows, and the order of the deltas by "
    "them, follow from the Gauss-Newton eigenvalues and the first gradient's energy along them.",
    equation="1 - J(k) \\/ J(0) prop sum_i frac(g_i^2, 2 mu_i) (1 - (1 - eta mu_i)^(2 k)), quad mu_i = lambda_i + r",
    equation_alt="the gain after k steps is the sum over eigenvalues of g i squared over two mu i times one minus one minus eta mu i to "
    "the power two k, with mu i equal to lambda i plus r",
    derived="each delta's response at its start and the training labels; the step size is a quarter over the largest curvature",
    sources=("ding2023", "jacot2018"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"deltas": _deltas},
    statistic=Comparison("rank correlation of predicted and measured steps, within task and seed", mean("predicted")),
    criteria=(
        Criterion("order", "rank correlation within task and seed", mean("predicted"), (0.6, np.inf), (0.3, np.inf)),
        Criterion(
            "lead",
            "rank correlation above the best rival's",
            lead("predicted", *RIVALS, either=True),
            (0.0, np.inf),
            (-0.2, np.inf),
        ),
        Criterion("steps", "mean log2 of measured over predicted steps", mean("log_ratio_predicted"), (-0.5, 0.5), (-1.0, 1.0)),
    ),
    rivals=(
        Comparison("number of parameters", mean("size")),
        Comparison("gradient norm", mean("gradient_norm")),
        Comparison("condition number", mean("condition")),
        Comparison("trace over largest eigenvalue", mean("trace")),
        Comparison("descent on the linear model, with the loss's own curvature along the way", mean("linear")),
        Comparison("the same, mean log2 of measured over predicted steps", mean("log_ratio_linear")),
    ),
    nulls=(Comparison("the same spectrum with the gradient of permuted labels", mean("permuted")),),
    assumptions=(CONVERGED,),
    rule="Supported when the rank correlation over deltas exceeds 0.6 and every rival's, either way round, and the steps are right within "
    "a factor of 1.4 on average; refuted when the correlation is below 0.3 or 0.2 below a rival's, or the steps are off by a factor of two.",
    reason="Convergence by structure rather than by size is the published finding; the order alone could follow from the condition number, "
    "which the penalty sets, so the prediction must do better than that and must name the steps.",
    change="A start that is a saddle, as in the known-bad plants, whose negative curvature the Gauss-Newton matrix does not see; a loss "
    "that saturates on the way.",
    good=partial(own, EXPERIMENT, partial(pace_setting, readout=0.02)),
    bad=partial(own, EXPERIMENT, saddle_setting),
    good_is="gated linear plants with small logits, on which the loss is nearly quadratic",
    bad_is="low-rank updates of the same plants with too small a penalty, so that the start is a saddle",
)
