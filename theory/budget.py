"""What a control of bounded size can reach: the least mean loss at each radius, through the multiplier of the bound."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from theory.ensemble import ensemble_lq, problem
from theory.kernel import tangent_kernel


@dataclass(frozen=True, eq=False)
class BudgetLaw:
    """The least mean loss (k,) at each radius (k,), and the multiplier r(radius): |z| = radius solves with penalty r.

    multipliers are 0 where the radius is larger than any useful control.
    """

    radii: np.ndarray
    losses: np.ndarray
    multipliers: np.ndarray


def budget_law(G, y0, loss, radii, *, metric=1.0) -> BudgetLaw:
    """Return the budget law J(rho) = min of (1/N) sum_i l_i(y0_i + G_i z) over z'Rz <= rho^2, R = metric (number or diagonal).

    Convex and decreasing in rho. Solved through its multiplier: `ensemble_lq` at penalty r R has norm rho(r),
    decreasing in r; r is found by root search on one kernel. Source: derived. G, y0 as in
    `ensemble_lq`; radii: numbers >= 0. Raises ValueError for negative radii, shapes that do not fit, or a G whose squares
    are beyond float64.
    """
    G, y0, R = problem(G, y0, metric)
    radii = np.atleast_1d(np.asarray(radii, float))
    if radii.ndim != 1 or not np.all((radii == 0) | ((radii >= 1e-100) & (radii <= 1e100))):
        raise ValueError(f"radii must be finite numbers >= 0, positive ones between 1e-100 and 1e100, got {radii}")
    with np.errstate(over="ignore"):
        squared = float(np.sum(G**2 / R)) / len(y0)
    if not (1e-200 < squared < 1e200 or not G.any()):
        raise ValueError(f"the squares of G over the metric come to {squared:.3g}, beyond float64; measure z in other units")
    K = tangent_kernel(G, R) if y0.size <= 4 * G.shape[2] else None
    start = np.tensordot(loss.gradient(y0) / len(y0), G, 2)
    force = float(np.sqrt(np.sum(start**2 / R)))
    if not np.isfinite(force):
        raise ValueError("the loss's gradient at y0 is not finite; check y0 and the loss")
    floor = np.log(1e-12 * max(squared, np.finfo(float).tiny))  # below it rounding rules the control

    def solved(log_r):
        r = np.exp(log_r)
        return ensemble_lq(G, y0, loss, r * R, kernel=None if K is None else K / r)

    def excess(log_r, radius):
        return 0.5 * np.log(solved(log_r).energy / np.exp(log_r)) - np.log(radius)

    losses, multipliers = [], []
    for radius in radii:
        if radius == 0.0 or force == 0.0:
            losses.append(float(loss.value(y0).mean()))
            multipliers.append(force / radius if radius > 0 else np.inf)
            continue
        high = max(np.log(force / radius) + 1e-9, floor)  # r |z| <= force, so the norm is below the radius here
        low = high
        while low > floor and excess(low, radius) < 0:
            low = max(low - np.log(10.0), floor)
        slack = excess(low, radius) < 0
        log_r = low if slack else brentq(excess, low, high, args=(radius,), xtol=1e-13, rtol=1e-14, maxiter=500)
        losses.append(solved(log_r).loss)
        multipliers.append(0.0 if slack else float(np.exp(log_r)))
    return BudgetLaw(radii, np.array(losses), np.array(multipliers))
