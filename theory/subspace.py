"""The optimization view: what the curvature says about training in few dimensions, and how fast training goes.

>>> values = 1.0 / np.arange(1, 101) ** 2
>>> round(tail_exponent(values, 1, 100), 6), round(tail_share(values, 1), 3)
(2.0, 0.388)
>>> k = steps_to_share(values, values, 1.0, 0.99)
>>> bool(descent_share(values, values, 1.0, k) >= 0.99 > descent_share(values, values, 1.0, k - 1))
True
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from theory.kernel import degrees_of_freedom


def effective_dimension(eigenvalues, ridge) -> float:
    """Return the effective dimension sum_i l_i / (l_i + ridge) of a curvature spectrum; the kernel's degrees of freedom."""
    return degrees_of_freedom(eigenvalues, ridge)


def threshold_dimension(eigenvalues, distance, tolerance, ambient, *, ridge) -> float:
    """Return the dimension at which random affine subspaces start to meet the set {objective <= optimum + tolerance}.

    d = sum_i R^2 mu_i / (R^2 mu_i + 2 eps) over all `ambient` directions, R = distance from start to optimum,
    eps = tolerance. mu_i = l_i + ridge for the given curvatures of the fit, mu = ridge for the ambient - len others:
    the curvature must hold every term of the objective that is scored, so pass the penalty's r as ridge when the
    penalised objective is scored and 0 for the plain loss. Source: Larsen et al. 2022 (arXiv 2107.05802), quadratic
    well. Raises ValueError for negative values or more eigenvalues than dimensions.
    """
    values = np.maximum(np.asarray(eigenvalues, float), 0.0)
    if values.ndim != 1 or len(values) > ambient:
        raise ValueError(f"eigenvalues must be a vector of at most {ambient} numbers, got shape {values.shape}")
    if np.min(eigenvalues, initial=0.0) < -1e-8 * values.max(initial=0.0) or ridge < 0:
        raise ValueError("eigenvalues and ridge must not be negative; the formula describes a convex well")
    if not (distance > 0 and tolerance > 0):
        raise ValueError(f"distance and tolerance must be positive, got {distance} and {tolerance}")
    mu = np.append(values + ridge, ridge)
    share = distance**2 * mu / (distance**2 * mu + 2.0 * tolerance)
    return float(share[:-1].sum() + (ambient - len(values)) * share[-1])


def projected_gain(eigenvalues, components, ambient, dimensions, *, ridge, draws=32, seed=0):
    """Return the share of a quadratic's possible gain within random subspaces through the start, (draws, len(dimensions)).

    J(z) = g'z + 1/2 z'(H + r I) z with H's nonzero eigenvalues l_i and g_i = v_i'g the gradient along its eigenvectors, zero
    elsewhere. For P (D, d) with orthonormal columns, drawn uniformly, share = g'P (P'(H + r I)P)^-1 P'g over sum_i g_i^2 /
    (l_i + r) = g'A (r I + L A)^-1 g over the same, with A = B B', B = V'P of `projected_block`. Derived; with one distance
    for all directions: `threshold_dimension`.
    Raises ValueError for lengths that differ, negative curvatures, ridge <= 0, and dimensions outside 1..ambient.
    """
    values, g = np.asarray(eigenvalues, float), np.asarray(components, float)
    if values.ndim != 1 or values.shape != g.shape or not g.any():
        raise ValueError(f"eigenvalues and components must be vectors of one length, not all zero, got {values.shape}, {g.shape}")
    if np.min(values) < 0 or not ridge > 0 or len(values) > ambient:
        raise ValueError("eigenvalues must not be negative, the ridge positive, and no more directions than dimensions")
    if min(dimensions) < 1 or max(dimensions) > ambient:
        raise ValueError(f"dimensions must lie between 1 and {ambient}, got {min(dimensions)} to {max(dimensions)}")
    rng, k = np.random.default_rng(seed), len(values)
    full = np.sum(g**2 / (values + ridge))
    shares = np.ones((draws, len(dimensions)))
    for j, d in enumerate(dimensions):
        for i in range(draws if d < ambient else 0):
            B = projected_block(k, ambient, d, rng)
            A = B @ B.T
            shares[i, j] = g @ A @ np.linalg.solve(ridge * np.eye(k) + values[:, None] * A, g) / full
    return shares


def projected_block(k, ambient, dimension, rng):
    """Return the block of k given directions seen from a random subspace: B (k, min(k, d)), with B B' distributed as V'P P'V.

    V (D, k) has orthonormal columns, P (D, d) too and is drawn uniformly; B B' is a matrix beta variate, T^-1 S T^-T with
    T T' = S + S', S and S' Wishart with d and D - d degrees of freedom (Muirhead 1982, section 3.3). What is linear in the k
    directions and trained within P depends on P through B alone. Raises ValueError unless 1 <= k, d <= D.
    """
    if not (1 <= k <= ambient and 1 <= dimension <= ambient):
        raise ValueError(f"directions and dimension must lie between 1 and {ambient}, got {k} and {dimension}")
    inside, outside = (_wishart_factor(rng, freedom, k) for freedom in (dimension, ambient - dimension))
    T = cholesky(inside @ inside.T + outside @ outside.T, lower=True)
    return solve_triangular(T, inside, lower=True)


def _wishart_factor(rng, freedom, k):
    """A factor F of a Wishart matrix F F' (k, k) with unit scale: Bartlett's triangle, or Gaussian columns when singular."""
    if freedom < k:
        return rng.standard_normal((k, freedom))
    factor = np.tril(rng.standard_normal((k, k)), -1)
    factor[np.diag_indices(k)] = np.sqrt(rng.chisquare(freedom - np.arange(k)))
    return factor


@dataclass(frozen=True)
class Bound:
    """An upper bound beside what was observed; tightness = bound / observed (1 is tight), source says whose it is."""

    name: str
    value: float
    observed: float
    source: str

    @property
    def holds(self) -> bool:
        """Return whether the observed gap respects the bound."""
        return self.observed <= self.value

    @property
    def tightness(self) -> float:
        """Return bound / observed; infinite when the observed gap is not positive."""
        return self.value / self.observed if self.observed > 0 else float("inf")


def restricted_optimum_bounds(
    gap, residual, *, lipschitz, restricted_lipschitz, projected, optimum, curvature, slope=0.0
) -> tuple[Bound, Bound, Bound]:
    """Return three bounds on the gap F(psi(delta+)) - F(theta+) between the restricted and the full optimum.

    published: L1 |e| + L2 (|delta'| + |delta+|); one-sided: L1 |e| (delta+ minimises, so the second term is not
    needed); Hessian: |slope'e| + 1/2 e'He, the second-order expansion at theta+, exact for a quadratic F up to the
    projection. gap: observed; residual: |e| = |theta+ - psi(delta')|; lipschitz L1 of F and restricted_lipschitz L2
    of F o psi on the segments crossed; projected |delta'|, optimum |delta+|; curvature: e'He; slope: gradient(theta+)'e,
    0 at an exact optimum. Source: Delta Tuning (arXiv 2203.06904) restated; the last two derived.
    Raises ValueError for negative or non-finite norms.
    """
    given = {
        "residual": residual,
        "lipschitz": lipschitz,
        "restricted_lipschitz": restricted_lipschitz,
        "projected": projected,
        "optimum": optimum,
    }
    for name, x in given.items():
        if not (np.isfinite(x) and x >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {x}")
    if not (np.isfinite(gap) and np.isfinite(curvature) and np.isfinite(slope)):
        raise ValueError(f"gap, curvature and slope must be finite, got {gap}, {curvature} and {slope}")
    one_sided = lipschitz * residual
    restated = "Delta Tuning (arXiv 2203.06904), optimization view, restated"
    return (
        Bound("published", float(one_sided + restricted_lipschitz * (projected + optimum)), float(gap), restated),
        Bound("one-sided", float(one_sided), float(gap), "derived"),
        Bound("hessian", float(abs(slope) + 0.5 * curvature), float(gap), "derived"),
    )


def tail_share(eigenvalues, k: int) -> float:
    """Return the share of the trace beyond the k largest eigenvalues, sum_{i>k} l_i / sum_i l_i."""
    values = np.sort(np.asarray(eigenvalues, float))[::-1]
    if values.ndim != 1 or not values.sum() > 0 or k < 0:
        raise ValueError("a tail needs a vector of eigenvalues with positive sum and k >= 0")
    return float(values[k:].sum() / values.sum())


def tail_exponent(eigenvalues, first: int, last: int) -> float:
    """Return the exponent a of l_i ~ i^-a, by least squares of log l_i on log i over ranks first..last (1-based, inclusive)."""
    values = np.sort(np.asarray(eigenvalues, float))[::-1]
    if not 1 <= first < last <= len(values) or not np.all(values[first - 1 : last] > 0):
        raise ValueError(f"ranks must satisfy 1 <= first < last <= {len(values)} with positive eigenvalues between")
    rank = np.arange(first, last + 1)
    return float(-np.polyfit(np.log(rank), np.log(values[first - 1 : last]), 1)[0])


def _descent(curvatures, energies, rate):
    mu, e = np.asarray(curvatures, float), np.asarray(energies, float)
    if mu.ndim != 1 or mu.shape != e.shape or not (np.all(mu > 0) and np.all(e >= 0) and 0 < e.sum() < np.inf):
        raise ValueError("curvatures must be positive and energies not negative (not all zero), two vectors of one length")
    if not 0 < rate < 2.0 / mu.max():
        raise ValueError(f"rate must lie between 0 and 2 / largest curvature = {2.0 / mu.max():.6g}, got {rate}")
    gain = e / (2.0 * mu)
    return gain / gain.sum(), (1.0 - rate * mu) ** 2


def descent_share(curvatures, energies, rate, steps):
    """Return the share of the possible gain that gradient descent has made after a number (or array) of steps.

    For a quadratic with curvatures mu_i (penalty included) and first gradient energies g_i^2:
    share(k) = sum_i w_i (1 - (1 - rate mu_i)^2k), w_i proportional to g_i^2 / (2 mu_i). Raises ValueError when the
    rate does not lie in (0, 2 / max mu), where descent diverges, or lengths differ.
    """
    weight, contraction = _descent(curvatures, energies, rate)
    powers = contraction ** np.asarray(steps, float)[..., None]
    return (weight * (1.0 - powers)).sum(-1)


def steps_to_share(curvatures, energies, rate, share) -> int:
    """Return the least number of gradient steps whose gain reaches a share in [0, 1), by bisection on `descent_share`."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must lie in [0, 1), got {share}; the whole gain is never reached in finite time")
    weight, contraction = _descent(curvatures, energies, rate)

    def reached(k):
        return float((weight * (1.0 - contraction ** float(k))).sum()) >= share

    high = 1
    while not reached(high):
        high *= 2
        if high > 2**62:
            raise ValueError(f"share {share} is not reached in 2^62 steps: raise the rate, or ask for less than 1 - 1e-16")
    low = 0 if reached(0) else high // 2
    if low == 0 and reached(0):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
