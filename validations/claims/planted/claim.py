"""A problem of known dimension, planted on the frozen network, through the whole chain of measurement."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, error, mean, mean_excess, octaves
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import planted_setting

RIVALS = ("parameters", "participation", "other")
PREDICTIONS = ("mean", "larsen", "curve", "unwhitened", *RIVALS)


def _rows(cell: Cell) -> list[dict]:
    """Return every planted problem with whether its interval holds the known dimension, and all errors in octaves."""
    rows = []
    for p, m in zip(cell.predicted.values["plants"], cell.measured.values["plants"], strict=True):
        firsts = [octaves(d / p["known"]) for d in m["first"]]
        rows.append(
            cell.place
            | {"k": p["k"], "known": p["known"], "measured": m["value"], "low": m["low"], "high": m["high"]}
            | {"censored": m["censored"], "evaluations": m["evaluations"]}
            | {"contains": float(m["low"] <= p["known"] <= m["high"]), "contains_mean": float(m["low"] <= p["mean"] <= m["high"])}
            | {"octaves": octaves(m["value"] / p["known"]), "error": abs(octaves(m["value"] / p["known"]))}
            | {f"error_{name}": abs(octaves(m["value"] / p[name])) for name in PREDICTIONS}
            | {"error_first": float(np.mean(np.abs(firsts))), "bias_first": float(np.mean(firsts))}
            | {"rms": float(np.sqrt(np.mean(np.subtract(m["shares"], p["shares"]) ** 2)))}
            | {"reached": m["reached"], "permuted": m["permuted"]}
        )
    return rows


def _curves(cell: Cell) -> list[dict]:
    """Return the share of every run, measured and predicted, at its dimension over the known k."""
    return [
        cell.place
        | {"k": p["k"], "dimension": d, "relative": d / p["k"], "draw": draw, "predicted": predicted, "measured": measured}
        for p, m in zip(cell.predicted.values["plants"], cell.measured.values["plants"], strict=True)
        for d, draw, predicted, measured in zip(p["dimensions"], p["draws"], p["shares"], m["shares"], strict=True)
    ]


PLANTED_DIMENSION = Claim(
    id="planted-dimension",
    nature="consistency",
    view="optimization",
    title="The measurement finds a planted dimension",
    statement="Where a task is planted on the frozen network so that exactly k of a delta's dimensions matter, training in random subspaces "
    "measures the dimension that k implies, and its interval contains that dimension nine times in ten.",
    equation="z = z_0 + B S^top x, quad (partial y) / (partial z) B = c U, quad U^top U = I_k, quad "
    'Pr("Beta"(d^* / 2, (k - d^*) / 2) >= 0.9) = 1 / 2',
    equation_alt="the network sees only k numbers S transpose x, along which its logits respond alike; d star is the dimension at which a "
    "Beta variate with parameters d over two and k minus d over two exceeds 0.9 with probability one half",
    derived="the construction: the frozen model's response gives k directions of equal effect, a teacher drawn among them gives the targets, and "
    "the share of the gain in a random subspace is then a Beta variate",
    sources=("li2018", "larsen2022"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"curves": _curves},
    statistic=Comparison("share of intervals that contain the known dimension", mean("contains")),
    criteria=(
        Criterion("contains", "share of intervals that contain it", mean("contains"), (0.7, np.inf), (0.5, np.inf)),
        Criterion("error", "mean |log2| of measured over known", error("error"), (-np.inf, 0.15), (-np.inf, 0.3)),
        Criterion(
            "lead",
            "octaves closer than the best rival",
            mean_excess("error", *(f"error_{name}" for name in RIVALS), less=True),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("number of parameters, octaves off", mean("error_parameters")),
        Comparison("participation ratio of the directions' spectrum, octaves off", mean("error_participation")),
        Comparison("the dimension of twice as many directions, octaves off", mean("error_other")),
        Comparison("the dimension were the directions not made alike, octaves off", mean("error_unwhitened")),
        Comparison("first dimension that reaches the threshold in one draw, octaves off", mean("error_first")),
        Comparison("first dimension that reaches the threshold in one draw, signed octaves", mean("bias_first")),
        Comparison("least squares in the very subspaces, octaves off", mean("error_curve")),
        Comparison("formula of Larsen et al., octaves off", mean("error_larsen")),
        Comparison("share of intervals that contain 0.9 k", mean("contains_mean")),
    ),
    nulls=(Comparison("share of the loss that tuning removes for permuted texts", mean("permuted")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the 90 % intervals contain the known dimension in more than 0.7 of the problems, the error is below 0.15 octaves on average "
    "and the known dimension is closer than the number of parameters, the participation ratio and another teacher's dimension; refuted "
    "when half of the intervals or fewer contain it, the error exceeds 0.3 octaves or a rival is closer.",
    reason="A 90 % interval should miss once in ten; a dozen cells that do so put the share above 0.7. 0.15 octaves is the "
    "distance between seven eighths of k and k, the grid's resolution at the threshold.",
    change="Directions of unlike curvature, of which the strong ones are learned first, as in the known-bad plants; a teacher outside the "
    "linear regime, where k directions of the delta are not k of the logits.",
    good=partial(own, EXPERIMENT, partial(planted_setting, decades=0.0)),
    bad=partial(own, EXPERIMENT, partial(planted_setting, decades=2.0)),
    good_is="linear plants on which the planted directions are exactly alike",
    bad_is="planted directions whose curvatures span two decades, counted as if they were alike",
)
