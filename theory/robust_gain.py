"""The affine law that an ensemble shares when every example meets its worst disturbance: a game of law and attacker.

A disturbance of a port's outputs passes on through the frozen response and is read by the law there, so that the closed loop is
affine in the gain, and the loss under the worst disturbance convex in the law. Its optimum is the shared gain of the very
ensemble that the attacker shows, at the price of the one that he found.

    >>> x = np.array([-1.0, 1.0])  # two examples, one token: y_i = K x_i + (1 + K) w_i is to meet x_i, |w_i| <= 1/2
    >>> seen = Ensemble((np.ones((2, 1, 1, 1)),), (x.reshape(2, 1, 1),), np.zeros((2, 1)), np.ones((2, 1)))
    >>> law = robust_gain(seen, Quadratic(x[:, None]), 1.0, [np.ones((1, 1))], [np.ones((1, 1))], 0.5)
    >>> law.K[0].round(6).tolist()  # (1 - size) (1 + size) / (r + (1 - size)^2)
    [[0.6]]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import brentq, minimize

from theory.loss import CrossEntropy, Quadratic
from theory.shared_gain import Ensemble

ROUNDS = 100  # of the ascent to a worst disturbance; one is exact where the loss sees one contrast
TOLERANCE, GAIN = 1e-3, 1e-9  # of the first slope, and of the value from step to step, at which a search ends
BEGUN = 40  # of the search for a law that is free, where it is only the start of one of a rank
GAINED = 1e-12  # of the loss, below which a round counts as the last


@dataclass(frozen=True, eq=False)
class RobustLaw:
    """A law and what the worst disturbances of a size make of it: k (m,) and K (m, q) per port, disturbances (N, P, m).

    value = loss + r/2 energy, the loss under these disturbances and energy = sum_t |k_t|^2 + tr K_t S_t K_t' without them.
    residual: the slope that is left over that at the start of the last search.
    """

    k: tuple[np.ndarray, ...]
    K: tuple[np.ndarray, ...]
    disturbances: np.ndarray
    value: float
    loss: float
    energy: float
    residual: float


def closed_loop(ensemble: Ensemble, K: Sequence[np.ndarray], reads: Sequence[np.ndarray]) -> np.ndarray:
    """Return D_it = sum_tau G_it,tau (I + K_t R_t), (N, C, P, m): what disturbances of all of a port's tokens do to outputs.

    reads: R_t (q, m) per port, what a disturbance adds to phi there. It passes on, and the law reads it; that later laws read
    what earlier ones make of it is left out, as in `shared_gain`. All ports must be equally wide.
    """
    through = [g.sum(2) for g in ensemble.G]
    return np.stack([g + g @ gain @ R for g, gain, R in zip(through, K, reads, strict=True)], axis=2)


def worst_disturbance(D: np.ndarray, outputs: np.ndarray, loss: CrossEntropy | Quadratic, size: float) -> np.ndarray:
    """Return w (N, ...), |w_i| <= size, that raises the loss l_i(y_i + D_i w_i) most.

    w <- size D' l'(y + D w) / |D' l'(y + D w)|, which never lowers a convex loss: exact after one round where losses see one
    contrast, as those of two classes do, and an extremal otherwise. D: (N, C, ...); outputs: y (N, C).
    """
    flat = D.reshape(*D.shape[:2], -1)
    w, value = np.zeros((len(flat), flat.shape[2])), loss.value(outputs)
    for _ in range(ROUNDS):
        slope = np.einsum("ncm,nc->nm", flat, loss.gradient(outputs + np.einsum("ncm,nm->nc", flat, w)))
        length = np.linalg.norm(slope, axis=1, keepdims=True)
        w = np.where(length > 0.0, size * slope / np.where(length > 0.0, length, 1.0), w)
        old, value = value, loss.value(outputs + np.einsum("ncm,nm->nc", flat, w))
        if np.all(value - old <= GAINED * np.abs(value)):
            break
    return w.reshape(len(D), *D.shape[2:])


def attacked(D: np.ndarray, outputs: np.ndarray, loss: CrossEntropy | Quadratic, size: float) -> float:
    """Return the mean loss under the worst disturbances of a size; arguments as in `worst_disturbance`."""
    w = worst_disturbance(D, outputs, loss, size)
    return float(loss.value(outputs + np.einsum("ncm,nm->nc", D.reshape(*D.shape[:2], -1), w.reshape(len(w), -1))).mean())


def size_of_harm(D: np.ndarray, outputs: np.ndarray, loss: CrossEntropy | Quadratic, harm: float) -> float:
    """Return the size at which the worst disturbances raise the mean loss by `harm`; arguments as in `worst_disturbance`.

    Raises ValueError for a harm that is not positive and for outputs that disturbances do not move.
    """
    if not harm > 0.0 or not np.any(D):
        raise ValueError(f"expected a positive harm and outputs that disturbances move, got a harm of {harm}")
    still, high = float(loss.value(outputs).mean()), 1.0 / float(np.max(np.abs(D)))
    while attacked(D, outputs, loss, high) - still < harm:
        high *= 2.0
    return float(brentq(lambda size: attacked(D, outputs, loss, size) - still - harm, 0.0, high, xtol=1e-9 * high))


def robust_gain(
    ensemble: Ensemble,
    loss: CrossEntropy | Quadratic,
    r: float,
    price: Sequence[np.ndarray],
    reads: Sequence[np.ndarray],
    size: float,
    *,
    rank: int | None = None,
    rounds: int = 1000,
) -> RobustLaw:
    """Return the law of the least mean worst-case loss + r/2 sum_t (|k_t|^2 + tr K_t S_t K_t').

    The loss is (1/N) sum_i max_(|w_i| <= size) l_i(y_i(k, K) + D_i(K) w_i), D as in `closed_loop`, which is convex in (k, K). At
    the optimum K_t = -(1/r) E<G_it' lambda_i (phi_it + R_t w_it)'> S_t^-1: costates are met under the worst disturbance and
    regressed on the states that it shows. L-BFGS along the slope at the worst w (Danskin). Source: derived from `shared_gain`.
    price: S_t (q, q) per port, of undisturbed signals; reads as in `closed_loop`. rank: that of every K_t, by L-BFGS on its
    factors from the cut of one that is free, which need not end in the least of all; None leaves it free. Raises ValueError for
    r <= 0, a negative size, and reads that do not fit.
    """
    if not (np.isfinite(r) and r > 0 and np.isfinite(size) and size >= 0):
        raise ValueError(f"expected a positive r and a size of at least 0, got {r} and {size}")
    widths = [(f.shape[-1], g.shape[-1]) for f, g in zip(ensemble.phi, ensemble.G, strict=True)]
    if [np.shape(R) for R in reads] != widths or len({m for _, m in widths}) != 1:
        raise ValueError(f"expected reads of {widths}, all ports equally wide, got {[np.shape(R) for R in reads]}")
    attacker = size**2 / (len(reads) * widths[0][1])  # the mean square of a component of the disturbances
    roots = [np.linalg.cholesky(S + attacker * R @ R.T) for S, R in zip(price, reads, strict=True)]  # of the unknowns K L
    E = loss.basis(ensemble.y0.shape[1])
    told, through, dear, heard = [], [], [], []
    for g, f, L, S, R in zip(ensemble.G, ensemble.phi, roots, price, reads, strict=True):
        white = _solved(L, f.reshape(-1, f.shape[-1]).T).T.reshape(f.shape)
        on = np.einsum("ca,nctm->natm", E, g)
        features = np.concatenate([np.ones((*f.shape[:2], 1)), white], axis=-1)
        told.append((np.moveaxis(on, 2, 3) @ features[:, None]).reshape(E.shape[1] * len(f), -1))
        through.append(on.sum(2))
        heard.append(_solved(L, R))
        dear.append(np.eye(len(S) + 1))
        dear[-1][1:, 1:] = _solved(L, _solved(L, S).T)

    def met(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """The outputs under the worst disturbances, these, and the energy."""
        moved = sum(X @ V.ravel() for X, V in zip(told, parts, strict=True))
        y = ensemble.y0 + moved.reshape(len(ensemble.y0), -1) @ E.T
        loops = [
            (g.reshape(-1, g.shape[2]) @ V[:, 1:] @ H).reshape(g.shape) for g, V, H in zip(through, parts, heard, strict=True)
        ]
        D = np.stack([g + loop for g, loop in zip(through, loops, strict=True)], axis=2)
        D = np.einsum("ca,napm->ncpm", E, D)
        w = worst_disturbance(D, y, loss, size)
        energy = sum(float(np.sum(V * (V @ S))) for V, S in zip(parts, dear, strict=True))
        return y + np.einsum("ncpm,npm->nc", D, w), w, energy

    def objective(parts: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        y, w, energy = met(parts)
        costate = loss.gradient(y) @ E / len(y)
        slopes = []
        for t, (X, g, H, S, V) in enumerate(zip(told, through, heard, dear, parts, strict=True)):
            slopes.append((costate.ravel() @ X).reshape(V.shape) + r * V @ S)
            slopes[-1][:, 1:] += np.einsum("nam,na->nm", g, costate).T @ (w[:, t] @ H.T)
        return float(loss.value(y).mean()) + 0.5 * r * energy, slopes

    parts, left = _least(objective, [np.zeros((m, q + 1)) for q, m in widths], rounds if rank is None else BEGUN)
    if rank is not None:
        parts, left = _of_rank(objective, parts, rank, rounds)
    y, w, energy = met(parts)
    K = tuple(solve_triangular(L, V[:, 1:].T, lower=True, trans="T").T for L, V in zip(roots, parts, strict=True))
    fit = float(loss.value(y).mean())
    return RobustLaw(tuple(V[:, 0] for V in parts), K, w, fit + 0.5 * r * energy, fit, energy, left)


@dataclass(frozen=True, eq=False)
class RobustControl:
    """Numbers z (M,) of a control and what the worst disturbances (N, n) of a size make of it.

    value = loss + r/2 |z|^2, the loss under these disturbances. residual: the slope that is left over that at z = 0.
    """

    z: np.ndarray
    disturbances: np.ndarray
    value: float
    loss: float
    residual: float


def robust_control(
    G: np.ndarray,
    y0: np.ndarray,
    loss: CrossEntropy | Quadratic,
    r: float,
    D: np.ndarray,
    directions: np.ndarray,
    turned: np.ndarray,
    size: float,
    *,
    rounds: int = 1000,
) -> RobustControl:
    """Return the z of the least mean loss under the worst disturbances + r/2 |z|^2, where z also moves what they do to outputs.

    min_z (1/N) sum_i max_(|w_i| <= size) l_i(y_i + G_i z + (D_i + (h_i z) q_i') w_i) + r/2 |z|^2, convex in z. For a prefix, G_i
    holds the gates' weights of its values, and h_i by how much a disturbance along q_i opens gates and turns what lies behind
    them. L-BFGS along the slope at the worst w (Danskin). Source: derived from `robust_gain`, of which G_i K R_i is the h_i z.
    G (N, C, M), y0 (N, C), D (N, C, n), directions: unit q (N, n), turned: h (N, C, M). Raises ValueError for r <= 0, a negative
    size, and shapes that do not fit.
    """
    if not (np.isfinite(r) and r > 0 and np.isfinite(size) and size >= 0):
        raise ValueError(f"expected a positive r and a size of at least 0, got {r} and {size}")
    if (
        G.shape != turned.shape
        or D.shape[:2] != G.shape[:2]
        or directions.shape != (len(D), D.shape[2])
        or y0.shape != G.shape[:2]
    ):
        given = ", ".join(str(x.shape) for x in (G, y0, D, directions, turned))
        raise ValueError(f"expected G and turned (N, C, M), y0 (N, C), D (N, C, n) and directions (N, n), got {given}")
    told, heard = (x.reshape(-1, G.shape[2]) for x in (G, turned))

    def met(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The outputs under the worst disturbances, and these."""
        y = y0 + (told @ z).reshape(y0.shape)
        closed = D + (heard @ z).reshape(y0.shape)[..., None] * directions[:, None]
        w = worst_disturbance(closed, y, loss, size)
        return y + np.einsum("ncm,nm->nc", closed, w), w

    def objective(parts: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        (z,) = parts
        y, w = met(z)
        costate = loss.gradient(y) / len(y)
        along = np.sum(w * directions, axis=1)
        slope = costate.ravel() @ told + (along[:, None] * costate).ravel() @ heard + r * z
        return float(loss.value(y).mean()) + 0.5 * r * float(z @ z), [slope]

    (z,), left = _least(objective, [np.zeros(G.shape[2])], rounds)
    y, w = met(z)
    fit = float(loss.value(y).mean())
    return RobustControl(z, w, fit + 0.5 * r * float(z @ z), fit, left)


def _least(objective: Callable, start: Sequence[np.ndarray], rounds: int) -> tuple[list[np.ndarray], float]:
    """The minimiser that L-BFGS finds from some arrays, and the slope that is left over that at the start."""
    edges = np.cumsum([0, *(x.size for x in start)])

    def arrays(theta: np.ndarray) -> list[np.ndarray]:
        return [theta[a:b].reshape(x.shape) for a, b, x in zip(edges, edges[1:], start, strict=False)]

    def flat(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slopes = objective(arrays(theta))
        return value, np.concatenate([slope.ravel() for slope in slopes])

    origin = np.concatenate([x.ravel() for x in start])
    first = float(np.linalg.norm(flat(origin)[1]))
    limits = {
        "maxiter": rounds,
        "maxfun": 2 * rounds,
        "maxcor": 30,
        "gtol": TOLERANCE * first / np.sqrt(origin.size),
        "ftol": GAIN,
    }
    found = minimize(flat, origin, jac=True, method="L-BFGS-B", options=limits)
    left = float(np.linalg.norm(flat(found.x)[1]))
    return arrays(found.x), left / first if first > 0.0 else 0.0


def _of_rank(objective: Callable, parts: Sequence[np.ndarray], rank: int, rounds: int) -> tuple[list[np.ndarray], float]:
    """The best law whose gains are up (m, rank) times down (rank, q), from the cut of the one that is free."""
    start = []
    for V in parts:
        U, s, Wt = np.linalg.svd(V[:, 1:], full_matrices=False)
        scale = np.sqrt(s[:rank])
        start += [V[:, :1], U[:, :rank] * scale, scale[:, None] * Wt[:rank]]

    def made(factors: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.hstack([k, up @ down]) for k, up, down in zip(factors[::3], factors[1::3], factors[2::3], strict=True)]

    def bilinear(factors: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        value, slopes = objective(made(factors))
        split = []
        for slope, up, down in zip(slopes, factors[1::3], factors[2::3], strict=True):
            split += [slope[:, :1], slope[:, 1:] @ down.T, up.T @ slope[:, 1:]]
        return value, split

    factors, left = _least(bilinear, start, rounds)
    return made(factors), left


def _solved(L: np.ndarray, x: np.ndarray) -> np.ndarray:
    """L^-1 x for a lower triangle."""
    return solve_triangular(L, x, lower=True)
