"""The control view: linear-quadratic control of x_{t+1} = A_t x_t + B_t u_t + c_t over a finite horizon.

`riccati` gives the feedback optimum, `output_lq` the same when only C terminal outputs are penalised, and
`expected_cost` what any affine policy costs under noise.

    >>> A, B, one = [np.eye(1)] * 2, [np.eye(1)] * 2, np.ones(1)
    >>> law = riccati(A, B, 1.0, 1.0, 1.0)
    >>> still, open_loop = [np.zeros((1, 1))] * 2, [-u for u in law.rollout(one).controls]
    >>> closed = expected_cost(A, B, 1.0, 1.0, 1.0, one, 1.0, law.K, law.k)
    >>> bool(closed < expected_cost(A, B, 1.0, 1.0, 1.0, one, 1.0, still, open_loop))
    True
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsyrk, dtrsm
from scipy.linalg.lapack import dpotrf

from theory.linear import apply, diagonal, positive, root, semidefinite, steps, symmetric, transpose, weights


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States x_0..x_T, controls u_0..u_{T-1} (tuples of arrays) and the realised cost."""

    states: tuple
    controls: tuple
    cost: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """The checked data of one affine linear-quadratic problem; plain: every affine, reference and linear term is zero."""

    A: tuple
    B: tuple
    Q: tuple
    R: tuple
    Qf: np.ndarray
    c: tuple
    reference: tuple
    linear: tuple
    plain: bool

    def cost(self, states, controls):
        """Return the cost 1/2 sum (x-r)'Q(x-r) + u'Ru + 1/2 (x_T-r_T)'Qf(x_T-r_T) + sum linear'x of one trajectory."""
        errors = [x - r for x, r in zip(states, self.reference, strict=True)]
        pairs = zip((*self.Q, self.Qf, *self.R), (*errors, *controls), strict=True)
        slopes = sum(np.sum(g * x, -1) for g, x in zip(self.linear, states, strict=True))
        return 0.5 * sum(np.sum(v * apply(W, v), -1) for W, v in pairs) + slopes


def plan(A, B, Q, R, Qf, affine=None, reference=None, linear=None) -> Plan:
    """Return the problem's data as float64 tuples, after every shape and definiteness check of `riccati`."""
    A, B = steps(A, B)
    T, n = len(A), A[0].shape[-1]
    Q = semidefinite(weights(Q, [n] * T, "Q"), "Q")
    R = positive(weights(R, [b.shape[-1] for b in B], "R"), "R")
    (Qf,) = semidefinite(weights(Qf, [n], "Qf"), "Qf")
    c, r, g = _vectors(affine, T, n, "affine"), _vectors(reference, T + 1, n, "reference"), _vectors(linear, T + 1, n, "linear")
    return Plan(A, B, Q, R, Qf, c, r, g, not any(np.any(v) for v in (*c, *r, *g)))


def _vectors(v, count, n, name):
    v = [np.zeros(n)] * count if v is None else [np.asarray(x, float) for x in v]
    if len(v) != count or any(x.shape[-1:] != (n,) for x in v):
        shapes = [x.shape for x in v]
        raise ValueError(f"{name} must be {count} vectors of shape (..., {n}), got {len(v)} of shapes {shapes[:3]}")
    return tuple(v)


@dataclass(frozen=True, eq=False)
class Regulator:
    """The optimal policy u_t = -K_t x - k_t and its value V_t(x) = 1/2 x'P_t x + p_t'x + s_t, t = 0..T.

    K: T gains (..., m, n), k: T offsets (..., m), P: T+1 matrices, p: T+1 vectors, s: T+1 numbers. `values` holds P_t
    as the form computes it (square-root forms: Z_t with P_t = Z_t Z_t'; identity form: its upper triangle) and `gains`
    K_t or a function that makes it; P and K are multiplied out on demand.
    """

    problem: Plan
    form: str
    values: tuple
    gains: tuple
    k: tuple
    p: tuple
    s: tuple

    @cached_property
    def P(self) -> tuple:
        """Return the value matrices P_0..P_T."""
        return tuple(_FORMS[self.form].dense(V) for V in self.values)

    @cached_property
    def K(self) -> tuple:
        """Return the gains K_0..K_{T-1}."""
        return _made(self.gains)

    def cost(self, x0):
        """Return the least cost from x0: 1/2 x0'P_0 x0 + p_0'x0 + s_0."""
        x0 = np.asarray(x0, float)
        return np.sum(x0 * (0.5 * _FORMS[self.form].product(self.values[0], x0) + self.p[0]), -1) + self.s[0]

    def rollout(self, x0, noise=None) -> Trajectory:
        """Return the closed loop from x0, with optional disturbances noise[t] (..., n) added to x_{t+1}."""
        return _roll(self.problem, x0, lambda t, x: -apply(self.K[t], x) - self.k[t], noise)


def _roll(problem, x0, policy, noise=None):
    x, states, controls = np.asarray(x0, float), [np.asarray(x0, float)], []
    for t, (A, B, c) in enumerate(zip(problem.A, problem.B, problem.c, strict=True)):
        controls.append(policy(t, x))
        x = apply(A, x) + apply(B, controls[-1]) + c + (0.0 if noise is None else noise[t])
        states.append(x)
    return Trajectory(tuple(states), tuple(controls), problem.cost(states, controls))


def riccati(A, B, Q, R, Qf, *, affine=None, reference=None, linear=None, form="cholesky") -> Regulator:
    """Return the feedback law of least 1/2 sum_t e_t'Q_t e_t + u_t'R_t u_t + 1/2 e_T'Qf e_T + sum_t g_t'x_t, e_t = x_t - r_t.

    Dynamics x_{t+1} = A_t x_t + B_t u_t + c_t (affine: T vectors c_t; reference, linear: T+1 vectors r_t, g_t). With S = R +
    B'PB: K = S^-1 B'PA, P_t = Q + K'RK + (A-BK)'P(A-BK), k = S^-1 B'(p + Pc), p_t = q + (A-BK)'(p + Pc).
    form: "cholesky" factors S; "sqrt" propagates P = ZZ' by QR (terminal-only or cheap control); "lowrank" needs Q = 0 and
    keeps Z at the rank of Qf: Z_t = A'Z E^-T, EE' = I + Z'BR^-1B'Z; "identity" needs B_t = I and R_t = r I and takes a
    quarter of the work: P_t = Q + r A'A - r^2 Y'Y, Y = L^-1 A, LL' = P + rI.
    Source: Bertsekas, Dynamic Programming and Optimal Control, vol. I; array form: Kailath, Sayed and Hassibi, Linear
    Estimation, ch. 12; identity form: derived (matrix inversion lemma).
    A, B: T arrays (..., n, n), (..., n, m). Q, R, Qf: a number, an array for all steps, or a list over steps. Raises
    ValueError for shapes that do not fit, R not positive definite, Q or Qf indefinite, an unknown form or one that the
    problem does not admit.
    """
    if form not in _FORMS:
        raise ValueError(f"form must be one of {sorted(_FORMS)}, got {form!r}")
    problem = plan(A, B, Q, R, Qf, affine, reference, linear)
    values, gains, solves = _FORMS[form].recursion(problem)
    T, n = len(problem.A), problem.A[0].shape[-1]
    if problem.plain:  # no linear terms: the offsets vanish
        k = tuple(np.zeros(b.shape[-1]) for b in problem.B)
        return Regulator(problem, form, values, gains, k, (np.zeros(n),) * (T + 1), (0.0,) * (T + 1))
    gains = _made(gains)
    pull = [apply(W, r) for W, r in zip((*problem.Q, problem.Qf), problem.reference, strict=True)]
    q = [g - w for g, w in zip(problem.linear, pull, strict=True)]
    level = [0.5 * np.sum(w * r, -1) for w, r in zip(pull, problem.reference, strict=True)]
    product, k, p, s = _FORMS[form].product, [], [q[-1]], [level[-1]]
    for t in reversed(range(T)):
        B, c = problem.B[t], problem.c[t]
        drift = product(values[t + 1], c)  # P c
        slope = p[-1] + drift
        push = apply(transpose(B), slope)
        k.append(solves[t](push[..., None])[..., 0])
        s.append(s[-1] + level[t] + np.sum(c * (0.5 * drift + p[-1]), -1) - 0.5 * np.sum(push * k[-1], -1))
        p.append(q[t] + apply(transpose(problem.A[t]), slope) - apply(transpose(gains[t]), push))
    return Regulator(problem, form, values, gains, *(tuple(reversed(x)) for x in (k, p, s)))


def _made(gains):
    return tuple(gain() if callable(gain) else gain for gain in gains)


def _stepwise(start, step):
    """The backward recursion from V_T = start(Qf) by step(A, B, Q, R, V) -> gain, solver of S, V."""

    def recursion(problem):
        values, gains, solves = [start(problem.Qf)], [], []
        for data in zip(*(reversed(x) for x in (problem.A, problem.B, problem.Q, problem.R)), strict=True):
            gain, solve, V = step(*data, values[-1])
            for kept, new in ((gains, gain), (solves, solve), (values, V)):
                kept.append(new)
        return tuple(tuple(reversed(x)) for x in (values, gains, solves))

    return recursion


def _solver(S):
    """The map Y -> S^-1 Y for positive definite S, (..., m, m) and (..., m, k)."""
    if S.ndim == 2:
        return partial(cho_solve, cho_factor(S, lower=True))
    L = np.linalg.cholesky(S)
    return lambda Y: np.linalg.solve(transpose(L), np.linalg.solve(L, Y))


def _cholesky_step(A, B, Q, R, P):
    # the quadratic (Joseph) update costs one product more than Q + A'PA - K'SK and cannot turn indefinite
    PB = P @ B
    solve = _solver(symmetric(R + transpose(B) @ PB))
    K = solve(transpose(PB) @ A)
    F = A - B @ K
    return K, solve, symmetric(Q + transpose(K) @ R @ K + transpose(F) @ P @ F)


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
    return K, lambda Y: np.linalg.solve(S, np.linalg.solve(transpose(S), Y)), transpose(X[..., m:, m:])


def _lowrank(problem):
    if any(np.any(Q) for Q in problem.Q):
        raise ValueError('form="lowrank" needs Q = 0 (only the terminal state costs); use form="sqrt" otherwise')
    return _stepwise(root, _lowrank_step)(problem)


def _lowrank_step(A, B, Q, R, Z):
    if diagonal(R):  # R = LL'; left: L^-1 v, right: L^-T v
        scale = np.sqrt(np.diagonal(R, axis1=-2, axis2=-1))[..., None]
        left = right = partial(np.multiply, 1.0 / scale)
    else:
        L = np.linalg.cholesky(R)
        left, right = partial(np.linalg.solve, L), partial(np.linalg.solve, transpose(L))
    Y = left(transpose(B) @ Z)  # (..., m, rank)
    E = np.linalg.cholesky(np.eye(Z.shape[-1]) + symmetric(transpose(Y) @ Y))
    Z_new = transpose(np.linalg.solve(E, transpose(Z) @ A))  # A'Z E^-T
    N = np.linalg.solve(E, transpose(Y))  # E^-1 Z'B L^-T

    def solve(v):  # (R + B'ZZ'B)^-1 v = L^-T (I - N'N) L^-1 v
        w = left(v)
        return right(w - transpose(N) @ (N @ w))

    return partial(np.matmul, right(transpose(N)), transpose(Z_new)), solve, Z_new


_GATE = 1e-3  # below this share of what is subtracted, the identity form's difference has lost three digits


def _identity(problem):
    """The identity form's values (upper triangles), in one array so that memory is asked for once."""
    T, n = len(problem.A), problem.A[0].shape[-1]
    eye = np.eye(n)
    if any(b.shape[-1] != n or np.any(b != eye) for b in {id(b): b for b in problem.B}.values()):
        raise ValueError('form="identity" needs B = I at every step, a control added to the whole state; use form="cholesky"')
    if any(R.ndim != 2 or not np.array_equal(R, R[0, 0] * eye) for R in {id(R): R for R in problem.R}.values()):
        raise ValueError('form="identity" needs R = r I with a number r at every step; use form="cholesky"')
    r = [float(R[0, 0]) for R in problem.R]
    batch = np.broadcast_shapes(*(x.shape[:-2] for x in (*problem.A, *problem.B, *problem.Q, problem.Qf)))
    A, Q = problem.A, problem.Q
    if batch:
        A, Q = ([np.broadcast_to(x, (*batch, n, n)) for x in data] for data in (A, Q))
    V, members = np.empty((T + 1, *batch, n, n)), list(np.ndindex(batch))
    V[T] = problem.Qf
    for t in reversed(range(T)):
        for i in members:
            _identity_step(A[t][i], Q[t][i], r[t], V[t + 1][i], V[t][i])
    gains = tuple(partial(_identity_gain, *x) for x in zip(problem.A, r, V[1:], strict=True))
    return tuple(V), gains, tuple(partial(_identity_solve, *x) for x in zip(r, V[1:], strict=True))


def _identity_step(A, Q, r, P, out):
    """Writes Q + r A'A - r^2 A'(P + rI)^-1 A into out, upper triangles only; by the general step where that cancels.

    LAPACK reads the transposes of these row-major arrays, so their upper triangles are its lower ones. The result over
    what it is subtracted from is a Rayleigh quotient of P (P + rI)^-1 (or more, by Q), hence at least l / (l + r) with l
    the least eigenvalue of P: it is small only where P is small against r.
    """
    n = len(A)
    S = np.array(P.T, order="F")
    S.reshape(-1, order="F")[:: n + 1] += r
    L, failed = dpotrf(S, lower=1, clean=0, overwrite_a=1)
    out[...] = Q
    if not failed:
        Yt = dtrsm(1.0, L, A.T, side=1, lower=1, trans_a=1)  # (L^-1 A)'
        dsyrk(r, A.T, beta=1.0, c=out.T, lower=1, overwrite_c=1)
        whole = np.diagonal(out).max()
        dsyrk(-r * r, Yt, beta=1.0, c=out.T, lower=1, overwrite_c=1)
    if failed or np.diagonal(out).max() < _GATE * whole:
        out[...] = _cholesky_step(A, np.eye(n), Q, r * np.eye(n), _mirrored(P))[-1]


def _mirrored(V):
    """The symmetric matrix with the upper triangle of V."""
    return np.triu(V) + transpose(np.triu(V, 1))


def _identity_solve(r, V, Y):
    return np.linalg.solve(_mirrored(V) + r * np.eye(V.shape[-1]), Y)


def _identity_gain(A, r, V):
    return _identity_solve(r, V, _mirrored(V) @ A)


def _through_root(Z, c):
    return apply(Z, apply(transpose(Z), c))


def _squared(Z):
    return Z @ transpose(Z)


class _Form(NamedTuple):
    recursion: Callable  # problem -> values, gains, solvers of S
    dense: Callable  # value -> P
    product: Callable  # value, x -> P x


_FORMS = {
    "cholesky": _Form(_stepwise(lambda Qf: Qf, _cholesky_step), lambda P: P, apply),
    "identity": _Form(_identity, _mirrored, lambda V, x: apply(_mirrored(V), x)),
    "lowrank": _Form(_lowrank, _squared, _through_root),
    "sqrt": _Form(_stepwise(root, _qr_step), _squared, _through_root),
}


def expected_cost(A, B, Q, R, Qf, x0, covariance, K, k, *, affine=None, reference=None, linear=None):
    """Return the expected cost of the policy u_t = -K_t x - k_t from x0 under noise w_t ~ (0, covariance) on x_{t+1}.

    E J = cost of the mean + 1/2 sum tr((Q_t + K_t'R_t K_t) S_t) + 1/2 tr(Qf S_T), S_{t+1} = (A-BK)S(A-BK)' + cov.
    The optimal gains give the closed-loop value, K = 0 with k = -u* the open-loop one; the difference is the value
    of feedback. Problem as in `riccati`; K, k: T arrays. Raises ValueError for shapes that do not fit.
    """
    problem = plan(A, B, Q, R, Qf, affine, reference, linear)
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
        """Return the matrix R_t^-1 G_t' (I + M W_t)^-1 of shape (..., m_t, C) that turns output slopes into controls."""
        inner = np.eye(self.M.shape[-1]) + self.M @ self.W[t]
        return np.linalg.solve(self.R[t], transpose(np.linalg.solve(transpose(inner), self.G[t])))

    def control(self, t: int, e):
        """Return u_t = -law_t (g + M e), e (..., C) the output deviation predicted at layer t if control stopped there."""
        return -apply(self.law(t), self.g + apply(self.M, np.asarray(e, float)))

    def gain(self, t: int, observe):
        """Return K_t = law_t M observe (..., m_t, n) with observe = C Phi(T,t) (..., C, n): u_t = u_t(0) - K_t dx_t."""
        return self.law(t) @ self.M @ np.asarray(observe, float)


def checked_outputs(G, M, g, R):
    """Return the data of `output_lq` as float64 arrays, R one weight per step, after every check."""
    G = tuple(np.asarray(x, float) for x in G)
    if not G or any(x.ndim < 2 or x.shape[-2] != G[0].shape[-2] for x in G):
        raise ValueError(f"G must be a sequence of (..., C, m) arrays with one C, got {[x.shape for x in G]}")
    C = G[0].shape[-2]
    R = positive(weights(R, [x.shape[-1] for x in G], "R"), "R")
    (M,) = semidefinite(weights(M, [C], "M"), "M")
    g = np.asarray(g, float)
    if g.shape[-1:] != (C,):
        raise ValueError(f"g must have shape (..., {C}), got {g.shape}")
    if not all(np.all(np.isfinite(x)) for x in (*G, g)):
        raise ValueError("G and g must be finite, got NaN or infinity; check the linearisation")
    return G, M, g, R


def output_lq(G, M, g, R) -> OutputRegulator:
    """Return the optimal open-loop controls and rank-limited feedback when only C terminal outputs are penalised.

    Minimises 1/2 z'Mz + g'z + 1/2 sum_t u_t'R_t u_t, z = sum_t G_t u_t: costate = (I + M W_0)^-1 g. No n x n matrix
    is formed; each gain has rank <= rank M (C - 1 for the softmax). Source: derived in `theory.derivations`.
    G: T arrays (..., C, m_t), M: (..., C, C), g: (..., C), R: number, array or list. Raises ValueError for shapes
    that do not fit, M indefinite, or R not positive definite.
    """
    G, M, g, R = checked_outputs(G, M, g, R)
    C = M.shape[-1]
    W = [np.zeros((C, C))]
    for Gt, Rt in zip(reversed(G), reversed(R), strict=True):
        W.append(symmetric(W[-1] + Gt @ np.linalg.solve(Rt, transpose(Gt))))
    W = tuple(reversed(W))
    costate = np.linalg.solve(np.eye(C) + M @ W[0], g[..., None])[..., 0]
    u = tuple(-apply(np.linalg.solve(Rt, transpose(Gt)), costate) for Gt, Rt in zip(G, R, strict=True))
    shift = -apply(W[0], costate)
    return OutputRegulator(G, R, M, g, W, u, costate, shift, 0.5 * np.sum(g * shift, -1))
