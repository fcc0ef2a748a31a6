"""One control for a whole ensemble, and one control per example: the linearised optima of both views.

The outputs of example i answer the control linearly, y_i = y0_i + G_i z. With K = G R^-1 G' the optimum is
z = -R^-1 G' costate, costate = gradient of the mean loss at the optimal outputs, so the search runs over N C numbers
(the kernel, or dual, form) whenever there are fewer of them than control numbers.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve


@dataclass(frozen=True, eq=False)
class Control:
    """An optimal control and what it reaches.

    z: the control (M,) or, one per example, (N, M). outputs: the linear outputs y0 + G z. value = loss + energy / 2,
    loss: the mean loss (or one per example), energy = z' R z. gradient_norm: |G' costate + R z| at the answer,
    recomputed from z. costate: gradient of the loss at the outputs, with z = -R^-1 G' costate at the optimum.
    iterations: Newton steps. converged: whether the whitened gradient fell below the tolerance, recomputed from z where one
    control serves all; False where the numbers of float64 end first.
    """

    z: np.ndarray
    outputs: np.ndarray
    value: float | np.ndarray
    loss: float | np.ndarray
    energy: float | np.ndarray
    gradient_norm: float | np.ndarray
    iterations: int
    converged: bool | np.ndarray
    costate: np.ndarray


def problem(G, y0, r):
    """Return G (N, C, M), y0 (N, C) and the diagonal of R (M,) as float64, after checking that they fit together."""
    G, y0, R = np.asarray(G, float), np.asarray(y0, float), np.asarray(r, float)
    if G.ndim != 3 or y0.shape != G.shape[:2]:
        raise ValueError(f"G must have shape (N, C, M) and y0 (N, C), got {G.shape} and {y0.shape}")
    if R.shape not in ((), G.shape[2:]):
        raise ValueError(f"r must be a number or a vector of {G.shape[2]} (one per control), got shape {R.shape}")
    if not (np.all(np.isfinite(R)) and np.all(R > 0)):
        raise ValueError("r must be positive and finite; without a cost on the control the optimum may not exist")
    if not (np.all(np.isfinite(G)) and np.all(np.isfinite(y0))):
        raise ValueError("G and y0 must be finite; the response holds NaN or infinity, check the linearisation")
    return G, y0, np.broadcast_to(R, G.shape[2:])


def roots(H):
    """Return S with S S' = H for a stack of positive semi-definite (..., c, c) curvatures."""
    values, V = np.linalg.eigh(H)
    return V * np.sqrt(np.maximum(values, 0.0))[..., None, :]


def ensemble_lq(G, y0, loss, r, *, kernel=None, tolerance=1e-10, max_iterations=200) -> Control:
    """Return the one control z that minimises (1/N) sum_i l_i(y0_i + G_i z) + 1/2 z' R z.

    Newton's method with backtracking, over the N C dual numbers if they are fewer than M, over the whitened control
    otherwise; softmax outputs in their C - 1 contrasts. Stops at |R^-1/2 (G' costate + R z)| <= tolerance times its size at z
    = 0. Source: the representer theorem, with IRLS in the dual (derived).
    G (N, C, M), y0 (N, C), loss: `CrossEntropy` or `Quadratic`, r: a number (R = r I) or the diagonal of R (M,); kernel: K =
    G R^-1 G' (N C, N C) if known. In a subspace pass G @ P. Raises ValueError for shapes that do not fit or r <= 0.
    """
    G, y0, R = problem(G, y0, r)
    N, C, M = G.shape
    E = loss.basis(C)
    if kernel is not None and np.shape(kernel) != (N * C, N * C):
        raise ValueError(f"kernel must be G R^-1 G' of shape ({N * C}, {N * C}), got {np.shape(kernel)}")
    if kernel is not None and not np.all(np.isfinite(kernel)):
        raise ValueError("kernel must be finite, got NaN or infinity; check G and r")
    if N * E.shape[1] < M:
        if kernel is None:
            X = (np.swapaxes(G, 1, 2) @ E).swapaxes(1, 2).reshape(-1, M)
            K = (X / R) @ X.T
        else:
            K = np.asarray(kernel, float).reshape(N, C, N, C)
            K = np.einsum("ca,ncd->nad", E, K.reshape(N, C, N * C)).reshape(-1, N, C) @ E
        K = K.reshape(N * E.shape[1], -1)
        a, iterations, converged = _newton_dual(0.5 * (K + K.T), y0, loss, E, tolerance, max_iterations)
        z = -np.tensordot(a.reshape(N, -1) @ E.T, G, 2) / R
    else:
        X = (E.T @ G).reshape(-1, M) / np.sqrt(R)
        v, iterations, converged = _newton_primal(X, y0, loss, E, tolerance, max_iterations)
        z = v / np.sqrt(R)
    outputs = y0 + G @ z
    costate = loss.gradient(outputs) / N
    energy, fit = float(z @ (R * z)), float(loss.value(outputs).mean())
    gradient = np.tensordot(costate, G, 2) + R * z
    start = np.tensordot(loss.gradient(y0) / N, G, 2)
    if kernel is not None and converged and np.sum(gradient**2 / R) > 1e-6 * np.sum(start**2 / R) + 1e-30:
        raise ValueError("kernel is not G R^-1 G' of this G and r; divide G G' by r, or leave kernel out")
    # the dual's own gradient is known to eps |K| |a| only, which does not tell where the kernel has a null space
    still = np.linalg.norm(gradient / np.sqrt(R)) <= tolerance * max(np.linalg.norm(start / np.sqrt(R)), np.finfo(float).tiny)
    return Control(
        z,
        outputs,
        fit + 0.5 * energy,
        fit,
        energy,
        float(np.linalg.norm(gradient)),
        iterations,
        bool(converged and still),
        costate,
    )


def kernel_lq(kernel, y0, loss, *, start=None, tolerance=1e-8, max_iterations=200):
    """Return the costates (N, c) at the optimum of `ensemble_lq`, from its kernel alone: no response need be kept.

    In the c = C - 1 contrasts of the loss (`loss.basis`), kernel = E' G R^-1 G' E (N c, N c); at the optimum the outputs are y0 -
    E kernel costates and, of new examples with the cross kernel K', y0' - E K' costates. start: costates to search from, such
    as those of a neighbouring penalty. Source: the representer theorem, with IRLS in the dual (derived). Raises ValueError
    for shapes that do not fit and a kernel that is not finite.
    """
    y0, K = np.asarray(y0, float), np.asarray(kernel, float)
    E = loss.basis(y0.shape[1])
    size = len(y0) * E.shape[1]
    if K.shape != (size, size) or not np.all(np.isfinite(K)):
        raise ValueError(f"kernel must be finite, of shape ({size}, {size}) in the contrasts of the outputs, got shape {K.shape}")
    return _newton_dual(0.5 * (K + K.T), y0, loss, E, tolerance, max_iterations, start)[0].reshape(len(y0), -1)


def _newton_dual(K, y0, loss, E, tolerance, limit, start=None):
    """Minimise the mean loss at y0 - E K a plus 1/2 a' K a over the dual numbers a (N c,)."""
    N, c = len(y0), E.shape[1]
    a = np.zeros(N * c) if start is None else np.array(start, float).ravel()
    y = y0 if start is None else y0 - (K @ a).reshape(N, c) @ E.T

    def direction(y, a):
        g = (loss.gradient(y) @ E).ravel() / N
        S = roots(E.T @ loss.hessian(y) @ E / N)
        rho = a - g  # gradient of the problem is K rho
        K_rho = K @ rho
        SK = np.swapaxes(S, 1, 2) @ K.reshape(N, c, N * c)  # S'K, one block row per example
        SKS = (SK.reshape(N * c, N, c).swapaxes(0, 1) @ S).swapaxes(0, 1).reshape(N * c, N * c)
        half = _solve_shifted(SKS, (np.swapaxes(S, 1, 2) @ K_rho.reshape(N, c, 1)).ravel())
        step = (S @ half.reshape(N, c, 1)).ravel() - rho
        K_step = K @ step
        shift = -(E @ K_step.reshape(N, c, 1))[..., 0]
        return step, shift, float(K_rho @ step), float(step @ K_step), float(max(rho @ K_rho, 0.0))

    def quadratic(a, y):
        return 0.5 * float(-a @ ((y - y0) @ E).ravel())

    return _newton(a, y, loss, direction, quadratic, tolerance, limit)


def _newton_primal(X, y0, loss, E, tolerance, limit):
    """Minimise the mean loss at y0 + E X v plus 1/2 |v|^2 over the whitened control v (M,)."""
    N, c = len(y0), E.shape[1]

    def direction(y, v):
        gradient = X.T @ (loss.gradient(y) @ E).ravel() / N + v
        S = roots(E.T @ loss.hessian(y) @ E / N)
        SX = (np.swapaxes(S, 1, 2) @ X.reshape(N, c, -1)).reshape(N * c, -1)
        step = -_solve_shifted(SX.T @ SX, gradient)
        shift = (E @ (X @ step).reshape(N, c, 1))[..., 0]
        return step, shift, float(gradient @ step), float(step @ step), float(gradient @ gradient)

    return _newton(np.zeros(X.shape[1]), y0, loss, direction, lambda v, y: 0.5 * float(v @ v), tolerance, limit)


def _solve_shifted(X, b):
    """(I + X)^-1 b for positive semi-definite X, by Cholesky; NaN where X is not finite."""
    X = 0.5 * (X + X.T)
    if not np.all(np.isfinite(X)):
        return np.full(len(b), np.nan)
    try:
        shifted = cho_factor(X + np.eye(len(X)), lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        values, V = np.linalg.eigh(X)  # rounding of a large X can outweigh the identity
        if values[0] < -1e-8 * values[-1]:
            raise ValueError("the kernel is not positive semi-definite; pass K = G R^-1 G' of this G and r") from None
        return V @ ((V.T @ b) / (1.0 + np.maximum(values, 0.0)))
    return cho_solve(shifted, b, check_finite=False)


def _judged(t, slope, end, phi, new):
    """Whether a step t along which the slope goes from `slope` < 0 to `end` and phi to `new` is too long, and too short.

    Too long: an overshoot, or a decrease below 1e-4 t slope. Where the slope still falls by 1e-4 of the first, convexity
    proves that decrease, which rounding may hide in the values. What is not a number is too long.
    """
    falls = (end <= 1e-4 * slope) | (new <= phi + 1e-4 * t * slope)
    good = np.isfinite(new) & (end <= -0.5 * slope) & falls
    return ~good, good & (end < 0.9 * slope) & (t < 1.0)


def _searched(at, slope, phi):
    """A step t in (0, 1] that is neither too long nor too short, and phi there; at(t) gives phi and the slope.

    Bisection, which ends at the longest step known to descend when no number lies between the bounds, and at t = 0 when
    nothing above 1e-12 descends.
    """
    low, below, high, t = 0.0, phi, 1.0, 1.0
    while t >= 1e-12 and (low < t < high or t == 1.0):
        new, end = at(t)
        long, short = _judged(t, slope, end, phi, new)
        if not (long or short):
            return t, new
        low, below, high = (low, below, t) if long else (t, new, high)
        t = 0.5 * (low + high)
    return low, below


def _newton(w, y, loss, direction, quadratic, tolerance, limit):
    """Newton with a bisecting line search (sufficient decrease, no overshoot) on mean loss + quadratic, from w with outputs y.

    `direction(y, w)` gives the step, its shift of the outputs, the slope along it, the curvature of the quadratic
    along it and the squared whitened gradient. Returns the coordinates, the steps taken and whether it converged.
    """

    def value(y, w):
        return float(loss.value(y).mean()) + quadratic(w, y)

    def along(y, w, step, shift, slope, pull, t):
        rise = np.sum((loss.gradient(y + t * shift) - loss.gradient(y)) * shift)
        return value(y + t * shift, w + t * step), slope + t * pull + float(rise) / len(y)

    phi, first, best = value(y, w), None, np.inf
    for iteration in range(limit):
        step, shift, slope, pull, squared = direction(y, w)
        norm = np.sqrt(squared)
        first = norm if first is None else first
        if not np.isfinite(slope + norm):
            return w, iteration, False
        # past the tolerance, go on while steps still help: Newton is quadratic here and they cost little
        if norm <= tolerance * first and (norm >= 0.5 * best or norm <= 1e-14 * first):
            return w, iteration, True
        best = min(best, norm)
        if abs(slope) <= 1e-11 * abs(phi):  # below rounding of phi: trust the Newton step
            t, new = 1.0, value(y + shift, w + step)
        else:
            t, new = _searched(partial(along, y, w, step, shift, slope, pull), slope, phi)
        if t == 0.0 or not np.isfinite(new):
            return w, iteration, bool(norm <= tolerance * first)
        w, y, phi = w + t * step, y + t * shift, new
    return w, limit, False


def _turned(W):
    """Q (N, M, k) with orthonormal columns and L (N, k, c) with Q L = W (N, M, c), k the less of M and c; Q None for I."""
    return (None, W) if W.shape[1] <= W.shape[2] else np.linalg.qr(W)


def per_example_lq(G, y0, loss, r, *, tolerance=1e-10, max_iterations=200) -> Control:
    """Return each example's own best control: u_i minimises l_i(y0_i + G_i u) + 1/2 u' R u.

    Shapes as in `ensemble_lq`; every field of the answer gains a leading example axis (z is (N, M)), costate_i is
    the gradient of l_i, u_i = -R^-1 G_i' costate_i. Newton over the whitened control in the row space of G_i, of at most
    C (softmax: C - 1) numbers, all examples at once, each with its own backtracking. Raises ValueError for shapes that
    do not fit or r <= 0.
    """
    G, y0, R = problem(G, y0, r)
    N, C, M = G.shape
    E = loss.basis(C)
    Q, L = _turned(np.swapaxes((E.T @ G) / np.sqrt(R), 1, 2))
    Lt = np.swapaxes(L, 1, 2)  # y = y0 + E L'v
    v, y, phi = np.zeros(L.shape[:2]), y0.copy(), loss.value(y0)
    first, done, stuck, iterations = None, np.zeros(N, bool), np.zeros(N, bool), 0
    for iterations in range(max_iterations + 1):
        gradient = np.einsum("nkc,nc->nk", L, loss.gradient(y) @ E) + v
        norm = np.linalg.norm(gradient, axis=-1)
        first = norm if first is None else first
        done = np.isfinite(norm) & (norm <= tolerance * np.maximum(first, np.finfo(float).tiny))
        if (done | stuck).all() or iterations == max_iterations:
            break
        S = L @ roots(E.T @ loss.hessian(y) @ E)
        X = S @ np.swapaxes(S, 1, 2)
        try:
            step = -np.linalg.solve(np.eye(L.shape[1]) + X, gradient[..., None])[..., 0]
        except LinAlgError:
            step = -np.array([_solve_shifted(x, g) for x, g in zip(X, gradient, strict=True)])
        slope, shift = np.sum(gradient * step, -1), (Lt @ step[..., None])[..., 0] @ E.T
        pull, t, low, high = np.sum(step**2, -1), np.ones(N), np.zeros(N), np.ones(N)
        searching = ~done & ~stuck & ~(np.abs(slope) <= 1e-11 * np.abs(phi))
        for last in [False] * 60 + [True]:
            if last:  # as far as is known to descend
                t = np.where(searching, low, t)
            v_new, y_new = v + t[:, None] * step, y + t[:, None] * shift
            phi_new = loss.value(y_new) + 0.5 * np.sum(v_new**2, -1)
            end = slope + t * pull + np.sum((loss.gradient(y_new) - loss.gradient(y)) * shift, -1)
            over, under = _judged(t, slope, end, phi, phi_new)
            searching &= over | under
            if last or not searching.any():
                break
            high, low = np.where(searching & over, t, high), np.where(searching & under, t, low)
            t = np.where(searching, 0.5 * (low + high), t)
        move = ~done & ~stuck & (t > 0.0) & np.isfinite(phi_new)
        stuck = ~done & ~move
        v, y, phi = (
            np.where(move.reshape(-1, *[1] * (new.ndim - 1)), new, old) for new, old in ((v_new, v), (y_new, y), (phi_new, phi))
        )
    z = (v if Q is None else np.einsum("nmk,nk->nm", Q, v)) / np.sqrt(R)
    outputs = y0 + np.einsum("ncm,nm->nc", G, z)
    costate = loss.gradient(outputs)
    fit, energy = loss.value(outputs), np.einsum("nm,m,nm->n", z, R, z)
    gradient = np.einsum("nc,ncm->nm", costate, G) + R * z
    return Control(z, outputs, fit + 0.5 * energy, fit, energy, np.linalg.norm(gradient, axis=-1), iterations, done, costate)
