"""Where a delta's training should lie: in the numbers that move the outputs as the leading signals at the ports do.

Every delta acts through signals at the ports. What the frozen network lets signals do to its outputs, its response G_s, is
known before training and knows no delta; G_t is a delta's own response. The directions u_1, u_2, ... in which signals of a
given size move the outputs most are the same for all deltas, and so is a code of d of them.

>>> G = np.diag([3.0, 2.0, 1.0])
>>> np.allclose(np.abs(decoder_of_signals(G, G, 2)), np.eye(3)[:, :2])
True
"""

import numpy as np
from scipy.linalg import svd

RIDGE = 1e-4  # over the largest eigenvalue of G_t G_t': a delta is not asked for outputs that it hardly moves


def decoder_of_signals(signals, own, dimension, *, ridge=RIDGE):
    """Return the directions of a delta's numbers that move the outputs as the d leading signals do, orthonormal (M, k).

    z_i = G_t' (G_t G_t' + ridge s_1^2 I)^-1 u_i, the least numbers that move the outputs by u_i, the i-th left singular vector of
    the signals' response `signals` (N, S); own is the delta's response G_t (N, M) on the same outputs, s_1 its largest singular
    value. k = min(d, the ranks of both), the columns in the order of i. Derived. Raises ValueError for responses on different
    outputs, for one that is zero, and for a dimension or ridge that is not positive.
    """
    signals, own = (np.asarray(G, float) for G in (signals, own))
    if signals.ndim != 2 or own.ndim != 2 or len(signals) != len(own):
        raise ValueError(f"responses must have one row per output of the same texts, got {signals.shape} and {own.shape}")
    if dimension < 1 or not ridge > 0:
        raise ValueError(f"dimension and ridge must be positive, got {dimension} and {ridge}")
    u, s, _ = svd(signals, full_matrices=False, lapack_driver="gesvd")
    kernel = own @ own.T
    largest = float(np.linalg.eigvalsh(kernel)[-1])
    if not (s[0] > 0 and largest > 0):
        raise ValueError("a response that is zero moves no output: choose other texts or another start of the delta")
    k = min(dimension, int(np.sum(s > 1e-6 * s[0])), own.shape[1])
    z = own.T @ np.linalg.solve(kernel + ridge * largest * np.eye(len(kernel)), u[:, :k])
    q, r = np.linalg.qr(z)
    return q * np.sign(np.diagonal(r))


def random_row_space(own, dimension, rng):
    """Return random orthonormal directions (M, k) in the row space of a delta's response (N, M): a null."""
    _, s, vt = svd(np.asarray(own, float), full_matrices=False, lapack_driver="gesvd")
    rows = vt[s > 1e-6 * s[0]].T
    return rows @ np.linalg.qr(rng.standard_normal((rows.shape[1], min(dimension, rows.shape[1]))))[0]
