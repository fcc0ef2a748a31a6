"""The threshold dimension from the curvature, and the whole curve from the linearised problem, before training."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Assumption, Cell, Claim, Comparison, error, mean, mean_excess, octaves, relative
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT
from .plants import subspace_setting


def _rows(cell: Cell) -> list[dict]:
    m = cell.measured.values
    names = ("measured", "low", "high", "spectrum", "curve", "participation", "trace_rank", "parameters")
    values = {name: m[name] for name in names}
    errors = {f"error_{n}": abs(octaves(m["measured"] / m[n])) for n in names[3:]}
    signed = {f"log_{n}": octaves(m["measured"] / m[n]) for n in ("spectrum", "curve")}
    rms = float(np.sqrt(np.mean((np.array(m["scores"]) - m["predicted_scores"]) ** 2)))
    return [cell.place | values | errors | signed | {"rms": rms}]


def _curves(cell: Cell) -> list[dict]:
    m = cell.measured.values
    return [
        cell.place | {"dimension": d, "measured": s, "predicted": p}
        for d, s, p in zip(m["dimensions"], m["scores"], m["predicted_scores"], strict=True)
    ]


RIVALS = ("error_participation", "error_trace_rank", "error_parameters")
GAP = 0.25


def _gap(cell: Cell) -> float:
    """Return the octaves between the trained dimensions, all numbers among them, on both sides of the measured threshold."""
    m = cell.measured.values
    dimensions = np.array([*m["dimensions"], m["parameters"]])
    above = int(np.argmax(dimensions >= m["measured"]))
    return float(np.log2(dimensions[above] / dimensions[above - 1])) if above else float("inf")


BRACKETED = Assumption(
    "threshold bracketed",
    f"the measured threshold lies between trained dimensions at most {GAP} octaves apart",
    lambda cell: _gap(cell) <= GAP,
    lambda cells: f"median distance {np.median([_gap(c) for c in cells]):.2f} octaves",
)
_SHOWN = (
    Comparison("parameter count, octaves off", mean("error_parameters")),
    Comparison("participation ratio of the kernel, octaves off", mean("error_participation")),
    Comparison("trace over largest eigenvalue, octaves off", mean("error_trace_rank")),
)
_COMMON = {
    "view": "optimization",
    "sources": ("li2018", "aghajanyan2021", "larsen2022"),
    "experiment": EXPERIMENT,
    "rows": _rows,
    "parts": {"curves": _curves},
    "rivals": _SHOWN,
    "assumptions": (CONVERGED, LINEAR, BRACKETED),
    "good": partial(own, EXPERIMENT, subspace_setting, seeds=2),
    "bad": partial(swapped, EXPERIMENT, subspace_setting, seeds=2),
    "good_is": "gated linear plants, on which the linearisation is exact",
    "bad_is": "the prediction made for another plant",
}

SPECTRUM = Claim(
    id="intrinsic-dimension",
    nature="consistency",
    title="Curvature predicts the intrinsic dimension",
    statement="The number of random directions that reach 90 % of full tuning's gain in the penalised objective is the effective "
    "dimension of the frozen model's curvature.",
    equation="d^* = sum_i frac(R^2 mu_i, R^2 mu_i + 2 epsilon), quad mu_i = lambda_i + r, quad R = norm(hat(z)), quad epsilon = 0.1 (J(0) - J(hat(z)))",
    equation_alt="the predicted dimension is the sum over curvatures of R squared mu over R squared mu plus two epsilon",
    derived="the Gauss-Newton spectrum, the distance and the gain of the linearised optimum",
    statistic=Comparison("measured over predicted dimension, octaves", mean("log_spectrum")),
    criteria=(
        Criterion(
            "error",
            "error over that of the parameter count",
            relative("error_spectrum", to="error_parameters"),
            (-np.inf, 0.5),
            (-np.inf, 1.0),
        ),
        Criterion(
            "rivals",
            "octaves closer than the best rival",
            mean_excess("error_spectrum", *RIVALS, less=True),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
    ),
    rule="Supported when the prediction is off by less than half of what the parameter count is, and closer than the best of three rivals in "
    "each cell; refuted when it is no closer than the parameter count or a rival is closer.",
    reason="With the penalty scored, dimensions lie within half an octave of the parameter count, so an error in octaves would say nothing: the "
    "prediction must explain at least half of the distance from it.",
    change="A score without the penalty, to which the penalty's curvature does not apply; controls outside the linear regime.",
    **_COMMON,
)

CURVE = Claim(
    id="dimension-curve",
    nature="consistency",
    title="The linearised problem predicts the whole dimension curve",
    statement="Solving the linearised problem in the same random subspaces gives the share of the gain that training in them "
    "reaches, at every dimension.",
    equation="s(d) = frac(J(0) - min_theta J(P_d theta), J(0) - min_z J(z)), quad J(z) = 1/N sum_i ell_i (y_(0,i) + G_i z) + r/2 norm(z)^2",
    equation_alt="the score at dimension d is the gain reached in the subspace over the full gain, both in the linearised problem",
    derived="the frozen model's response, solved as a convex problem in the subspaces that training uses later",
    statistic=Comparison("root mean square error of the predicted share", mean("rms")),
    criteria=(
        Criterion("error", "root mean square error of the share", error("rms"), (-np.inf, 0.05), (-np.inf, 0.10)),
        Criterion(
            "threshold",
            "error over that of the parameter count",
            relative("error_curve", to="error_parameters"),
            (-np.inf, 0.5),
            (-np.inf, 1.0),
        ),
        Criterion(
            "rivals",
            "octaves closer than the best rival",
            mean_excess("error_curve", *RIVALS, less=True),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
    ),
    rule="Supported when the predicted share is off by less than 0.05 on average and the threshold dimension by less than half of "
    "what the parameter count is, closer than every rival; refuted beyond twice these errors or when a rival is closer.",
    reason="The threshold sits at a share of 0.9, so an error of 0.05 is half of what is left to gain there.",
    change="Non-quadratic loss far from the reference point, where subspace training finds more than the linear model has.",
    **_COMMON,
)
