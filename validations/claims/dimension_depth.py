"""O-dim at depth: the measured threshold dimension of a whole sweep against three predictions and four rivals."""

from functools import partial

import numpy as np

from ..controls.sweep import sweep_setting
from ..statistics import Columns, Statistic
from ..verdict import Criterion
from .claim import LINEAR, Assumption, Cell, Claim, Comparison, mean
from .plants import own, swapped

FORMS = ("spectrum", "curve", "quadratic")
RIVALS = ("participation", "trace_rank", "parameters")
SETTLED = 0.02


def _measured(record: dict) -> float:
    """Return the dimension that reaches 0.9 of the gain, at an end of what was tried where it is censored."""
    fit = record["fit"]["share"]
    censored = record["dimensions"][0] if fit["below"] > 0.5 else record["parameters"]
    return float(fit["value"] or censored)


def _rows(cell: Cell) -> list[dict]:
    m, d = cell.measured.record, _measured(cell.measured.record)
    fit = m["fit"]["share"]
    values = {"measured": d, "low": fit["low"] or m["dimensions"][0], "high": fit["high"] or m["parameters"]}
    values |= {name: m[name] for name in FORMS + RIVALS}
    signed = {f"log_{n}": float(np.log2(d / m[n])) for n in FORMS + RIVALS}
    errors = {f"error_{n}": abs(signed[f"log_{n}"]) for n in FORMS + RIVALS}
    rms = {f"rms_{n}": float(np.sqrt(np.mean((np.array(m["shares"]) - c) ** 2))) for n, c in m["curves"].items()}
    return [cell.place | values | signed | errors | rms]


def _curves(cell: Cell) -> list[dict]:
    m = cell.measured.record
    return [
        cell.place | {"dimension": d, "measured": s, **{n: m["curves"][n][i] for n in m["curves"]}, "accuracy": m["accuracies"][i]}
        for i, (d, s) in enumerate(zip(m["dimensions"], m["shares"], strict=True))
    ]


def _runs(cell: Cell) -> list[dict]:
    return [cell.place | row for row in cell.measured.record["rows"]]


def _dimensions(cell: Cell) -> list[dict]:
    """Return a row per score: the threshold dimension with its interval and censoring."""
    fits = cell.measured.record["fit"]
    names = ("status", "value", "low", "high", "isotonic", "not_reached", "below", "baseline", "chance")
    return [cell.place | {"score": score} | {n: fit.get(n) for n in names} for score, fit in fits.items()]


def another_task(c: Columns) -> np.ndarray:
    """Return, row by row, how many octaves the same delta's mean log dimension on the other tasks is off; inf without one."""
    log, task, delta = np.log2(c["measured"]), np.asarray(c["task"]), np.asarray(c["delta"])
    error = np.full(len(log), np.inf)
    for i in range(len(log)):
        others = (task != task[i]) & (delta == delta[i])
        if others.any():
            error[i] = abs(log[i] - log[others].mean())
    return error


def _task_rival(c: Columns) -> float:
    error = another_task(c)
    return float(error[np.isfinite(error)].mean()) if np.isfinite(error).any() else float("nan")


def _beats(form: str) -> Statistic:
    def excess(c: Columns) -> float:
        best = np.min([*(c[f"error_{r}"] for r in RIVALS), another_task(c)], axis=0)
        return float(np.mean(best - c[f"error_{form}"]))

    return excess


_TRAINED = Assumption(
    "training settled",
    f"less than {SETTLED} of full training's gain fell in the last tenth of its steps, and no rate beyond the grid was wanted there",
    lambda cell: cell.measured.record["settled"] < SETTLED
    and cell.measured.record["parameters"] not in cell.measured.record["edges"]["share"],
    lambda cells: f"median share of the gain in the last tenth {np.median([c.measured.record['settled'] for c in cells]):.4f}",
)
_COMMON = {
    "view": "optimization",
    "sources": ("li2018", "aghajanyan2021", "larsen2022"),
    "kind": "sweep",
    "rows": _rows,
    "parts": {"curves": _curves, "runs": _runs, "dimensions": _dimensions},
    "rivals": (
        Comparison("parameter count, octaves off", mean("error_parameters")),
        Comparison("participation ratio of the kernel, octaves off", mean("error_participation")),
        Comparison("trace over largest eigenvalue, octaves off", mean("error_trace_rank")),
        Comparison("measured dimension of the other tasks, octaves off", _task_rival),
    ),
    "assumptions": (_TRAINED, LINEAR),
    "good": partial(own, "sweep", sweep_setting, 3),
    "bad": partial(swapped, "sweep", sweep_setting, 3),
    "good_is": "gated linear plants, on which the linearisation is exact",
    "bad_is": "the prediction made for another plant",
    "reason": "Rates are chosen for each dimension and the interval is the estimator's own; half an octave is a fixed rate's usual error. With the penalty scored, dimensions lie near the parameter count, so the comparison with that rival carries weight.",
    "change": "Controls outside the linear regime, and scores without the penalty, such as accuracy, whose dimension stands beside it.",
}


def _agree(form: str) -> tuple[Criterion, Criterion]:
    return (
        Criterion("error", "mean |log2| of measured over predicted", mean(f"error_{form}"), (-np.inf, 0.5), (-np.inf, 1.0)),
        Criterion("rivals", "octaves closer than the best rival", _beats(form), (0.0, np.inf), (0.0, np.inf)),
    )


SPECTRUM = Claim(
    id="sweep-spectrum",
    title="Curvature predicts the threshold dimension of a whole sweep",
    statement="The number of random directions in which tuning, with its rate chosen for each dimension, makes 90 % of the full gain in the penalised objective is the effective dimension of the frozen model's curvature.",
    equation="d^* = sum_i frac(R^2 mu_i, R^2 mu_i + 2 epsilon), quad mu_i = lambda_i + r, quad epsilon = 0.1 (J(0) - J(hat(z)))",
    equation_alt="the predicted dimension is the sum over curvatures of R squared mu over R squared mu plus two epsilon",
    derived="the Gauss-Newton spectrum, the distance and the gain of the linearised optimum",
    statistic=Comparison("measured over predicted dimension, octaves", mean("log_spectrum")),
    criteria=_agree("spectrum"),
    rule="Supported when measured and predicted dimension agree on average within half an octave and the prediction is closer than the best of four rivals in each cell; refuted when they differ by more than an octave or a rival is closer.",
    **_COMMON,
)
CURVE = Claim(
    id="sweep-curve",
    title="The linearised problem predicts the curve of a whole sweep",
    statement="Solving the linearised problem in the same random subspaces gives the share of the gain that tuning in them reaches, at every dimension.",
    equation="s(d) = frac(J(0) - min_theta J(P_d theta), J(0) - min_z J(z)), quad J(z) = 1/N sum_i ell_i (y_(0,i) + G_i z) + r/2 norm(z)^2",
    equation_alt="the score at dimension d is the gain reached in the subspace over the full gain, both in the linearised problem",
    derived="the frozen model's response, solved as a convex problem in the subspaces that training uses later",
    statistic=Comparison("root mean square error of the predicted share", mean("rms_curve")),
    criteria=(
        Criterion("curve", "root mean square error of the share", mean("rms_curve"), (-np.inf, 0.05), (-np.inf, 0.10)),
        *_agree("curve"),
    ),
    rule="Supported when the predicted share is off by less than 0.05 on average and the threshold dimension by less than half an octave, closer than every rival; refuted beyond twice these errors or when a rival is closer.",
    **_COMMON,
)
QUADRATIC = Claim(
    id="sweep-quadratic",
    title="Curvature with every direction's own distance predicts the curve",
    statement="The mean gain of the frozen model's quadratic in random subspaces, from its spectrum and its gradient's component along each eigenvector, is the share that tuning reaches.",
    equation="s(d) = frac(E_P [g' P (P'(H + r I) P)^(-1) P' g], sum_i g_i^2 \\/ (lambda_i + r))",
    equation_alt="the score at dimension d is the mean over random subspaces of the quadratic's gain in the subspace over its full gain",
    derived="the Gauss-Newton spectrum of the frozen model and its gradient's component along each eigenvector, over drawn subspaces",
    statistic=Comparison("root mean square error of the predicted share", mean("rms_quadratic")),
    criteria=(
        Criterion("curve", "root mean square error of the share", mean("rms_quadratic"), (-np.inf, 0.10), (-np.inf, 0.20)),
        *_agree("quadratic"),
    ),
    rule="Supported when the predicted share is off by less than 0.1 on average and the threshold dimension by less than half an octave, closer than every rival; refuted beyond twice these errors or when a rival is closer.",
    **_COMMON,
)
