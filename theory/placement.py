"""Where to put a control: the path of group-sparse optima, and what each group of controls is worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theory.ensemble import problem
from theory.loss import CrossEntropy

_ACTIVE = 1e-8  # of the largest norm on the path


@dataclass(frozen=True, eq=False)
class SparsePath:
    """The group-sparse optima at falling prices, and the order in which the blocks enter.

    names: the blocks (B). prices: (K,), falling. norms: |z_b| at each price (K, B). entry: the first price of the grid at
    which a block is in use (B,), 0 for one that never is. order: the names by entry, ties by the larger |z_b| there.
    """

    names: tuple
    prices: np.ndarray
    norms: np.ndarray
    entry: np.ndarray
    order: tuple


def sparse_path(G, y0, loss, r, blocks: Sequence, *, ratio=0.9, least=1e-2, tolerance=1e-9, limit=5000) -> SparsePath:
    """Return the optima of (1/N) sum_i l_i(y0_i + G_i z) + 1/2 z'Rz + price sum_b |z_b| as the price of using a block falls.

    `theory.convex.place` at a grid of prices: from the norm of the largest block of the first gradient, above which z = 0,
    each `ratio` times the one before, down to `least` of the largest or until every block is in use. Each optimum is found
    from the one before by accelerated proximal gradient steps (Beck and Teboulle 2009) of size 1 / (sup |H| lambda_max(G'G) /
    N + max R), restarted where they stop descending, until a step moves z by less than `tolerance` of its length. Shapes and
    errors as in `place`; raises ValueError when `limit` steps do not suffice.
    """
    G, y0, R = problem(G, y0, r)
    blocks = list(blocks)
    if len(blocks) != G.shape[2] or not (0 < ratio < 1 and 0 < least < 1):
        raise ValueError(
            f"blocks needs {G.shape[2]} labels, ratio and least numbers between 0 and 1, got {len(blocks)}, {ratio} and {least}"
        )
    names = tuple(dict.fromkeys(blocks))
    index = np.array([names.index(label) for label in blocks])
    N, C, M = G.shape
    E = loss.basis(C)
    X = (E.T @ G).reshape(-1, M)
    if not np.isfinite(np.sum(X**2)):
        raise ValueError("the squares of G are beyond float64; measure the control in other units")
    steepest = 0.5 if isinstance(loss, CrossEntropy) else np.linalg.eigvalsh(loss.hessian(y0)).max()
    curvature = steepest * np.linalg.eigvalsh(X @ X.T if len(X) < M else X.T @ X)[-1] / N + R.max()

    def gradient(z):
        y = y0 + (X @ z).reshape(N, -1) @ E.T
        return X.T @ (loss.gradient(y) @ E).ravel() / N + R * z

    def norms(z):
        return np.sqrt(np.bincount(index, z**2, len(names)))

    def solve(z, price):
        at, momentum = z, 1.0
        for _ in range(limit):
            moved = at - gradient(at) / curvature
            new = moved * np.maximum(0.0, 1.0 - price / curvature / np.maximum(norms(moved), 1e-300))[index]
            step = new - z
            if np.linalg.norm(new - at) <= tolerance * np.linalg.norm(new):
                return new
            if (at - new) @ step > 0:
                at, momentum = new, 1.0
            else:
                after = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
                at, momentum = new + (momentum - 1.0) / after * step, after
            z = new
        raise ValueError(f"the sparse optimum at price {price:.3g} was not reached in {limit} steps; raise limit or r")

    z = np.zeros(M)
    prices, found = [float(norms(gradient(z)).max())], [np.zeros(len(names))]
    while prices[-1] > least * prices[0] and not found[-1].all():
        prices.append(ratio * prices[-1])
        z = solve(z, prices[-1])
        found.append(norms(z))
    found = np.array(found)
    used = found > _ACTIVE * found.max()
    first = used.argmax(0)
    entry = np.where(used.any(0), np.array(prices)[first], 0.0)
    order = sorted(range(len(names)), key=lambda b: (-entry[b], -found[first[b], b]))
    return SparsePath(names, np.array(prices), found, entry, tuple(names[b] for b in order))
