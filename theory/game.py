"""Control against the worst disturbance: the smallest gain any state feedback can guarantee, and gains that do."""

from dataclasses import dataclass

import numpy as np

from theory.linear import positive, root, semidefinite, steps, symmetric, transpose, weights


@dataclass(frozen=True, eq=False)
class Game:
    """The level gamma of a disturbance game, the gains K_t that achieve it (u_t = -K_t x_t) and what they realise.

    gain: the largest singular value of the closed loop from (w_0..w_{T-1}) to (Q^1/2 x_t, R^1/2 u_t, Qf^1/2 x_T),
    x_0 = 0; it equals gamma at the optimum and is at most gamma at any level above.
    """

    gamma: float
    K: tuple
    gain: float


def game(A, B, D, Q, R, Qf, *, gamma=None) -> Game:
    """Return the least gamma with |z|^2 <= gamma^2 |w|^2 for some feedback u = -K x that does not see the present w.

    Dynamics x_{t+1} = A x + B u + D w, z as in `Game`. With S = [[R + B'PB, B'PD], [D'PB, D'PD - gamma^2 I]]:
    K = the u rows of S^-1 [B'PA; D'PA], P_t = Q + A'PA - [..]'S^-1[..]; gamma is feasible iff
    gamma^2 I - D'P_{t+1}D > 0 at every t (Basar and Bernhard, H-infinity optimal control, finite horizon).
    gamma=None bisects to the last bit; a number asks for the gains at that level. One system, no batch axes.
    D: T arrays (n, d). Raises ValueError for shapes that do not fit or a gamma that no feedback achieves.
    """
    A, B, D, Q, R, Qf = _checked(A, B, D, Q, R, Qf)
    if gamma is not None:
        K = _gains(A, B, D, Q, R, Qf, float(gamma))
        if K is None:
            raise ValueError(f"no feedback achieves gamma = {gamma}; ask for a larger level or leave gamma out")
        return Game(float(gamma), K, induced_gain(A, B, D, Q, R, Qf, K))
    high = 1.0
    while (best := _gains(A, B, D, Q, R, Qf, high)) is None:
        high *= 2.0
        if high > 1e150:
            raise ValueError("no feedback achieves a gamma below 1e150; measure the state in other units")
    low = 0.0
    while high - low > 4 * np.finfo(float).eps * high and high > 1e-150:
        middle = 0.5 * (low + high)
        K = _gains(A, B, D, Q, R, Qf, middle)
        low, high, best = (middle, high, best) if K is None else (low, middle, K)
    return Game(high, best, induced_gain(A, B, D, Q, R, Qf, best))


def _checked(A, B, D, Q, R, Qf):
    A, B = steps(A, B)
    _, D = steps(A, D)
    T, n = len(A), A[0].shape[-1]
    if any(x.ndim != 2 for x in (*A, *B, *D)):
        raise ValueError("the game takes one system at a time: A, B and D must be lists of matrices, without batch")
    return (
        A,
        B,
        D,
        semidefinite(weights(Q, [n] * T, "Q"), "Q"),
        positive(weights(R, [b.shape[-1] for b in B], "R"), "R"),
        semidefinite(weights(Qf, [n], "Qf"), "Qf")[0],
    )


def _gains(A, B, D, Q, R, Qf, gamma):
    """The gains at one level, or None when the level cannot be held."""
    P, K = Qf, []
    for t in reversed(range(len(A))):
        margin = gamma**2 * np.eye(D[t].shape[1]) - D[t].T @ P @ D[t]
        if not np.all(np.isfinite(margin)) or np.linalg.eigvalsh(margin)[0] <= 0:
            return None
        m, both = B[t].shape[1], np.hstack([B[t], D[t]])
        S = both.T @ P @ both
        S[:m, :m] += R[t]
        S[m:, m:] -= gamma**2 * np.eye(D[t].shape[1])
        cross = both.T @ P @ A[t]
        gains = np.linalg.solve(S, cross)
        K.append(gains[:m])
        P = symmetric(Q[t] + A[t].T @ P @ A[t] - cross.T @ gains)
    return tuple(reversed(K))


def induced_gain(A, B, D, Q, R, Qf, K) -> float:
    """Return the largest singular value of the closed loop (A - B K) from all disturbances to all penalised quantities.

    Rows: Q_t^1/2 x_t and R_t^1/2 u_t for t = 1..T-1, then Qf^1/2 x_T; columns: w_0..w_{T-1}; x_0 = 0.
    Shapes and errors as in `game`; K: T arrays (m, n).
    """
    A, B, D, Q, R, Qf = _checked(A, B, D, Q, R, Qf)
    widths = np.cumsum([0] + [d.shape[1] for d in D])
    X, rows = np.zeros((A[0].shape[0], widths[-1])), []  # x_t as a linear map of the disturbances
    for t in range(len(A)):
        rows += [transpose(root(Q[t])) @ X, transpose(root(R[t])) @ np.asarray(K[t], float) @ X]
        X = (A[t] - B[t] @ np.asarray(K[t], float)) @ X
        X[:, widths[t] : widths[t + 1]] += D[t]
    rows.append(transpose(root(Qf)) @ X)
    return float(np.linalg.norm(np.vstack(rows), 2))
