"""The nearest neighbours of points (n, D) in Euclidean distance, with distances that keep their digits.

Few neighbours in many dimensions are found in float32 and measured in float64; a row for which the rounding of
float32 could have hidden a neighbour, and everything else, is searched by scikit-learn.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

CLOSE = 1e-3                # squared distances below this share of |x|^2 + |y|^2 are measured again
TREE = 15                   # up to this many dimensions scikit-learn searches a tree
FEW = 32                    # beyond this many neighbours measuring them again takes longer than the search
KEYS = 1 << 21              # float32 numbers that are sorted at once
CACHED = 1 << 18            # float64 numbers that are measured at once


def distances(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The distances (n, k) of each point's k nearest others, from near to far, and their indices.

    Points should be centred. A distance comes from the difference of its two points, or from their inner
    product where that has not lost more than three digits.
    """
    rows = np.arange(len(points))
    if points.shape[1] <= TREE or k > FEW:
        return _library(points, rows, k)
    near, certain = _rough(points, rows, k)
    d, near = _measured(points, rows, near)
    # whatever was left out is no nearer than `certain`
    again = np.flatnonzero(d[:, k - 1]**2 > certain)
    d, near = d[:, :k].copy(), near[:, :k].copy()
    if len(again):
        d[again], near[again] = _library(points, again, k)
    return d, near


def sets(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The indices (b, k) of the k nearest others of the points in `rows`, in no order."""
    if points.shape[1] <= TREE:
        return _library(points, rows, k)[1]
    near, certain = _rough(points, rows, k, gap=True)
    again = np.flatnonzero(~certain)
    near = near[:, :k].copy()
    if len(again):
        near[again] = _library(points, rows[again], k)[1]
    return near


def _rough(points: np.ndarray, rows: np.ndarray, k: int, gap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (b, more than k) by float32, and a squared distance (b,) below which no others lie.

    They are sorted by |y|^2 / 2 - x'y in units of the longest point, which rounding moves by at most (D + 8)
    2^-24. With `gap`, the second tells instead whether the first k are certainly the k nearest.
    """
    n, width = points.shape
    squares = (points**2).sum(1)
    unit = squares.max()
    rough = torch.from_numpy((points / np.sqrt(unit)).astype(np.float32))
    half = torch.from_numpy((squares / (2 * unit)).astype(np.float32))
    slack = (width + 8) * 2.0**-24
    count = min(k + max(4, k // 4), n - 1)
    near, certain = np.empty((len(rows), count), dtype=np.int64), np.empty(len(rows), dtype=bool if gap else float)
    step = max(1, KEYS // n)
    for start in range(0, len(rows), step):
        own, part = torch.from_numpy(rows[start:start + step]), slice(start, start + step)
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
    order = np.argsort(d, axis=1, kind="stable")
    return np.take_along_axis(d, order, 1), np.take_along_axis(near, order, 1)


def _library(points: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The distances (b, k) and indices from scikit-learn: a few more than k, close ones measured again."""
    count = min(k + max(4, k // 4), len(points) - 1)
    d, near = NearestNeighbors(n_neighbors=count + 1).fit(points).kneighbors(points[rows])
    own = near == rows[:, None]
    own[~own.any(1), -1] = True         # rounding may hide a point from itself: drop the farthest
    d, near = d[~own].reshape(-1, count), near[~own].reshape(-1, count)
    norms = (points**2).sum(1)
    i, j = np.nonzero(d**2 < CLOSE * (norms[rows, None] + norms[near]))
    for start in range(0, len(i), 4096):
        a, b = i[start:start + 4096], j[start:start + 4096]
        d[a, b] = np.linalg.norm(points[rows[a]] - points[near[a, b]], axis=1)
    order = np.argsort(d, axis=1)[:, :k]
    return np.take_along_axis(d, order, 1), np.take_along_axis(near, order, 1)
