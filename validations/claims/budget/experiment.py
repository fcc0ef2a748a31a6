"""Training under a hard budget |z| <= rho: the law of the linear model before it, the real network's after it."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from theory.budget import budget_law
from theory.kernel import gradient_rival
from tuning.training import fit, flatten, unflatten

from ...store import Record
from ..shared.linearisation import GRID, Linearisation, departure, linearise
from ..shared.regime import ETA_LIMIT
from ..shared.setting import Experiment, Params, Setting
from ..shared.training import at_rest, cross_entropy, logits, loss_at, shifted, steered_loss

RADII, SHARES = 10, (0.1, 1.5)


def horizon(setting: Setting, lin: Linearisation, origin: Params) -> float:
    """Return the norm of the linearised optimum at which its departure from linearity on the training text reaches `ETA_LIMIT`.

    Found along the penalties of `GRID` times the largest curvature, between two of them on logarithmic axes; where no
    penalty of the grid down to the option `smallest` leads that far, the norm at the smallest one.
    """
    subject, kernel, scale = setting.subjects["bias"], lin.kernel(), float(lin.curvatures(lin.y0)[0])
    seen: list[tuple[float, float]] = []
    for share in (share for share in GRID if share >= setting.options.get("smallest", 0.0)):
        control = lin.optimum(share * scale, kernel=kernel)
        moved = logits(subject.steered, shifted(origin, control.z), setting.train)
        seen.append((float(np.linalg.norm(control.z)), departure(lin, control, moved)))
        if seen[-1][1] > ETA_LIMIT:
            break
    (norm, eta), before = seen[-1], seen[-2:-1]
    if eta <= ETA_LIMIT:
        return norm
    if not before:
        return norm * ETA_LIMIT / eta
    at = np.log([max(before[0][1], 1e-12), eta])
    return float(np.exp(np.interp(np.log(ETA_LIMIT), at, np.log([before[0][0], norm]))))


def predict(setting: Setting) -> Record:
    """Return J*(rho) = min over |z| <= rho of the mean loss at y0 + G z, at `RADII` radii, from the frozen model alone.

    z is one vector per port, added for every example and token. The radii run from a tenth to one and a half of `horizon`,
    so that most lie inside the linear regime and the last beyond it; radii larger than any useful control are left out. eta
    is measured at each radius, on held-out text. Rival: the gradient at the reference, at the best length within the budget.
    """
    subject, origin = setting.subjects["bias"], at_rest(setting.subjects["bias"])
    lin, test = (linearise(subject.steered, origin, batch) for batch in (setting.train, setting.test))
    kernel, loss = lin.kernel(), lin.loss
    edge = horizon(setting, lin, origin)
    radii = edge * np.geomspace(*SHARES, int(setting.options.get("radii", RADII)))
    law = budget_law(lin.G, lin.y0, loss, radii)
    downhill = gradient_rival(lin.G, lin.y0, loss, 1.0).z
    along = lin.G @ (downhill / np.linalg.norm(downhill))
    best = minimize_scalar(
        lambda length: cross_entropy(lin.y0 + length * along, lin.labels), bounds=(0.0, radii[-1]), method="bounded"
    ).x
    levels = []
    for radius, least, multiplier in zip(law.radii, law.losses, law.multipliers, strict=True):
        if multiplier == 0.0:
            continue
        control = lin.optimum(float(multiplier), kernel=kernel)
        moved = logits(subject.steered, shifted(origin, control.z), setting.test)
        levels.append(
            {
                "radius": float(radius),
                "loss": float(least),
                "test_loss": cross_entropy(test.y0 + test.G @ control.z, test.labels),
                "gradient_loss": cross_entropy(lin.y0 + min(best, radius) * along, lin.labels),
                "multiplier": float(multiplier),
                "eta": departure(test, control, moved),
            }
        )
    return Record(
        {
            "eta": float(np.median([level["eta"] for level in levels])),
            "horizon": edge,
            "start": cross_entropy(lin.y0, lin.labels),
            "start_test": cross_entropy(test.y0, test.labels),
            "levels": levels,
        },
        {},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the trained loss J_tr(rho) = min over |z| <= rho of the real network's, on training and on held-out text.

    Each radius is trained by L-BFGS on the sphere, z = rho w / |w|, from the control trained at the radius before it (from
    the downhill gradient at the first), until the gradient along the sphere is `tolerance` times the gradient at z = 0. The
    optimum on the sphere is that of the ball where the multiplier -z' dL/dz / rho^2 is not negative, which is checked:
    `converged` asks for both.
    """
    subject = setting.subjects["bias"]
    origin = at_rest(subject)

    def loss(signals: Params) -> Tensor:
        return steered_loss(subject, signals, setting.train)

    start, slope = _slope(loss, flatten(origin), origin)
    scale, z = float(np.linalg.norm(slope)), -slope
    levels = []
    for level in predicted.values["levels"]:
        radius = level["radius"]
        z *= radius / np.linalg.norm(z)
        first = np.linalg.norm(_along(z, _slope(loss, z, origin)[1]))
        fitted = fit(
            lambda w, radius=radius: loss(_scaled(w, radius)),
            unflatten(z, origin),
            tolerance=setting.tolerance * scale / max(first, 1e-300),
            max_evaluations=setting.evaluations,
        )
        z = flatten(fitted.params)
        z *= radius / np.linalg.norm(z)
        value, slope = _slope(loss, z, origin)
        multiplier = -float(z @ slope) / radius**2
        levels.append(
            {
                "radius": radius,
                "loss": value,
                "test_loss": loss_at(subject.steered, unflatten(z, origin), setting.test),
                "multiplier": multiplier,
                "converged": bool(fitted.converged and multiplier >= 0),
                "evaluations": int(fitted.evaluations),
                "gradient_ratio": float(np.linalg.norm(_along(z, slope)) / scale),
            }
        )
    start_test = loss_at(subject.steered, origin, setting.test)
    return Record({"start": start, "start_test": start_test, "levels": levels}, {})


def _slope(loss, z: np.ndarray, like: Params) -> tuple[float, np.ndarray]:
    """Return a loss and its gradient at a flat vector, in float64."""
    params = {name: p.requires_grad_() for name, p in unflatten(z, like).items()}
    value = loss(params)
    gradient = torch.autograd.grad(value, list(params.values()))
    return value.item(), flatten(dict(zip(params, gradient, strict=True)))


def _along(z: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return the part of a gradient that is tangent to the sphere at z."""
    return slope - (slope @ z) / (z @ z) * z


def _scaled(w: Params, radius: float) -> Params:
    """Return w scaled to the norm `radius`."""
    scale = radius / torch.sqrt(sum((p**2).sum() for p in w.values()))
    return {name: scale * p for name, p in w.items()}


EXPERIMENT = Experiment("budget", "training under a hard budget", ("bias",), predict, measure, weight=6.0)
