"""Intervals and tests whose unit is the task, with seeds nested in it; never the seed, never the example."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

Columns = Mapping[str, np.ndarray]
Statistic = Callable[[Columns], float]
LEAST = 3  # tasks without which there is no spread to speak of
SCALES: Mapping[str, tuple[Callable, Callable]] = {
    "plain": (float, float),
    "log": (lambda x: math.log(x) if x > 0 else -math.inf, lambda y: math.exp(min(y, 700.0))),
    "fisher": (lambda rho: math.atanh(min(max(rho, -0.9999), 0.9999)), math.tanh),
}


@dataclass(frozen=True)
class Interval:
    """A statistic with its interval over tasks, and the one-sided tests that the interval inverts.

    stderr: of the statistic on its scale, with so many degrees of `freedom`. upper: the interval on another scale that the upper
    end is of. times: what p-values are multiplied with. A statistic that cannot be computed, or not with some task left out, has
    no ends (NaN) and p-values of 1.
    """

    value: float
    low: float
    high: float
    tasks: int
    stderr: float
    freedom: float
    scale: str = "plain"
    upper: "Interval | None" = None
    times: float = 1.0

    @classmethod
    def of(cls, value: float, tasks: int, stderr: float, freedom: float, scale: str, confidence: float) -> "Interval":
        """Return the interval value +- t stderr on its scale, t the two-sided quantile of Student's t."""
        if not (math.isfinite(value) and math.isfinite(stderr)):
            return cls(value, math.nan, math.nan, tasks, math.nan, freedom, scale)
        to, back = SCALES[scale]
        reach = _quantile((1 + confidence) / 2, freedom) * stderr
        return cls(value, back(to(value) - reach), back(to(value) + reach), tasks, stderr, freedom, scale)

    def p_not_above(self, bar: float) -> float:
        """Return the one-sided p-value of "the statistic is at most `bar`"."""
        return self._tail(bar, 1.0)

    def p_not_below(self, bar: float) -> float:
        """Return the one-sided p-value of "the statistic is at least `bar`"."""
        return (self.upper or self)._tail(bar, -1.0)

    def _tail(self, bar: float, side: float) -> float:
        if not math.isfinite(self.stderr):
            return 1.0
        to = SCALES[self.scale][0]
        distance = side * (to(self.value) - to(bar))
        if self.stderr <= 0:  # every task says the same: only their signs are left to test
            return 0.5**self.tasks if distance > 0 else 1.0
        return min(1.0, self.times * float(special.stdtr(self.freedom, -distance / self.stderr)))


def _quantile(level: float, freedom: float) -> float:
    return float(special.ndtri(level) if math.isinf(freedom) else special.stdtrit(freedom, level))


def task_interval(
    columns: Columns, tasks: Sequence[Hashable], statistic: Statistic, *, scale: str = "plain", confidence: float = 0.95
) -> Interval:
    """Return `statistic(columns)` with an interval over tasks.

    The tasks' contributions are the jackknife's pseudo-values J_i = n theta - (n - 1) theta_(i), theta_(i) the statistic without
    task i; their standard deviation over sqrt(n) is the standard error (Efron and Stein 1981), and for a mean of task means they
    are these means. The interval and the p-values are those of Student's t with n - 1 degrees of freedom. When all
    contributions are equal, p-values are those of the exact sign test. scale "log" does all this to the logarithm of a
    positive statistic (see `Positive`). columns: arrays of one common length; tasks: one label per row, so that seeds, ports and
    levels of a task stay together. Raises ValueError for fewer than 3 tasks.
    """
    labels = np.asarray([str(task) for task in tasks])
    names = list(dict.fromkeys(labels))
    n = len(names)
    if n < LEAST:
        raise ValueError(f"expected at least {LEAST} tasks for an interval, got {n}: add tasks; seeds of one are not independent")
    data = {name: np.asarray(values) for name, values in columns.items()}

    def value(rows: np.ndarray) -> float:
        return float(statistic({name: values[rows] for name, values in data.items()}))

    estimate = value(np.full(len(labels), True))
    left_out = [value(labels != name) for name in names]
    scale = scale if min(estimate, *left_out) > 0 else "plain"
    x = np.array([SCALES[scale][0](one) if math.isfinite(one) else math.nan for one in left_out])
    stderr = math.sqrt((n - 1) / n * float(np.sum((x - x.mean()) ** 2)))
    same = stderr <= 1e-12 * max(1.0, abs(estimate))
    return Interval.of(estimate, n, 0.0 if same else stderr, n - 1.0, scale, confidence)


@dataclass(frozen=True)
class Positive:
    """A statistic that is positive, as a mean error or a ratio of errors is: its upper end is that of its logarithm.

    Errors are skewed. With contributions that are half-normal, exponential or means of sizes, Student's t takes 5 to 11 % of
    statistics on a bar for smaller ones at 5 to 18 tasks and their logarithms 2 to 5 %, so that p-values of the logarithm are
    doubled; larger ones are told by the plain scale, which is the careful one there.
    """

    statistic: Statistic

    def __call__(self, columns: Columns) -> float:
        return self.statistic(columns)

    def interval(self, columns: Columns, tasks: Sequence[Hashable], *, confidence: float = 0.95) -> Interval:
        """Return the statistic with its interval."""
        plain = task_interval(columns, tasks, self.statistic, confidence=confidence)
        upper = task_interval(columns, tasks, self.statistic, scale="log", confidence=(1 + confidence) / 2)
        return replace(plain, high=upper.high, upper=replace(upper, times=2.0))


@dataclass(frozen=True)
class RankOverTasks:
    """The statistic "Spearman's correlation of two columns over tasks", each task's rows averaged first.

    Its interval is on Fisher's scale, z = arctanh(rho), with standard error sqrt(1.06 / (n - 3)) (Fieller, Hartley and Pearson
    1957): a jackknife of so few ranks has no use. It needs 5 tasks.
    """

    x: str
    y: str

    def _averaged(self, columns: Columns, tasks: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.asarray([str(task) for task in tasks])
        x, y = (np.asarray(columns[name]) for name in (self.x, self.y))
        return tuple(np.array([np.mean(v[labels == task]) for task in dict.fromkeys(labels)]) for v in (x, y))

    def __call__(self, columns: Columns) -> float:
        if self.x not in columns or self.y not in columns:
            return float("nan")
        return _spearman(*self._averaged(columns, columns["task"]))

    def interval(self, columns: Columns, tasks: Sequence[Hashable], *, confidence: float = 0.95) -> Interval:
        """Return the correlation with its interval."""
        rho, n = self(columns), len(set(map(str, tasks)))
        return Interval.of(rho, n, math.sqrt(1.06 / (n - 3)) if n >= 5 else math.nan, math.inf, "fisher", confidence)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's correlation, 0 when either column is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(stats.spearmanr(x, y).statistic)


def interval(columns: Columns, tasks: Sequence[Hashable], statistic: Statistic) -> Interval:
    """Return a statistic's interval over tasks: its own kind where it has one, the jackknife's otherwise."""
    own = getattr(statistic, "interval", None)
    return own(columns, tasks) if own else task_interval(columns, tasks, statistic)


def cells_of(columns: Columns) -> np.ndarray:
    """Return the cell of each row, one label per (task, seed)."""
    return np.char.add(np.char.add(columns["task"].astype(str), "\n"), columns["seed"].astype(str))


def within(columns: Columns, statistic: Statistic) -> np.ndarray:
    """Return a statistic of each cell's own rows, one number per (task, seed): a later mean over them then counts cells alike."""
    places = cells_of(columns)
    return np.array([statistic({k: v[places == place] for k, v in columns.items()}) for place in dict.fromkeys(places)])


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
