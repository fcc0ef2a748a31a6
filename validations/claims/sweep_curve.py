"""O-dim as the literature measures it: the curve over the dimension of random subspaces, head and delta together, before training."""

from functools import partial

import numpy as np

from ..controls.sweep import sweep_setting
from ..experiments.within import at_ends
from ..statistics import Columns, Statistic
from ..verdict import Criterion
from .claim import Assumption, Cell, Claim, Comparison, Row, error, mean
from .plants import own, swapped

FORMS = ("spectrum", "curve", "quadratic")
RIVALS = ("participation", "trace_rank", "head", "parameters")
SETTLED = 0.02


def swept(cell: Cell) -> tuple[list[int], int]:
    """Return the dimensions below the whole at which a cell's runs were made, and that of the whole."""
    rows = cell.measured.record["rows"]
    return sorted({row["dimension"] for row in rows if not row["full"]}), next(row["dimension"] for row in rows if row["full"])


def expected(cell: Cell, form: str) -> np.ndarray:
    """Return a predicted curve at the measured dimensions: linear in log d between those of the prediction, which are the same."""
    before = cell.predicted.record
    return np.interp(np.log(swept(cell)[0]), np.log(before["dimensions"]), before["curves"][form])


def _rows(cell: Cell) -> list[Row]:
    """Return the gain's threshold dimension with its interval, each prediction and rival, and how far each is off."""
    before, after, (dimensions, size) = cell.predicted.record, cell.measured.record, swept(cell)
    value, low, high = at_ends(after["fit"]["share"], dimensions[0], size)
    row = {"measured": value, "low": low, "high": high, "status": after["fit"]["share"]["status"]}
    for name in (*FORMS, *RIVALS):
        row |= {name: before[name], f"error_{name}": float(abs(np.log2(value / before[name])))}
    measured = np.array(after["shares"][:-1])
    rms = {f"rms_{n}": float(np.sqrt(np.mean((measured - expected(cell, n)) ** 2))) for n in FORMS[1:]}
    return [cell.place | row | rms | {"beyond_head": after["beyond_head"]}]


def _curves(cell: Cell) -> list[Row]:
    after, (dimensions, size) = cell.measured.record, swept(cell)
    curves = {name: expected(cell, name) for name in cell.predicted.record["curves"]}
    return [
        cell.place
        | {"dimension": d, "parameters": size, "measured": after["shares"][i], "measured_accuracy": after["accuracies"][i]}
        | {name: float(curve[i]) for name, curve in curves.items()}
        for i, d in enumerate(dimensions)
    ]


def _runs(cell: Cell) -> list[Row]:
    return [cell.place | row for row in cell.measured.record["rows"]]


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


TRAINED = Assumption(
    "training settled",
    f"less than {SETTLED} of full training's gain fell in the last tenth of its steps",
    lambda cell: cell.measured.record["settled"] < SETTLED,
    lambda cells: f"median share of the gain in the last tenth {np.median([c.measured.record['settled'] for c in cells]):.4f}",
)
RATED = Assumption(
    "rates bracketed",
    "at no more than a quarter of the dimensions a rate beyond the grid could have been better",
    lambda cell: len(cell.measured.record["edges"]["share"]) <= len(cell.measured.record["shares"]) / 4,
    lambda cells: f"median number of dimensions {np.median([len(c.measured.record['edges']['share']) for c in cells]):.0f}",
    needed=0.0,
)
_RIVALS = (
    Comparison("parameter count, octaves off", mean("error_parameters")),
    Comparison("the head's own numbers, octaves off", mean("error_head")),
    Comparison("participation ratio of the kernel, octaves off", mean("error_participation")),
    Comparison("trace over largest eigenvalue, octaves off", mean("error_trace_rank")),
    Comparison("measured dimension of the other tasks, octaves off", _task_rival),
)

CLAIM = Claim(
    id="sweep-curve",
    nature="prediction",
    view="optimization",
    title="The head alone explains the curve of a sweep",
    statement="With a head that starts at zero and is trained within the subspace, the share of full training's gain that a random "
    "subspace of all numbers reaches is, at every dimension, that of the linearised problem, in which only the head moves.",
    equation='s(d) = E_B frac(J(0) - min_theta J(B theta), J(0) - min_z J(z)), quad B B^top tilde "Beta"(d \\/ 2, (D - d) \\/ 2), '
    "quad J(z) = 1/N sum_i ell_i (G_i z) + r/2 norm(z)^2",
    equation_alt="the score at dimension d is the expected gain reached in the subspace over the full gain in the linearised problem; the "
    "head's numbers are seen from the subspace as a matrix beta variate",
    derived="the frozen features of the training text, D, and draws of random subspaces other than those trained in",
    sources=("li2018", "aghajanyan2021", "larsen2022"),
    kind="sweep",
    rows=_rows,
    parts={"curves": _curves, "runs": _runs},
    statistic=Comparison("root mean square error of the predicted share", mean("rms_curve")),
    criteria=(
        Criterion("curve", "root mean square error of the share", error("rms_curve"), (-np.inf, 0.05), (-np.inf, 0.10)),
        Criterion(
            "error", "mean |log2| of measured over predicted dimension", error("error_curve"), (-np.inf, 0.5), (-np.inf, 1.0)
        ),
        Criterion("rivals", "octaves closer than the best rival of each cell", _beats("curve"), (0.0, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        *_RIVALS,
        Comparison("quadratic at the start, root mean square error of the share", mean("rms_quadratic")),
        Comparison("quadratic at the start, octaves off", mean("error_quadratic")),
        Comparison("effective dimension of the spectrum, octaves off", mean("error_spectrum")),
    ),
    assumptions=(TRAINED, RATED),
    rule="Supported when the predicted share is off by less than 0.05 on average and the threshold dimension by less than half an octave, "
    "closer than the best of five rivals in each cell; refuted beyond twice these errors or when a rival is closer.",
    reason="The threshold sits at a share of 0.9, so an error of 0.05 is half of what is left to gain there; half an octave is what a rate "
    "chosen badly costs.",
    change="A head that starts fitted, or longer training with a weaker penalty, where the features move as much as the head.",
    good=partial(own, "sweep", sweep_setting),
    bad=partial(swapped, "sweep", sweep_setting),
    good_is="heads among spare numbers that hardly matter, on which the linear theory is nearly exact",
    bad_is="the prediction made for another plant",
)
