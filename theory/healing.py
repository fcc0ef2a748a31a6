"""Closed-form controllers that keep a state on a linear subspace or in a half-space.

>>> healing(1.0, 2).keep.round(4).tolist(), healing(1.0, 2, lookahead=1).keep.tolist()
([0.4, 0.5], [0.5, 0.5])
>>> half_space_control(np.array([3.0, 4.0]), np.array([1.0, 1.0]), 0.0, 5.0).tolist()
[-1.0, -1.0]
>>> clean = np.random.default_rng(0).normal(size=(3, 9, 2)) * [1.0, 0.0]  # states on the first axis
>>> states, _ = pid(1.0, clean, "P").rollout(lambda t, x: x, np.ones(2))
>>> states[-1].round(4).tolist()
[1.0, 0.2]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theory.linear import apply, transpose


@dataclass(frozen=True, eq=False)
class Healing:
    """The optimal self-healing schedule: value[t] = lambda_t (T+1 numbers), keep[t] = c/(1+lambda_{t+1}+c) (T numbers).

    keep[t] is the share of the off-subspace part that is left after the control at layer t.
    """

    cost: float
    value: np.ndarray
    keep: np.ndarray

    def control(self, t: int, x, V):
        """Return u_t = -(1 - keep_t)(I - VV')x for V (..., n, k) with orthonormal columns; zero on the subspace."""
        x, V = np.asarray(x, float), _orthonormal(V)
        return -(1.0 - self.keep[t]) * (x - apply(V, apply(transpose(V), x)))


def _orthonormal(V):
    V = np.asarray(V, float)
    if not np.allclose(transpose(V) @ V, np.eye(V.shape[-1]), atol=1e-8):
        raise ValueError("V must have orthonormal columns; pass the Q factor of its QR decomposition")
    return V


def healing(cost: float, horizon: int, *, lookahead: int | None = None) -> Healing:
    """Return the schedule of x_{t+1} = theta_t (x_t + u_t), theta orthogonal, V_{t+1} = theta_t V_t, looking some layers ahead.

    Minimises sum_t 1/2 |(I-VV')(x_t+u_t)|^2 + cost/2 |u_t|^2: lambda_T = 0, lambda_t = c(1+lambda_{t+1})/(1+lambda_{t+1}+c),
    u_t = -(1+lambda_{t+1})/(1+lambda_{t+1}+c) q_t, q_t = (I-VV')x_t, value 1/2 lambda_t |q_t|^2. lookahead=None looks to
    the end (the optimum); a number plans that many layers at every layer (1 is the greedy control, which keeps c/(1+c)),
    and `value` is what this schedule then costs over all of them. Source: Self-Healing (arXiv 2206.12963). Raises
    ValueError unless cost > 0, horizon >= 1 and lookahead >= 1.
    """
    if not cost > 0 or horizon < 1:
        raise ValueError(f"cost must be positive and horizon at least 1, got {cost} and {horizon}")
    if lookahead is not None and lookahead < 1:
        raise ValueError(f"lookahead must be at least 1 layer, or None for all of them, got {lookahead}")
    optimal = np.zeros(horizon + 1)  # least cost to go, by the number of layers left
    for left in range(1, horizon + 1):
        optimal[left] = cost * (1.0 + optimal[left - 1]) / (1.0 + optimal[left - 1] + cost)
    left = np.arange(horizon, 0, -1)
    keep = cost / (1.0 + optimal[np.minimum(left, lookahead or horizon) - 1] + cost)
    value = np.zeros(horizon + 1)
    for t in reversed(range(horizon)):
        value[t] = (1.0 + value[t + 1]) * keep[t] ** 2 + cost * (1.0 - keep[t]) ** 2
    return Healing(float(cost), value, keep)


def channels(states) -> dict:
    """Return what each controller of a state history x_0..x_t (t+1, ..., n) looks at, at every layer, each (t+1, ..., n).

    "P": the state; "I": the running average of the states so far; "D": the difference to the state before (0 at first).
    Source: PID control of language models (arXiv 2404.00828).
    """
    states = np.asarray(states, float)
    count = np.arange(1, len(states) + 1).reshape(-1, *[1] * (states.ndim - 1))
    return {"P": states, "I": np.cumsum(states, 0) / count, "D": np.diff(states, axis=0, prepend=states[:1])}


def subspaces(samples, share: float = 0.99) -> tuple:
    """Return for every layer, the orthonormal basis (n, k) of the leading directions that hold a share of the samples' energy.

    samples: layers of (N, n); energy: squared singular values, not centred. share = 1 keeps every direction above
    rounding. Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    bases = []
    for X in samples:
        _, s, Vt = np.linalg.svd(np.asarray(X, float), full_matrices=False)
        real = int(np.sum(s > max(np.shape(X)) * np.finfo(float).eps * s[0]))
        held = np.cumsum(s[:real] ** 2)
        bases.append(Vt[: np.searchsorted(held, share * held[-1]) + 1 if real and share < 1 else real].T)
    return tuple(bases)


@dataclass(frozen=True, eq=False)
class PID:
    """A self-healing policy of several controllers: the average of their projections, each in its own subspaces.

    plan: the schedule that says how much of a controller's off-subspace part is taken out at each layer. bases: from
    the controllers in use ("P", "I", "D") to one orthonormal (n, k) basis per layer.
    """

    plan: Healing
    bases: dict

    def control(self, states):
        """Return u_t (..., n) for the history x_0..x_t (t+1, ..., n): the mean over controllers of -(1 - keep_t)(I - VV')m_t."""
        t, seen = len(states) - 1, channels(states)
        return sum(self.plan.control(t, seen[name][t], V[t]) for name, V in self.bases.items()) / len(self.bases)

    def rollout(self, step, x0, noise=None):
        """Return states (T+1, ..., n) and controls (T, ..., n) of x_{t+1} = step(t, x_t + u_t) + noise_t under this policy."""
        states, controls = [np.asarray(x0, float)], []
        for t in range(len(self.plan.keep)):
            controls.append(self.control(np.array(states)))
            moved = np.asarray(step(t, states[-1] + controls[-1]), float)
            states.append(moved if noise is None else moved + noise[t])
        return np.array(states), np.array(controls)


def pid(cost: float, clean, controllers: Sequence[str] = "PID", *, share: float = 0.99, lookahead: int | None = None) -> PID:
    """Return the self-healing policy of the given controllers, with subspaces fitted to clean trajectories.

    clean: uncontrolled states (T+1, N, n) of inputs that go right. Each controller sees one channel of the states (see
    `channels`) and takes its part outside that channel's clean subspace out, by the closed-form gain of `healing`; with
    linear subspaces all three costs are projections, so the gain is the same. "P" alone is that control. Whatever stays
    in all the subspaces passes untouched. Source: PID control of language models (arXiv 2404.00828), with the gain in
    the subspace's own complement. Raises ValueError for an unknown or missing controller and a clean set without layers.
    """
    clean, names = np.asarray(clean, float), list(controllers)
    if clean.ndim != 3 or len(clean) < 2:
        raise ValueError(f"clean must hold the states of N inputs at T + 1 layers, shape (T+1, N, n), got {clean.shape}")
    if not names or len(set(names)) != len(names) or not set(names) <= set("PID"):
        raise ValueError(f'controllers must be some of "P", "I" and "D", each once, got {controllers!r}')
    seen, horizon = channels(clean), len(clean) - 1
    return PID(healing(cost, horizon, lookahead=lookahead), {name: subspaces(seen[name][:horizon], share) for name in names})


def half_space_control(x, w, b, level):
    """Return the least-norm u with w'(x + u) + b <= level: u = -max(w'x + b - level, 0) w / |w|^2.

    x: (..., n), w: (n,). Source: LiSeCo (arXiv 2405.15454), closed form derived. Raises ValueError for w = 0.
    """
    x, w = np.asarray(x, float), np.asarray(w, float)
    if not np.any(w):
        raise ValueError("w must not be zero; a half-space needs a direction")
    return -np.maximum(x @ w + b - level, 0.0)[..., None] * w / (w @ w)
