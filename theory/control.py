"""The control view: linear-quadratic control of x_{t+1} = A_t x_t + B_t u_t + c_t over a finite horizon.

`riccati` gives the feedback optimum, `output_lq` the same when only C terminal outputs are penalised, and
`expected_cost` what any affine policy costs under noise. The rest of the view is imported here so that one module
names it all: reach map and Gramian, the disturbance game, the ensemble optimum.
"""

from dataclasses import dataclass

import numpy as np

from theory.ensemble import Control, ensemble_lq, per_example_lq
from theory.game import Game, game, induced_gain
from theory.linear import (
    apply,
    gramian,
    minimum_energy,
    positive,
    reach,
    root,
    semidefinite,
    steps,
    symmetric,
    transition,
    transpose,
    weights,
)

__all__ = [
    "Control", "Game", "OutputRegulator", "Regulator", "Trajectory", "ensemble_lq", "expected_cost", "game",
    "gramian", "induced_gain", "minimum_energy", "output_lq", "per_example_lq", "reach", "riccati", "transition",
]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States x_0..x_T, controls u_0..u_{T-1} (tuples of arrays) and the realised cost."""

    states: tuple
    controls: tuple
    cost: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """The checked data of one affine linear-quadratic problem; q_t = -Q_t r_t are the linear weights of tracking."""

    A: tuple
    B: tuple
    Q: tuple
    R: tuple
    Qf: np.ndarray
    c: tuple
    reference: tuple

    def cost(self, states, controls):
        """1/2 sum (x-r)'Q(x-r) + u'Ru + 1/2 (x_T-r_T)'Qf(x_T-r_T) of one trajectory."""
        errors = [x - r for x, r in zip(states, self.reference, strict=True)]
        pairs = zip((*self.Q, self.Qf, *self.R), (*errors, *controls), strict=True)
        return 0.5 * sum(np.sum(v * apply(W, v), -1) for W, v in pairs)


def plan(A, B, Q, R, Qf, affine=None, reference=None) -> Plan:
    """The problem's data as float64 tuples, after every shape and definiteness check of `riccati`."""
    A, B = steps(A, B)
    T, n = len(A), A[0].shape[-1]
    Q = semidefinite(weights(Q, [n] * T, "Q"), "Q")
    R = positive(weights(R, [b.shape[-1] for b in B], "R"), "R")
    (Qf,) = semidefinite(weights(Qf, [n], "Qf"), "Qf")
    return Plan(A, B, Q, R, Qf, _vectors(affine, T, n, "affine"), _vectors(reference, T + 1, n, "reference"))


def _vectors(v, count, n, name):
    v = [np.zeros(n)] * count if v is None else [np.asarray(x, float) for x in v]
    if len(v) != count or any(x.shape[-1:] != (n,) for x in v):
        shapes = [x.shape for x in v]
        raise ValueError(f"{name} must be {count} vectors of shape (..., {n}), got {len(v)} of shapes {shapes[:3]}")
    return tuple(v)


@dataclass(frozen=True, eq=False)
class Regulator:
    """The optimal policy u_t = -K_t x - k_t and its value V_t(x) = 1/2 x'P_t x + p_t'x + s_t, t = 0..T.

    K: T gains (..., m, n), k: T offsets (..., m), p: T+1 vectors, s: T+1 numbers. P: T+1 matrices; the square-root
    forms keep Z_t with P_t = Z_t Z_t' in `roots` and multiply out on demand.
    """

    problem: Plan
    K: tuple
    k: tuple
    p: tuple
    s: tuple
    dense: tuple | None
    roots: tuple | None

    @property
    def P(self) -> tuple:
        """The value matrices P_0..P_T."""
        return self.dense if self.roots is None else tuple(Z @ transpose(Z) for Z in self.roots)

    def cost(self, x0):
        """The least cost from x0: 1/2 x0'P_0 x0 + p_0'x0 + s_0."""
        x0 = np.asarray(x0, float)
        if self.roots is None:
            squared = np.sum(x0 * apply(self.dense[0], x0), -1)
        else:
            squared = np.sum(apply(transpose(self.roots[0]), x0) ** 2, -1)
        return 0.5 * squared + np.sum(self.p[0] * x0, -1) + self.s[0]

    def rollout(self, x0, noise=None) -> Trajectory:
        """The closed loop from x0, with optional disturbances noise[t] (..., n) added to x_{t+1}."""
        return _roll(self.problem, x0, lambda t, x: -apply(self.K[t], x) - self.k[t], noise)


def _roll(problem, x0, policy, noise=None):
    x, states, controls = np.asarray(x0, float), [np.asarray(x0, float)], []
    for t, (A, B, c) in enumerate(zip(problem.A, problem.B, problem.c, strict=True)):
        controls.append(policy(t, x))
        x = apply(A, x) + apply(B, controls[-1]) + c + (0.0 if noise is None else noise[t])
        states.append(x)
    return Trajectory(tuple(states), tuple(controls), problem.cost(states, controls))


def riccati(A, B, Q, R, Qf, *, affine=None, reference=None, form="cholesky") -> Regulator:
    """The feedback law that minimises 1/2 sum_t (x_t-r_t)'Q_t(x_t-r_t) + u_t'R_t u_t + 1/2 (x_T-r_T)'Qf(x_T-r_T).

    Dynamics x_{t+1} = A_t x_t + B_t u_t + c_t (affine: T vectors c_t; reference: T+1 vectors r_t). With
    S = R + B'PB: K = S^-1 B'PA, P_t = Q + K'RK + (A-BK)'P(A-BK), k = S^-1 B'(p + Pc), p_t = q + (A-BK)'(p + Pc).
    form: "cholesky" factors S; "sqrt" propagates P = ZZ' by QR (terminal-only or cheap control); "lowrank" needs
    Q = 0 and keeps Z at the rank of Qf: Z_t = A'Z L^-T, LL' = I + Z'BR^-1B'Z. Source: Bertsekas, Dynamic
    Programming and Optimal Control, vol. I; array form: Kailath, Sayed and Hassibi, Linear Estimation, ch. 12.
    A, B: T arrays (..., n, n), (..., n, m). Q, R, Qf: a number, an array for all steps, or a list over steps.
    Raises ValueError for shapes that do not fit, R not positive definite, Q or Qf indefinite, an unknown form.
    """
    problem = plan(A, B, Q, R, Qf, affine, reference)
    q = [-apply(W, r) for W, r in zip((*problem.Q, problem.Qf), problem.reference, strict=True)]
    level = [0.5 * np.sum(-w * r, -1) for w, r in zip(q, problem.reference, strict=True)]
    if form == "lowrank" and any(np.any(Q) for Q in problem.Q):
        raise ValueError('form="lowrank" needs Q = 0 (only the terminal state costs); use form="sqrt" otherwise')
    if form not in _FORMS:
        raise ValueError(f"form must be one of {sorted(_FORMS)}, got {form!r}")
    start, step, value = _FORMS[form]
    V, p, s = start(problem.Qf), q[-1], level[-1]
    Vs, ps, ss, Ks, ks = [V], [p], [s], [], []
    for t in reversed(range(len(problem.A))):
        A, B, R, c = problem.A[t], problem.B[t], problem.R[t], problem.c[t]
        drift = value(V, c)                                     # P c
        K, solve, V_new = step(A, B, problem.Q[t], R, V)
        push = apply(transpose(B), p + drift)
        k = solve(push)
        s = s + level[t] + 0.5 * np.sum(c * drift, -1) + np.sum(p * c, -1) - 0.5 * np.sum(push * k, -1)
        p = q[t] + apply(transpose(A - B @ K), p + drift)
        V = V_new
        for kept, new in ((Vs, V), (ps, p), (ss, s), (Ks, K), (ks, k)):
            kept.append(new)
    K, k, V, p, s = (tuple(reversed(x)) for x in (Ks, ks, Vs, ps, ss))
    return Regulator(problem, K, k, p, s, V if form == "cholesky" else None, None if form == "cholesky" else V)


def _cholesky_step(A, B, Q, R, P):
    # the quadratic (Joseph) update costs one product more than Q + A'PA - K'SK and cannot turn indefinite
    PB = P @ B
    L = np.linalg.cholesky(symmetric(R + transpose(B) @ PB))

    def solve(Y):
        return np.linalg.solve(transpose(L), np.linalg.solve(L, Y))

    K = solve(transpose(PB) @ A)
    F = A - B @ K
    return K, lambda v: solve(v[..., None])[..., 0], symmetric(Q + transpose(K) @ R @ K + transpose(F) @ P @ F)


def _qr_step(A, B, Q, R, Z):
    m, n = B.shape[-1], A.shape[-1]
    Zt, Qt = transpose(Z), transpose(root(Q))
    blocks = (
        (Zt @ B, Zt @ A),
        (transpose(np.linalg.cholesky(R)), np.zeros((m, n))),
        (np.zeros((Qt.shape[-2], m)), Qt),
    )
    batch = np.broadcast_shapes(*(x.shape[:-2] for row in blocks for x in row))
    rows = [np.concatenate([np.broadcast_to(x, batch + x.shape[-2:]) for x in row], -1) for row in blocks]
    X = np.linalg.qr(np.concatenate(rows, -2), mode="r")
    S = X[..., :m, :m]
    K = np.linalg.solve(S, X[..., :m, m:])

    def solve(v):
        return np.linalg.solve(S, np.linalg.solve(transpose(S), v[..., None]))[..., 0]

    return K, solve, transpose(X[..., m:, m:])


def _lowrank_step(A, B, Q, R, Z):
    L = np.linalg.cholesky(R)
    Y = np.linalg.solve(L, transpose(B) @ Z)                    # R^-1/2 B'Z, (..., m, rank)
    E = np.linalg.cholesky(np.eye(Z.shape[-1]) + transpose(Y) @ Y)
    Z_new = transpose(np.linalg.solve(E, transpose(Z) @ A))     # A'Z E^-T
    N = np.linalg.solve(E, transpose(Y))                        # E^-1 Z'B R^-T/2

    def right(v):                                               # R^-T/2 v
        return np.linalg.solve(transpose(L), v)

    K = right(transpose(N) @ transpose(Z_new))

    def solve(v):                                               # (R + B'ZZ'B)^-1 v = R^-T/2 (I - N'N) R^-1/2 v
        w = np.linalg.solve(L, v[..., None])
        return right(w - transpose(N) @ (N @ w))[..., 0]

    return K, solve, Z_new


def _through_root(Z, c):
    return apply(Z, apply(transpose(Z), c))


_FORMS = {
    "cholesky": (lambda Qf: Qf, _cholesky_step, apply),
    "sqrt": (root, _qr_step, _through_root),
    "lowrank": (root, _lowrank_step, _through_root),
}


def expected_cost(A, B, Q, R, Qf, x0, covariance, K, k, *, affine=None, reference=None):
    """The expected cost of the policy u_t = -K_t x - k_t from x0 under noise w_t ~ (0, covariance) on x_{t+1}.

    E J = cost of the mean + 1/2 sum tr((Q_t + K_t'R_t K_t) S_t) + 1/2 tr(Qf S_T), S_{t+1} = (A-BK)S(A-BK)' + cov.
    The optimal gains give the closed-loop value, K = 0 with k = -u* the open-loop one; the difference is the value
    of feedback. Problem as in `riccati`; K, k: T arrays. Raises ValueError for shapes that do not fit.
    """
    problem = plan(A, B, Q, R, Qf, affine, reference)
    T, n = len(problem.A), problem.A[0].shape[-1]
    noise = semidefinite(weights(covariance, [n] * T, "covariance"), "covariance")
    if len(K) != T or len(k) != T:
        raise ValueError(f"K and k must hold one gain and one offset for each of {T} steps, got {len(K)}, {len(k)}")
    K, k = [np.asarray(x, float) for x in K], [np.asarray(x, float) for x in k]
    mean = _roll(problem, x0, lambda t, x: -apply(K[t], x) - k[t]).cost
    S, spread = np.zeros((n, n)), 0.0
    for t in range(T):
        running = problem.Q[t] + transpose(K[t]) @ problem.R[t] @ K[t]
        spread = spread + np.trace(running @ S, axis1=-2, axis2=-1)
        F = problem.A[t] - problem.B[t] @ K[t]
        S = F @ S @ transpose(F) + noise[t]
    return mean + 0.5 * (spread + np.trace(problem.Qf @ S, axis1=-2, axis2=-1))


@dataclass(frozen=True, eq=False)
class OutputRegulator:
    """The optimum of 1/2 z'Mz + g'z + 1/2 sum u_t'R_t u_t over z = sum_t G_t u_t, and its feedback law.

    u: T controls (..., m_t). costate: (..., C), u_t = -R_t^-1 G_t' costate. W: T+1 remaining Gramians
    W_t = sum_{s>=t} G_s R_s^-1 G_s'. value: the least cost (zero control costs 0). shift: the outputs' shift z.
    """

    G: tuple
    R: tuple
    M: np.ndarray
    g: np.ndarray
    W: tuple
    u: tuple
    costate: np.ndarray
    shift: np.ndarray
    value: np.ndarray

    def law(self, t: int):
        """The matrix R_t^-1 G_t' (I + M W_t)^-1 of shape (..., m_t, C) that turns output slopes into controls."""
        inner = np.eye(self.M.shape[-1]) + self.M @ self.W[t]
        return np.linalg.solve(self.R[t], transpose(np.linalg.solve(transpose(inner), self.G[t])))

    def control(self, t: int, e):
        """u_t = -law_t (g + M e), e (..., C) the output deviation predicted at layer t if control stopped there."""
        return -apply(self.law(t), self.g + apply(self.M, np.asarray(e, float)))

    def gain(self, t: int, observe):
        """K_t = law_t M observe (..., m_t, n) with observe = C Phi(T,t) (..., C, n): u_t = u_t(0) - K_t dx_t."""
        return self.law(t) @ self.M @ np.asarray(observe, float)


def output_lq(G, M, g, R) -> OutputRegulator:
    """The optimal open-loop controls and rank-limited feedback when only C terminal outputs are penalised.

    Minimises 1/2 z'Mz + g'z + 1/2 sum_t u_t'R_t u_t, z = sum_t G_t u_t: costate = (I + M W_0)^-1 g. No n x n matrix
    is formed; each gain has rank <= rank M (C - 1 for the softmax). Source: derived in `theory.derivations`.
    G: T arrays (..., C, m_t), M: (..., C, C), g: (..., C), R: number, array or list. Raises ValueError for shapes
    that do not fit, M indefinite, or R not positive definite.
    """
    G = tuple(np.asarray(x, float) for x in G)
    if not G or any(x.ndim < 2 or x.shape[-2] != G[0].shape[-2] for x in G):
        raise ValueError(f"G must be a sequence of (..., C, m) arrays with one C, got {[x.shape for x in G]}")
    C = G[0].shape[-2]
    R = positive(weights(R, [x.shape[-1] for x in G], "R"), "R")
    (M,) = semidefinite(weights(M, [C], "M"), "M")
    g = np.asarray(g, float)
    if g.shape[-1:] != (C,):
        raise ValueError(f"g must have shape (..., {C}), got {g.shape}")
    W = [np.zeros((C, C))]
    for Gt, Rt in zip(reversed(G), reversed(R), strict=True):
        W.append(symmetric(W[-1] + Gt @ np.linalg.solve(Rt, transpose(Gt))))
    W = tuple(reversed(W))
    costate = np.linalg.solve(np.eye(C) + M @ W[0], g[..., None])[..., 0]
    u = tuple(-apply(np.linalg.solve(Rt, transpose(Gt)), costate) for Gt, Rt in zip(G, R, strict=True))
    shift = -apply(W[0], costate)
    return OutputRegulator(G, R, M, g, W, u, costate, shift, 0.5 * np.sum(g * shift, -1))
