"""Intervals and tests whose unit is the cluster (task x seed), never the example."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Columns = Mapping[str, np.ndarray]
Statistic = Callable[[Columns], float]


@dataclass(frozen=True)
class Interval:
    """A statistic with its cluster-bootstrap interval and what is needed to invert it into one-sided p-values."""

    value: float
    low: float
    high: float
    clusters: int
    replicates: np.ndarray
    bias: float
    acceleration: float

    def p_not_above(self, bar: float) -> float:
        """Return the one-sided p-value of "the statistic is at most `bar`": the level whose end point is `bar`."""
        return self._level(bar, strict=False)

    def p_not_below(self, bar: float) -> float:
        """Return the one-sided p-value of "the statistic is at least `bar`" (see `p_not_above`)."""
        return 1.0 - self._level(bar, strict=True)

    def _level(self, bar: float, *, strict: bool) -> float:
        n = len(self.replicates)
        below = np.sum(self.replicates < bar) if strict else np.sum(self.replicates <= bar)
        if below in (0, n):  # no level has an end point there: the p-value is below what n replicates resolve
            return 1.0 / n if below == 0 else 1.0 - 1.0 / n
        z = stats.norm.ppf(below / n) - self.bias
        z = z / (1.0 + self.acceleration * z) - self.bias
        return float(stats.t.cdf(z * np.sqrt(1 - 1 / self.clusters), self.clusters - 1))


def cluster_interval(
    columns: Columns,
    clusters: Sequence[Hashable],
    statistic: Statistic,
    *,
    confidence: float = 0.95,
    replicates: int = 4000,
    seed: int = 0,
) -> Interval:
    """Return `statistic(columns)` with a bias-corrected and accelerated interval over resampled clusters.

    Whole clusters are drawn with replacement. With F the bootstrap distribution and z0 its bias, the end point at level q is
    F^-1(Phi(z0 + (z0 + z_q) / (1 - a (z0 + z_q)))); the acceleration is the jackknife over clusters,
    a = sum d_i^3 / (6 (sum d_i^2)^(3/2)), d_i = mean(theta_(.)) - theta_(i) (Efron 1987, sections 2 and 6). z_q is expanded to
    sqrt(n / (n - 1)) t_(q, n-1), because the bootstrap alone is too narrow for a dozen clusters (Hesterberg 2015, section 4.4).
    columns: arrays of one common length n; clusters: n labels. Raises ValueError for fewer than 3 clusters.
    """
    labels = np.asarray([str(c) for c in clusters])
    members = [np.flatnonzero(labels == name) for name in dict.fromkeys(labels)]
    if len(members) < 3:
        raise ValueError(f"expected at least 3 clusters (task x seed) for an interval, got {len(members)}: add tasks or seeds")
    data = {name: np.asarray(values) for name, values in columns.items()}

    def value(chosen: Sequence[np.ndarray]) -> float:
        rows = np.concatenate(chosen)
        return float(statistic({name: values[rows] for name, values in data.items()}))

    estimate = value(members)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(members), size=(replicates, len(members)))
    boot = np.sort([value([members[i] for i in draw]) for draw in draws])
    boot = boot[np.isfinite(boot)]
    left_out = np.array([value(members[:i] + members[i + 1 :]) for i in range(len(members))])
    d = left_out.mean() - left_out
    spread = float(np.sum(d**2))
    a = float(np.sum(d**3) / (6.0 * spread**1.5)) if spread > 0 else 0.0
    share = (np.sum(boot < estimate) + 0.5 * np.sum(boot == estimate)) / len(boot)
    z0 = float(stats.norm.ppf(np.clip(share, 0.5 / len(boot), 1 - 0.5 / len(boot))))
    n = len(members)
    z = stats.t.ppf([(1 - confidence) / 2, (1 + confidence) / 2], n - 1) * np.sqrt(n / (n - 1))
    levels = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    low, high = np.quantile(boot, levels)
    return Interval(estimate, float(low), float(high), len(members), boot, z0, a)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values adjusted for the whole family by Holm's step-down rule (Holm 1979).

    The i-th smallest of m becomes max over j <= i of (m - j + 1) p_(j), at most 1.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def partial_rank_correlation(x: np.ndarray, y: np.ndarray, others: Sequence[np.ndarray], within: np.ndarray) -> float:
    """Return Spearman's correlation of x and y given the ranks of `others`, all ranked inside each group of `within`.

    Ranks are taken per group and centred, x and y are regressed on the others' ranks by least squares, and the residuals
    are correlated. Groups of different level (an easy and a hard task) thus cannot make a correlation by themselves.
    """
    z = np.empty((2 + len(others), len(x)))
    for group in np.unique(within):
        rows = within == group
        for k, values in enumerate((x, y, *others)):
            ranks = stats.rankdata(values[rows])
            z[k, rows] = (ranks - ranks.mean()) / len(ranks)
    given = z[2:].T
    residual = z[:2].T - given @ np.linalg.lstsq(given, z[:2].T, rcond=None)[0] if len(others) else z[:2].T
    norms = np.linalg.norm(residual, axis=0)
    return float(residual[:, 0] @ residual[:, 1] / (norms[0] * norms[1])) if np.all(norms > 1e-12) else 0.0


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of two share vectors in nats, between 0 and log 2.

    JS = 1/2 KL(p | m) + 1/2 KL(q | m), m = (p + q) / 2 (Lin 1991).
    """
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    return float((stats.entropy(p, m) + stats.entropy(q, m)) / 2)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors, 0 when either vanishes."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b) / scale) if scale > 0 else 0.0


def explained(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return 1 - |actual - predicted|^2 / |actual|^2: 1 for a perfect prediction, 0 for predicting no change."""
    return float(1.0 - np.sum((actual - predicted) ** 2) / np.sum(actual**2))
