"""Convex programs: control under bounds, budgets and sparsity, and independent oracles for the closed forms.

cvxpy states each problem as written and pays for it in set-up time; the closed forms of `theory.control` and
`theory.ensemble` are the ones to call in a loop.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
from scipy.optimize import brentq

from theory.control import plan
from theory.ensemble import Control, ensemble_lq, problem, roots
from theory.kernel import tangent_kernel
from theory.linear import root
from theory.loss import CrossEntropy, Quadratic

_TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


def _solve(objective, constraints=()):
    """The program, solved by Clarabel as tightly as it can; at its usual tolerances where rounding forbids more."""
    program = cp.Problem(objective, list(constraints))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        program.solve(solver=cp.CLARABEL, **_TIGHT)
        if program.status != cp.OPTIMAL:
            program.solve(solver=cp.CLARABEL)
    if program.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise ValueError(f"the convex program has no solution (solver says {program.status}); check the bounds")
    return program


def _mean_loss(loss, y, N):
    if isinstance(loss, CrossEntropy):
        picked = cp.sum(cp.multiply(np.eye(y.shape[1])[loss.labels], y))
        return (cp.sum(cp.log_sum_exp(y, axis=1)) - picked) / N
    if isinstance(loss, Quadratic):
        S = roots(loss.weight)
        return sum(cp.sum_squares(S[i].T @ (y[i] - loss.target[i])) for i in range(N)) / (2 * N)
    raise TypeError(f"loss must be CrossEntropy or Quadratic, got {type(loss).__name__}")


def _linear_outputs(G, y0, z):
    N, C, M = G.shape
    return y0 + cp.reshape(G.reshape(N * C, M) @ z, (N, C), order="C")


def _control(G, y0, loss, R, z, program) -> Control:
    outputs = y0 + G @ z
    costate = loss.gradient(outputs) / len(y0)
    fit, energy = float(loss.value(outputs).mean()), float(z @ (R * z))
    gradient = np.tensordot(costate, G, 2) + R * z
    return Control(z, outputs, fit + 0.5 * energy, fit, energy, float(np.linalg.norm(gradient)),
                   int(program.solver_stats.num_iters or 0), program.status == cp.OPTIMAL, costate)


def ensemble_program(G, y0, loss, r) -> Control:
    """The answer of `ensemble_lq` by a general convex solver: min (1/N) sum_i l_i(y0_i + G_i z) + 1/2 z'Rz over z.

    An oracle: the problem is handed over as stated, in z, without kernels. Shapes and errors as in `ensemble_lq`;
    accurate to about 1e-6 in z. Meant for M and N C up to a few hundred.
    """
    G, y0, R = problem(G, y0, r)
    z = cp.Variable(G.shape[2])
    cost = _mean_loss(loss, _linear_outputs(G, y0, z), len(y0)) + cp.sum(cp.multiply(R, cp.square(z))) / 2
    program = _solve(cp.Minimize(cost))
    return _control(G, y0, loss, R, z.value, program)


def budget_program(G, y0, loss, radius, *, metric=1.0) -> float:
    """The least mean loss with |z|_metric <= radius, by a general convex solver; the oracle of `budget_law`."""
    G, y0, R = problem(G, y0, metric)
    z = cp.Variable(G.shape[2])
    cost = _mean_loss(loss, _linear_outputs(G, y0, z), len(y0))
    return float(_solve(cp.Minimize(cost), [cp.norm(cp.multiply(np.sqrt(R), z)) <= radius]).value)


@dataclass(frozen=True, eq=False)
class BudgetLaw:
    """The least mean loss (k,) at each radius (k,), and the multiplier r(radius): |z| = radius solves with penalty r.

    multipliers are 0 where the radius is larger than any useful control.
    """

    radii: np.ndarray
    losses: np.ndarray
    multipliers: np.ndarray


def budget_law(G, y0, loss, radii, *, metric=1.0) -> BudgetLaw:
    """The budget law J(rho) = min of (1/N) sum_i l_i(y0_i + G_i z) over z'Rz <= rho^2, R = metric (number or diagonal).

    Convex and decreasing in rho. Solved through its multiplier: `ensemble_lq` at penalty r R has norm rho(r),
    decreasing in r; r is found by root search on one kernel. Source: derived. G, y0 as in
    `ensemble_lq`; radii: numbers >= 0. Raises ValueError for negative radii or shapes that do not fit.
    """
    G, y0, R = problem(G, y0, metric)
    radii = np.atleast_1d(np.asarray(radii, float))
    if radii.ndim != 1 or not np.all(np.isfinite(radii)) or np.any(radii < 0):
        raise ValueError(f"radii must be finite numbers >= 0, got {radii}")
    K = tangent_kernel(G, R) if y0.size <= 4 * G.shape[2] else None
    start = np.tensordot(loss.gradient(y0) / len(y0), G, 2)
    force = float(np.sqrt(np.sum(start**2 / R)))
    floor = np.log(1e-12 * max(np.sum(G**2 / R) / len(y0), np.finfo(float).tiny))  # below it rounding rules the control

    def solved(log_r):
        r = np.exp(log_r)
        return ensemble_lq(G, y0, loss, r * R, kernel=None if K is None else K / r)

    def excess(log_r, radius):
        return 0.5 * np.log(solved(log_r).energy / np.exp(log_r)) - np.log(radius)

    losses, multipliers = [], []
    for radius in radii:
        if radius == 0.0 or force == 0.0:
            losses.append(float(loss.value(y0).mean()))
            multipliers.append(force / radius if radius > 0 else np.inf)
            continue
        high = max(np.log(force / radius) + 1e-9, floor)        # r |z| <= force, so the norm is below the radius here
        low = high
        while low > floor and excess(low, radius) < 0:
            low = max(low - np.log(10.0), floor)
        slack = excess(low, radius) < 0
        log_r = low if slack else brentq(excess, low, high, args=(radius,), xtol=1e-13, rtol=1e-14)
        losses.append(solved(log_r).loss)
        multipliers.append(0.0 if slack else float(np.exp(log_r)))
    return BudgetLaw(radii, np.array(losses), np.array(multipliers))


@dataclass(frozen=True, eq=False)
class BoundedControl:
    """The optimum under |u| <= bound: states (T+1, n), controls (T arrays), cost, and the multipliers of the bounds.

    multipliers[t] has the shape of u_t; positive exactly where the bound is active and worth loosening.
    """

    states: np.ndarray
    controls: tuple
    cost: float
    multipliers: tuple


def bounded_control(A, B, Q, R, Qf, x0, bound, *, affine=None, reference=None) -> BoundedControl:
    """The open-loop optimum of the `riccati` problem from x0 under |u_t| <= bound in every component.

    Clipping the unbounded law is not optimal: the true optimum starts earlier. Problem data as in
    `theory.control.riccati` for one system; bound: a positive number or one per step. Raises ValueError for shapes
    that do not fit or a bound that is not positive.
    """
    data = plan(A, B, Q, R, Qf, affine, reference)
    T, n = len(data.A), data.A[0].shape[-1]
    bounds = np.broadcast_to(np.asarray(bound, float), (T,))
    if not np.all(bounds > 0):
        raise ValueError(f"bound must be positive, got {bound}")
    if any(x.ndim != 2 for x in (*data.A, *data.B)):
        raise ValueError("bounded control takes one system at a time: A and B must be lists of matrices, without batch")
    x = cp.Variable((T + 1, n))
    u = [cp.Variable(b.shape[1]) for b in data.B]
    errors = [(W, x[t] - r) for t, (W, r) in enumerate(zip((*data.Q, data.Qf), data.reference, strict=True))]
    cost = sum(cp.sum_squares(root(W).T @ v) for W, v in [*errors, *zip(data.R, u, strict=True)]) / 2
    moves = [x[0] == np.asarray(x0, float)]
    moves += [x[t + 1] == data.A[t] @ x[t] + data.B[t] @ u[t] + data.c[t] for t in range(T)]
    limits = [cp.abs(v) <= b for v, b in zip(u, bounds, strict=True)]
    program = _solve(cp.Minimize(cost), moves + limits)
    return BoundedControl(x.value, tuple(v.value for v in u), float(program.value),
                          tuple(np.asarray(c.dual_value) for c in limits))


@dataclass(frozen=True, eq=False)
class Placement:
    """A block-sparse control: the Control itself, each block's norm |z_b| and the blocks that stay in use."""

    control: Control
    norms: dict
    active: tuple


def place(G, y0, loss, r, blocks: Sequence, penalty: float, *, share=1e-6) -> Placement:
    """Which blocks of the control (layers, ports) are worth having: the group-sparse optimum.

    Minimises (1/N) sum_i l_i(y0_i + G_i z) + 1/2 z'Rz + penalty sum_b |z_b|. blocks: one label per control number
    (M,); labels all different give the l1 penalty. A block is active when |z_b| > share |z|. Meant for M up to about a
    thousand. Raises ValueError for shapes that do not fit or a negative penalty.
    """
    G, y0, R = problem(G, y0, r)
    blocks = list(blocks)
    if len(blocks) != G.shape[2] or not penalty >= 0:
        raise ValueError(f"blocks needs {G.shape[2]} labels and penalty must be >= 0, got {len(blocks)} and {penalty}")
    names = list(dict.fromkeys(blocks))
    members = {b: [i for i, label in enumerate(blocks) if label == b] for b in names}
    z = cp.Variable(G.shape[2])
    cost = _mean_loss(loss, _linear_outputs(G, y0, z), len(y0)) + cp.sum(cp.multiply(R, cp.square(z))) / 2
    cost += penalty * sum(cp.norm(z[members[b]]) for b in names)
    program = _solve(cp.Minimize(cost))
    norms = {b: float(np.linalg.norm(z.value[members[b]])) for b in names}
    whole = float(np.linalg.norm(z.value))
    active = tuple(b for b in names if norms[b] > max(share * whole, 1e-9))
    return Placement(_control(G, y0, loss, R, z.value, program), norms, active)
