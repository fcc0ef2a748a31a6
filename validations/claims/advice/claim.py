"""Does the forecast made without training order the options as training does?"""

from functools import partial

import numpy as np

from ...statistics import cells_of, partial_rank_correlation
from ...verdict import Criterion, Least
from ..shared.claim import Cell, Claim, Comparison, mostly_converged
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT
from .plants import palette_setting


def _rows(cell: Cell) -> list[dict]:
    trained = {row["option"]: row["loss"] for row in cell.measured.values["options"]}
    names = ("option", "role", "size", "share", "eta", "forecast", "slope", "trace")
    frozen = cell.measured.values["frozen"]
    return [
        cell.place
        | {n: row[n] for n in names}
        | {"trained": trained[row["option"]], "frozen": frozen, "frozen_forecast": cell.predicted.values["frozen"]}
        for row in cell.predicted.values["options"]
    ]


def _order(column: str, sign: float = 1.0):
    return lambda c: sign * partial_rank_correlation(c[column], c["trained"], [], cells_of(c))


RIVALS = (("slope", -1.0), ("trace", -1.0), ("size", -1.0))


def _orders(cell: Cell) -> list[dict]:
    """Return one row: each predictor's rank correlation with the trained loss in this cell."""
    rows = _rows(cell)
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    place = {"task": cell.task, "seed": cell.seed}
    return [place | {name: _order(name, sign)(columns) for name, sign in (("forecast", 1.0), *RIVALS)}]


_EXCESS = Least(tuple(lambda c, n=name, s=sign: _order("forecast")(c) - _order(n, s)(c) for name, sign in RIVALS))


def _regret(columns) -> float:
    """Return the mean over cells of (loss of the advised option - least loss) / (frozen loss - least loss)."""
    groups, found = cells_of(columns), []
    for group in np.unique(groups):
        rows = groups == group
        trained, least = columns["trained"][rows], columns["trained"][rows].min()
        advised = trained[columns["forecast"][rows].argmin()]
        found.append((advised - least) / max(columns["frozen"][rows][0] - least, 1e-9))
    return float(np.mean(np.minimum(found, 1.0)))


def _hit(columns) -> float:
    """Return the share of cells whose advised option is among the best tenth when trained."""
    groups, found = cells_of(columns), []
    for group in np.unique(groups):
        rows = groups == group
        trained = columns["trained"][rows]
        found.append(trained[columns["forecast"][rows].argmin()] <= np.quantile(trained, 0.1))
    return float(np.mean(found))


ADVICE = Claim(
    id="advice",
    nature="prediction",
    view="optimization",
    title="The forecast says which delta to tune, without tuning any",
    statement="Over dozens of deltas, ranks and layers, the held-out loss forecast from the frozen model orders the loss that each "
    "option reaches when it is trained.",
    equation="hat(J)_o = 1 / N sum_i ell_i (y_i + G_(o, i) hat(z)_(o, - i)), quad hat(z)_(o, - i) = arg min_z 1 / n sum_(j in.not f(i)) "
    "ell_j (y_j + G_(o, j) z) + r_o / 2 norm(z)^2",
    equation_alt="the forecast of option o is the mean loss of the linear model at every example, with the optimum found on the "
    "other half of the examples",
    derived="each option's response at its start; r is the penalty with the least forecast among those that keep eta below 0.3 and the start a stable optimum",
    sources=("ding2023", "jacot2018"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"cells": _orders},
    statistic=Comparison("rank correlation of forecast and trained held-out loss, within task and seed", _order("forecast")),
    criteria=(
        Criterion("order", "rank correlation within task and seed", _order("forecast"), (0.5, np.inf), (0.2, np.inf)),
        Criterion("excess", "rank correlation above the best rival", _EXCESS, (0.0, np.inf), (-0.2, np.inf)),
        Criterion("regret", "share of the best gain that the advice misses", _regret, (-np.inf, 0.25), (-np.inf, 0.5)),
    ),
    rivals=(
        Comparison("gradient norm", _order("slope", -1.0)),
        Comparison("kernel trace", _order("trace", -1.0)),
        Comparison("number of parameters", _order("size", -1.0)),
    ),
    nulls=(Comparison("share of cells whose advised option is among the best tenth", _hit),),
    assumptions=(mostly_converged("options"),),
    rule="Supported when the rank correlation exceeds 0.5 and that of the best cheap rival, and the advised option misses less than "
    "a quarter of the best option's gain; refuted when the correlation is below 0.2, or 0.2 below the best rival's, or the "
    "advice misses more than half of the gain.",
    reason="An analyst acts on the first option of the list, so the order and the loss of the first choice both count; a cheap rival "
    "that orders as well would make the forecast needless.",
    change="Penalties far below the linear regime, a head trained together with the delta, or options that hardly differ.",
    good=partial(own, EXPERIMENT, palette_setting),
    bad=partial(swapped, EXPERIMENT, palette_setting),
    good_is="gated linear plants whose ports differ, on which the linearisation is exact",
    bad_is="the forecasts of another plant",
)
