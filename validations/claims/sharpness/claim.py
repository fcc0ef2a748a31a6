"""Does the curvature at a tuned delta go with its generalisation gap?"""

from functools import partial

import numpy as np

from ...statistics import partial_rank_correlation
from ...verdict import Criterion
from ..shared.claim import Cell, Claim, Comparison, Row, lead, mean, mostly_converged
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import memory_setting

RIVALS = ("norm", "effective_dimension", "size")
FORMS = ("sharpness", "adaptive", "trace")


def _points(cell: Cell) -> list[Row]:
    """Return every tuned point with its sharpness, its gap and its rivals."""
    keep = ("sharpness", "adaptive", "trace", "norm", "loss", "gap")
    rows = [
        cell.place
        | {name: before[name] for name in ("delta", "share", "size", "effective_dimension")}
        | {name: after[name] for name in keep}
        for before, after in zip(cell.predicted.values["points"], cell.measured.values["points"], strict=True)
    ]
    order = np.random.default_rng([cell.seed, 139]).permutation(len(rows))
    return [row | {"permuted": rows[k]["sharpness"]} for row, k in zip(rows, order, strict=True)]


def _rows(cell: Cell) -> list[Row]:
    """Return a cell's partial rank correlations with the gap over its points, given the training loss; and plain ones."""
    points = _points(cell)
    columns = {name: np.array([row[name] for row in points]) for name in (*FORMS, *RIVALS, "permuted", "loss", "gap")}
    one, given = np.zeros(len(points)), [columns["loss"]]
    partials = {
        name: partial_rank_correlation(columns[name], columns["gap"], given, one) for name in (*FORMS, *RIVALS, "permuted")
    }
    plain = {f"{name}_plain": partial_rank_correlation(columns[name], columns["gap"], [], one) for name in ("sharpness", "loss")}
    return [cell.place | partials | plain]


SHARPNESS_GAP = Claim(
    id="sharpness-gap",
    nature="prediction",
    view="optimization",
    title="Sharper deltas generalise worse",
    statement="Within a task, among deltas and penalties that reach the same training loss, the larger the largest eigenvalue of the training "
    "loss's Hessian at the tuned delta, the larger the gap between held-out and training loss.",
    equation='rho ("gap", lambda_max (nabla^2 L) | L) > 0, quad "gap" = L_"test" - L',
    equation_alt="the rank correlation of the gap with the largest eigenvalue of the Hessian, given the training loss, is positive",
    derived="nothing: the claim is the literature's, and both quantities are measured after tuning; only the penalties and the effective "
    "dimension come from the frozen model",
    sources=("keskar2017", "foret2021", "dinh2017", "andriushchenko2023"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"points": _points},
    statistic=Comparison("rank correlation of sharpness and gap, given the training loss", mean("sharpness")),
    criteria=(
        Criterion("correlation", "rank correlation given the training loss", mean("sharpness"), (0.3, np.inf), (0.1, np.inf)),
        Criterion(
            "lead", "correlation above the best rival's", lead("sharpness", *RIVALS, either=True), (-0.1, np.inf), (-0.3, np.inf)
        ),
    ),
    rivals=(
        Comparison("distance from the start", mean("norm")),
        Comparison("effective dimension, known before training", mean("effective_dimension")),
        Comparison("number of parameters", mean("size")),
        Comparison("sharpness in units of each number's own change", mean("adaptive")),
        Comparison("trace of the Gauss-Newton matrix", mean("trace")),
        Comparison("sharpness, without regard to the training loss", mean("sharpness_plain")),
        Comparison("the training loss itself", mean("loss_plain")),
    ),
    nulls=(Comparison("another point's sharpness", mean("permuted")),),
    assumptions=(mostly_converged("points"),),
    rule="Supported when the rank correlation over deltas and penalties, given the training loss, exceeds 0.3 and no more than 0.1 less than that of "
    "distance, effective dimension or size, either way round; refuted when it is below 0.1 or 0.3 below a rival's.",
    reason="The training loss goes with the gap whatever the curvature does, so it is held fixed. Below 0.1 sharpness explains a hundredth of "
    "what is left; the literature has both signs, which is why a weak positive correlation does not count as support.",
    change="Deltas whose numbers have other units: a rescaling changes the curvature and no tuned function, as in the known-bad plants.",
    good=partial(own, EXPERIMENT, partial(memory_setting, rescaled=False)),
    bad=partial(own, EXPERIMENT, partial(memory_setting, rescaled=True)),
    good_is="plants whose sharper deltas memorise more of the training labels",
    bad_is="the same deltas in other units, in which those that memorise most are the flattest",
)
