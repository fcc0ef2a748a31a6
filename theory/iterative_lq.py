"""Successive approximation of optimal controls: iterative linear-quadratic, and the method of successive approximations.

Both start from a control sequence of a `Process` and improve it sweep by sweep. `ilqr` solves the linear-quadratic
problem along the current trajectory; `msa` minimises the Hamiltonian at every step with the costates held fixed, which is
how the maximum principle trains a network; `msa_radius` says in advance whether its sweeps contract.

    >>> process = Process(lambda t, x, u: x + u, lambda t, x, u: (np.eye(1), np.eye(1)), lambda x: (x @ x, 2.0 * x), 1.0, 2)
    >>> ilqr(process, np.ones(1), np.zeros((2, 1)), terminal=2.0).u.round(6).tolist()
    [[-0.4], [-0.4]]
    >>> found = msa(process, np.ones(1), np.zeros((2, 1)), rho=8.0)
    >>> found.converged, found.u.round(6).tolist()
    (True, [[-0.4], [-0.4]])
    >>> round(msa_radius(process, np.ones(1), found.u), 4), round(msa_radius(process, np.ones(1), found.u, rho=8.0), 4)
    (4.0, 0.8889)
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize

from theory.control import riccati
from theory.hamiltonian import Adjoint, Process, adjoint, checked_controls, curvature, hamiltonian, started
from theory.linear import apply


@dataclass(frozen=True, eq=False)
class Descent:
    """Controls u (T, m), their adjoint, the cost before each sweep and after the last (k+1,), whether dJ/du vanished."""

    u: np.ndarray
    adjoint: Adjoint
    costs: np.ndarray
    converged: bool


def _stationary(gradient, u, R, tolerance):
    return bool(np.linalg.norm(gradient) <= tolerance * (1.0 + np.linalg.norm(u @ R)))


def ilqr(process: Process, x0, u, *, terminal, stage=0.0, tolerance=1e-9, max_iterations=100) -> Descent:
    """Return a local minimum of the process near the control sequence u (T, m), by iterated linear-quadratic control.

    `riccati` of the problem linearised along the current trajectory gives u_t = ubar_t + s d_t - K_t (x_t - xbar_t), rolled
    out on the true process with s halved until the cost falls by 1e-4 of its slope. Stops when |dJ/du| <= tolerance (1 + |R
    u|). Source: Li and Todorov 2004; Tassa, Erez and Todorov 2012.
    terminal, stage: the weights, numbers, (n, n) matrices or functions terminal(x), stage(t, x) of them; Hessians or any
    semi-definite stand-in, which changes the speed, not the answer. Raises ValueError for a u that does not fit the horizon
    or an indefinite weight.
    """
    u = checked_controls(process, u)
    R, T = process.metric(u.shape[1]), process.horizon
    now = started(process, x0, u)
    costs = [now.cost]
    for _ in range(max_iterations):
        if _stationary(now.gradient, u, R, tolerance):
            break
        x = now.states
        A, B = zip(*(process.jacobians(t, x[t], u[t]) for t in range(T)), strict=True)
        Q = [stage(t, x[t]) for t in range(T)] if callable(stage) else stage
        slopes = [*(process.running(t, x[t])[1] for t in range(T)), process.terminal(x[-1])[1]]
        law = riccati(
            A,
            B,
            Q,
            R,
            terminal(x[-1]) if callable(terminal) else terminal,
            affine=[-apply(np.asarray(b, float), v) for b, v in zip(B, u, strict=True)],
            linear=slopes,
        )
        forward = -np.array(law.k) - u  # the open-loop part d of the step
        whole = np.array(law.rollout(np.zeros(x.shape[1])).controls) - u
        slope, size = float(np.sum(whole * now.gradient)), 1.0
        while True:
            trial = _follow(process, x, u, size * forward, law.K)
            new = adjoint(process, x0, trial)
            falls = new.cost <= now.cost + 1e-4 * size * slope or _falls(now, new, trial - u, size * slope)
            if falls and np.all(np.isfinite(new.gradient)):
                break
            size *= 0.5
            if size < 1e-12:
                return Descent(u, now, np.array(costs), False)
        u, now = trial, new
        costs.append(now.cost)
    return Descent(u, now, np.array(costs), _stationary(now.gradient, u, R, tolerance))


def _falls(now, new, step, slope):
    """Whether a cost that rounding hides falls along the step by 1e-4 of its slope, by the parabola through both slopes.

    Hager and Zhang 2005, SIAM J. Optim. 16, eq. 4.1: within rounding of the old cost the new slope decides.
    """
    return new.cost <= now.cost + 8 * np.finfo(float).eps * abs(now.cost) and np.sum(step * new.gradient) <= (2e-4 - 1) * slope


def _follow(process, states, u, forward, K):
    """The controls u + forward - K (x - states) on the true process."""
    x, controls = states[0], []
    for t in range(process.horizon):
        controls.append(u[t] + forward[t] - K[t] @ (x - states[t]))
        x = np.asarray(process.step(t, x, controls[-1]), float)
    return np.array(controls)


@dataclass(frozen=True, eq=False)
class Sweeps:
    """What successive approximation did: controls u (T, m), their adjoint and the cost before each sweep and after the last.

    mu: the fall of the Hamiltonian in each sweep, sum_t H(u_t) - H(v_t) >= 0. constants: the C of each sweep's error
    estimate (`error_constant`); the largest is the least C that holds on the whole run, and rho above twice the C of
    every sweep makes the cost fall. converged: whether dJ/du vanished.
    """

    u: np.ndarray
    adjoint: Adjoint
    costs: np.ndarray
    mu: np.ndarray
    constants: np.ndarray
    converged: bool


def msa(process: Process, x0, u, *, rho=0.0, tolerance=1e-9, max_iterations=100) -> Sweeps:
    """Return controls improved by sweeps of the (extended) method of successive approximations, from u (T, m).

    Each sweep rolls out states x and costates lambda, then v_t minimises at every t, independently, H(t, x_t, lambda_{t+1},
    v) + rho/2 |f(t, x_t, v) - x_{t+1}|^2 + rho/2 |dH/dx(t, x_t, lambda_{t+1}, v) - lambda_t|^2: in closed form where the step
    is affine in the control, by L-BFGS from u_t otherwise. rho = 0 is the basic method, which diverges where `msa_radius` is
    above 1; the run ends when the cost is no longer finite. Source: Li, Chen, Tai and E, JMLR 2018, sections 3.1 and 3.3, in
    discrete time.
    Raises ValueError for a u that does not fit the horizon or rho < 0.
    """
    u = checked_controls(process, u)
    if not rho >= 0:
        raise ValueError(f"rho must be at least 0, got {rho}")
    R = process.metric(u.shape[1])
    now = started(process, x0, u)
    costs, mu, constants = [now.cost], [], []
    with np.errstate(over="ignore", invalid="ignore"):  # a diverging run ends at the largest numbers there are
        while len(mu) < max_iterations and not _stationary(now.gradient, u, R, tolerance):
            v = np.array([_minimiser(process, now, t, u[t], R, rho) for t in range(process.horizon)])
            new = adjoint(process, x0, v)
            fall, moved = _estimate(process, now, u, v)
            if not np.all(np.isfinite([new.cost, np.linalg.norm(new.gradient), fall, moved])):
                break
            mu.append(fall)
            constants.append(_ratio(new.cost - now.cost + fall, moved))
            u, now = v, new
            costs.append(now.cost)
    done = _stationary(now.gradient, u, R, tolerance)
    return Sweeps(u, now, np.array(costs), np.array(mu), np.array(constants), done)


def error_constant(process: Process, x0, u, v) -> float:
    """Return the least C >= 0 with J(v) - J(u) <= sum_t dH_t + C sum_t |f(v_t) - f(u_t)|^2 + |dH/dx(v_t) - dH/dx(u_t)|^2.

    dH_t = H(t, x_t, lambda_{t+1}, v_t) - H(.., u_t); states, costates, f and H along the trajectory of u. Infinite when
    the cost exceeds the first term though nothing moved. Source: Li, Chen, Tai and E, JMLR 2018, lemma 2.
    """
    u, v = checked_controls(process, u), checked_controls(process, v)
    now = adjoint(process, x0, u)
    fall, moved = _estimate(process, now, u, v)
    return _ratio(adjoint(process, x0, v).cost - now.cost + fall, moved)


def _ratio(excess, moved):
    if excess <= 0.0:
        return 0.0
    return float(excess / moved) if moved > 0.0 else np.inf


def _estimate(process, now, u, v):
    """The fall of the Hamiltonian and the squared change of its derivatives, from u to v along the trajectory of u."""
    fall = moved = 0.0
    for t in range(process.horizon):
        x, costate = now.states[t], now.costates[t + 1]
        fall += hamiltonian(process, t, x, costate, u[t]) - hamiltonian(process, t, x, costate, v[t])
        forth = process.step(t, x, v[t]) - now.states[t + 1]
        back = (process.jacobians(t, x, v[t])[0] - process.jacobians(t, x, u[t])[0]).T @ costate
        moved += float(forth @ forth + back @ back)
    return fall, moved


def _mixed(process, now, t, u, h):
    """d2(lambda'f)/dx du (n, m) at step t by differences h in the control, exact for steps affine in it."""
    x, costate = now.states[t], now.costates[t + 1]
    sides = [np.array([process.jacobians(t, x, u + s * e)[0].T @ costate for e in h * np.eye(len(u))]) for s in (1, -1)]
    return (sides[0] - sides[1]).T / (2 * h)


def _minimiser(process, now, t, u, R, rho):
    x, costate, gradient = now.states[t], now.costates[t + 1], now.gradient[t]
    A, B = (np.asarray(J, float) for J in process.jacobians(t, x, u))
    D = _mixed(process, now, t, u, 1.0) if rho else np.zeros_like(B)
    v = u - np.linalg.solve(R + rho * (B.T @ B + D.T @ D), gradient)
    size = 1e-10 * (1.0 + np.abs(v - u).max())
    A_v, B_v = process.jacobians(t, x, v)
    if (
        np.abs(process.step(t, x, v) - now.states[t + 1] - B @ (v - u)).max() <= size * (1.0 + np.abs(B).max())
        and np.abs(B_v - B).max() <= size
        and (not rho or np.abs((A_v - A).T @ costate - D @ (v - u)).max() <= size * (1.0 + np.abs(D).max()))
    ):
        return v  # affine between u and v: this is the minimiser

    def extended(w):
        A_w, B_w = process.jacobians(t, x, w)
        forth, back = process.step(t, x, w) - now.states[t + 1], (A_w - A).T @ costate
        value = hamiltonian(process, t, x, costate, w) + 0.5 * rho * float(forth @ forth + back @ back)
        slope = R @ w + B_w.T @ (costate + rho * forth)
        if rho and back.any():  # d|back|^2/2 = d/dw (lambda'f)_x along back
            h = np.cbrt(np.finfo(float).eps) * (1.0 + np.abs(x).max()) / np.linalg.norm(back)
            sides = [process.jacobians(t, x + s * h * back, w)[1].T @ costate for s in (1, -1)]
            slope = slope + rho * (sides[0] - sides[1]) / (2 * h)
        return value, slope

    found = scipy.optimize.minimize(extended, u, jac=True, method="L-BFGS-B", options=dict(ftol=1e-15, gtol=1e-12))
    return found.x if found.fun <= extended(u)[0] else u


def msa_radius(process: Process, x0, u, *, rho=0.0) -> float:
    """Return the spectral radius of the linearised sweep of `msa` at an extremal u (T, m): below 1 it contracts there.

    The sweep's derivative is I - M^-1 d2J/du2 with M block diagonal, M_t = d2H/dv2 + rho (B'B + D'D) and
    D = d2H/dx dv: at the extremal the minimiser's own gradient is dJ/du. Where it exceeds 1 the dominant eigenvalue is
    negative if M is too small (sweeps overshoot, the error alternates) and above 1 if u is not a minimum. Source: derived
    (implicit function theorem). Raises ValueError for a u that does not fit the horizon or where M is not
    positive definite, so that the sweep has no minimiser.
    """
    u = checked_controls(process, u)
    R = process.metric(u.shape[1])
    now = started(process, x0, u)
    blocks = []
    for t in range(process.horizon):
        x, costate = now.states[t], now.costates[t + 1]
        h = np.cbrt(np.finfo(float).eps) * (1.0 + np.abs(u[t]).max())
        B = np.asarray(process.jacobians(t, x, u[t])[1], float)
        sides = [np.array([process.jacobians(t, x, u[t] + s * e)[1].T @ costate for e in h * np.eye(len(u[t]))]) for s in (1, -1)]
        bend = (sides[0] - sides[1]) / (2 * h)
        D = _mixed(process, now, t, u[t], h)
        blocks.append(R + 0.5 * (bend + bend.T) + rho * (B.T @ B + D.T @ D))
    try:
        shares = scipy.linalg.eigh(curvature(process, x0, u), scipy.linalg.block_diag(*blocks), eigvals_only=True)
    except np.linalg.LinAlgError:
        raise ValueError(f"the Hamiltonian has no minimum in the control at rho = {rho}; take a larger rho") from None
    return float(np.abs(1.0 - shares).max())
