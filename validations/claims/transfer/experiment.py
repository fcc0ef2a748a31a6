"""Whether other tasks' responses span the subspace in which a task's control is found."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from scipy.linalg import svd

from theory.ensemble import ensemble_lq
from tuning.training import flatten

from ...store import Record
from ..shared.linearisation import Linearisation, departure, linearise, penalty
from ..shared.setting import Experiment, Setting, own_rng, own_seed
from ..shared.training import at_rest, cost, cross_entropy, logits, loss_at, penalised, shifted, steered_loss, train

TESTED, LIMIT = 20, 10
DRAWS = 3
RESOLUTION = 1e-5


def directions(responses: Sequence[Linearisation]) -> np.ndarray:
    """Return the right singular vectors, as columns, of stacked responses, those above `RESOLUTION` of the largest.

    Of the logits only the contrasts count, all that softmax can tell, and every response has norm 1, so that no task rules.
    """
    rows = []
    for lin in responses:
        contrasts = (lin.loss.basis(lin.G.shape[1]).T @ lin.G).reshape(-1, lin.G.shape[-1])
        rows.append(contrasts / np.linalg.norm(contrasts))
    _, s, vt = _svd(np.concatenate(rows))
    return vt[s > RESOLUTION * s[0]].T


def _svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the thin singular value decomposition by QR iterations, which converge where divide and conquer may not."""
    return svd(matrix, full_matrices=False, lapack_driver="gesvd")


def captured(basis: np.ndarray, z: np.ndarray, k: int) -> float:
    """Return |V_k' z|^2 / |z|^2 for the first k columns of an orthonormal basis, or for all where there are fewer."""
    return float(np.sum((basis[:, :k].T @ z) ** 2) / (z @ z))


def predict(setting: Setting) -> Record:
    """Return V_k, the leading right singular vectors of the other tasks' responses, and the losses expected in it.

    One vector per port, M numbers; k = M / `TESTED`. Every other task is linearised with its own readout on its own training
    text. Beside V: the same from a network whose weight matrices are permuted (null), from the other tasks' readouts on this
    task's text, without its labels and readout; the singular vectors of this task's own per-example gradients (rival); and
    random k-dimensional subspaces of the row space that V spans. Gaps are shares of the gain in the penalised objective.
    Raises ValueError without another task.
    """
    subject, origin = setting.subjects["bias"], at_rest(setting.subjects["bias"])
    if not setting.other_tasks:
        raise ValueError("expected at least one other task to take a subspace from, got none: add tasks to the study")
    lin, test = (linearise(subject.steered, origin, batch) for batch in (setting.train, setting.test))
    r, kernel = penalty(setting, lin, subject.steered, origin), lin.kernel()
    full = lin.optimum(r, kernel=kernel)
    size = lin.G.shape[-1]
    k, limit = max(1, size // TESTED), max(1, size // LIMIT)
    pairs = [(other.subjects["bias"], other.train) for other in setting.other_tasks]
    theirs = [linearise(other.steered, origin, batch) for other, batch in pairs]
    spanned = directions(theirs)
    shuffled = directions([linearise(other.shuffled(own_seed(setting, 181)).steered, origin, batch) for other, batch in pairs])
    unlabelled = directions([linearise(other.steered, origin, setting.train) for other, _ in pairs])
    gradients = np.einsum("ncm,nc->nm", lin.G, lin.loss.gradient(lin.y0))
    rng = own_rng(setting, 121)
    turns = [np.linalg.qr(rng.standard_normal((spanned.shape[1], k)))[0] for _ in range(DRAWS)]
    random = np.stack([spanned @ turn for turn in turns])
    start = cross_entropy(lin.y0, lin.labels)

    def gap(basis: np.ndarray) -> float:
        return float((ensemble_lq(lin.G @ basis, lin.y0, lin.loss, r).value - full.value) / (start - full.value))

    scale = float(lin.curvatures(lin.y0)[0])
    return Record(
        {
            "r": r,
            "eta": departure(test, full, logits(subject.steered, shifted(origin, full.z), setting.test)),
            "size": size,
            "k": k,
            "limit": limit,
            "rank": int(spanned.shape[1]),
            "others_r": [r * float(other.curvatures(other.y0)[0]) / scale for other in theirs],
            "gap": gap(spanned[:, :k]),
            "gap_random": float(np.mean([gap(basis) for basis in random])),
            "energy": captured(spanned, full.z, k),
        },
        {
            "spanned": spanned[:, :limit],
            "shuffled": shuffled[:, :limit],
            "unlabelled": unlabelled[:, :limit],
            "gradients": _svd(gradients)[2].T[:, :limit],
            "random": random,
        },
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the energy of the trained control in each subspace, and what training inside V_k and the random ones reaches.

    The control is trained freely, inside V_k and inside the random subspaces, with the same weight decay; another task's
    control is trained with that decay at the same share of its own largest curvature, and their principal directions are the
    last rival.
    """
    subject, p, a = setting.subjects["bias"], predicted.values, predicted.arrays
    origin, r, k = at_rest(subject), p["r"], p["k"]

    def free(given: Setting, decay: float):
        return train(given, penalised(partial(steered_loss, given.subjects["bias"]), given.train, decay, origin), origin)

    def inside(basis: np.ndarray):
        columns = torch.as_tensor(basis, dtype=subject.dtype)

        def objective(params):
            theta = params["theta"]
            signals = dict(zip(origin, (columns @ theta).split(subject.width), strict=True))
            return steered_loss(subject, signals, setting.train) + 0.5 * r * theta @ theta

        fitted = train(setting, objective, {"theta": torch.zeros(basis.shape[1], dtype=subject.dtype)})
        return fitted, basis @ flatten(fitted.params)

    whole = free(setting, r)
    z = flatten(whole.params)
    others = [free(other, decay) for other, decay in zip(setting.other_tasks, p["others_r"], strict=True)]
    theirs = np.stack([flatten(fitted.params) for fitted in others])
    bases = {name: a[name] for name in ("spanned", "shuffled", "unlabelled", "gradients")}
    bases["trained"] = _svd(theirs / np.linalg.norm(theirs, axis=1, keepdims=True))[2].T
    shared = inside(a["spanned"][:, :k])
    random = [inside(basis) for basis in a["random"]]
    start = float(steered_loss(subject, origin, setting.train))

    def gap(value: float) -> float:
        return (value - whole.value) / (start - whole.value)

    def test_loss(control: np.ndarray) -> float:
        return loss_at(subject.steered, shifted(origin, control), setting.test)

    sizes = sorted({*np.unique(np.geomspace(1, p["limit"], 12).round().astype(int)).tolist(), k})
    return Record(
        {
            "r": r,
            "gap": gap(shared[0].value),
            "gap_random": float(np.mean([gap(fitted.value) for fitted, _ in random])),
            "energy": {name: captured(basis, z, k) for name, basis in bases.items()}
            | {"random": float(np.mean([captured(basis, z, k) for basis in a["random"]]))},
            "sizes": sizes,
            "curves": {name: [captured(basis, z, n) for n in sizes] for name, basis in bases.items()},
            "start_test": test_loss(np.zeros_like(z)),
            "loss_test": test_loss(z),
            "loss_test_shared": test_loss(shared[1]),
            "loss_test_random": float(np.mean([test_loss(control) for _, control in random])),
            "trainings": [cost(fitted) for fitted in (whole, shared[0], *(fitted for fitted, _ in random), *others)],
        },
        {},
    )


EXPERIMENT = Experiment(
    "transfer", "one control in the subspace of other tasks", ("bias",), predict, measure, weight=8.0, needs_other_tasks=True
)
