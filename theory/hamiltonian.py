"""The discrete maximum principle for x_{t+1} = f(t, x_t, u_t): costates, Hamiltonian, and a small nonlinear solver.

Costates here are lambda_t = dJ/dx_t; papers that maximise write p = -lambda.

    >>> process = Process(lambda t, x, u: x + u, lambda t, x, u: (np.eye(1), np.eye(1)), lambda x: (x @ x, 2.0 * x), 1.0, 2)
    >>> found = shoot(process, np.ones(1), np.zeros((2, 1)))
    >>> found.u.round(6).tolist(), found.adjoint.costates.round(6).tolist()  # u_t = -lambda_{t+1}
    ([[-0.4], [-0.4]], [[0.4], [0.4], [0.4]])
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from theory.linear import positive, symmetric, weights


@dataclass(frozen=True, eq=False)
class Process:
    """Minimise J = terminal(x_T) + sum_t stage(t, x_t) + 1/2 u_t'R u_t over x_{t+1} = step(t, x_t, u_t).

    step(t, x, u) -> (n,); jacobians(t, x, u) -> A = df/dx (n, n), B = df/du (n, m); terminal(x) -> value and gradient
    (n,); stage(t, x) the same, or None for no state cost; R a positive number or (m, m).
    """

    step: Callable
    jacobians: Callable
    terminal: Callable
    R: np.ndarray | float
    horizon: int
    stage: Callable | None = None

    def metric(self, m: int):
        """Return R as a positive definite (m, m) matrix."""
        return positive(weights(self.R, [m], "R"), "R")[0]

    def running(self, t, x):
        """Return value and gradient of the state cost at (t, x), zeros when there is none."""
        return self.stage(t, x) if self.stage else (0.0, np.zeros_like(x))


@dataclass(frozen=True, eq=False)
class Adjoint:
    """States x_0..x_T, costates lambda_0..lambda_T, the gradient dJ/du (T, m) and the cost of one control sequence."""

    states: np.ndarray
    costates: np.ndarray
    gradient: np.ndarray
    cost: float


def checked_controls(process: Process, u):
    """Return u as a float64 array (T, m), after checking that it fits the horizon."""
    u = np.atleast_1d(np.asarray(u, float))
    u = u[:, None] if u.ndim == 1 else u
    if u.ndim != 2 or len(u) != process.horizon:
        raise ValueError(f"u must hold {process.horizon} controls, shape ({process.horizon}, m), got {u.shape}")
    return u


def hamiltonian(process: Process, t: int, x, costate, u) -> float:
    """Return H(t, x, lambda, u) = lambda' f(t, x, u) + stage(t, x) + 1/2 u'Ru, lambda = costate at t + 1.

    At an optimum its derivative in u vanishes; dH/dx is the costate recursion. Source: Pontryagin;
    arXiv 2203.06904 with p = -lambda.
    """
    x, u = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(u, float))
    moved = np.asarray(process.step(t, x, u), float)
    return float(np.dot(costate, moved) + process.running(t, x)[0] + 0.5 * u @ process.metric(len(u)) @ u)


def adjoint(process: Process, x0, u) -> Adjoint:
    """Return the costates and the gradient of the cost for a control sequence u (T, m) from x0.

    lambda_T = terminal'(x_T), lambda_t = A_t'lambda_{t+1} + stage'(x_t), dJ/du_t = R u_t + B_t'lambda_{t+1}
    (= back-propagation). Source: Pontryagin. Raises ValueError for a u that does not fit the horizon.
    """
    u = checked_controls(process, u)
    R = process.metric(u.shape[1])
    states, cost = [np.atleast_1d(np.asarray(x0, float))], 0.0
    for t, v in enumerate(u):
        cost += process.running(t, states[-1])[0] + 0.5 * v @ R @ v
        states.append(np.asarray(process.step(t, states[-1], v), float))
    end, slope = process.terminal(states[-1])
    costates, gradient = [np.asarray(slope, float)], []
    for t in reversed(range(process.horizon)):
        A, B = process.jacobians(t, states[t], u[t])
        gradient.append(R @ u[t] + np.asarray(B, float).T @ costates[-1])
        costates.append(np.asarray(A, float).T @ costates[-1] + process.running(t, states[t])[1])
    return Adjoint(np.array(states), np.array(costates[::-1]), np.array(gradient[::-1]), float(cost + end))


def started(process: Process, x0, u) -> Adjoint:
    """Return the `adjoint` of a first control sequence; raises ValueError where its cost or a slope is not finite."""
    now = adjoint(process, x0, u)
    if not (np.isfinite(now.cost) and np.all(np.isfinite(now.gradient))):
        raise ValueError(f"the cost and its slopes must be finite at the start, got cost {now.cost}; check x0 and u")
    return now


@dataclass(frozen=True, eq=False)
class Extremal:
    """Controls u (T, m) at which the maximum principle holds, their adjoint, and how sure that is.

    curvature: the least eigenvalue of d2J/du2 there; positive means a strict local minimum.
    """

    u: np.ndarray
    adjoint: Adjoint
    curvature: float
    iterations: int
    converged: bool


def shoot(process: Process, x0, u, *, tolerance=1e-11, max_iterations=200) -> Extremal:
    """Return a local minimum of the process near the control sequence u (T, m), by single shooting.

    Newton on dJ/du = 0: exact adjoint gradient, its central differences as Hessian, eigenvalues made positive,
    backtracking. Stops when |dJ/du| <= tolerance (1 + |R u|). For short horizons and few controls: one Hessian costs
    2 T m adjoints. A non-convex process may hold several extremals; start from several u. Raises ValueError for a u
    that does not fit the horizon or from which the cost is not finite.
    """
    u = checked_controls(process, u)
    R = process.metric(u.shape[1])
    now = started(process, x0, u)
    iteration, stuck = 0, False
    while True:
        bend = curvature(process, x0, u)
        if not np.all(np.isfinite(bend)):
            return Extremal(u, now, np.nan, iteration, False)
        values, V = np.linalg.eigh(bend)
        small = bool(np.linalg.norm(now.gradient) <= tolerance * (1.0 + np.linalg.norm(u @ R)))
        if small or stuck or iteration == max_iterations:
            return Extremal(u, now, float(values[0]), iteration, small)
        floor = max(1e-8 * np.abs(values).max(), np.finfo(float).tiny)
        step = -(V / np.maximum(np.abs(values), floor)) @ (V.T @ now.gradient.ravel())
        slope, size = float(step @ now.gradient.ravel()), 1.0
        while True:
            trial = u + size * step.reshape(u.shape)
            new = adjoint(process, x0, trial)
            falls = new.cost <= now.cost + 1e-4 * size * slope + 8 * np.finfo(float).eps * abs(now.cost)
            if falls and np.all(np.isfinite(new.gradient)):
                break
            size *= 0.5
            if size < 1e-12:
                trial, new, stuck = u, now, True
                break
        u, now, iteration = trial, new, iteration + 1


def curvature(process: Process, x0, u):
    """Return the Hessian d2J/du2 (T m, T m) by central differences of the adjoint gradient."""
    h = np.cbrt(np.finfo(float).eps) * (1.0 + np.abs(u).max())
    rows = [
        (adjoint(process, x0, u + e).gradient - adjoint(process, x0, u - e).gradient).ravel() / (2 * h)
        for e in h * np.eye(u.size).reshape(-1, *u.shape)
    ]
    return symmetric(np.array(rows))
