"""Linear time-varying systems x_{t+1} = A_t x_t + B_t u_t over a finite horizon: reach map, Gramian, least energy.

Matrices come as sequences over t of (..., n, n) and (..., n, m_t); leading axes are a batch and broadcast.

    >>> A, B = [np.stack([np.eye(2)] * 3)] * 2, [np.ones((3, 2, 1))] * 2  # three samples under the same two numbers
    >>> found = endpoint_rank(A, B)
    >>> found.rank, found.states, found.controllable
    (1, 6, False)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpstrf

from theory.ensemble import Control


def transpose(X):
    """Return X with its last two axes exchanged."""
    return np.swapaxes(X, -1, -2)


def symmetric(X):
    """Return the symmetric part of X; it keeps rounding from growing into an indefinite value function."""
    return 0.5 * (X + transpose(X))


def apply(X, v):
    """Return the matrix-vector product over leading batch axes."""
    return (X @ v[..., None])[..., 0]


def steps(A, B):
    """Return the sequences A and B as tuples of float64 arrays, after checking that they are finite and their shapes fit."""
    A = tuple(np.asarray(a, float) for a in A)
    B = tuple(np.asarray(b, float) for b in B)
    if not A or len(A) != len(B):
        raise ValueError(f"A and B must have one matrix per step, at least one, got {len(A)} and {len(B)}")
    n = A[0].shape[-1]
    for t, (a, b) in enumerate(zip(A, B, strict=True)):
        if a.ndim < 2 or a.shape[-2:] != (n, n):
            raise ValueError(f"A[{t}] must have shape (..., {n}, {n}) like A[0], got {a.shape}")
        if b.ndim < 2 or b.shape[-2] != n:
            raise ValueError(f"B[{t}] must have shape (..., {n}, m) to match A[{t}], got {b.shape}")
        if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
            raise ValueError(f"the matrices of step {t} must be finite, got NaN or infinity; check the linearisation")
    return A, B


def weights(X, sizes: Sequence[int], name: str):
    """Return X as one symmetric weight per step.

    X is a number (times the identity), one array (shared by all steps, leading axes are a batch) or a list or tuple
    of per-step arrays. Raises ValueError when a shape does not fit or a matrix is not symmetric.
    """
    if isinstance(X, list | tuple) and X and np.ndim(X[0]) != 1:
        if len(X) != len(sizes):
            raise ValueError(f"{name} must be one matrix or a list of {len(sizes)}, got a list of {len(X)}")
        per_step = [np.asarray(x, float) for x in X]
    else:
        per_step = [np.asarray(X, float)] * len(sizes)
    out, known = [], {}  # data shared by several steps are checked once
    for t, (x, n) in enumerate(zip(per_step, sizes, strict=True)):
        if (id(x), n) not in known:
            known[id(x), n] = x * np.eye(n) if x.ndim == 0 and np.isfinite(x) else _symmetric_weight(x, n, f"{name} at step {t}")
        out.append(known[id(x), n])
    return tuple(out)


def _symmetric_weight(x, n, name):
    if x.ndim < 2 or x.shape[-2:] != (n, n):
        raise ValueError(f"{name} must be a finite number or have shape (..., {n}, {n}), got shape {x.shape}")
    y = transpose(x)
    if not (np.array_equal(x, y) or np.allclose(x, y, rtol=1e-10, atol=1e-12 * np.abs(x).max(initial=0.0))):
        raise ValueError(f"{name} must be symmetric; pass (X + X')/2")
    return symmetric(x)


def diagonal(X) -> bool:
    """Return whether every matrix of the stack X is diagonal."""
    return np.count_nonzero(X) == np.count_nonzero(np.diagonal(X, axis1=-2, axis2=-1))


def positive(X, name: str):
    """Return X, after checking that every matrix is positive definite."""
    for t, x in _distinct(X):
        try:
            if not diagonal(x):
                np.linalg.cholesky(x)
            elif not np.diagonal(x, axis1=-2, axis2=-1).min() > 0:
                raise np.linalg.LinAlgError
        except np.linalg.LinAlgError:
            raise ValueError(f"{name} at step {t} must be positive definite; every control must cost") from None
    return X


def semidefinite(X, name: str):
    """Return X, after checking that every matrix is positive semi-definite up to rounding (1e-12 of its largest eigenvalue)."""
    for t, x in _distinct(X):
        if _certified(x):
            continue
        spectrum = np.linalg.eigvalsh(x)
        if spectrum.min() < -1e-12 * max(np.abs(spectrum).max(), 1e-300):
            raise ValueError(f"{name} at step {t} must be positive semi-definite, least eigenvalue {spectrum.min():.3g}")
    return X


def _distinct(X):
    return {id(x): (t, x) for t, x in reversed(list(enumerate(X)))}.values()


def _certified(x):
    """Whether a factorisation, cheaper than the spectrum, already shows that x is positive semi-definite."""
    if diagonal(x):
        values = np.diagonal(x, axis1=-2, axis2=-1)
        return bool(values.min() >= -1e-12 * np.abs(values).max())
    try:
        np.linalg.cholesky(x)
        return True
    except np.linalg.LinAlgError:
        Z = root(x)  # no eigenvalue of x is below -|x - ZZ'|
        miss = np.linalg.norm(x - Z @ transpose(Z), axis=(-2, -1))
        return bool(np.all(miss <= 1e-12 * np.abs(x).max((-2, -1))))


def root(X):
    """Return Z (..., n, rank) with Z Z' = X for a positive semi-definite X, rank its largest numerical rank (at least 1).

    Pivoted Cholesky, stopped where the remaining diagonal is below n eps of the largest entry: O(n rank^2). Source:
    Higham, Accuracy and Stability of Numerical Algorithms, section 10.3.
    """
    X = np.asarray(X, float)
    n = X.shape[-1]
    factors = [dpstrf(x, lower=1) for x in X.reshape(-1, n, n)]
    Z = np.zeros((len(factors), n, max([1, *(rank for _, _, rank, _ in factors)])))
    for z, (L, pivots, rank, _) in zip(Z, factors, strict=True):
        z[pivots - 1, :rank] = np.tril(L[:, :rank])
    return Z.reshape(*X.shape[:-1], -1)


def transition(A):
    """Return the map Phi(T, 0) = A_{T-1} ... A_0 from the first to the last state, (..., n, n)."""
    phi = np.asarray(A[0], float)
    for a in A[1:]:
        phi = np.asarray(a, float) @ phi
    return phi


def reach(A, B):
    """Return the reach map [Phi(T,1) B_0, ..., Phi(T,T) B_{T-1}] of shape (..., n, sum m_t): x_T = Phi(T,0) x_0 + reach u.

    Its singular values are the reachable amplitudes; take rank and energy from them, never from the Gramian, whose
    spectrum is their square and drowns in rounding twice as early. Raises ValueError for shapes that do not fit.
    """
    A, B = steps(A, B)
    ends = np.cumsum([b.shape[-1] for b in B])
    if ends[:-1].sum() < len(A) * A[0].shape[-1]:  # the columns so far are fewer to move than the transition's
        rows = transpose(B[0])
        for a, b in zip(A[1:], B[1:], strict=True):
            rows = _joined([rows @ transpose(a), transpose(b)], -2)
        return transpose(rows)
    blocks, phi = [], np.eye(A[0].shape[-1])
    for a, b in zip(reversed(A), reversed(B), strict=True):
        blocks.append(phi @ b)
        phi = phi @ a
    return _joined(blocks[::-1], -1)


def _joined(blocks, axis):
    """The blocks one after the other along an axis, over the batch axes that they share."""
    batch = np.broadcast_shapes(*(x.shape[:-2] for x in blocks))
    return np.concatenate([np.broadcast_to(x, batch + x.shape[-2:]) for x in blocks], axis=axis)


def gramian(A, B):
    """Return the controllability Gramian W = sum_t Phi(T,t+1) B_t B_t' Phi(T,t+1)' of shape (..., n, n).

    Computed by the recursion W <- A_t W A_t' + B_t B_t'; equals reach reach'. Raises ValueError for shapes that do
    not fit.
    """
    A, B = steps(A, B)
    W = np.zeros(A[0].shape[-2:])
    for a, b in zip(A, B, strict=True):
        W = symmetric(a @ W @ transpose(a) + b @ transpose(b))
    return W


def minimum_energy(A, B, target, x0=None) -> Control:
    """Return the control of least energy |u|^2 that moves x0 to target (or as near as the system can).

    u = argmin |u|^2 among the minimisers of |Phi(T,0) x0 + reach u - target|, by a singular value decomposition of
    the reach map. z holds u_0..u_{T-1} one after the other (..., sum m_t), outputs the state attained,
    loss = 1/2 |outputs - target|^2, energy = |u|^2; converged says whether the target was reached (relative 1e-9).
    Raises ValueError for shapes that do not fit.
    """
    A, B = steps(A, B)
    n = A[0].shape[-1]
    target = np.asarray(target, float)
    x0 = np.zeros(n) if x0 is None else np.asarray(x0, float)
    if target.shape[-1:] != (n,) or x0.shape[-1:] != (n,):
        raise ValueError(f"target and x0 must have shape (..., {n}), got {target.shape} and {x0.shape}")
    free, G = apply(transition(A), x0), reach(A, B)
    U, s, Vt = np.linalg.svd(G, full_matrices=False)
    keep = s > max(G.shape[-2:]) * np.finfo(float).eps * s[..., :1]
    coefficients = np.where(keep, apply(transpose(U), target - free) / np.where(keep, s, 1.0), 0.0)
    u = apply(transpose(Vt), coefficients)
    state = free + apply(G, u)
    miss = state - target
    loss, energy = 0.5 * np.sum(miss**2, -1), np.sum(u**2, -1)
    scale = np.maximum(np.linalg.norm(target - free, axis=-1), np.finfo(float).tiny)
    return Control(
        z=u,
        outputs=state,
        value=loss + 0.5 * energy,
        loss=loss,
        energy=energy,
        gradient_norm=np.linalg.norm(apply(transpose(G), miss), axis=-1),
        iterations=1,
        converged=np.linalg.norm(miss, axis=-1) <= 1e-9 * scale,
        costate=apply(U, np.where(keep, -coefficients / np.where(keep, s, 1.0), 0.0)),
    )


@dataclass(frozen=True, eq=False)
class EndpointRank:
    """How many directions of an ensemble's end states shared parameters can move to first order, and why not more.

    rank: of the stacked reach map; states: N n, the parameters needed to move every end state anywhere; parameters: how
    many there are; ceilings: per step, the rank its parameters can have at most; singular_values: of the stacked map.
    """

    rank: int
    states: int
    parameters: int
    ceilings: tuple
    singular_values: np.ndarray

    @property
    def ceiling(self) -> int:
        """Return the rank that counting alone allows: min(N n, the sum of the steps' ceilings)."""
        return min(self.states, sum(self.ceilings))

    @property
    def controllable(self) -> bool:
        """Return whether all end states near the uncontrolled ones can be reached, the end-point map a submersion: rank N n."""
        return self.rank == self.states


def endpoint_rank(A, B, *, inputs=None, bottleneck: int | None = None, width: int | None = None) -> EndpointRank:
    """Return the first-order reachable dimension of N end states under parameters that all N samples share.

    Stacks the reach maps [Phi_i(T,1) B_i0, ..., B_i(T-1)] of the samples into one (N n, sum m_t) matrix. inputs, T arrays (N,
    d) of what the controlled linear maps read, bound every step: a map with `width` outputs acts through rank [x^1..x^N] x
    width directions, and a bottleneck of r whose up-projection starts at zero through min(r, rank) x width. Source: Sontag,
    Mathematical Control Theory, section 3.7; bounds derived, after PEFT as control (ICML 2024).
    A: T arrays (N, n, n); B: T arrays (N, n, m_t), dx_{t+1}/d(parameters of step t). Raises ValueError for shapes that do not
    fit or inputs without width.
    """
    A, B = steps(A, B)
    if A[0].ndim != 3 or any(x.shape[0] != A[0].shape[0] or x.ndim != 3 for x in (*A, *B)):
        raise ValueError(f"A and B must have one leading sample axis (N, n, .), got {A[0].shape} and {B[0].shape}")
    if (inputs is None and bottleneck is not None) or (inputs is None) != (width is None):
        raise ValueError("inputs and width go together (and bottleneck needs them): what the maps read and how much they write")
    N, n = A[0].shape[:2]
    ceilings = [min(b.shape[-1], N * n) for b in B]
    if inputs is not None:
        X = [np.asarray(x, float) for x in inputs]
        if len(X) != len(B) or any(x.ndim != 2 or len(x) != N for x in X):
            raise ValueError(f"inputs must be {len(B)} arrays of shape ({N}, d), got {[x.shape for x in X][:3]}")
        through = [min(int(np.linalg.matrix_rank(x)), bottleneck or N) for x in X]
        ceilings = [min(c, k * width) for c, k in zip(ceilings, through, strict=True)]
    s = np.linalg.svd(reach(A, B).reshape(N * n, -1), compute_uv=False)
    rank = int(np.sum(s > max(N * n, sum(b.shape[-1] for b in B)) * np.finfo(float).eps * s[0]))
    return EndpointRank(rank, N * n, sum(b.shape[-1] for b in B), tuple(ceilings), s)
