"""How many random directions a task needs: two predictions from the frozen model, then training in the same subspaces."""

import numpy as np
import torch

from probes.dimension import random_subspace, threshold_dimension
from theory.ensemble import ensemble_lq
from theory.subspace import threshold_dimension as predicted_dimension
from tuning.training import flatten

from ..store import Measured
from .setting import Experiment, Setting, cost, departure, l2, linearise, logits, penalty, shifted, train

SHARE = 0.9


def _subspaces(setting: Setting, shapes: dict) -> list[tuple[int, object]]:
    dimensions = [int(d) for d in setting.options["dimensions"]]
    size = sum(int(np.prod(s)) for s in shapes.values())
    kept = sorted({min(d, size) for d in dimensions})
    return [(d, random_subspace(shapes, d, kind="dense", seed=1000 * setting.seed + d)) for d in kept]


def _columns(projection, dimension: int) -> np.ndarray:
    """Return the projection's matrix, (D, d), in float64."""
    eye = torch.eye(dimension)
    return np.stack([flatten(projection.apply(e)) for e in eye], axis=1)


def predict(setting: Setting) -> Measured:
    """Return the threshold dimension and the whole score curve before any training.

    Score: the share of the full optimum's gain in the penalised objective J. Form 1 (Larsen et al. 2022): a random subspace
    through the start meets the sublevel set {J <= J* + eps} of a quadratic with curvatures mu_i at distance R when
    d >= sum_i R^2 mu_i / (R^2 mu_i + 2 eps), with mu = lambda + r over all D directions, R = |z*| and
    eps = (1 - share)(J(0) - J*) from the linearised optimum z*. Form 2: the linearised problem solved in the very subspaces
    that will be trained in.
    """
    subject = setting.subjects["delta"]
    lin = linearise(subject.outputs, subject.initial, setting.train)
    r = penalty(setting, lin, subject.outputs, subject.initial)
    full = lin.optimum(r)
    start = float(lin.loss.value(lin.y0).mean())
    gain = start - full.value
    size = lin.G.shape[-1]
    spectrum = lin.curvatures(full.outputs)
    shapes = {name: tuple(p.shape) for name, p in subject.initial.items()}
    dimensions, scores = [], []
    for d, projection in _subspaces(setting, shapes):
        part = ensemble_lq(lin.G @ _columns(projection, d), lin.y0, lin.loss, r)
        dimensions.append(d)
        scores.append((start - part.value) / gain)
    test = linearise(subject.outputs, subject.initial, setting.test)
    moved = logits(subject.outputs, shifted(subject.initial, full.z), setting.test)
    kernel = np.linalg.eigvalsh(lin.kernel())
    estimate = threshold_dimension(np.array(dimensions), np.array(scores), baseline=np.ones(3), chance=0.0, share=SHARE)
    return Measured(
        {
            "r": r,
            "eta": departure(test, full, moved),
            "parameters": size,
            "spectrum": float(predicted_dimension(spectrum[:size], np.linalg.norm(full.z), (1 - SHARE) * gain, size, ridge=r)),
            "curve": float(estimate.isotonic),
            "dimensions": dimensions,
            "scores": scores,
            "start": start,
            "gain": gain,
            "participation": float(kernel.sum() ** 2 / np.sum(kernel**2)),
            "trace_rank": float(kernel.sum() / kernel.max()),
        },
        {},
    )


def measure(setting: Setting, predicted: Measured) -> Measured:
    """Return the measured score at each dimension and the threshold dimension with its interval."""
    subject, r = setting.subjects["delta"], predicted.record["r"]
    origin = {name: p.detach() for name, p in subject.initial.items()}

    def objective(params):
        return subject.loss(params, setting.train) + 0.5 * r * l2(params, origin)

    full = train(setting, objective, origin)
    start = float(objective(origin).detach())
    scores, costs = [], [cost(full)]
    shapes = {name: tuple(p.shape) for name, p in origin.items()}
    for d, projection in _subspaces(setting, shapes):

        def restricted(theta, projection=projection):
            step = projection.apply(theta["theta"])
            return objective({name: p + step[name] for name, p in origin.items()})

        fitted = train(setting, restricted, {"theta": torch.zeros(d)})
        scores.append((start - float(fitted.value)) / (start - float(full.value)))
        costs.append(cost(fitted))
    dimensions = np.array([d for d, _ in _subspaces(setting, shapes)])
    estimate = threshold_dimension(dimensions, np.array(scores), baseline=np.ones(3), chance=0.0, share=SHARE)
    low, high = estimate.interval
    return Measured(
        {
            **{k: predicted.record[k] for k in ("r", "eta", "spectrum", "curve", "participation", "trace_rank")},
            "parameters": sum(p.numel() for p in origin.values()),
            "dimensions": dimensions.tolist(),
            "scores": scores,
            "predicted_scores": predicted.record["scores"],
            "measured": float(estimate.isotonic),
            "low": float(np.clip(low, dimensions.min(), estimate.isotonic)),
            "high": float(np.clip(high, estimate.isotonic, dimensions.max())),
            "converged": all(c["converged"] for c in costs),
            "evaluations": sum(c["evaluations"] for c in costs),
            "gradient_ratio": max(c["gradient_ratio"] for c in costs),
        },
        {},
    )


EXPERIMENT = Experiment("training in random subspaces", ("delta",), predict, measure, weight=10.0, each=True)
