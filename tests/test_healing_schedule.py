"""Closed-form subspace and half-space controllers against numerical optima."""

import numpy as np
import pytest
import scipy.optimize
from control_problems import relative

from theory import half_space_control, healing

N, K, T, COST = 6, 2, 4, 0.3


def orthogonal_system(seed):
    rng = np.random.default_rng(seed)
    theta = [np.linalg.qr(rng.normal(size=(N, N)))[0] for _ in range(T)]
    V = [np.linalg.qr(rng.normal(size=(N, K)))[0]]
    for Q in theta:
        V.append(Q @ V[-1])
    return theta, V, rng.normal(size=N)


def cost_of(u, theta, V, x):
    total = 0.0
    for t in range(T):
        moved = x + u[t]
        off = moved - V[t] @ (V[t].T @ moved)
        total += 0.5 * off @ off + 0.5 * COST * u[t] @ u[t]
        x = theta[t] @ moved
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_the_schedule_is_the_optimum(seed):
    """BFGS on the stated cost: gradient 1e-9, so cost agrees to rounding and controls to 1e-6."""
    theta, V, x0 = orthogonal_system(seed)
    plan, x, u = healing(COST, T), x0, []
    for t in range(T):
        u.append(plan.control(t, x, V[t]))
        x = theta[t] @ (x + u[-1])
    q = x0 - V[0] @ (V[0].T @ x0)
    assert relative(cost_of(u, theta, V, x0), 0.5 * plan.value[0] * q @ q) < 1e-12
    best = scipy.optimize.minimize(lambda v: cost_of(v.reshape(T, N), theta, V, x0), np.zeros(T * N), method="BFGS",
                                   options=dict(gtol=1e-9))
    assert relative(best.fun, cost_of(u, theta, V, x0)) < 1e-9
    assert np.abs(best.x.reshape(T, N) - u).max() < 1e-5


def test_off_subspace_part_shrinks_by_the_schedule_and_the_rest_is_untouched():
    theta, V, x0 = orthogonal_system(2)
    plan, x = healing(COST, T), x0
    for t in range(T):
        x = theta[t] @ (x + plan.control(t, x, V[t]))
    phi = np.linalg.multi_dot(theta[::-1])
    q = x0 - V[0] @ (V[0].T @ x0)
    assert relative(x, phi @ (x0 - q + np.prod(plan.keep) * q)) < 1e-12
    greedy = healing(COST, 1).keep[0]
    assert relative(greedy, COST / (1 + COST)) < 1e-15  # the published one-layer factor
    assert (plan.keep[:-1] < greedy).all()  # looking ahead corrects harder


def test_a_state_on_the_subspace_is_left_alone():
    _, V, _ = orthogonal_system(3)
    assert np.abs(healing(COST, T).control(0, V[0] @ [1.0, -2.0], V[0])).max() < 1e-14


def test_half_space_control_is_the_projection():
    rng = np.random.default_rng(4)
    w, x = rng.normal(size=5), rng.normal(size=(50, 5))
    u = half_space_control(x, w, 0.1, -0.2)
    level = (x + u) @ w + 0.1
    violated = x @ w + 0.1 > -0.2
    assert (level <= -0.2 + 1e-12).all()
    assert np.abs(level[violated] + 0.2).max() < 1e-12 and not u[~violated].any()
    assert violated.any() and not violated.all()
    for i in np.flatnonzero(violated)[:5]:  # any other feasible move is longer
        other = u[i] + 0.1 * rng.normal(size=5)
        other -= max((x[i] + other) @ w + 0.1 + 0.2, 0.0) * w / (w @ w)
        assert np.linalg.norm(other) >= np.linalg.norm(u[i])


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="cost must be positive"):
        healing(0.0, 3)
    with pytest.raises(ValueError, match="orthonormal"):
        healing(1.0, 3).control(0, np.ones(3), 2 * np.eye(3)[:, :1])
    with pytest.raises(ValueError, match="w must not be zero"):
        half_space_control(np.ones(3), np.zeros(3), 0.0, 0.0)
