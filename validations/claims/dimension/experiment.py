"""How many random directions a task needs: two predictions from the frozen model, then training in the same subspaces."""

import numpy as np

from probes.dimension.projection import random_subspace
from theory.subspace import threshold_dimension

from ...store import Record
from ..shared.linearisation import departure, kernel_ranks, linearise, penalty
from ..shared.setting import Experiment, Setting, own_seed
from ..shared.subspaces import SHARE, at_ends, estimate, shapes, solved_within, trained_within
from ..shared.training import at_start, cost, logits, penalised, shifted, summed, train


def _subspaces(setting: Setting, own: dict) -> list[tuple[int, object]]:
    size = sum(int(np.prod(s)) for s in own.values())
    kept = sorted({min(int(d), size) for d in setting.options["dimensions"]})
    return [(d, random_subspace(own, d, kind="dense", seed=own_seed(setting, d))) for d in kept]


def _threshold(dimensions: list[int], scores: list[float], size: int) -> dict:
    """Return where the scores cross `SHARE`; all `size` numbers reach the whole gain by definition."""
    return estimate([*dimensions, size], [*scores, 1.0], [1.0], chance=0.0)


def predict(setting: Setting) -> Record:
    """Return the threshold dimension and the whole score curve before any training.

    Score: the share of the full optimum's gain in the penalised objective J. Form 1 (Larsen et al. 2022): a random subspace
    through the start meets the sublevel set {J <= J* + eps} of a quadratic with curvatures mu_i at distance R when
    d >= sum_i R^2 mu_i / (R^2 mu_i + 2 eps), with mu = lambda + r over all D directions, R = |z*| and
    eps = (1 - share)(J(0) - J*) from the linearised optimum z*. Form 2: the linearised problem solved in the very subspaces
    that will be trained in. Both, as the measurement, reach the whole gain at all D dimensions by definition.
    """
    subject = setting.subjects["delta"]
    lin = linearise(subject.outputs, subject.initial, setting.train)
    r = penalty(setting, lin, subject.outputs, subject.initial)
    full = lin.optimum(r)
    start = float(lin.loss.value(lin.y0).mean())
    gain = start - full.value
    size = lin.G.shape[-1]
    spectrum = lin.curvatures(full.outputs)
    dimensions, scores = [], []
    for d, subspace in _subspaces(setting, shapes(subject.initial)):
        part = solved_within(lin, subspace, subject.initial, r)
        dimensions.append(d)
        scores.append((start - part.value) / gain)
    test = linearise(subject.outputs, subject.initial, setting.test)
    moved = logits(subject.outputs, shifted(subject.initial, full.z), setting.test)
    return Record(
        {
            "r": r,
            "eta": departure(test, full, moved),
            "parameters": size,
            "spectrum": float(threshold_dimension(spectrum[:size], np.linalg.norm(full.z), (1 - SHARE) * gain, size, ridge=r)),
            "curve": _threshold(dimensions, scores, size)["isotonic"] or float(dimensions[0]),
            "dimensions": dimensions,
            "scores": scores,
            "start": start,
            "gain": gain,
            **kernel_ranks(lin.kernel()),
        },
        {},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the measured score at each dimension and the threshold dimension with its interval."""
    subject, origin = setting.subjects["delta"], at_start(setting.subjects["delta"])
    objective = penalised(subject.loss, setting.train, predicted.values["r"], origin)
    full = train(setting, objective, origin)
    start = float(objective(origin).detach())
    dimensions, scores, costs = [], [], [cost(full)]
    for d, subspace in _subspaces(setting, shapes(origin)):
        fitted = trained_within(setting, objective, origin, subspace)
        dimensions.append(d)
        scores.append((start - float(fitted.value)) / (start - float(full.value)))
        costs.append(cost(fitted))
    size = sum(p.numel() for p in origin.values())
    found = _threshold(dimensions, scores, size)
    measured = found["isotonic"] or float(dimensions[0])
    _, low, high = at_ends(found, dimensions[0], size)
    return Record(
        {
            **{k: predicted.values[k] for k in ("r", "eta", "spectrum", "curve", "participation", "trace_rank")},
            "parameters": size,
            "dimensions": dimensions,
            "scores": scores,
            "predicted_scores": predicted.values["scores"],
            "measured": measured,
            "low": min(low, measured),
            "high": max(high, measured),
            **summed(costs),
            "converged": all(c["converged"] for c in costs),
        },
        {},
    )


EXPERIMENT = Experiment("dimension", "training in random subspaces", ("delta",), predict, measure, weight=10.0, per_delta=True)
