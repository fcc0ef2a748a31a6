"""The dimension at which scores reach a threshold, with a credible interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Curve:
    """A fitted curve of the score on a grid of dimensions, with its credible band at level `confidence`."""

    dimension: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    confidence: float


@dataclass(frozen=True)
class DimensionEstimate:
    """The dimension at which the score reaches a share of the full runs' gain over chance.

    value is inf and an interval end is inf (or 0) where it lies beyond (or below) the dimensions tried:
    nothing is extrapolated. not_reached and below are the posterior probabilities of that. isotonic is the
    estimate without a curve model; uncorrected the value for share * baseline instead of chance + share *
    (baseline - chance). n counts runs, levels distinct dimensions. status is "ok", "not reached", "below" or
    "misfit", and warning says why.
    """

    value: float
    interval: tuple[float, float]
    not_reached: float
    below: float
    isotonic: float
    uncorrected: float
    threshold: float
    curve: Curve
    n: int
    levels: int
    share: float
    confidence: float
    status: str
    warning: str


# shapes of the rise from 0 to 1 with their inverses: symmetric, slow to finish, slow to start, and a power of d up to a corner
RISES: tuple[tuple[Callable, Callable], ...] = (
    (lambda u: 1 / (1 + np.exp(-u)), lambda p: np.log(p / (1 - p))),
    (lambda u: np.exp(-np.exp(-u)), lambda p: -np.log(-np.log(p))),
    (lambda u: -np.expm1(-np.exp(u)), lambda p: np.log(-np.log1p(-p))),
    (lambda u: np.exp2(np.minimum(u, 0)), np.log2),
)


def threshold_dimension(
    dimensions: Sequence[float],
    scores: Sequence[float],
    *,
    baseline: Sequence[float],
    chance: float,
    share: float = 0.9,
    confidence: float = 0.9,
    seed: int = 0,
) -> DimensionEstimate:
    """Measure the smallest dimension whose score is chance + share (baseline - chance), with a credible interval.

    One row per run; baseline holds the scores of full runs; higher is better. The model is score = chance + (A - chance)
    rise((log2 d - m) / s) + sigma t_4 noise, the rise logistic, Gompertz, complementary log-log or min(1, 2^u) with equal
    prior weight; its posterior is summed over a grid of (m, s, A, sigma) refined three times, and the baseline's mean has
    Student's posterior. An isotonic fit to the medians that differs by more than 0.3 in log2 d makes the status a misfit. One
    run per dimension leaves the noise to the curve's misfit, and the warning says so.
    Raises ValueError for fewer than 3 distinct dimensions, fewer than 2 full runs, a baseline below chance, scores that are
    not finite, and a share outside (0, 1] or a confidence outside (0, 1).
    """
    if not (0 < share <= 1 and 0 < confidence < 1):
        raise ValueError(f"share must lie in (0, 1] and confidence in (0, 1), got {share} and {confidence}")
    x, y, full = _runs(dimensions, scores, baseline, chance)
    rng = np.random.default_rng(seed)
    gain = full.mean() - chance
    m, s, top, rise = _posterior(x, (y - chance) / gain, rng)
    noise = full.std(ddof=1) / math.sqrt(len(full)) / gain
    base = 1 + noise * stats.t.rvs(len(full) - 1, size=len(m), random_state=rng)
    low, high = x.min(), x.max()

    def crossing(goal: np.ndarray) -> np.ndarray:
        ratio = goal / top
        inside = (ratio > 0) & (ratio < 1)
        safe = np.where(inside, ratio, 0.5)
        middle = m + s * np.choose(rise, [inverse(safe) for _, inverse in RISES])
        return np.where(inside, middle, np.where(ratio <= 0, -np.inf, np.inf))

    def reported(at: float) -> float:
        return math.inf if at > high else 0.0 if at < low else float(2**at)

    at = crossing(share * base)
    ends = np.quantile(at, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2], method="inverted_cdf")
    plain = crossing((share * (base * gain + chance) - chance) / gain)
    other = np.quantile(plain, 0.5, method="inverted_cdf")
    threshold = chance + share * gain
    isotonic = _isotonic_crossing(x, y, threshold)
    gap = abs(np.clip(ends[1], low, high) - np.clip(isotonic, low, high))
    value, status, warning = reported(ends[1]), "ok", ""
    if not np.isfinite(value) or value == 0:
        status = "not reached" if value else "below"
        warning = f"the threshold lies {'above' if value else 'below'} the dimensions that were tried"
    if gap > 0.3:
        status = "misfit"
        warning = f"the model's and the isotonic estimates differ by {gap:.2f} in log2 d: a misfit, or too few runs"
    if len(x) == len(np.unique(x)):
        alone = "one run per dimension: their noise is known only as the misfit of a smooth curve"
        warning = f"{warning}; {alone}" if warning else alone
    grid = np.linspace(low, high, 65)
    u = np.clip((grid - m[:, None]) / s[:, None], -30, 30)
    fits = chance + gain * top[:, None] * np.choose(rise[:, None], [shape(u) for shape, _ in RISES])
    band = np.quantile(fits, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    curve = Curve(2**grid, fits.mean(0), band[0], band[1], confidence)
    return DimensionEstimate(
        value=value,
        interval=(reported(ends[0]), reported(ends[2])),
        not_reached=float((at > high).mean()),
        below=float((at < low).mean()),
        isotonic=reported(isotonic),
        uncorrected=reported(other),
        threshold=threshold,
        curve=curve,
        n=len(x),
        levels=len(np.unique(x)),
        share=share,
        confidence=confidence,
        status=status,
        warning=warning,
    )


def _runs(dimensions, scores, baseline, chance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The checked runs: log2 of the dimensions, scores, scores of full runs."""
    d, y = np.asarray(dimensions, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    full = np.atleast_1d(np.asarray(baseline, dtype=np.float64))
    if d.ndim != 1 or d.shape != y.shape:
        raise ValueError(f"dimensions and scores must be vectors, a row per run, got {d.shape} and {y.shape}")
    if not (np.isfinite([*d, *y, *full, chance]).all() and (d > 0).all()):
        raise ValueError("dimensions must be positive and scores finite; give a failed run a score, not nan")
    if len(np.unique(d)) < 3:
        raise ValueError(f"a curve takes at least 3 distinct dimensions, got {len(np.unique(d))}")
    if len(full) < 2:
        raise ValueError(f"baseline must hold at least 2 full runs, to know its noise, got {len(full)}")
    if full.mean() <= chance:
        raise ValueError(f"the baseline's mean {full.mean():.4g} must exceed chance {chance:.4g}")
    return np.log2(d), y, full


def _posterior(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, draws: int = 4000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws of (m, s, A, index of the rise) given scores y in units of the baseline's gain over chance.

    Flat priors on m and A, log-flat on s and sigma, over the widest sensible ranges; the rises are equally
    likely.
    """
    found, evidence = [], []
    for shape, _ in RISES:
        drawn, log_evidence = _grid_posterior(x, y, shape, rng, draws)
        found.append(drawn)
        evidence.append(log_evidence)
    share = np.exp(np.array(evidence) - max(evidence))
    rise = rng.choice(len(RISES), draws, p=share / share.sum())
    return *(np.choose(rise, [drawn[i] for drawn in found]) for i in range(3)), rise


def _grid_posterior(
    x: np.ndarray, y: np.ndarray, shape: Callable, rng: np.random.Generator, draws: int
) -> tuple[list[np.ndarray], float]:
    """Draws of (m, s, A) for one rise, and its log evidence, by sums over a grid refined three times."""
    # a rise may hide between two dimensions, or else their gap would be split where no run has been
    gap = np.diff(np.unique(x)).min()
    limits = (math.log(min(0.1, gap / 200)), math.log(5.0)), (math.log(1e-4), math.log(0.5))
    spans = [(x.min() - 4, x.max() + 4), limits[0], (0.1, 1.5), limits[1]]

    def run(v: np.ndarray) -> np.ndarray:
        return v[:, None, None, None]

    for _ in range(4):
        axes = [np.linspace(*span, count) for span, count in zip(spans, (21, 17, 21, 11), strict=True)]
        m, s, top = (a.reshape(-1, *[1] * (2 - i)) for i, a in enumerate(axes[:3]))
        u = np.clip((run(x) - m) / np.exp(s), -30, 30)
        wrong = (run(y) - top * shape(u)) / 2
        squares = np.pad(wrong**2, [(0, -len(x) % 8), (0, 0), (0, 0), (0, 0)]).reshape(-1, 8, *wrong.shape[1:])
        # log t_4 density up to a constant: -5/2 log(1 + z^2 / 4) - log sigma; one logarithm for 8 runs
        fits = [-2.5 * np.log((1 + squares / w**2).prod(1)).sum(0) - len(x) * math.log(w) for w in np.exp(axes[3])]
        score = np.stack(fits, -1)
        weight = np.exp(score - score.max())
        steps = [a[1] - a[0] for a in axes]
        evidence = float(score.max() + math.log(weight.sum()) + np.log(steps).sum())
        weight /= weight.sum()
        old, spans = spans, []
        for i, (axis, step) in enumerate(zip(axes, steps, strict=True)):
            held = axis[weight.sum(tuple(j for j in range(4) if j != i)) > 1e-5]
            spans.append((max(held[0] - step, old[i][0]), min(held[-1] + step, old[i][1])))
    places = np.unravel_index(rng.choice(weight.size, draws, p=weight.ravel()), weight.shape)
    # spread inside the cells, so that draws are not multiples of the step
    cells = zip(axes, places, steps, strict=True)
    m, s, top, _ = (axis[at] + step * (rng.random(draws) - 0.5) for axis, at, step in cells)
    return [m, np.exp(s), top], evidence


def _isotonic_crossing(x: np.ndarray, y: np.ndarray, threshold: float) -> float:
    """log2 d at which the increasing fit to each dimension's median crosses the threshold, or +-inf."""
    from sklearn.isotonic import IsotonicRegression  # imported here: it takes longer to load than all of probes

    levels, place = np.unique(x, return_inverse=True)
    medians = [np.median(y[place == i]) for i in range(len(levels))]  # a failed run must not bend it
    fit = IsotonicRegression().fit_transform(levels, medians, sample_weight=np.bincount(place))
    if fit[0] >= threshold:
        return levels[0] if fit[0] == threshold else -math.inf
    if fit[-1] < threshold:
        return math.inf
    i = int(np.argmax(fit >= threshold))
    return float(np.interp(threshold, fit[i - 1 : i + 1], levels[i - 1 : i + 1]))
