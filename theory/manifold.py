"""Closed-form controllers that keep a state on a linear subspace or in a half-space."""

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
        """u_t = -(1 - keep_t)(I - VV')x for V (..., n, k) with orthonormal columns; zero on the subspace."""
        x, V = np.asarray(x, float), np.asarray(V, float)
        gram = transpose(V) @ V
        if not np.allclose(gram, np.eye(V.shape[-1]), atol=1e-8):
            raise ValueError("V must have orthonormal columns; pass the Q factor of its QR decomposition")
        return -(1.0 - self.keep[t]) * (x - apply(V, apply(transpose(V), x)))


def healing(cost: float, horizon: int) -> Healing:
    """The optimal schedule of x_{t+1} = theta_t (x_t + u_t), theta orthogonal and V_{t+1} = theta_t V_t.

    Minimises sum_t 1/2 |(I-VV')(x_t+u_t)|^2 + cost/2 |u_t|^2: lambda_T = 0, lambda_t = c(1+lambda_{t+1})/(1+lambda_{t+1}+c),
    u_t = -(1+lambda_{t+1})/(1+lambda_{t+1}+c) q_t, value 1/2 lambda_t |q_t|^2. The greedy control is horizon 1.
    Source: Self-Healing (arXiv 2206.12963). Raises ValueError unless cost > 0 and horizon >= 1.
    """
    if not cost > 0 or horizon < 1:
        raise ValueError(f"cost must be positive and horizon at least 1, got {cost} and {horizon}")
    value, keep = np.zeros(horizon + 1), np.zeros(horizon)
    for t in reversed(range(horizon)):
        keep[t] = cost / (1.0 + value[t + 1] + cost)
        value[t] = keep[t] * (1.0 + value[t + 1])
    return Healing(float(cost), value, keep)


def half_space_control(x, w, b, level):
    """The least-norm u with w'(x + u) + b <= level: u = -max(w'x + b - level, 0) w / |w|^2.

    x: (..., n), w: (n,). Source: LiSeCo (arXiv 2405.15454), closed form derived. Raises ValueError for w = 0.
    """
    x, w = np.asarray(x, float), np.asarray(w, float)
    if not np.any(w):
        raise ValueError("w must not be zero; a half-space needs a direction")
    return -np.maximum(x @ w + b - level, 0.0)[..., None] * w / (w @ w)
