"""A cloud without copies: points that are equal, or nearer to each other than any density explains."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats
from scipy.optimize import brentq

from probes.dimension.neighbours import distances

FAR = math.log(1e3)  # copies lie this many times (log) nearer to each other than to the next point, at least
MOST = 4  # the most copies of one point that are looked for at once
RISK = 1e-6  # probability of leaving out points of a cloud without copies


class Cloud(NamedTuple):
    """Points (n, D) without copies, the distances (n, k) to their neighbours and who these are, and how many copies
    were left out: equal ones and near ones.
    """

    points: np.ndarray
    distances: np.ndarray
    neighbours: np.ndarray
    equal: int
    near: int

    @property
    def account(self) -> dict:
        """Return what an estimate's record says of the copies."""
        return {"dropped": self.equal + self.near, "method": f"{self.near} near duplicates left out" if self.near else ""}


def matrix(X) -> np.ndarray:
    """Return X as a float64 array (n, D); raises ValueError unless it has two axes and is finite."""
    if hasattr(X, "detach"):
        X = X.detach().cpu().double()
    x = np.asarray(X, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"X must be a finite array (n, D), got shape {x.shape}; pool or reshape it first")
    return x


def without_copies(X, least: int, k: int) -> Cloud:
    """Return the points of X without copies, of each of which the first stays, and their k nearest neighbours or a few more.

    Copies are equal rows, and groups of up to five rows whose next neighbour is so much farther than they are from each
    other that no density explains it. In a locally uniform cloud of dimension d log(r_{j+1} / r_j) is exponential with
    rate j d (a Poisson process), so at most n m^-d groups with a ratio above m are expected, whatever the density; the
    groups of the largest ratios, 1e3 at least, are copies while chance brings so many with a probability below 1e-6. d
    is the rate of the other points' log(r_2 / r_1), cut off at 1e3. Raises ValueError where fewer than `least` points stay.
    """
    x = matrix(X) + 0.0  # -0.0 and 0.0 are one number with two bit patterns
    first: dict[bytes, int] = {}
    for i, row in enumerate(x):
        first.setdefault(row.tobytes(), i)
    points = x if len(first) == len(x) else x[list(first.values())]
    equal = len(x) - len(points)
    while True:  # copies of copies, at scales of their own; every round leaves fewer points
        n = len(points)
        if n < max(least, 3):
            near = f", {len(x) - equal - n} more as near duplicates" if len(x) - equal > n else ""
            raise ValueError(f"at least {least} distinct points are needed, got {n} of {len(x)}{near}")
        r, near = distances(points, min(max(k, MOST + 1), n - 1))
        stay = _originals(points, r[:, : MOST + 1], near[:, : MOST + 1])
        if stay.all():
            return Cloud(points, r, near, equal, len(x) - equal - n)
        points = points[stay]


def _originals(points: np.ndarray, r: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Which points (n,) are no copies of an earlier one, by the distances r (n, k) of their neighbours near."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log(r[:, 1:] / r[:, :-1])
    ratios = np.where(r[:, :-1] > 0, ratios, np.where(r[:, 1:] > 0, np.inf, 0.0))
    widest = ratios.argmax(1)
    ratio = ratios[np.arange(len(r)), widest]
    member = np.arange(r.shape[1]) <= widest[:, None]  # the neighbours on this side of the widest gap
    label = _groups(member & (ratio > FAR)[:, None], near)
    others = points[_first(label)]
    if len(others) == len(points) or len(others) < 3:
        return np.ones(len(points), dtype=bool)
    rate = _rate(distances(others, 2)[0])
    smallest = np.full(label.max() + 1, np.inf)  # of the ratios that set a group apart
    np.minimum.at(smallest, label[ratio > FAR], ratio[ratio > FAR])
    falling = np.sort(smallest[np.unique(label[ratio > FAR])])[::-1]
    chance = stats.poisson.sf(np.arange(len(falling)), len(points) * np.exp(-rate * np.minimum(falling, 700)))
    sure = np.flatnonzero(chance < RISK / len(falling))
    limit = falling[sure[-1]] if len(sure) else np.inf
    return _first(_groups(member & (ratio >= limit)[:, None] & (len(sure) > 0), near))


def _groups(linked: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The number of each point's group, given which of its neighbours (n, k) belong to it."""
    n = len(near)
    graph = sparse.coo_array((np.ones(int(linked.sum())), (np.nonzero(linked)[0], near[linked])), shape=(n, n))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _first(label: np.ndarray) -> np.ndarray:
    """Which points are the first of their group."""
    stay = np.zeros(len(label), dtype=bool)
    stay[np.unique(label, return_index=True)[1]] = True
    return stay


def _rate(r: np.ndarray) -> float:
    """The dimension of distances r (n, 2): the rate of log(r_2 / r_1), exponential and cut off at FAR, by likelihood.

    Its mean is 1 / d - FAR / (exp(d FAR) - 1); 0 where it is FAR / 2 or more, so that nothing is called a copy.
    """
    r = r[r[:, 0] > 0]
    logs = np.log(r[:, 1] / r[:, 0])
    logs = logs[logs < FAR]
    mean = float(logs.mean()) if len(logs) else FAR
    if mean >= 0.49 * FAR:
        return 0.0
    if mean <= 1e-9:  # ties alone
        return 1e9

    def excess(d: float) -> float:
        return 1 / d - FAR * math.exp(-d * FAR) / -math.expm1(-d * FAR) - mean

    return float(brentq(excess, 1e-3 / FAR, 2 / mean, maxiter=1000))
