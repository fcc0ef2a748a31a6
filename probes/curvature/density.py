"""The spectral density of a symmetric operator with confidence bands, by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats

from probes.curvature.quadrature import APART, Lockstep, Rules, known_pairs, pool, settle
from probes.layout import dense
from probes.records import Estimate, student

LEAST = 4  # probes before a band may be judged, and probes that advance together
CHECK = 10  # steps between two looks at how far the rules still move
ROUNDING = 64  # eps times the largest eigenvalue, below which an eigenvalue has no sign
CLEAR = 1000  # residuals from a node, beyond which it has next to nothing of its vector


@dataclass(frozen=True)
class DensityCurve:
    """A smoothed spectral density on a grid, with the band of its mean over probes at level `confidence`."""

    grid: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    confidence: float


@dataclass(frozen=True)
class Density:
    """The spectral density of an operator as quadrature rules: nodes and weights (probes, known + steps).

    The first `known` columns are eigenvalues known with multiplicity, each with weight 1 / D in every row; the
    rest of a row is the Gauss rule of one random vector, and an eigenvalue lies within residuals of its node.
    status is "exact" (one rule with every eigenvalue) or "sampled". size is D; within `resolution` of zero
    the sign of an eigenvalue is rounding, or in a null space that stands apart, what its residual leaves open.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    products: int
    status: str
    known: int = 0
    residuals: np.ndarray | None = None
    resolution: float = 0.0

    @property
    def width(self) -> float:
        """Return the finest smoothing that the rules resolve: the range of the sampled nodes over their number.

        A Gauss rule of m nodes integrates a Gaussian of this width to about 1e-3 of its height (Chebyshev
        series of degree 2 m). Known eigenvalues do not count; 1 when all nodes are equal.
        """
        used = self.nodes[:, self.known :][self.weights[:, self.known :] > 0]
        span = float(np.ptp(used)) if used.size else float(np.ptp(self.nodes))
        return span / min(50, max(1, self.nodes.shape[1] - self.known)) or 1.0

    def on(self, grid: Sequence[float], width: float | None = None, *, confidence: float = 0.95) -> DensityCurve:
        """Return the density on a grid, each node a Gaussian of standard deviation `width` (default: .width).

        phi(t) = mean over probes of sum_j w_j N(t; node_j, width); width may be an array like the nodes. The
        band is Student's, over probes; the exact density has a band of no width. It covers the smoothed
        density at its rate where many eigenvalues share a bump; a single eigenvalue that is not settled has
        a chi-square weight, and Student's band then covers less (82 % for 90 % with ten probes). Raises
        ValueError when width is not positive.
        """
        width = self.width if width is None else width
        if np.any(np.asarray(width) <= 0):
            raise ValueError(f"width must be positive, got {width}")
        t = np.asarray(grid, dtype=np.float64)
        bumps = stats.norm.pdf(t, self.nodes[..., None], np.broadcast_to(width, self.nodes.shape)[..., None])
        mean, half = self._student((self.weights[..., None] * bumps).sum(1), confidence)
        return DensityCurve(t, mean, np.maximum(mean - half, 0), mean + half, confidence)

    def cumulative(self, grid: Sequence[float], *, confidence: float = 0.95) -> DensityCurve:
        """Return the share of eigenvalues at or below each grid point; no smoothing.

        The band holds the probes' spread, by Wilson's interval (the share of a random vector in k of D
        dimensions is Beta(k / 2, (D - k) / 2), so p probes count as p D / 2 trials), and the quadrature's own
        error: between two nodes the distribution moves by their weights at most (Chebyshev, Markov and Stieltjes;
        Golub & Meurant 2010, sec. 2.4), but for nodes whose residuals are small beside their distance.
        """
        t = np.asarray(grid, dtype=np.float64)
        found = np.array([self._share(-np.inf, x, confidence) for x in t]).reshape(len(t), 3)
        return DensityCurve(t, *found.T, confidence)

    def negative_mass(self, *, confidence: float = 0.95) -> Estimate:
        """Return the share of eigenvalues below -resolution, with the interval of `cumulative`."""
        edge = np.nextafter(-self.resolution, -np.inf)
        return self._estimate("negative mass", -np.inf, edge, confidence)

    def mass_near_zero(self, radius: float, *, confidence: float = 0.95) -> Estimate:
        """Return the share of eigenvalues with |lambda| <= radius, with the interval of `cumulative` or a narrower one.

        Chebyshev's inequality bounds the rest by the mean of lambda^2 / radius^2, which the rules give without an error of
        quadrature; of the two lower limits, each at half the risk, the larger holds. So a few steps say much of a matrix of
        a million numbers whose nodes near zero are not resolved. Raises ValueError for a negative radius.
        """
        if not radius >= 0:
            raise ValueError(f"radius must not be negative, got {radius}")
        reach = max(radius, self.resolution)
        risk = (1 - confidence) / 2
        found = self._estimate(f"mass within {radius:g} of zero", np.nextafter(-reach, -np.inf), reach, 1 - risk)
        low = max(found.interval[0], self._within(reach, risk))
        return replace(found, value=max(found.value, low), interval=(low, found.interval[1]), confidence=confidence)

    def effective_dimension(self, ridge: float) -> Estimate:
        """Return sum_i lambda_i / (lambda_i + ridge) over the spectrum's nonnegative part, with its error over probes."""
        shares = np.maximum(self.nodes, 0)
        each = self.size * (self.weights * shares / (shares + ridge)).sum(1)
        value, n = float(each.mean()), len(each)
        if self.status == "exact":
            return Estimate("effective dimension", value, 0.0, (value, value), self.size)
        error = float(each.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
        return student("effective dimension", value, error, n)

    def moment(self, power: int) -> Estimate:
        """Return the mean of lambda^power over the spectrum, that is tr(A^power) / D, with its standard error."""
        each = (self.weights * self.nodes**power).sum(1)
        if self.status == "exact":
            value = float(each[0])
            return Estimate(f"moment {power}", value, 0.0, (value, value), self.size, products=self.products)
        error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else np.inf
        return student(f"moment {power}", float(each.mean()), error, len(each), products=self.products)

    def _spread(self) -> float:
        """The largest half-width of Student's 95 % band of the smoothed cumulative distribution."""
        t = np.linspace(self.nodes.min(), self.nodes.max(), 200)
        steps = stats.norm.cdf(t, self.nodes[..., None], self.width)
        return float(self._student((self.weights[..., None] * steps).sum(1), 0.95)[1].max())

    def _student(self, curves: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """The mean over rows and the half-width of Student's band."""
        mean, n = curves.mean(0), len(curves)
        if self.status == "exact":
            return mean, np.zeros_like(mean)
        if n < 2:
            return mean, np.full_like(mean, np.inf)
        return mean, stats.t.ppf((1 + confidence) / 2, n - 1) * curves.std(0, ddof=1) / np.sqrt(n)

    def _estimate(self, quantity: str, low: float, high: float, confidence: float) -> Estimate:
        value, lower, upper = self._share(low, high, confidence)
        rest, probes, error = self.size - self.known, len(self.nodes), 0.0
        if self.status == "sampled" and rest:
            inside = np.clip((value - self._certain(low, high)) * self.size / rest, 0, 1)
            error = float(np.sqrt(2 * inside * (1 - inside) / (rest * probes)) * rest / self.size)
        return Estimate(quantity, value, error, (lower, upper), probes, confidence, products=self.products)

    def _within(self, reach: float, risk: float) -> float:
        """The least share of eigenvalues with |lambda| <= reach, by Chebyshev's inequality for those that are sampled.

        The mean of lambda^2 is bounded above by Student's limit and by that of a chi-square variable with its variance over
        probes, 2 E lambda^4 / D (Satterthwaite 1946), the larger of both: a few large eigenvalues make it skew.
        """
        nodes, weights = self.nodes[:, self.known :], self.weights[:, self.known :]
        if reach == 0 or len(nodes) < 2 or self.status == "exact" or nodes.size == 0:
            return 0.0
        second, fourth = (float((weights * nodes**power).sum(1).mean()) for power in (2, 4))
        mean, half = self._student((weights * nodes**2).sum(1), 1 - 2 * risk)
        degrees = max(len(nodes) * self.size * second**2 / max(fourth, np.finfo(float).tiny), 1.0)
        upper = max(float(mean + half), second * degrees / stats.chi2.ppf(risk, degrees))
        return self._certain(-reach, reach) + max(1 - self.known / self.size - upper / reach**2, 0.0)

    def _certain(self, low: float, high: float) -> float:
        """The share of the known eigenvalues within (low, high]."""
        sure = self.nodes[0, : self.known]
        return float(((sure > low) & (sure <= high)).sum()) / self.size

    def _share(self, low: float, high: float, confidence: float) -> tuple[float, float, float]:
        """(value, lower, upper) of the share of eigenvalues within (low, high]."""
        nodes, weights = self.nodes[:, self.known :], self.weights[:, self.known :]
        value = float((weights * ((nodes > low) & (nodes <= high))).sum(1).mean())
        sure, free = self._certain(low, high), (self.size - self.known) / self.size
        if self.status == "exact" or free == 0:
            return sure + value, sure + value, sure + value
        below, above = (self._astray(nodes, weights / free, x) * free for x in (low, high))
        trials = len(nodes) * (self.size - self.known) / 2
        least = max(value - below[1] - above[0], 0.0) / free
        most = min(value + below[0] + above[1], free) / free
        lower, upper = _wilson(least, trials, confidence)[0], _wilson(most, trials, confidence)[1]
        return sure + value, sure + free * lower, sure + free * upper

    def _astray(self, nodes: np.ndarray, weights: np.ndarray, x: float) -> np.ndarray:
        """How much of the nodes at or below x, and of those above, may lie on the other side; means over probes (2,).

        A node of weight w at the distance d from x with residual r has at most (r / d)^2 of its own vector beyond x
        and moves the mass there by at most 2 sqrt(w) r / d; of the nodes that have not converged in this sense, the
        nearest to x bounds the error by its weight. Where the line between the two is drawn is chosen for each probe.
        """
        if not np.isfinite(x):
            return np.zeros(2)
        found, residuals = [], self.residuals[:, self.known :]
        with np.errstate(divide="ignore", invalid="ignore"):
            leak = np.where(residuals > 0, 2 * np.sqrt(weights) * residuals / abs(nodes - x), 0.0)
        for side in (nodes <= x, nodes > x):
            side = side & (weights > 0)
            order = np.argsort(np.where(side, abs(nodes - x), np.inf), axis=1)
            w, cost = (np.take_along_axis(np.where(side, y, 0.0), order, 1) for y in (weights, leak))
            sure = np.pad(np.cumsum(cost, 1), ((0, 0), (1, 0)))
            found.append(float((sure + np.pad(w, ((0, 0), (0, 1)))).min(1).mean()))
        return np.array(found)


def density(op, *, probes: int = 10, steps: int = 50, tolerance: float | None = None, deflate=None, seed: int = 0) -> Density:
    """Return the spectral density of an operator by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017).

    Each random unit vector v gives a Gauss rule of sum_i (v'x_i)^2 delta(lambda_i). Eigenvalues that all probes have found,
    with fewer directions than probes, enter with their exact multiplicity, and so do the pairs in `deflate` (Eigenpairs, or
    values (k,) and orthonormal vectors (D, k)); the rest is sampled. When D <= probes * steps the matrix is diagonalised
    instead.
    With a tolerance, groups of 4 probes are added until Student's 95 % band of the smoothed cumulative distribution is below
    it everywhere, and steps end once the last 10 move the rules by less (Wasserstein-1, as a share of the range); `probes`
    and `steps` are then the most.
    Raises ValueError for fewer than one probe or step, an operator that is not square, a product that is not finite, or
    vectors that are not orthonormal.
    """
    if probes < 1 or steps < 1:
        raise ValueError(f"probes and steps must be at least 1, got {probes} and {steps}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be a positive share, got {tolerance}")
    if len(op.shape) != 2 or op.shape[0] != op.shape[1]:
        raise ValueError(f"the operator must be square, got shape {tuple(op.shape)}")
    size = op.shape[0]
    if size <= probes * steps:
        return _dense(op)
    values, vectors = known_pairs(op, deflate)
    generator, runs = torch.Generator().manual_seed(seed), []
    while len(values) < size:
        left = probes - sum(len(run.alpha) for run in runs)
        run = Lockstep(op, left if tolerance is None else min(LEAST, left), steps, generator, vectors)
        _advance(run, runs[0].taken if runs else steps, None if runs else tolerance)
        runs.append(run)
        found = _assemble(runs, values, op)
        if left == len(run.alpha) or tolerance is None or found._spread() <= tolerance:
            return found
    return Density(values[None], np.full((1, size), 1 / size), size, 0, "exact")


def _advance(run: Lockstep, steps: int, tolerance: float | None) -> None:
    """Take the steps; with a tolerance, only until the last CHECK of them move the rules by less."""
    taken = steps if tolerance is None else min(CHECK, steps)
    run.advance(taken)
    while taken < steps and run.taken == taken:
        taken = min(taken + CHECK, steps)
        run.advance(taken)
        old, new = run.rules(taken - CHECK), run.rules()
        pairs = zip(old.nodes, new.nodes, old.weights, new.weights, strict=True)
        if np.mean([stats.wasserstein_distance(*pair) for pair in pairs]) <= tolerance * np.ptp(new.nodes):
            return


def _assemble(runs: list[Lockstep], values: np.ndarray, op) -> Density:
    """The pooled rules, with the settled and the given eigenvalues in front and the rest sharing what is left."""
    rules, size, eps = pool(runs), op.shape[0], torch.finfo(op.dtype).eps
    scale = float(np.abs(np.append(rules.nodes, values)).max())
    settled, weights = settle(runs, rules, max(100 * eps, 1e-8) * scale)
    known = np.append(values, settled)
    total = weights.sum(1, keepdims=True)
    weights *= (size - len(known)) / size / np.where(total > 0, total, 1)

    def after(front: np.ndarray | float, rest: np.ndarray) -> np.ndarray:
        return np.hstack([np.broadcast_to(front, (len(rest), len(known))), rest])

    products, resolution = sum(run.products for run in runs), _resolution(rules, weights, size, ROUNDING * eps * scale)
    return Density(
        after(known, rules.nodes),
        after(1 / size, weights),
        size,
        products,
        "sampled",
        len(known),
        after(0.0, rules.residuals),
        resolution,
    )


def _resolution(rules: Rules, weights: np.ndarray, size: int, rounding: float) -> float:
    """Rounding, or CLEAR residuals of the nodes at zero where every other node is far beyond that: a null space."""
    seen = weights > 1e-6 / size  # fainter nodes hold no eigenvalue's share
    zero = seen & (abs(rules.nodes) <= np.maximum(rules.residuals, rounding))
    reach = CLEAR * float(rules.residuals[zero].max(initial=0.0))
    alone = APART * reach <= abs(rules.nodes[seen & ~zero]).min(initial=np.inf)
    return max(rounding, reach) if alone else rounding


def _dense(op) -> Density:
    """Every eigenvalue, by D products."""
    size = op.shape[0]
    matrix = dense(op).double()
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).cpu().numpy()
    resolution = ROUNDING * torch.finfo(op.dtype).eps * float(np.abs(values).max())
    return Density(values[None], np.full((1, size), 1 / size), size, size, "exact", resolution=resolution)


def _wilson(share: float, trials: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval for a share seen in a number of trials."""
    z2 = float(stats.norm.ppf((1 + confidence) / 2)) ** 2 / trials
    half = math.sqrt(z2 * max(share * (1 - share), 0.0) + z2**2 / 4)
    return max(0.0, (share + z2 / 2 - half) / (1 + z2)), min(1.0, (share + z2 / 2 + half) / (1 + z2))
