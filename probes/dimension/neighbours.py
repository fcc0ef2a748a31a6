"""The nearest neighbours of points (n, D) in Euclidean distance, with distances that keep their digits.

Few dimensions are searched by a tree. Many are searched by inner products, in float32 first, and a row for which rounding
could have hidden a neighbour again in float64 about the centre of fewer and fewer such rows, so that clusters far apart
are each seen from near. Whatever is close is measured by differences.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cdist

CLOSE = 1e-3  # squared distances below this share of |x|^2 + |y|^2 are measured again
TREE = 15  # up to this many dimensions a tree is searched
FEW = 32  # beyond this many neighbours measuring them again takes longer than the search
SMALL = 32  # this few rows are measured against everything that may be near
TIE = 1e-10  # relative difference below which two squared distances are one
KEYS = 1 << 21  # float32 numbers that are sorted at once
CACHED = 1 << 18  # float64 numbers that are measured at once


def unit_spread(points: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the points times 2^-e, so that their widest coordinate spreads over 1/2 to 1, and e.

    Squares of differences are then numbers at any scale.
    """
    exponent = int(np.frexp((points.max(0) / 2 - points.min(0) / 2).max())[1]) + 1
    return np.ldexp(points, -exponent), exponent


def distances(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances (n, k) of each point's k nearest others, from near to far, and their indices, for finite points.

    A distance comes from the difference of its two points, or from their inner product where that has not lost more
    than three digits. Of neighbours that tie to 1e-10, any may be named.
    """
    points, exponent = unit_spread(points)
    rows = np.arange(len(points))
    if points.shape[1] <= TREE:
        d, near = _tree(points, rows, k)
    elif k > FEW:
        d, near = _local(points, rows, k)
    else:
        near, certain = _rough(points, rows, k)
        d, near = _measured(points, rows, near)
        # whatever was left out is no nearer than `certain`
        again = np.flatnonzero(d[:, k - 1] ** 2 > certain)
        d, near = d[:, :k].copy(), near[:, :k].copy()
        if len(again):
            d[again], near[again] = _local(points, again, k)
    return np.ldexp(d, exponent), near


def sets(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Return the indices (b, k) of the k nearest others of the points in `rows`, in no order."""
    points, _ = unit_spread(points)
    if points.shape[1] <= TREE:
        return _tree(points, rows, k)[1]
    near, certain = _rough(points, rows, k, gap=True)
    again = np.flatnonzero(~certain)
    near = near[:, :k].copy()
    if len(again):
        near[again] = _local(points, rows[again], k)[1]
    return near


def _count(points: np.ndarray, k: int) -> int:
    """How many candidates are looked at for k neighbours."""
    return min(k + max(4, k // 4), len(points) - 1)


def _about(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The points about the mean of some rows; what all share is gone without a rounding."""
    local = points - points[rows[0]]
    local -= local[rows].mean(0)
    return local


def _rough(points: np.ndarray, rows: np.ndarray, k: int, gap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (b, more than k) by float32, and a squared distance (b,) below which no others lie.

    They are sorted by |y|^2 / 2 - x'y in units of the longest point, which rounding moves by at most (D + 8)
    2^-24. With `gap`, the second tells instead whether the first k are certainly the k nearest.
    """
    n, width = points.shape
    local = _about(points, np.arange(n))
    squares = (local**2).sum(1)
    unit = squares.max()
    local /= np.sqrt(unit)
    rough = torch.from_numpy(local.astype(np.float32))
    half = torch.from_numpy((squares / (2 * unit)).astype(np.float32))
    slack = (width + 8) * 2.0**-24
    count = _count(points, k)
    near, certain = np.empty((len(rows), count), dtype=np.int64), np.empty(len(rows), dtype=bool if gap else float)
    step = max(1, KEYS // n)
    for start in range(0, len(rows), step):
        own, part = torch.from_numpy(rows[start : start + step]), slice(start, start + step)
        key = torch.addmm(half, rough[own], rough.T, alpha=-1)
        key[torch.arange(len(own)), own] = torch.inf
        key, found = key.topk(count, largest=False)
        near[part], key = found.numpy(), key.numpy().astype(np.float64)
        if gap:
            certain[part] = k == n - 1 or key[:, k] - key[:, k - 1] > 2 * slack
        else:
            certain[part] = np.inf if count == n - 1 else squares[rows[part]] + 2 * unit * (key[:, -1] - slack)
    return near, certain


def _measured(points: np.ndarray, rows: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distances of points in `rows` to `near` (b, k) by differences, in order, and the indices in that order."""
    d = np.empty(near.shape)
    step = max(1, CACHED // (near.shape[1] * points.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = points[near[part]]
        difference -= points[rows[part], None]
        d[part] = np.sqrt(np.einsum("bkd,bkd->bk", difference, difference))
    return _ordered(d, near, near.shape[1])


def _ordered(d: np.ndarray, near: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row of d, in order, and their indices."""
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(d, order, 1), np.take_along_axis(near, order, 1)


def _tree(points: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The distances (b, k) and indices by a tree, which measures by differences."""
    from sklearn.neighbors import NearestNeighbors  # imported here: it takes longer to load than all of probes

    d, near = NearestNeighbors(n_neighbors=k + 1, algorithm="kd_tree").fit(points).kneighbors(points[rows])
    own = near == rows[:, None]
    own[~own.any(1), -1] = True  # points at distance zero may hide a point from itself: drop the farthest
    return d[~own].reshape(-1, k), near[~own].reshape(-1, k)


def _local(points: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The distances (b, k) and indices by float64 inner products about the rows' centre; halves of the doubtful ones again.

    Rounding moves |x|^2 + |y|^2 - 2 x'y by at most s (|x|^2 + |y|^2) with s = 2 (D + 8) 2^-53, and |y|^2 <= 2 |x|^2 +
    2 |x - y|^2: about the centre of its own cluster a point cannot take a far one for a near one.
    """
    n, width = points.shape
    local = torch.from_numpy(_about(points, rows))
    squares = (local**2).sum(1)
    slack, count = (width + 8) * 2.0**-52, _count(points, k)
    d, near, certain = np.empty((len(rows), k)), np.empty((len(rows), k), dtype=np.int64), np.empty(len(rows))
    step = max(1, KEYS // (2 * n))
    for start in range(0, len(rows), step):
        own, part = torch.from_numpy(rows[start : start + step]), slice(start, start + step)
        key = torch.addmm(squares / 2, local[own], local.T, alpha=-1)
        key[torch.arange(len(own)), own] = torch.inf
        key, found = key.topk(count, largest=False)
        square = (squares[own, None] + 2 * key).clamp_min(0)
        left = square[:, -1] - 3 * slack * squares[own]
        certain[part] = np.inf if count == n - 1 else (left / (1 + 2 * slack)).numpy()
        i, j = np.nonzero((square < CLOSE * (squares[own, None] + squares[found])).numpy())
        measured, found = square.sqrt().numpy(), found.numpy()
        for a in range(0, len(i), 4096):
            at = i[a : a + 4096], j[a : a + 4096]
            measured[at] = np.linalg.norm(points[rows[part][at[0]]] - points[found[at]], axis=1)
        d[part], near[part] = _ordered(measured, found, k)
    again = np.flatnonzero(d[:, -1] ** 2 * (1 - TIE) > certain)
    if 0 < len(again) <= SMALL:
        d[again], near[again] = _pruned(points, rows[again], k, d[again, -1].max())
    elif len(again):
        for half in _halves(points[rows[again]]):
            d[again[half]], near[again[half]] = _local(points, rows[again[half]], k)
    return d, near


def _halves(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the points, each a quarter at least, parted by the widest gap along the widest coordinate."""
    values = points[:, np.argmax(np.ptp(points, axis=0))]
    order, first = np.argsort(values), len(points) // 4
    cut = first + 1 + int(np.argmax(np.diff(values[order])[first : len(points) - first - 1]))
    return order[:cut], order[cut:]


def _pruned(points: np.ndarray, rows: np.ndarray, k: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The distances (b, k) and indices by differences to all points that may lie within `reach` of any of the rows."""
    local = _about(points, rows)
    radius = np.sqrt((local**2).sum(1))
    chosen = np.flatnonzero(radius <= (radius[rows].max() + reach) * (1 + 1e-6))
    d = cdist(points[rows], points[chosen])
    d[rows[:, None] == chosen] = np.inf
    return _ordered(d, np.broadcast_to(chosen, d.shape), k)
