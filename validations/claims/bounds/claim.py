"""How far a delta's optimum is from full tuning's, against the bounds of the optimization view."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, Cell, Claim, Comparison, lead, mean
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import bounds_setting

VERSIONS = ("published", "one_sided", "hessian")
BOUNDS = ("off_published", "off_one_sided")


def _rows(cell: Cell) -> list[dict]:
    rows = []
    for row in cell.measured.values["rows"]:
        gap = max(row["gap"], 1e-9)
        values = {"gap": row["gap"]} | {v: row[v] for v in VERSIONS}
        tightness = {f"tightness_{v}": row[v] / gap for v in VERSIONS}
        logs = {f"log_{v}": float(np.log10(max(row[v], 1e-9) / gap)) for v in VERSIONS}
        logs |= {f"off_{v}": abs(logs[f"log_{v}"]) for v in VERSIONS}
        holds = {f"holds_{v}": float(row[v] >= row["gap"]) for v in VERSIONS}
        rows.append(cell.place | {"delta": row["delta"]} | values | tightness | logs | holds)
    return rows


_COMMON = {
    "view": "optimization",
    "sources": ("ding2023",),
    "experiment": EXPERIMENT,
    "rows": _rows,
    "assumptions": (CONVERGED,),
    "good": partial(own, EXPERIMENT, partial(bounds_setting, penalty=30.0)),
    "bad": partial(own, EXPERIMENT, partial(bounds_setting, penalty=0.001)),
}

HESSIAN = Claim(
    id="restricted-optimum",
    nature="consistency",
    title="The curvature of the residual predicts what a delta leaves on the table",
    statement="The loss gap between a delta's optimum and full tuning's is half the residual's norm in the Hessian metric, where "
    "the residual is the part of the full solution that the delta cannot represent.",
    equation="F(psi(delta^+)) - F(theta^+) approx 1/2 epsilon'^top H epsilon', quad epsilon' = theta^+ - psi(delta')",
    equation_alt="the gap is about one half epsilon transpose H epsilon, with epsilon the residual of the full solution",
    derived="the full solution, its projection on the delta's range and the Hessian there; the delta itself is trained afterwards",
    statistic=Comparison("log10 of Hessian estimate over observed gap", mean("log_hessian")),
    criteria=(
        Criterion("tightness", "log10 of estimate over gap", mean("log_hessian"), (-0.3, 0.3), (-0.5, 0.5)),
        Criterion(
            "lead", "|log10| below the tighter bound's", lead("off_hessian", *BOUNDS, less=True), (0.0, np.inf), (0.0, np.inf)
        ),
    ),
    rivals=(
        Comparison("share of runs in which the published bound holds", mean("holds_published")),
        Comparison("one-sided Lipschitz bound, log10 over gap", mean("log_one_sided")),
        Comparison("published bound, log10 over gap", mean("log_published")),
    ),
    rule="Supported when the estimate is within a factor of 2 of the gap on average and closer to it than either bound; refuted beyond "
    "a factor of 3 or when a bound is closer.",
    reason="The estimate is second order, so a factor of 2 allows for the cubic term at the residuals met here.",
    change="A weaker penalty: the known-bad plants are those with the residuals so large that the loss is not quadratic along them, so the penalty decides.",
    good_is="strongly penalised plants, on which the loss is nearly quadratic",
    bad_is="nearly unpenalised plants, on which the loss is far from quadratic along the residual",
    **_COMMON,
)

PUBLISHED = Claim(
    id="published-bound",
    nature="prediction",
    title="The published bound on a delta's loss gap is informative",
    statement="The two-term Lipschitz bound of the optimization view is within a factor of 10 of the gap it bounds.",
    equation="abs(F(theta^+) - F(psi(delta^+))) <= L_1 norm(epsilon') + L_2 (norm(delta') + norm(delta^+))",
    equation_alt="the absolute gap is at most L one times the norm of epsilon plus L two times the sum of the delta norms",
    derived="Lipschitz constants as the largest gradient norm on the segments actually crossed, the smallest that the argument allows",
    statistic=Comparison("log10 of published bound over observed gap", mean("log_published")),
    criteria=(Criterion("tightness", "log10 of bound over gap", mean("log_published"), (0.0, 1.0), (0.0, 1.0)),),
    rivals=(
        Comparison("one-sided bound, log10 over gap", mean("log_one_sided")),
        Comparison("Hessian estimate, log10 over gap", mean("log_hessian")),
    ),
    rule="Supported when the bound is within a factor of 10 of the gap on average; refuted when it is looser or is violated.",
    reason="A bound that is off by more than an order of magnitude cannot choose between two deltas.",
    change="A weaker penalty, as in the known-bad plants, or a sharper second term: it does not vanish when the delta represents the full solution.",
    good_is="strongly penalised plants, on which the second term is small",
    bad_is="nearly unpenalised plants, on which the bound is loose",
    **_COMMON,
)
