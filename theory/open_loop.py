"""One control that all examples share, without feedback: the maximum principle and iterative LQ as solvers, with their cost.

    min over u:   J(u) = (1/N) sum_i l_i(y_i(u)) + r/2 |u|^2,        y_i the outputs of example i under the same u

u (M,) stacks what is added at every layer, so that every step is affine in its control. Two textbook solvers become simple:

* The Hamiltonian of layer t is <g_t, u_t> + r/2 |u_t|^2 plus what the control does not enter, g_t the sum of the costates of all
  examples (= the gradient of the mean loss in u_t). Its minimum lies at -g_t / r, and its gap is |g_t + r u_t|^2 / 2r.
  Extended successive approximation adds rho/2 times the squared change of the next states: a gradient step of 1 / (r + rho).
* A gain would answer to each example's own state, which one shared vector cannot do: feedback terms vanish, the Riccati sweep of
  iterative LQ becomes one condensed problem in the response G of the outputs, solved by `ensemble_lq`.

What a pass costs is `FORWARD` and `BACKWARD`, in gradients of all examples. A response takes a forward pass and, for C classes, C
- 1 backward passes, as the softmax sees contrasts only: with two classes it costs what a gradient costs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from theory.ensemble import ensemble_lq, roots

FORWARD, BACKWARD = 0.5, 0.5  # gradients; the weights are frozen, so a backward pass multiplies by each matrix once, as a forward
GROW, SHRINK = 8.0, 8.0  # of the proximal weight of iterative LQ after a bad and a good step


class Pass(Protocol):
    """A forward pass of all examples at one control, and its backward sweeps when asked for."""

    outputs: np.ndarray  # (N, C)

    def gradient(self) -> np.ndarray:
        """Return the gradient (M,) of the mean loss, by one backward sweep."""

    def response(self) -> np.ndarray:
        """Return dy/du (N, C, M) up to a shift that an example's classes share, by C - 1 backward sweeps."""


@dataclass(frozen=True, eq=False)
class Path:
    """What a solver visited: controls (K, M), what had been paid when each was known, in gradients, and their objectives (K,).

    weight: the last weight rho of the states' change (of successive approximation) or of the control's (of iterative LQ).
    rejected: trials that were paid for and not kept.
    """

    controls: np.ndarray
    costs: np.ndarray
    objectives: np.ndarray
    weight: float = 0.0
    rejected: int = 0

    def first(self, objective: float) -> int | None:
        """Return the place of the cheapest control whose objective is at most this one, or None where none is."""
        met = np.flatnonzero(self.objectives <= objective)
        return int(met[np.argmin(self.costs[met])]) if len(met) else None


def successive(forward: Callable[[np.ndarray], Pass], u, loss, r: float, *, budget: float, tolerance: float = 1e-4) -> Path:
    """Return the path of extended successive approximation from u (M,): v = u - (g + r u) / (r + rho), sweep by sweep.

    It minimises <g, v> + r/2 |v|^2 + rho/2 |v - u|^2 with states and costates held. rho starts at r and doubles when a sweep does
    not lower J; it is kept from then on, as the lemma asks of one constant. Source: Li, Chen, Tai and E, JMLR 2018, section
    3.3. A sweep costs a gradient, a rejected one a forward pass. Ends at |g + r u| <= tolerance times its start, when `budget`
    gradients are spent or rho no longer moves u. Raises ValueError for r <= 0.
    """
    u, rho, rejected, first = _checked(u, r), float(r), 0, None
    seen, cost = forward(u), FORWARD
    value = _objective(loss, seen, u, r)
    points = [(u, cost, value)]
    while cost + BACKWARD + FORWARD <= budget:
        slope = seen.gradient() + r * u
        cost += BACKWARD
        first = np.linalg.norm(slope) if first is None else first
        if np.linalg.norm(slope) <= tolerance * first:
            break
        kept = False
        while not kept and cost + FORWARD <= budget and rho < 1e12 * r:
            v = u - slope / (r + rho)
            trial, cost = forward(v), cost + FORWARD
            new = _objective(loss, trial, v, r)
            kept = bool(new < value)
            rho, rejected = (rho, rejected) if kept else (2.0 * rho, rejected + 1)
        if not kept:
            break
        u, seen, value = v, trial, new
        points.append((u, cost, value))
    return _path(points, rho, rejected)


def iterated_lq(forward: Callable[[np.ndarray], Pass], u, loss, r: float, *, budget: float, tolerance: float = 1e-7) -> Path:
    """Return the path of iterative LQ from u (M,): the problem in the response at every control, solved and tried.

    v minimises (1/N) sum_i l_i(y_i + G_i (v - u)) + r/2 |v|^2 + mu/2 |v - u|^2 by `ensemble_lq`, which asks nothing of the
    network; mu starts at zero, grows eightfold where J falls by less than a tenth of what the model says (the trial is dropped)
    and shrinks where it falls by three quarters. Source: Li and Todorov 2004; Nocedal and Wright 2006, section 10.3.
    An iteration costs a response, a rejected trial a forward pass. Ends where the model foretells a fall of at most tolerance
    times J, or `budget` gradients are spent. Raises ValueError for r <= 0.
    """
    u, mu, rejected = _checked(u, r), 0.0, 0
    seen, cost = forward(u), FORWARD
    value = _objective(loss, seen, u, r)
    points = [(u, cost, value)]
    sweeps = loss.basis(seen.outputs.shape[1]).shape[1]  # C - 1 contrasts of a softmax, else C
    while cost + sweeps * BACKWARD + FORWARD <= budget:
        G, kept = seen.response(), False
        cost += sweeps * BACKWARD
        held = seen.outputs - G @ u
        while not kept and cost + FORWARD <= budget:
            v, foretold = _condensed(G, held, u, loss, r, mu)
            if value - foretold <= tolerance * abs(value) or mu > 1e12 * r:
                return _path(points, mu, rejected)
            trial, cost = forward(v), cost + FORWARD
            new = _objective(loss, trial, v, r)
            gain = (value - new) / (value - foretold) if np.isfinite(new) else -np.inf
            kept = bool(gain >= 0.1)
            if not kept:
                mu, rejected = max(GROW * mu, r), rejected + 1
            elif gain > 0.75:
                mu = mu / SHRINK if mu > 1e-3 * r else 0.0
        if not kept:
            break
        u, seen, value = v, trial, new
        points.append((u, cost, value))
    return _path(points, mu, rejected)


def sweeps_left(G, y0, loss, r: float, product: Callable[[np.ndarray], np.ndarray], *, sweeps: int = 6):
    """Return what full sweeps of iterative LQ leave of the fall, for k = 1 .. sweeps, foretold from rest alone.

    On the quadratic model Q(u) = g'u + 1/2 u'(A + S)u of J about rest a sweep solves with A = (1/N) sum_i G_i'H_i G_i + r and
    leaves out S, the costates times the outputs' second derivatives: d_0 = -A^-1 g, d_{k+1} = -A^-1 S d_k (the counterpart of
    `msa_radius`). Left is (Q(u_k) - Q*) / -Q*, u_k = d_0 + .. + d_{k-1}, Q* the least Q on their span; infinite where Q has no
    minimum there. Source: derived (Gauss-Newton's linear rate, Nocedal and Wright 2006, section 10.3).
    G (N, C, M), y0 (N, C), product(v): the Hessian of the mean loss at rest times v (M,). Raises ValueError for r <= 0.
    """
    g = np.tensordot(loss.gradient(y0), G, 2) / len(G)
    _checked(g, r)
    X = (np.swapaxes(roots(loss.hessian(y0)), 1, 2) @ G).reshape(-1, G.shape[-1]) / np.sqrt(len(G))
    inner = cho_factor(X @ X.T + r * np.eye(len(X)))
    solve = lambda b: (b - X.T @ cho_solve(inner, X @ b)) / r  # noqa: E731
    steps, bent = [-solve(g)], []
    for _ in range(sweeps):
        bent.append(product(steps[-1]) + r * steps[-1])
        steps.append(-solve(bent[-1] - X.T @ (X @ steps[-1]) - r * steps[-1]))
    D, HD = np.array(steps[:-1]).T, np.array(bent).T
    _, R = np.linalg.qr(np.concatenate([X @ D, np.sqrt(r) * D]))  # orthonormal in the metric A
    kept = np.abs(np.diag(R)) > 1e-8 * np.abs(R[0, 0])
    size = int(np.argmin(kept)) if not kept.all() else len(kept)  # the span has been closed
    D, HD = D[:, :size] @ np.linalg.inv(R[:size, :size]), HD[:, :size] @ np.linalg.inv(R[:size, :size])
    values, V = np.linalg.eigh(0.5 * (D.T @ HD + HD.T @ D))
    if size == 0 or values[0] <= 0.0:
        return np.zeros(sweeps) if size == 0 else np.full(sweeps, np.inf)
    least = -0.5 * float(np.sum((V.T @ (D.T @ g)) ** 2 / values))
    u, bends = np.cumsum(steps[:-1], axis=0), np.cumsum(bent, axis=0)
    reached = u @ g + 0.5 * np.sum(u * bends, axis=1)
    return np.maximum(reached - least, 0.0) / -least


def _condensed(G, held, u, loss, r, mu):
    """The minimiser of the linearised problem with mu/2 |v - u|^2, and the linearised objective there without that term."""
    centre = mu / (r + mu) * u  # r/2 |v|^2 + mu/2 |v - u|^2 = (r + mu)/2 |v - centre|^2 and a constant
    control = ensemble_lq(G, held + G @ centre, loss, r + mu)
    v = centre + control.z
    return v, control.loss + 0.5 * r * float(v @ v)


def _checked(u, r):
    if not r > 0:
        raise ValueError(f"expected a positive price r of the control, got {r}: without one no optimum need exist")
    return np.asarray(u, float)


def _objective(loss, seen, u, r):
    return float(loss.value(seen.outputs).mean()) + 0.5 * r * float(u @ u)


def _path(points, weight, rejected):
    controls, costs, objectives = zip(*points, strict=True)
    return Path(np.array(controls), np.array(costs), np.array(objectives), weight, rejected)
