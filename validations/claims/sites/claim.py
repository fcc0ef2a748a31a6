"""C-tunability: which ports are worth controlling."""

from functools import partial

import numpy as np

from ...statistics import cells_of, partial_rank_correlation
from ...verdict import Criterion
from ..shared.claim import CONVERGED, Cell, Claim, Comparison
from ..shared.network import bias_setting
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import reaching_setting


def _rows(cell: Cell) -> list[dict]:
    trained = {row["port"]: row["loss"] for row in cell.measured.values["ports"]}
    names = ("energy", "gradient_norm", "trace", "lq_loss")
    return [
        cell.place | {"port": row["port"], "loss": trained[row["port"]]} | {name: row[name] for name in names}
        for row in cell.predicted.values["ports"]
    ]


def _partial(columns) -> float:
    rivals = [columns["gradient_norm"], columns["trace"]]
    return partial_rank_correlation(np.log(columns["energy"]), np.log(columns["loss"]), rivals, cells_of(columns))


def _plain(column: str, sign: float):
    return lambda c: sign * partial_rank_correlation(c[column], c["loss"], [], cells_of(c))


TUNABLE_PORTS = Claim(
    id="tunable-ports",
    nature="prediction",
    view="control",
    title="The Gramian says which ports are worth controlling",
    statement="Across ports, the energy that a fixed shift of the logits needs, computed before training, orders the loss that a "
    "single trained control reaches there, beyond what gradient norm and kernel trace say.",
    equation="E^*_p = d^top (G_p G_p^top + r N I)^(-1) d",
    equation_alt="the required energy at port p is d transpose times the inverse of the regularised output Gramian times d",
    derived="the response at each port; d raises every training example's true-class margin by one logit",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_rows,
    statistic=Comparison("partial rank correlation of required energy and trained loss", _partial),
    criteria=(Criterion("partial correlation", "partial rank correlation", _partial, (0.3, np.inf), (0.0, np.inf)),),
    rivals=(
        Comparison("gradient norm alone", _plain("gradient_norm", -1.0)),
        Comparison("kernel trace alone", _plain("trace", -1.0)),
        Comparison("required energy alone", _plain("energy", 1.0)),
        Comparison("linear-quadratic value alone", _plain("lq_loss", 1.0)),
    ),
    assumptions=(CONVERGED,),
    rule="Supported when the rank correlation within task and seed, given both rivals, exceeds 0.3; refuted when it is not positive.",
    reason="Every port has the same number of parameters and the same baseline loss within a cell, so those rivals drop out; what "
    "is left must say more than the gradient.",
    change="A network whose ports differ little, or a cheap rival that orders them as well.",
    good=partial(own, EXPERIMENT, partial(bias_setting, contrast=0.5, gates=0.2), seeds=2),
    bad=partial(own, EXPERIMENT, reaching_setting),
    good_is="gated linear plants, on which the linearisation is exact",
    bad_is="ports that need the least energy because they move the examples that are already right",
)
