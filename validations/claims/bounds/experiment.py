"""Full tuning against deltas that reparametrise it: how far each restricted optimum is from the full one, and three bounds."""

import numpy as np
import torch

from probes.reach.response import response
from theory.kernel import curvature_eigenvalues
from theory.loss import CrossEntropy
from theory.subspace import restricted_optimum_bounds
from tuning.training import fit, flatten

from ...store import Record
from ..shared.setting import Experiment, Setting
from ..shared.training import at_start, cost, train

POINTS = 12


def predict(setting: Setting) -> Record:
    """Return the penalty, relative to the largest curvature over all weights at the pretrained point."""
    full = setting.subjects["full"]
    measured = response(full.outputs, full.initial, [setting.train])
    kernel = measured.kernel().double().cpu().numpy()
    outputs = measured.outputs.detach().double().cpu().numpy()
    return Record(
        {"r": setting.penalty * float(curvature_eigenvalues(kernel, outputs, CrossEntropy(setting.train.labels.numpy()))[0])},
        {},
    )


def _line(a: dict, b: dict, t: float) -> dict:
    return {k: (a[k] + t * (b[k] - a[k])).detach().requires_grad_(True) for k in a}


def _steepest(objective, a: dict, b: dict) -> float:
    """Return the largest gradient norm of an objective on the segment from a to b, on a grid."""
    norms = []
    for t in np.linspace(0.0, 1.0, POINTS):
        at = _line(a, b, float(t))
        g = torch.autograd.grad(objective(at), list(at.values()), allow_unused=True)
        norms.append(float(torch.sqrt(sum((x.double() ** 2).sum() for x in g if x is not None))))
    return max(norms)


def _curvature_along(objective, at: dict, direction: dict) -> float:
    """Return e' H e at a point, by double backward."""
    at = {k: v.detach().requires_grad_(True) for k, v in at.items()}
    g = torch.autograd.grad(objective(at), list(at.values()), create_graph=True)
    inner = sum((x * direction[k]).sum() for x, k in zip(g, at, strict=True))
    h = torch.autograd.grad(inner, list(at.values()))
    return float(sum((x * direction[k]).double().sum() for x, k in zip(h, at, strict=True)))


def _squares(a: dict, b: dict) -> torch.Tensor:
    return sum(((a.get(k, 0.0) - b[k]) ** 2).sum() for k in b)


def measure(setting: Setting, predicted: Record) -> Record:
    """Return for every delta the observed gap F(psi(delta+)) - F(theta+) and the three bounds of the optimization view.

    F is the training loss plus (r/2)|theta - theta_0|^2, for the delta too: its penalty is measured on psi(delta), so that
    F(psi(.)) is the same function. delta' is the projection of theta+ on the range of psi, argmin |theta+ - psi(delta)|, and
    eps' what it leaves (Ding et al. 2023, optimization perspective).
    """
    full, r = setting.subjects["full"], predicted.values["r"]
    origin = at_start(full)

    def value(weights):
        return full.loss(weights, setting.train) + 0.5 * r * sum((w**2).sum() for w in weights.values())

    best = train(setting, value, origin)
    rows = []
    for name in (role for role in setting.subjects if role != "full"):
        subject = setting.subjects[name]
        initial = at_start(subject)

        def psi(params, subject=subject):
            return {k: v for k, v in subject.weight_changes(params).items() if k in origin}

        def through(params, psi=psi):
            return value(origin | psi(params))

        fitted = train(setting, through, initial)
        projected = fit(lambda p, psi=psi: _squares(psi(p), best.params), initial, tolerance=1e-6, max_evaluations=3000).params
        image = origin | {k: v.detach() for k, v in psi(projected).items()}
        rest = {k: best.params[k] - image[k] for k in origin}
        bounds = restricted_optimum_bounds(
            gap=float(fitted.value) - float(best.value),
            residual=float(np.linalg.norm(flatten(rest))),
            lipschitz=_steepest(value, image, best.params),
            restricted_lipschitz=_steepest(through, projected, fitted.params),
            projected=float(np.linalg.norm(flatten(projected))),
            optimum=float(np.linalg.norm(flatten(fitted.params))),
            curvature=_curvature_along(value, best.params, rest),
        )
        rows.append(
            {"delta": name, "gap": bounds[0].observed} | {b.name.replace("-", "_"): b.value for b in bounds} | cost(fitted)
        )
    return Record({"rows": rows, "full": {"value": float(best.value), **cost(best)}, "r": r}, {})


EXPERIMENT = Experiment("bounds", "full tuning and restricted deltas", ("full",), predict, measure, weight=8.0, further=True)
