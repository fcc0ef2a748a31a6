"""How many steps of gradient descent a delta needs: from its spectrum and its first gradient, then counted on the network."""

import numpy as np
import torch

from theory.subspace import descent_share
from tuning.training import flatten, unflatten

from ...store import Record
from ..multiplets.experiment import half_curvature
from ..shared.linearisation import Linearisation, linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_start, cost, cross_entropy, penalised, train

RATE = 0.25  # step size times the largest Gauss-Newton curvature: stable where the Hessian's is up to eight times that
SHARE = 0.9  # of the decrease that the penalised optimum allows
LIMIT = 240  # steps after which descent is given up


def crossing(shares: np.ndarray) -> float | None:
    """Return the step, with its fraction by linear interpolation, at which shares (0 first, one per step) reach `SHARE`."""
    reached = np.flatnonzero(np.asarray(shares) >= SHARE)
    if not len(reached):
        return None
    k = int(reached[0])
    return float(k - 1 + (SHARE - shares[k - 1]) / (shares[k] - shares[k - 1])) if k else 0.0


def energies(lin: Linearisation) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the Gauss-Newton eigenvalues, the first gradient's energy along each eigenvector, and its squared norm.

    With X X' the Gauss-Newton matrix and X'X = U diag(lambda) U', the eigenvectors are X u_i / sqrt(lambda_i).
    """
    X, gradient = half_curvature(lin), np.tensordot(lin.loss.gradient(lin.y0) / len(lin.y0), lin.G, 2)
    values, U = np.linalg.eigh(X.T @ X)
    kept = values > len(values) * np.finfo(float).eps * values[-1]
    along = U[:, kept].T @ (X.T @ gradient)
    return values[kept][::-1], (along**2 / values[kept])[::-1], float(gradient @ gradient)


def linear_descent(lin: Linearisation, r: float, rate: float) -> float | None:
    """Return the steps that gradient descent needs on the linear model with the true loss, z = G'w, or None beyond `LIMIT`."""
    n, c, _ = lin.G.shape
    kernel, w = lin.kernel(), np.zeros(n * c)
    values = []
    for _ in range(LIMIT + 1):
        shift = kernel @ w
        outputs = lin.y0 + shift.reshape(n, c)
        values.append(cross_entropy(outputs, lin.labels) + 0.5 * r * float(w @ shift))
        w = (1 - rate * r) * w - rate * lin.loss.gradient(outputs).ravel() / n
    return crossing((values[0] - np.array(values)) / (values[0] - lin.optimum(r, kernel=kernel).value))


def predict(setting: Setting) -> Record:
    """Return for every delta the steps that gradient descent at rate `RATE` / (largest curvature + r) should need, and rivals.

    The objective is the training loss plus (r/2)|z - z_0|^2 with the delta's own r (see `penalty`). On the quadratic model with
    curvatures mu_i = lambda_i + r of the Gauss-Newton matrix and gradient energies g_i^2 the gain after k steps is
    sum_i g_i^2 / (2 mu_i) (1 - (1 - eta mu_i)^(2 k)); the prediction is where it reaches `SHARE` of its limit. Null: the same
    for permuted labels. Beside it, the steps on the linear model with the loss's own curvature along the way.
    """
    rows = []
    for name, subject in setting.subjects.items():
        origin = at_start(subject)
        lin = linearise(subject.outputs, origin, setting.train)
        r = penalty(setting, lin, subject.outputs, origin)
        curvatures, gradient, square = energies(lin)
        rate = RATE / (curvatures[0] + r)
        permuted = own_rng(setting, 137).permutation(lin.labels)
        other = energies(Linearisation(lin.G, lin.y0, permuted, lin.names, lin.shapes))[1]
        rows.append(
            {
                "delta": name,
                "r": r,
                "rate": rate,
                "steps": _steps(curvatures, gradient, r, rate),
                "steps_permuted": _steps(curvatures, other, r, rate),
                "steps_linear": linear_descent(lin, r, rate) or float(LIMIT),
                "size": int(lin.G.shape[-1]),
                "gradient_norm": square**0.5,
                "condition": (curvatures[0] + r) / r,
                "trace": float(curvatures.sum() / curvatures[0]),
                "curvatures": curvatures[:64].tolist(),
                "energies": gradient[:64].tolist(),
            }
        )
    return Record({"deltas": rows}, {})


def _steps(curvatures: np.ndarray, energies: np.ndarray, r: float, rate: float) -> float:
    """Return the predicted steps to `SHARE`, at most `LIMIT`."""
    shares = descent_share(curvatures + r, energies, rate, np.arange(LIMIT + 1))
    return crossing(shares) or float(LIMIT)


def descend(objective, initial: Params, rate: float, goal: float) -> list[float]:
    """Return the objective before every step of gradient descent, until it is at most `goal`, grows, or `LIMIT` is reached."""
    z, values = flatten(initial), []
    for _ in range(LIMIT + 1):
        params = {name: p.requires_grad_() for name, p in unflatten(z, initial).items()}
        value = objective(params)
        values.append(value.item())
        if values[-1] <= goal or not np.isfinite(values[-1]) or values[-1] > values[0]:
            break
        found = torch.autograd.grad(value, list(params.values()), allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), found, strict=True)]
        z = z - rate * flatten(dict(zip(params, gradient, strict=True)))
    return values


def measure(setting: Setting, predicted: Record) -> Record:
    """Return for every delta the steps that full-batch gradient descent at the predicted rate takes on the network.

    The decrease that counts is down to the optimum which L-BFGS finds from the same start. A run that does not get there
    within `LIMIT` steps counts as `LIMIT` and as not converged.
    """
    rows = []
    for row in predicted.values["deltas"]:
        subject, r = setting.subjects[row["delta"]], row["r"]
        origin = at_start(subject)
        objective = penalised(subject.loss, setting.train, r, origin)
        fitted = train(setting, objective, origin)
        start = objective(origin).item()
        values = descend(objective, origin, row["rate"], start - SHARE * (start - fitted.value))
        steps = crossing((start - np.array(values)) / (start - fitted.value))
        known = cost(fitted)
        rows.append(
            {"delta": row["delta"], "steps": steps or float(LIMIT), "gain": start - fitted.value, "start": start, **known}
            | {"converged": known["converged"] and steps is not None}
        )
    return Record({"deltas": rows}, {})


EXPERIMENT = Experiment(
    "convergence", "steps of gradient descent on several deltas", (), predict, measure, weight=10.0, further=True
)
