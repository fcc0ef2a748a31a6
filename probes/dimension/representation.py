"""Intrinsic dimension of a cloud of representations X (n, D): nearest-neighbour and linear estimators.

Distances come from `probes.neighbours`, in float64. Equal points and near duplicates are left out, as `probes.copies` says, and
counted: the rest is a sample of the same cloud, so its dimension is known, and one pair of copies would count more than
a hundred points. Where distances tie, as on a lattice, no point can be left out for it, and the status says how many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import brentq

from probes.dimension.copies import Cloud, matrix, without_copies
from probes.dimension.neighbours import sets, unit_spread
from probes.records import Estimate, student

TIE = 1e-9  # relative difference below which two distances are one


@dataclass(frozen=True)
class ScaleCurve:
    """A dimension at several scales: one Estimate per pair of neighbour ranks (n1, 2 n1), from near to far.

    scale holds the mean distance to the farther neighbour. A curve that is not flat means noise (falling) or
    curvature; no single number describes such a cloud. n points, dropped duplicates.
    """

    ranks: tuple[int, ...]
    scale: tuple[float, ...]
    estimates: tuple[Estimate, ...]
    n: int
    dropped: int

    @property
    def values(self) -> tuple[float, ...]:
        """Return the dimension at each scale."""
        return tuple(e.value for e in self.estimates)


def two_nn(X) -> Estimate:
    """Measure the dimension from the two nearest neighbours (Facco et al. 2017), by maximum likelihood.

    With mu = r_2 / r_1, P(mu > t) = t^-d where the density is locally uniform, so d = (n - 1) / sum log mu.
    The standard error counts the dependence of neighbours' ratios, see `_error`.
    Raises ValueError for fewer than 3 distinct points.
    """
    cloud = without_copies(X, 3, 2)
    n, r, near = len(cloud.points), cloud.distances[:, :2], cloud.neighbours[:, :2]
    logs = _log_ratio(r[:, 1], r[:, 0])
    if bad := _meaningless(r, logs):
        return _nothing("two_nn", n, bad, cloud)
    value = (n - 1) / logs.sum()
    return student("two_nn", float(value), value * _error(logs / logs.mean() - 1, near), n, status=_ties(r), **cloud.account)


def mle(X, k: int = 20) -> Estimate:
    """Measure the dimension from k neighbours (Levina & Bickel 2005), pooled as MacKay & Ghahramani (2005) do.

    1 / d = mean_i [1 / (k - 1)] sum_{j<k} log(r_ik / r_ij): the pooled likelihood divides by k - 1.
    .parts["mean"] is the mean of the local estimates instead, where k - 2 makes each one unbiased.
    Raises ValueError unless 3 <= k < n.
    """
    if k < 3:
        raise ValueError(f"k must be at least 3, got {k}; two_nn uses two neighbours")
    cloud = without_copies(X, k + 1, k)
    n, r, near = len(cloud.points), cloud.distances[:, :k], cloud.neighbours[:, :k]
    logs = _log_ratio(r[:, -1:], r[:, :-1]).sum(1)
    if bad := _meaningless(r, logs):
        return _nothing("mle", n, bad, cloud, parts={"mean": _nothing("mle, mean of local", n, bad, cloud)})
    status, pooled, level = _ties(r), float(n * (k - 1) / logs.sum()), logs > 0
    local = (k - 2) / np.where(level, logs, np.nan)
    flat = "" if level.all() else f"{n - int(level.sum())} of {n} points have all {k} neighbours at one distance"
    if flat:
        mean = _nothing("mle, mean of local", n, flat, cloud)
    else:
        mean = student(
            "mle, mean of local", float(local.mean()), _error(local - local.mean(), near), n, status=status, **cloud.account
        )
    return student(
        "mle", pooled, pooled * _error(logs / logs.mean() - 1, near), n, status=status, **cloud.account, parts={"mean": mean}
    )


def gride(X, ranks: Sequence[int] = (1, 2, 4, 8, 16, 32)) -> ScaleCurve:
    """Measure the dimension at growing scales from mu = r_{2 n1} / r_{n1} (Gride, Denti et al. 2022), by likelihood.

    log f(mu; d) = log d + (n1 - 1) log(mu^d - 1) - ((2 n1 - 1) d + 1) log mu + const. Ranks n1 beyond half
    the points are left out; n1 = 1 is two_nn. Raises ValueError for too few points or ranks below 1.
    """
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks must be neighbour numbers of at least 1, got {tuple(ranks)}")
    cloud = without_copies(X, 2 * min(ranks) + 1, 2 * max(ranks))
    n, r, near = len(cloud.points), cloud.distances, cloud.neighbours
    used = tuple(sorted({int(r) for r in ranks if 2 * r < n}))
    estimates, scale = [], []
    for rank in used:
        logs = _log_ratio(r[:, 2 * rank - 1], r[:, rank - 1])
        if bad := _meaningless(r[:, : 2 * rank], logs):
            estimates.append(_nothing(f"gride {rank}", n, bad, cloud))
        else:
            value, error = _gride(logs, rank, near[:, : 2 * rank])
            status = _ties(r[:, : 2 * rank])
            estimates.append(student(f"gride {rank}", value, error, n, status=status, **cloud.account))
        scale.append(float(r[:, 2 * rank - 1].mean()))
    return ScaleCurve(used, tuple(scale), tuple(estimates), n, cloud.equal + cloud.near)


def local_pca(X, k: int = 100, *, share: float = 0.95, centres: int = 1000, seed: int = 0) -> Estimate:
    """Measure the number of principal components that hold a share of a neighbourhood's variance, averaged.

    The neighbourhood is the k nearest points and the point itself, centred (Fukunaga & Olsen 1971); at most
    `centres` points are used, drawn with the seed. Raises ValueError unless 2 <= k < n and 0 < share <= 1.
    """
    if k < 2 or not 0 < share <= 1:
        raise ValueError(f"k must be at least 2 and share in (0, 1], got {k} and {share}")
    cloud = without_copies(X, k + 1, 2)
    points = _centred(cloud.points)
    n = len(points)
    chosen = np.arange(n) if n <= centres else np.random.default_rng(seed).choice(n, centres, replace=False)
    near = np.concatenate([chosen[:, None], sets(points, chosen, k)], 1)
    counts = _components(points, near, share)
    among = np.tile(np.arange(n)[:, None], (1, k + 1))
    among[chosen] = near
    influence = np.zeros(n)
    influence[chosen] = (counts - counts.mean()) * n / len(chosen)
    return student("local_pca", float(counts.mean()), _error(influence, among), len(chosen), **cloud.account)


def participation_ratio(X) -> Estimate:
    """Return the participation ratio of the covariance's eigenvalues, (sum l)^2 / sum l^2; ten-fold jackknife.

    It counts the directions of the linear span, not of the manifold: a sphere of dimension d gives d + 1.
    .parts["effective_rank"] is exp of the entropy of l / sum l (Roy & Vetterli 2007). Duplicates stay: they
    weigh. Raises ValueError for fewer than 20 points or a cloud without spread.
    """
    points = matrix(X)
    n = len(points)
    if n < 20:
        raise ValueError(f"participation_ratio needs at least 20 points, got {n}")
    points = _centred(points)
    folds = np.arange(n) % 10
    moments = [(points[folds == f].sum(0), points[folds == f].T @ points[folds == f]) for f in range(10)]
    first, second = sum(m[0] for m in moments), sum(m[1] for m in moments)

    def measures(count: int, s1: np.ndarray, s2: np.ndarray) -> tuple[float, float]:
        values = np.linalg.eigvalsh(s2 / count - np.outer(s1 / count, s1 / count)).clip(0)
        if values.sum() <= 0:
            raise ValueError("participation_ratio needs points that differ; all of them are equal")
        p = values / values.sum()
        p = p[p > 1e-15]
        return float(1 / (p**2).sum()), float(np.exp(-(p * np.log(p)).sum()))

    whole = measures(n, first, second)
    left = np.array([measures(n - int((folds == f).sum()), first - moments[f][0], second - moments[f][1]) for f in range(10)])
    error = np.sqrt(0.9 * ((left - left.mean(0)) ** 2).sum(0))
    rank = student("effective_rank", whole[1], float(error[1]), n, degrees=9)
    parts = {"effective_rank": rank}
    return student("participation_ratio", whole[0], float(error[0]), n, degrees=9, parts=parts)


def _centred(points: np.ndarray) -> np.ndarray:
    """The points about their mean, in a power of two of their units that makes every square a number."""
    points = unit_spread(points)[0]
    points = points - points[0]  # what all share is gone without a rounding
    return points - points.mean(0)


def _log_ratio(far: np.ndarray, near: np.ndarray) -> np.ndarray:
    """log(far / near); not a number, or infinite, where near is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(far / near)


def _meaningless(r: np.ndarray, logs: np.ndarray) -> str:
    """Why the ratios of distances r (n, k) hold no dimension at all, or nothing."""
    if not r[:, 0].all():
        return f"{int((r[:, 0] == 0).sum())} of {len(r)} points lie at distance 0 of another in float64: rescale the columns"
    return "" if logs.sum() > TIE * len(r) else f"all {len(r)} points have neighbours at one distance, as on a lattice"


def _ties(r: np.ndarray) -> str:
    """ "ok", or how many points have neighbours at equal distances, if that moves an estimate by a tenth of its error."""
    tied = int((np.diff(r, axis=1) <= TIE * r[:, 1:]).any(1).sum())
    if tied <= 0.1 * math.sqrt(len(r)):
        return "ok"
    return f"ties: {tied} of {len(r)} points have neighbours at equal distances, as on a lattice or after rounding"


def _nothing(quantity: str, n: int, status: str, cloud: Cloud, **more) -> Estimate:
    """An estimate without a value, and why."""
    return Estimate(quantity, math.nan, math.nan, (math.nan, math.nan), n, status=status, **cloud.account, **more)


def _components(points: np.ndarray, near: np.ndarray, share: float) -> np.ndarray:
    """How many principal components hold a share of the variance of each neighbourhood, points of near (b, k + 1).

    Counted in float32, and again in float64 wherever a sum of variances comes so near the share that the
    rounding of points (2^-24 of their length) or of the eigenvalues (1e-4 of their sum) could decide.
    """
    rough, squares = points.astype(np.float32), (points**2).sum(1)
    counts = np.empty(len(near))
    for start in range(0, len(near), 64):
        part = near[start : start + 64]
        held = _variances(rough[part]).cumsum(1, dtype=np.float64)
        goal = share * held[:, -1:]
        counts[start : start + 64] = (held < goal).sum(1) + 1
        doubt = 1e-4 * held[:, -1] + 2.0**-21 * np.sqrt(held[:, -1] * squares[part].sum(1))
        again = np.flatnonzero((np.abs(held - goal) <= doubt[:, None]).any(1))
        if len(again):
            held = _variances(points[part[again]]).cumsum(1)
            counts[start + again] = (held < share * held[:, -1:] * (1 - 1e-12)).sum(1) + 1
    return counts


def _variances(clouds: np.ndarray) -> np.ndarray:
    """The sums of squares (b, min(k, D)) of clouds (b, k, D) along their principal axes, from large to small."""
    clouds = clouds - clouds.mean(1, keepdims=True)
    # the smaller of the two Gram matrices has all nonzero variances
    gram = clouds @ clouds.mT if clouds.shape[1] <= clouds.shape[2] else clouds.mT @ clouds
    return torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()[:, ::-1]


def _error(influence: np.ndarray, near: np.ndarray) -> float:
    """The standard error of mean(influence) over points that share neighbours: sqrt(c'W c) / n.

    W links each point to itself and to its neighbours either way, as a kernel estimate does for time series.
    Taking points as independent is 1.3 times too small for two_nn and, with n / k of them, 4 times too large
    for mle.
    """
    n, k = near.shape
    link = sparse.csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), near.ravel())), shape=(n, n))
    link = ((link + link.T + sparse.eye_array(n)) > 0).astype(np.float64)
    alone, linked = influence @ influence, influence @ (link @ influence)
    return math.sqrt(linked if linked > 0 else alone) / n


def _gride(logs: np.ndarray, rank: int, near: np.ndarray) -> tuple[float, float]:
    """The maximum of the Gride likelihood in d, given log mu, and its standard error."""
    if rank == 1:
        value = (len(logs) - 1) / logs.sum()
        return float(value), float(value * _error(logs / logs.mean() - 1, near))

    def slopes(d: float) -> np.ndarray:
        # d log f / dd; log mu / (1 - mu^-d) tends to 1/d where mu = 1
        tie = logs * d < 1e-12
        growth = np.where(tie, 1 / d, logs / -np.expm1(-d * np.where(tie, 1.0, logs)))
        return 1 / d + (rank - 1) * growth - (2 * rank - 1) * logs

    top = 1.0
    while slopes(top).sum() > 0:  # it falls to -rank sum log mu < 0
        top *= 2
    value = float(brentq(lambda d: slopes(d).sum(), 1e-6, top))
    step = 1e-4 * value
    bend = (slopes(value - step) - slopes(value + step)).mean() / (2 * step)
    return value, _error(slopes(value), near) / float(bend)
