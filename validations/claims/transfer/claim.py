"""C-transfer: do other tasks' responses say where a task's control will lie?"""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, error, mean
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import apart, together


def _rows(cell: Cell) -> list[dict]:
    p, m = cell.predicted.values, cell.measured.values
    gain = m["start_test"] - m["loss_test"]
    return [
        cell.place
        | {"k": p["k"], "numbers": p["size"], "share": p["k"] / p["size"], "gap": m["gap"], "gap_random": m["gap_random"]}
        | {"lead": m["gap_random"] - m["gap"], "gap_predicted": p["gap"], "gap_random_predicted": p["gap_random"]}
        | {f"energy_{name}": value for name, value in m["energy"].items()}
        | {"gain_test": gain, "gain_test_shared": m["start_test"] - m["loss_test_shared"]}
        | {"gain_test_random": m["start_test"] - m["loss_test_random"]}
    ]


def _curves(cell: Cell) -> list[dict]:
    """Return the captured energy against the dimension, for each subspace."""
    m = cell.measured.values
    return [
        cell.place | {"subspace": name, "dimension": n, "energy": value, "tested": n == cell.predicted.values["k"]}
        for name, values in m["curves"].items()
        for n, value in zip(m["sizes"], values, strict=True)
    ]


def _energy(name: str, words: str) -> Comparison:
    return Comparison(f"energy captured by {words}", mean(f"energy_{name}"))


SUBSPACE_TRANSFER = Claim(
    id="subspace-transfer",
    nature="prediction",
    view="control",
    title="Other tasks' responses span the subspace of a new task's control",
    statement="The leading k = M / 20 right singular vectors of the responses of other tasks, each through its own readout, span a "
    "subspace in which training reaches what it reaches with all M numbers.",
    equation='V_k = "svd"_k (G_1 / norm(G_1), dots, G_n / norm(G_n)), quad J(V_k) = min_theta 1/N sum_i ell_i (y_i (V_k theta)) '
    "+ r/2 norm(theta)^2",
    equation_alt="V k holds the k leading right singular vectors of the other tasks' stacked responses, each scaled to norm one; J of "
    "V k is the penalised loss that training inside their span reaches",
    derived="the frozen model's responses on other tasks' text through their readouts; nothing of the new task",
    sources=("ding2023", "li2018", "aghajanyan2021"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"curves": _curves},
    statistic=_energy("spanned", "V_k"),
    criteria=(
        Criterion("loss", "gain lost inside V_k, share of the full gain", error("gap"), (-np.inf, 0.05), (-np.inf, 0.2)),
        Criterion("lead", "further gain lost inside random subspaces", mean("lead"), (0.2, np.inf), (0.05, np.inf)),
    ),
    rivals=(
        _energy("gradients", "this task's per-example gradients"),
        _energy("trained", "other tasks' trained controls"),
        _energy("unlabelled", "other tasks' readouts on this task's text"),
        Comparison("gain lost inside V_k, predicted", mean("gap_predicted")),
        Comparison("gain lost inside random subspaces, predicted", mean("gap_random_predicted")),
    ),
    nulls=(
        _energy("shuffled", "V_k of a weight-shuffled network"),
        _energy("random", "random subspaces of the row space"),
        Comparison("k over M", mean("share")),
    ),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when training inside V_k loses less than 5 % of the gain in the penalised training objective, and random "
    "subspaces of equal dimension, drawn in the row space of the same responses, lose at least 20 % more; refuted when V_k loses "
    "more than 20 % or the random ones lose less than 5 % more.",
    reason="The control always lies in the row space of its own task's response, so this task's gradients capture it by "
    "construction; other tasks' responses know neither its labels nor its readout. Random subspaces of the row space show what "
    "the ordering by singular value adds.",
    change="Tasks whose readouts look at other features of the backbone, or too few tasks to span the features that are shared.",
    good=partial(own, EXPERIMENT, together),
    bad=partial(own, EXPERIMENT, apart),
    good_is="plants that read the same three features of one network",
    bad_is="plants that each read other features of that network",
)
