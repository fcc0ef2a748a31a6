"""Intrinsic dimension of training: random isometric subspaces, and the dimension that reaches a threshold.

z = z0 + P theta with P (D, d) acting on all tensors together and P'P = I (Li et al. 2018, sec. 2), so that a
step in theta moves all parameters as far as it is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

DENSE = 4 << 30             # bytes above which a dense projection is refused
ROWS = 128                  # blocks transformed at once: they stay in cache
CORRECT = 4096              # largest dimension whose truncated last block is corrected by a Cholesky factor


@dataclass(frozen=True)
class Projection:
    """A linear map P from theta (d,) to tensors with D numbers in all; P'P = I up to .orthonormality_error().

    apply and adjoint take leading axes (theta (..., d) <-> tensors (..., *shape)), are differentiable to any
    order, and run under vmap. kind and seed reproduce it.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]
    dimension: int
    seed: int
    dtype: torch.dtype
    device: torch.device
    _forward: Callable[[Tensor], Tensor] = field(repr=False)       # (k, d) -> (k, D)
    _backward: Callable[[Tensor], Tensor] = field(repr=False)      # (k, D) -> (k, d)

    @property
    def size(self) -> int:
        """D, the numbers moved."""
        return sum(math.prod(s) for s in self.shapes.values())

    def apply(self, theta: Tensor) -> dict[str, Tensor]:
        """P theta as a dict of tensors (..., *shape); ValueError unless theta ends in d numbers."""
        if theta.shape[-1:] != (self.dimension,):
            raise ValueError(f"theta must end in {self.dimension} numbers, got shape {tuple(theta.shape)}")
        flat = _Linear.apply(theta.to(self.dtype), self._forward, self._backward)
        parts = flat.split([math.prod(s) for s in self.shapes.values()], dim=-1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape((*theta.shape[:-1], *shape)) for (name, shape), part in named}

    def adjoint(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """P' applied to tensors (..., *shape), the coordinates (..., d) of their projection."""
        rows = []
        for name, shape in self.shapes.items():
            value = tensors[name].to(self.dtype)
            if value.shape[value.ndim - len(shape):] != shape:
                raise ValueError(f"{name} must end in shape {shape}, got {tuple(value.shape)}")
            rows.append(value.reshape(*value.shape[:value.ndim - len(shape)], -1))
        return _Linear.apply(torch.cat(rows, dim=-1), self._backward, self._forward)

    def orthonormality_error(self, columns: int = 256) -> float:
        """The largest entry of |P'P - I|, measured on all columns, or on that many drawn at random."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(self.dimension, generator=generator)[:columns]
        worst = 0.0
        for part in chosen.split(max(1, min(ROWS, (1 << 26) // self.size))):
            unit = torch.zeros(len(part), self.dimension, dtype=self.dtype, device=self.device)
            unit[torch.arange(len(part)), part] = 1
            worst = max(worst, float((self._backward(self._forward(unit)) - unit).abs().max()))
        return worst


class _Linear(torch.autograd.Function):
    """A linear map given with its adjoint, so that its derivative keeps nothing and is exact."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, forward: Callable, backward: Callable) -> Tensor:
        return forward(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.map, ctx.transpose = inputs

    @staticmethod
    def backward(ctx, slope: Tensor):
        return _Linear.apply(slope, ctx.transpose, ctx.map), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):
        return _Linear.apply(tangent, ctx.map, ctx.transpose)


def random_subspace(shapes: Mapping[str, Sequence[int]], dimension: int, *, kind: str = "sorf", seed: int,
                    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Projection:
    """A random d-dimensional subspace of all tensors together, as an isometric projection P (D, d).

    "sorf": blocks H S_k H S_0 of random signs and Hadamard matrices (Yu et al. 2016), D bytes of state, made
    exactly orthonormal when d <= 4096. "dense": the QR factor of a Gaussian matrix. "onehot": one signed
    entry per row, columns of equal size up to one (Uni-LoRA 2025), exactly orthonormal. "sparse": about
    sqrt(D) signs per column (Li, Hastie & Church 2006), unit columns that are orthogonal only on average.
    Raises ValueError unless 1 <= d <= D, and when a dense P would not fit.
    """
    shapes = {k: tuple(s) for k, s in shapes.items()}
    size = sum(math.prod(s) for s in shapes.values())
    if not 1 <= dimension <= size:
        raise ValueError(f"dimension must lie between 1 and the tensors' {size} numbers, got {dimension}")
    makers = {"sorf": _sorf, "dense": _dense, "onehot": _onehot, "sparse": _sparse}
    if kind not in makers:
        raise ValueError(f"kind must be one of {', '.join(makers)}, got {kind!r}")
    generator = torch.Generator().manual_seed(seed)
    forward, backward = makers[kind](size, dimension, generator, dtype, torch.device(device))
    return Projection(kind, shapes, dimension, seed, dtype, torch.device(device), forward, backward)


def _dense(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """P = QR factor, in float64 before it is rounded to dtype."""
    if size * d * 8 > DENSE:
        raise ValueError(f"a dense projection ({size}, {d}) takes {size * d * 8 >> 30} GiB; use kind='sorf'")
    gaussian = torch.randn(size, d, generator=generator, dtype=torch.float64)
    p = torch.linalg.qr(gaussian.to(device))[0].to(dtype)
    return lambda x: x @ p.T, lambda y: y @ p


def _onehot(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """Row i holds sign_i / sqrt(rows of its column) in column place_i; columns differ by one row at most."""
    place = (torch.randperm(size, generator=generator) % d).to(device)
    sign = torch.randint(2, (size,), generator=generator).to(device) * 2 - 1
    value = (sign / torch.bincount(place, minlength=d).double().sqrt()[place]).to(dtype)

    def backward(y: Tensor) -> Tensor:
        # in slices of 256 rows per column: one running sum of 1e4 rows would lose 3 digits
        total = y.new_zeros(len(y), d)
        for i in range(0, size, 256 * d):
            part = slice(i, i + 256 * d)
            total = total + y.new_zeros(len(y), d).index_add(1, place[part], y[:, part] * value[part])
        return total

    return lambda x: x[:, place] * value, backward


def _sparse(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """m = sqrt(D) signs per column, one in each of m equal strata of rows, so that they never collide."""
    m = max(1, math.isqrt(size))
    edges = torch.arange(m + 1) * size // m
    width = (edges[1:] - edges[:-1]).expand(d, m)
    row = edges[:-1] + (torch.rand(d, m, generator=generator, dtype=torch.float64) * width).long()
    place = torch.arange(d)[:, None].expand(d, m)
    value = (torch.randint(2, (d, m), generator=generator).double() * 2 - 1) / math.sqrt(m)
    row, place, value = row.reshape(-1).to(device), place.reshape(-1).to(device), value.to(device, dtype)

    def forward(x: Tensor) -> Tensor:
        return x.new_zeros(len(x), size).index_add(1, row, x[:, place] * value.reshape(-1))

    def backward(y: Tensor) -> Tensor:
        return (y[:, row].reshape(len(y), d, m) * value).sum(-1)

    return forward, backward


def _sorf(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """P = sqrt(n / D) [H S_k H S_0]_k, first d columns, cut to D rows and corrected by a Cholesky factor."""
    n = max(256, 1 << (d - 1).bit_length())
    blocks = -(-size // n)
    signs = (torch.randint(2, (blocks, n), generator=generator, dtype=torch.int8) * 2 - 1).to(device)
    first = (torch.randint(2, (n,), generator=generator) * 2 - 1).to(device, dtype)
    left = _hadamard(1 << (n.bit_length() // 2), dtype, device)
    right = _hadamard(n // len(left), dtype, device)
    scale = math.sqrt(n / size)

    def mix(x: Tensor) -> Tensor:
        return (left @ x.reshape(-1, len(left), len(right)) @ right).reshape(x.shape)

    def whole(x: Tensor) -> Tensor:
        base = mix(torch.nn.functional.pad(x, (0, n - d)) * first)[:, None]
        parts = [mix(base * signs[i:i + ROWS].to(x.dtype)) for i in range(0, blocks, ROWS)]
        return torch.cat(parts, dim=1).reshape(len(x), -1)[:, :size] * scale

    def fold(y: Tensor) -> Tensor:
        total = y.new_zeros(len(y), n)
        for i in range(0, blocks, ROWS):
            part = y[:, i * n:(i + ROWS) * n]
            part = torch.nn.functional.pad(part, (0, -part.shape[1] % n)).reshape(len(y), -1, n)
            total = total + (mix(part) * signs[i:i + ROWS].to(y.dtype)).sum(1)
        return (mix(total) * first)[:, :d] * scale

    rest = size % n
    if rest == 0 or d > CORRECT:
        return whole, fold
    # full blocks are orthogonal matrices, so only the truncated one bends P'P away from the identity
    tail = _last_rows(n, d, rest, signs[-1], first)
    gram = scale**2 * (tail.T @ tail + (blocks - 1) * torch.eye(d, dtype=torch.float64, device=device))
    factor = torch.linalg.cholesky(gram)
    unit = torch.eye(d, dtype=gram.dtype, device=device)
    inverse = torch.linalg.solve_triangular(factor, unit, upper=False).to(dtype)
    return lambda x: whole(x @ inverse), lambda y: fold(y) @ inverse.T


def _last_rows(n: int, d: int, rest: int, sign: Tensor, first: Tensor) -> Tensor:
    """The first `rest` rows and d columns of the last block H S_k H S_0, in float64."""
    h = _hadamard(n, torch.float64, sign.device)
    return (h[:rest] * sign.double()) @ (h[:, :d] * first[:d].double())


def _hadamard(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal Sylvester-Hadamard matrix (n, n), n a power of two."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return (h / math.sqrt(n)).to(device, dtype)


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


# shapes of the rise from 0 to 1 with their inverses: symmetric, and slow to finish or slow to start
RISES: tuple[tuple[Callable, Callable], ...] = (
    (lambda u: 1 / (1 + np.exp(-u)), lambda p: np.log(p / (1 - p))),
    (lambda u: np.exp(-np.exp(-u)), lambda p: -np.log(-np.log(p))),
    (lambda u: -np.expm1(-np.exp(u)), lambda p: np.log(-np.log1p(-p))),
)


def threshold_dimension(dimensions: Sequence[float], scores: Sequence[float], *, baseline: Sequence[float],
                        chance: float, share: float = 0.9, confidence: float = 0.9,
                        seed: int = 0) -> DimensionEstimate:
    """The smallest dimension whose score is chance + share (baseline - chance), with a credible interval.

    One row per run; baseline holds the scores of full runs; higher is better. The model is score = chance +
    (A - chance) rise((log2 d - m) / s) + sigma t_4 noise, where the rise is logistic, Gompertz or
    complementary log-log with equal prior weight; its posterior is summed over a grid of (m, s, A, sigma)
    refined three times, and the baseline's mean has Student's posterior. The isotonic fit to the medians
    stands beside it: a gap of more than 0.3 in log2 d is a misfit. (An interval bootstrapped over 3 seeds
    would cover half as often as it says.) Raises ValueError for fewer than 3 distinct dimensions, fewer than
    2 full runs, or a baseline below chance.
    """
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
        warning = f"the model's and the isotonic estimates differ by {gap:.2f} in log2 d: a misfit"
    grid = np.linspace(low, high, 65)
    u = np.clip((grid - m[:, None]) / s[:, None], -30, 30)
    fits = chance + gain * top[:, None] * np.choose(rise[:, None], [shape(u) for shape, _ in RISES])
    band = np.quantile(fits, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    curve = Curve(2**grid, fits.mean(0), band[0], band[1], confidence)
    return DimensionEstimate(
        value=value, interval=(reported(ends[0]), reported(ends[2])), not_reached=float((at > high).mean()),
        below=float((at < low).mean()), isotonic=reported(isotonic), uncorrected=reported(other),
        threshold=threshold, curve=curve, n=len(x), levels=len(np.unique(x)), share=share,
        confidence=confidence, status=status, warning=warning)


def _runs(dimensions, scores, baseline, chance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The checked runs: log2 of the dimensions, scores, scores of full runs."""
    d, y = np.asarray(dimensions, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    full = np.atleast_1d(np.asarray(baseline, dtype=np.float64))
    if d.ndim != 1 or d.shape != y.shape:
        raise ValueError(f"dimensions and scores must be vectors, a row per run, got {d.shape} and {y.shape}")
    if not (np.isfinite(np.concatenate([d, y, full])).all() and (d > 0).all()):
        raise ValueError("dimensions must be positive and scores finite; give a failed run a score, not nan")
    if len(np.unique(d)) < 3:
        raise ValueError(f"a curve takes at least 3 distinct dimensions, got {len(np.unique(d))}")
    if len(full) < 2:
        raise ValueError(f"baseline must hold at least 2 full runs, to know its noise, got {len(full)}")
    if full.mean() <= chance:
        raise ValueError(f"the baseline's mean {full.mean():.4g} must exceed chance {chance:.4g}")
    return np.log2(d), y, full


def _posterior(x: np.ndarray, y: np.ndarray, rng: np.random.Generator,
               draws: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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


def _grid_posterior(x: np.ndarray, y: np.ndarray, shape: Callable, rng: np.random.Generator,
                    draws: int) -> tuple[list[np.ndarray], float]:
    """Draws of (m, s, A) for one rise, and its log evidence, by sums over a grid refined three times."""
    logs = (math.log(0.1), math.log(5.0)), (math.log(1e-4), math.log(0.5))
    spans = [(x.min() - 4, x.max() + 4), logs[0], (0.1, 1.5), logs[1]]
    for _ in range(4):
        axes = [np.linspace(*span, count) for span, count in zip(spans, (21, 13, 21, 11), strict=True)]
        m, s, top = (a.reshape(-1, *[1] * (2 - i)) for i, a in enumerate(axes[:3]))
        u = np.clip((x - m[..., None]) / np.exp(s)[..., None], -30, 30)
        wrong = y - top[..., None] * shape(u)
        # log t_4 density up to a constant: -5/2 log(1 + z^2 / 4) - log sigma
        fits = [-2.5 * np.log1p((wrong / w) ** 2 / 4).sum(-1) - len(x) * math.log(w) for w in np.exp(axes[3])]
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
    levels, place = np.unique(x, return_inverse=True)
    medians = [np.median(y[place == i]) for i in range(len(levels))]    # a failed run must not bend it
    fit = IsotonicRegression().fit_transform(levels, medians, sample_weight=np.bincount(place))
    if fit[0] >= threshold:
        return levels[0] if fit[0] == threshold else -math.inf
    if fit[-1] < threshold:
        return math.inf
    i = int(np.argmax(fit >= threshold))
    return float(np.interp(threshold, fit[i - 1:i + 1], levels[i - 1:i + 1]))
