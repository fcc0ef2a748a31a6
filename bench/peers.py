"""The rivals: each takes a linear-quadratic problem and returns the call to time, None where its package is absent.

Every call makes the gains backwards and rolls the controls forwards from x_0; setting the problem up in a package's own
layout is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import cvxpy as cp
import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve


@dataclass(frozen=True, eq=False)
class LQ:
    """min 1/2 sum x_t'Q x_t + u_t'R u_t + 1/2 x_T'Qf x_T with x_{t+1} = A_t x_t + B_t u_t for a batch of systems.

    A, B: T arrays (b, n, n) and (b, n, m). Q, Qf: (n, n), R: (m, m). x0: (b, n).
    """

    A: list
    B: list
    Q: np.ndarray
    R: np.ndarray
    Qf: np.ndarray
    x0: np.ndarray

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Return T, b, n and m."""
        return len(self.A), *self.B[0].shape


def installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return find_spec(package) is not None


def numpy_step(A, B, Q, R, P):
    """Return (K, P_t) of one system and step with `np.linalg.solve`: what one writes down from the textbook."""
    PB = P @ B
    K = np.linalg.solve(R + B.T @ PB, PB.T @ A)
    return K, Q + A.T @ (P @ (A - B @ K))


def _scipy_step(A, B, Q, R, P):
    PB = P @ B
    K = cho_solve(cho_factor(R + B.T @ PB, lower=True), PB.T @ A)
    return K, Q + A.T @ (P @ (A - B @ K))


def numpy_value(lq: LQ) -> np.ndarray:
    """Return P_0 (b, n, n) of every system by the general recursion, one system at a time."""
    found = []
    for b in range(len(lq.x0)):
        P = lq.Qf
        for A, B in zip(reversed(lq.A), reversed(lq.B), strict=True):
            _, P = numpy_step(A[b], B[b], lq.Q, lq.R, P)
        found.append(P)
    return np.stack(found)


def numpy_loop(lq: LQ) -> Callable[[], np.ndarray]:
    """Solve one system at a time by `np.linalg.solve`: controls (T, b, m)."""
    return lambda: _loop(lq, numpy_step)


def scipy_loop(lq: LQ) -> Callable[[], np.ndarray]:
    """Solve one system at a time by `cho_factor` and `cho_solve`: controls (T, b, m)."""
    return lambda: _loop(lq, _scipy_step)


def _loop(lq, step):
    found = []
    for b, x in enumerate(lq.x0):
        P, gains, controls = lq.Qf, [], []
        for A, B in zip(reversed(lq.A), reversed(lq.B), strict=True):
            K, P = step(A[b], B[b], lq.Q, lq.R, P)
            gains.append(K)
        for A, B, K in zip(lq.A, lq.B, reversed(gains), strict=True):
            controls.append(-K @ x)
            x = A[b] @ x + B[b] @ controls[-1]
        found.append(controls)
    return np.array(found).swapaxes(0, 1)


def torch_batched(lq: LQ) -> Callable[[], torch.Tensor]:
    """Solve all systems at once in torch by batched Cholesky: controls (T, b, m)."""
    As, Bs = [torch.tensor(a) for a in lq.A], [torch.tensor(b) for b in lq.B]
    Q, R, Qf, x0 = (torch.tensor(v) for v in (lq.Q, lq.R, lq.Qf, lq.x0))

    def run():
        P, gains, x, controls = Qf.expand(len(x0), -1, -1), [], x0, []
        for A, B in zip(reversed(As), reversed(Bs), strict=True):
            PB = P @ B
            gains.append(torch.cholesky_solve(PB.mT @ A, torch.linalg.cholesky(R + B.mT @ PB)))
            P = Q + A.mT @ (P @ (A - B @ gains[-1]))
            P = (P + P.mT) / 2
        for A, B, K in zip(As, Bs, reversed(gains), strict=True):
            controls.append(-(K @ x[..., None])[..., 0])
            x = (A @ x[..., None] + B @ controls[-1][..., None])[..., 0]
        return torch.stack(controls)

    return run


def _stages(lq: LQ) -> torch.Tensor:
    """The joint stage weights (T + 1, n + m, n + m) on (x_t, u_t); the last stage's control has nothing to do."""
    T, _, n, m = lq.sizes
    C = torch.zeros(T + 1, n + m, n + m, dtype=torch.float64)
    C[:T, :n, :n], C[T, :n, :n], C[:, n:, n:] = torch.tensor(lq.Q), torch.tensor(lq.Qf), torch.tensor(lq.R)
    return C


def mpc_pytorch(lq: LQ) -> Callable[[], torch.Tensor] | None:
    """Solve by mpc.pytorch, one unconstrained iteration: controls (T + 1, b, m), the last zero."""
    if not installed("mpc"):
        return None
    from mpc.mpc import MPC, LinDx, QuadCost

    T, b, n, m = lq.sizes
    C = _stages(lq)[:, None].expand(-1, b, -1, -1).contiguous()
    F = torch.stack([torch.tensor(np.concatenate(pair, -1)) for pair in zip(lq.A, lq.B, strict=True)])
    cost, dynamics, x0 = QuadCost(C, torch.zeros(T + 1, b, n + m, dtype=torch.float64)), LinDx(F), torch.tensor(lq.x0)
    solver = MPC(n, m, T + 1, lqr_iter=1, verbose=-1, exit_unconverged=False, detach_unconverged=False, backprop=False)

    def run():
        with torch.no_grad():
            return solver(x0, cost, dynamics)[1]

    return run


def pypose_lqr(lq: LQ) -> Callable[[], torch.Tensor] | None:
    """Solve by PyPose's LQR on a time-varying system: controls (b, T + 1, m), the last zero.

    It has no terminal cost, so x_T is made the state of one more stage, whose transition is never weighed.
    """
    if not installed("pypose"):
        return None
    import pypose

    T, b, n, m = lq.sizes

    class Varying(pypose.module.LTV):
        A = property(lambda self: self._A[:, self._t.clamp(max=T - 1)])
        B = property(lambda self: self._B[:, self._t.clamp(max=T - 1)])

    A, B = (torch.tensor(np.stack(x, 1)) for x in (lq.A, lq.B))
    eye, nothing = torch.eye(n, dtype=A.dtype).expand(b, -1, -1), torch.zeros(b, n, m, dtype=A.dtype)
    system, x0 = Varying(A, B, eye, nothing), torch.tensor(lq.x0)
    C = _stages(lq).expand(b, -1, -1, -1).contiguous()
    solver = pypose.module.LQR(system, C, torch.zeros(b, T + 1, n + m, dtype=A.dtype), T + 1)

    def run():
        with torch.no_grad():
            system.set_refpoint(t=torch.tensor(0))
            return solver(x0)[1]

    return run


def dlqr(A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray) -> Callable[[], tuple] | None:
    """Solve by python-control's `dlqr`: one infinite-horizon Riccati equation (K, S, poles)."""
    if not installed("control"):
        return None
    import control

    return lambda: control.dlqr(A, B, Q, R)


def stated_program(lq: LQ, bound: float | None = None) -> tuple[cp.Problem, list]:
    """Return the problem of the first system in cvxpy, with |u| <= bound if given, and its control variables."""
    T, _, n, m = lq.sizes
    x, u = cp.Variable((T + 1, n)), cp.Variable((T, m))
    cost = sum(cp.quad_form(x[t], cp.psd_wrap(lq.Q)) + cp.quad_form(u[t], cp.psd_wrap(lq.R)) for t in range(T))
    rules = [x[0] == lq.x0[0]] + [x[t + 1] == lq.A[t][0] @ x[t] + lq.B[t][0] @ u[t] for t in range(T)]
    rules += [] if bound is None else [cp.abs(u) <= bound]
    return cp.Problem(cp.Minimize((cost + cp.quad_form(x[T], cp.psd_wrap(lq.Qf))) / 2), rules), u


def program_from_words(lq: LQ, solver: str, bound: float | None = None) -> Callable[[], np.ndarray]:
    """Solve the problem from its statement by cvxpy, compilation included: controls (T, m)."""

    def run():
        program, u = stated_program(lq, bound)
        program.solve(solver=solver)
        return u.value

    return run


def program_compiled(lq: LQ, solver: str, bound: float | None = None) -> tuple[Callable[[], object], Callable]:
    """Solve by the solver alone a problem that cvxpy compiled once: controls (T, m) of its raw answer."""
    program, u = stated_program(lq, bound)
    data, chain, inverse = program.get_problem_data(solver, solver_opts={})

    def controls(raw):
        program.unpack_results(raw, chain, inverse)
        return u.value

    return lambda: chain.solve_via_data(program, data, solver_opts={}), controls
