"""Control under bounds on every number, condensed to the outputs: a finite Newton method over few numbers."""

from dataclasses import dataclass

import numpy as np

from theory.control import checked_outputs
from theory.linear import diagonal, root


@dataclass(frozen=True, eq=False)
class BoxControl:
    """The optimum of a condensed problem under |u| <= bound: controls u (T arrays), the outputs' shift z (C,), the value.

    multipliers[t] >= 0 has the shape of u_t, positive where a bound is active: what loosening it is worth. iterations:
    Newton steps; converged: whether the projected gradient vanished, to 1e-9 of what it is a sum of.
    """

    u: tuple
    shift: np.ndarray
    value: float
    multipliers: tuple
    iterations: int
    converged: bool


def condensed_box(G, M, g, R, bound, *, max_iterations=500) -> BoxControl:
    """Return the controls that minimise 1/2 z'Mz + g'z + 1/2 sum_t u_t'R_t u_t, z = sum_t G_t u_t, under |u| <= bound.

    With the costate lambda = g + M z the optimum is u = clip(-R^-1 G'lambda, bound), R diagonal, so the search runs over rank
    M numbers, where the problem is convex and piecewise quadratic; Newton with an exact line search ends at the active set in
    finitely many steps. Source: derived (the dual of the box); Mangasarian, Optim. Methods Softw. 17 (2002).
    G: T arrays (C, m_t), one problem, C up to a few dozen; M, g as in `theory.control.output_lq`; bound: a positive number,
    inf allowed, or T arrays of them. Raises ValueError for shapes that do not fit, M indefinite, R not positive definite and
    diagonal, or a bound that is not positive.
    """
    G, M, g, R = checked_outputs(G, M, g, R)
    if any(x.ndim != 2 for x in (*G, M, *R)) or g.ndim != 1:
        raise ValueError("condensed control takes one problem at a time: G, M, g and R without batch axes")
    if not all(diagonal(x) for x in {id(x): x for x in R}.values()):
        raise ValueError("R must be diagonal, so that every control has its own price; use bounded_control otherwise")
    per_step = bound if isinstance(bound, list | tuple) else [bound] * len(G)
    if len(per_step) != len(G):
        raise ValueError(f"bound must be one number or one entry for each of {len(G)} steps, got {len(per_step)}")
    cuts = np.cumsum([x.shape[1] for x in G])[:-1]
    box = np.concatenate([np.full(x.shape[1], b, float) for x, b in zip(G, per_step, strict=True)])
    if not np.all(box > 0):
        raise ValueError(f"bound must be positive, got {bound}")
    G, price = np.hstack(G), np.concatenate([np.diagonal(x) for x in R])
    try:
        u, iterations = _clipped_newton(root(M).T @ G, G.T @ g, price, box, max_iterations)
    except np.linalg.LinAlgError:
        raise ValueError("G'MG / R is beyond float64; measure the controls in other units") from None
    z = G @ u
    slope = price * u + G.T @ (g + M @ z)
    size = price * np.abs(u) + np.abs(G).T @ (np.abs(g) + np.abs(M) @ np.abs(z))
    pushed = (np.abs(u) >= box) & (u * slope < 0)
    multipliers = np.where(pushed, np.abs(slope), 0.0)
    return BoxControl(
        tuple(np.split(u, cuts)),
        z,
        float(0.5 * (z @ M @ z + u @ (price * u)) + g @ z),
        tuple(np.split(multipliers, cuts)),
        iterations,
        bool(np.all(pushed | (np.abs(slope) <= 1e-9 * size))),
    )


def _clipped_newton(F, q, R, box, limit):
    """argmin 1/2 |Fu|^2 + q'u + 1/2 u'Ru over |u| <= box, R a vector, and the Newton steps taken.

    u = clip(-(q + F'y)/R, box) at the y with y = Fu, the gradient of a convex, piecewise quadratic function of y.
    """

    def slack(s):
        return np.minimum(np.maximum(-s / R, -box), box)

    scaled, eye = (F / R).T, np.eye(len(F))
    y = -np.linalg.solve(eye + F @ scaled, scaled.T @ q)  # the optimum without bounds
    s, t, sides = q + F.T @ y, 0.0, None
    for iteration in range(limit + 1):
        u, before = slack(s), sides
        sides = np.sign(u) * (np.abs(u) >= box)
        free = np.flatnonzero(sides == 0)
        if (t == 1.0 and np.array_equal(sides, before)) or iteration == limit:
            break
        gradient = y - F @ u
        step = -np.linalg.solve(eye + F[:, free] @ scaled[free], gradient)
        moved = F.T @ step
        start, pace, pull = step @ y, step @ step, moved @ u  # the slope along the step: start + pace t - moved'u(t)
        first = start - pull
        terms = (np.abs(q) + np.abs(F).T @ np.abs(y)) / R  # of u, which may cancel, and so may F u
        rounding = np.abs(step) @ (np.abs(y) + np.abs(F) @ np.where(sides == 0, terms, box))
        if first >= -4 * np.finfo(float).eps * rounding:  # nothing left to gain
            break
        last = start + pace - moved @ slack(s + moved)
        t = 1.0 if abs(last) <= 1e-3 * abs(first) else _crossing(s, moved, R, box, first, pace)
        y = y + t * step
        s = q + F.T @ y
    held, cost = F[:, free], R[free]
    for _ in range(2):  # the bounds are known: refine the free controls directly
        slope = cost * u[free] + q[free] + held.T @ (F @ u)
        back = np.linalg.solve(eye + held @ scaled[free], held @ (slope / cost))
        u[free] -= (slope - held.T @ back) / cost
    return np.minimum(np.maximum(u, -box), box), iteration


def _crossing(s, moved, R, box, first, pace):
    """The t > 0 at which a slope, first < 0 at t = 0, vanishes: it rises at pace, and by moved_i^2/R_i while control i is free.

    Control i, clip(-(s_i + t moved_i)/R_i, box_i), is free between two kinks.
    """
    live = moved != 0.0
    s, moved, R, edge = s[live], moved[live], R[live], (R * box)[live]
    weight, kinks = moved**2 / R, np.sort([(edge - s) / moved, (-edge - s) / moved], 0)
    ahead = (kinks > 0) & np.isfinite(kinks)
    times, jumps = kinks[ahead], np.array([weight, -weight])[ahead]
    order = np.argsort(times)
    times = np.concatenate([[0.0], times[order]])
    rates = pace + weight[(kinks[0] <= 0) & (kinks[1] > 0)].sum() + np.concatenate([[0.0], np.cumsum(jumps[order])])
    slopes = first + np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(times))])
    last = np.searchsorted(slopes, 0.0) - 1  # slopes rise: the last kink still below zero
    return times[last] - slopes[last] / max(rates[last], pace)
