"""Convex programs: control under bounds, budgets, sparsity and the worst case, and oracles for the closed forms.

cvxpy states each problem as written and pays for it in set-up time. The ones to call in a loop are `theory.control`,
`theory.ensemble`, `theory.budget` and, under bounds, `theory.box`.

    >>> G, y0 = np.ones((1, 1, 1)), np.zeros((1, 1))
    >>> loss = Quadratic(np.ones((1, 1)))  # the optimum of (z - 1)^2 / 2 + z^2 / 2 is 1/2
    >>> bool(np.isclose(ensemble_program(G, y0, loss, 1.0).z[0], 0.5)), round(budget_program(G, y0, loss, 0.5), 6)
    (True, 0.125)
    >>> bounded_control([np.eye(1)], [np.eye(1)], 0.0, 1.0, 1.0, np.ones(1), 0.25).controls[0].round(6).tolist()
    [-0.25]
    >>> robust_control(G[0], np.ones(1), np.eye(1), 0.0, 1.0).u.round(6).tolist()
    [-0.5]
    >>> scenario_control(G, y0, loss, 1.0).weights.round(6).tolist()
    [1.0]
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
from scipy.optimize import brentq

from theory.control import plan
from theory.ensemble import Control, problem, roots
from theory.linear import root
from theory.loss import CrossEntropy, Quadratic

_TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


def _solve(objective, constraints=()):
    """The program, solved by Clarabel as tightly as it can; at its usual tolerances where rounding forbids more."""
    program = cp.Problem(objective, list(constraints))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        for tightly in (_TIGHT, {}):
            try:
                program.solve(solver=cp.CLARABEL, **tightly)
            except cp.SolverError:
                continue
            if program.status == cp.OPTIMAL:
                break
    if program.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise ValueError(f"the convex program has no solution (solver says {program.status}); check the bounds and scales")
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
    return Control(
        z,
        outputs,
        fit + 0.5 * energy,
        fit,
        energy,
        float(np.linalg.norm(gradient)),
        int(program.solver_stats.num_iters or 0),
        program.status == cp.OPTIMAL,
        costate,
    )


def ensemble_program(G, y0, loss, r) -> Control:
    """Return the answer of `ensemble_lq` by a general convex solver: min (1/N) sum_i l_i(y0_i + G_i z) + 1/2 z'Rz over z.

    An oracle: the problem is handed over as stated, in z, without kernels. Shapes and errors as in `ensemble_lq`;
    accurate to about 1e-6 in z. Meant for M and N C up to a few hundred.
    """
    G, y0, R = problem(G, y0, r)
    z = cp.Variable(G.shape[2])
    cost = _mean_loss(loss, _linear_outputs(G, y0, z), len(y0)) + cp.sum(cp.multiply(R, cp.square(z))) / 2
    program = _solve(cp.Minimize(cost))
    return _control(G, y0, loss, R, z.value, program)


def budget_program(G, y0, loss, radius, *, metric=1.0) -> float:
    """Return the least mean loss with |z|_metric <= radius, by a general convex solver; the oracle of `budget_law`."""
    G, y0, R = problem(G, y0, metric)
    z = cp.Variable(G.shape[2])
    cost = _mean_loss(loss, _linear_outputs(G, y0, z), len(y0))
    return float(_solve(cp.Minimize(cost), [cp.norm(cp.multiply(np.sqrt(R), z)) <= radius]).value)


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
    """Return the open-loop optimum of the `riccati` problem from x0 under |u_t| <= bound in every component.

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
    return BoundedControl(
        x.value, tuple(v.value for v in u), float(program.value), tuple(np.asarray(c.dual_value) for c in limits)
    )


@dataclass(frozen=True, eq=False)
class RobustControl:
    """A control u (M,) against the worst disturbance of its norm ball, that disturbance w (d,), and the cost it causes."""

    u: np.ndarray
    disturbance: np.ndarray
    value: float
    converged: bool


def worst_disturbance(a, D, radius):
    """Return the w of norm <= radius that makes |a + D w| largest (a trust-region problem, solved exactly), and that |a + D w|^2.

    With the singular values s_j of D and a_j the parts of a along them: w_j = s_j a_j / (mu - s_j^2), mu >= s_1^2 such
    that |w| = radius; where even mu = s_1^2 falls short, the rest goes along the leading direction.
    a: (C,), D: (C, d). Source: More and Sorensen 1983.
    """
    a, D = np.asarray(a, float), np.asarray(D, float)
    if D.ndim != 2 or a.shape != D.shape[:1] or not 0 <= radius < np.inf:
        raise ValueError(f"a must be (C,), D (C, d) and radius finite and >= 0, got {a.shape}, {D.shape} and {radius}")
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(D))):
        raise ValueError("a and D must be finite, got NaN or infinity")
    if radius == 0.0 or not D.any():
        return np.zeros(D.shape[1]), float(a @ a)
    parts = np.abs(a).max(), radius * np.abs(D).max()
    scale = max(parts)  # in these units, and those of the radius, squares are numbers
    if not (1e-150 * scale <= min(parts) and scale < np.inf) and a.any():
        raise ValueError(f"a and radius D lie too far apart for float64: {parts[0]:.3g} and {parts[1]:.3g}")
    U, s, Vt = np.linalg.svd(D * (radius / scale), full_matrices=False)
    b = U.T @ (a / scale)
    pull, gaps = s * b, s[0] ** 2 - s**2  # mu = s_1^2 + delta, so that nothing cancels near it

    def response(delta):
        return pull / np.where(pull == 0.0, 1.0, delta + gaps)

    def excess(delta):
        return np.linalg.norm(response(delta)) - 1.0

    low, high = np.linalg.norm(pull[gaps == 0.0]), np.linalg.norm(pull) * (1 + 1e-12)
    if low > 0.0 or excess(0.0) > 0.0:  # |w| falls from at least the radius at low to below it
        crosses = excess(low) > 0.0 > excess(high)  # else pull is below rounding, and low is the answer
        w = response(brentq(excess, low, high, xtol=1e-300, rtol=8.9e-16, maxiter=2000) if crosses else low)
    else:  # the hard case: nothing pulls along the leading direction
        w = response(0.0)
        w[0] = np.sqrt(max(1.0 - w @ w, 0.0))
    w = radius * (Vt.T @ w)
    return w, float(np.sum((a + D @ w) ** 2))


def robust_control(G, y, D, radius, r) -> RobustControl:
    """Return the control that minimises the worst case max_{|w| <= radius} 1/2 |y + G u + D w|^2 + 1/2 u'Ru.

    By the S-lemma max |a + Dw|^2 = min over mu >= s_1^2 of mu radius^2 + |a|^2 + sum_j s_j^2 a_j^2 / (mu - s_j^2), jointly
    convex in (a, mu): a second-order cone program, exact. Accurate to 1e-8 in value; to 1e-4 where the optimum cancels the
    part of the miss along D's leading direction, a kink. Source: Ben-Tal, El Ghaoui and Nemirovski, Robust Optimization,
    chapter 6; derived.
    y (C,): the output's miss without control; G (C, M), D (C, d): its response to control and disturbance; r: a number or the
    diagonal of R (M,). Raises ValueError for shapes that do not fit, r <= 0 or a negative radius.
    """
    y, D = np.asarray(y, float), np.asarray(D, float)
    G3, y2, R = problem(np.asarray(G, float)[None], y[None], r)
    G = G3[0]
    if D.ndim != 2 or len(D) != len(y) or not (np.isfinite(radius) and radius >= 0):
        raise ValueError(f"D must have shape ({len(y)}, d) and radius be finite and >= 0, got {D.shape} and {radius}")
    if not np.isfinite(np.sum(D**2)):
        raise ValueError("D and its squares must be finite; check the linearisation or measure the disturbance in other units")
    U, s, _ = np.linalg.svd(D, full_matrices=False)
    scale = s[0] ** 2 if s.size and s[0] > 0 else 1.0
    u, mu = cp.Variable(G.shape[1]), cp.Variable()
    a = y + G @ u
    cost = cp.sum_squares(a) + cp.sum(cp.multiply(R, cp.square(u)))
    if radius > 0 and s.size and s[0] > 0:  # mu in units of s_1^2
        b = U.T @ a
        cost += mu * scale * radius**2
        cost += sum(cp.quad_over_lin(s[j] / np.sqrt(scale) * b[j], mu - s[j] ** 2 / scale) for j in range(len(s)) if s[j] > 0)
        program = _solve(cp.Minimize(cost / 2), [mu >= 1])
    else:
        program = _solve(cp.Minimize(cost / 2))
    w, squared = worst_disturbance(y + G @ u.value, D, radius)
    return RobustControl(u.value, w, 0.5 * float(squared + u.value @ (R * u.value)), program.status == cp.OPTIMAL)


@dataclass(frozen=True, eq=False)
class Minimax:
    """The control of the least worst loss: the Control itself, every scenario's loss (N,), and the worst-case mixture (N,).

    weights sum to 1 and are positive only for scenarios whose loss is the worst: the control is the optimum of the loss
    averaged with them.
    """

    control: Control
    losses: np.ndarray
    weights: np.ndarray


def scenario_control(G, y0, loss, r) -> Minimax:
    """Return the one control that minimises max_i l_i(y0_i + G_i z) + 1/2 z'Rz over scenarios i.

    Scenarios are disturbed outputs y0_i, uncertain responses G_i, or examples. Shapes and errors as in `ensemble_lq`;
    `control.value` is the worst loss plus the price, `control.loss` the worst loss, `control.costate` the weighted slopes.
    Source: minimax duality, the weights are the multipliers of l_i <= worst.
    """
    G, y0, R = problem(G, y0, r)
    z, worst = cp.Variable(G.shape[2]), cp.Variable()
    y = _linear_outputs(G, y0, z)
    limits = [_mean_loss(_one(loss, i), y[i : i + 1], 1) <= worst for i in range(len(y0))]
    program = _solve(cp.Minimize(worst + cp.sum(cp.multiply(R, cp.square(z))) / 2), limits)
    weights = np.array([np.sum(limit.dual_value) for limit in limits])
    outputs = y0 + G @ z.value
    losses, costate = loss.value(outputs), weights[:, None] * loss.gradient(outputs)
    energy = float(z.value @ (R * z.value))
    gradient = np.tensordot(costate, G, 2) + R * z.value
    control = Control(
        z.value,
        outputs,
        float(losses.max()) + 0.5 * energy,
        float(losses.max()),
        energy,
        float(np.linalg.norm(gradient)),
        int(program.solver_stats.num_iters or 0),
        program.status == cp.OPTIMAL,
        costate,
    )
    return Minimax(control, losses, weights)


def _one(loss, i):
    """The loss of example i alone."""
    if isinstance(loss, CrossEntropy):
        return CrossEntropy(loss.labels[i : i + 1])
    if isinstance(loss, Quadratic):
        return Quadratic(loss.target[i : i + 1], loss.weight[i])
    raise TypeError(f"loss must be CrossEntropy or Quadratic, got {type(loss).__name__}")


@dataclass(frozen=True, eq=False)
class Placement:
    """A block-sparse control: the Control itself, each block's norm |z_b| and the blocks that stay in use."""

    control: Control
    norms: dict
    active: tuple


def place(G, y0, loss, r, blocks: Sequence, penalty: float, *, share=1e-6) -> Placement:
    """Return which blocks of the control (layers, ports) are worth having: the group-sparse optimum.

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
