"""Least squares under a limit on the rank: the closed form behind a low-rank feedback law fitted to known controls."""

import numpy as np

from theory.linear import transpose


def reduced_rank(X, U, ridge: float, rank: int):
    """Return the factors (down, up) of the map x -> up down x of rank at most `rank` that best turns inputs into outputs.

    Minimises |U - X B|_F^2 + ridge |B|_F^2 over rank(B) <= rank, B = (up down)': with B_r the ridge solution and V the
    leading right singular vectors of [X; sqrt(ridge) I] B_r, the optimum is B = B_r V V' (Izenman 1975; with a ridge:
    Mukherjee and Zhu 2011, section 2). X (N, p), U (N, m); down (rank, p), up (m, rank) with orthonormal columns. Raises
    ValueError for shapes that do not fit, ridge <= 0, or a rank outside 1..min(p, m).
    """
    X, U = np.asarray(X, float), np.asarray(U, float)
    if X.ndim != 2 or U.ndim != 2 or len(X) != len(U):
        raise ValueError(f"X must have shape (N, p) and U (N, m) with one N, got {X.shape} and {U.shape}")
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}; a tiny one stands for least squares")
    if not 1 <= rank <= min(X.shape[1], U.shape[1]):
        raise ValueError(f"rank must lie in 1..{min(X.shape[1], U.shape[1])} for these shapes, got {rank}")
    B = transpose(X) @ np.linalg.solve(X @ transpose(X) + ridge * np.eye(len(X)), U)
    fitted = np.vstack([X @ B, np.sqrt(ridge) * B])
    V = np.linalg.svd(fitted, full_matrices=False)[2][:rank].T
    return transpose(B @ V), V
