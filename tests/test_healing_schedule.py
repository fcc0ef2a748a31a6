"""Closed-form subspace and half-space controllers against numerical optima."""

import numpy as np
import pytest
import scipy.optimize
from control_problems import relative

from theory import channels, half_space_control, healing, pid, subspaces

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
    best = scipy.optimize.minimize(
        lambda v: cost_of(v.reshape(T, N), theta, V, x0), np.zeros(T * N), method="BFGS", options=dict(gtol=1e-9)
    )
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


@pytest.mark.parametrize("lookahead", [1, 2, None])
def test_the_value_of_every_schedule_is_its_realised_cost(lookahead):
    theta, V, x0 = orthogonal_system(5)
    plan, x, u = healing(COST, T, lookahead=lookahead), x0, []
    for t in range(T):
        u.append(plan.control(t, x, V[t]))
        x = theta[t] @ (x + u[-1])
    q = x0 - V[0] @ (V[0].T @ x0)
    assert relative(cost_of(u, theta, V, x0), 0.5 * plan.value[0] * q @ q) < 1e-12


def test_greedy_control_shrinks_a_perturbation_by_the_published_factor():
    """|x_eps - x|^2 = alpha^2t |z off the subspace|^2 + |z on it|^2, alpha = c/(1+c)."""
    theta, V, _ = orthogonal_system(6)
    z = np.random.default_rng(7).normal(size=N)
    plan, x = healing(COST, T, lookahead=1), z  # the dynamics are linear: the perturbation moves as a state
    for t in range(T):
        x = theta[t] @ (x + plan.control(t, x, V[t]))
    on = V[0] @ (V[0].T @ z)
    alpha = COST / (1 + COST)
    assert relative(np.linalg.norm(x), np.sqrt(alpha ** (2 * T) * np.sum((z - on) ** 2) + on @ on)) < 1e-12


def test_a_longer_look_ahead_is_never_dearer_and_no_constant_gain_is_cheaper():
    values = [healing(COST, 8, lookahead=h).value[0] for h in (1, 2, 4, 8)]
    assert (np.diff(values) <= 0).all() and values[0] > values[1]
    assert relative(healing(COST, 8).value, healing(COST, 8, lookahead=8).value) < 1e-15
    for keep in np.linspace(0.0, 1.0, 101):
        cost = 0.0
        for _ in range(8):
            cost = (1 + cost) * keep**2 + COST * (1 - keep) ** 2
        assert cost >= values[-1]


def clean_chain(seed, count=40):
    """Clean trajectories of an orthogonal chain: states (T+1, count, N) that start on a subspace."""
    theta, V, _ = orthogonal_system(seed)
    states = [np.random.default_rng(seed + 90).normal(size=(count, K)) @ V[0].T]
    for Q in theta:
        states.append(states[-1] @ Q.T)
    return theta, V, np.array(states)


def test_the_proportional_policy_is_the_schedule_on_fitted_subspaces():
    theta, V, clean = clean_chain(8)
    policy, plan, x = pid(COST, clean, "P", share=1.0), healing(COST, T), np.random.default_rng(9).normal(size=N)
    states, controls = policy.rollout(lambda t, x: theta[t] @ x, x)
    for t in range(T):
        assert relative(controls[t], plan.control(t, x, V[t])) < 1e-12
        x = theta[t] @ (x + plan.control(t, x, V[t]))
    assert relative(states[-1], x) < 1e-12


@pytest.mark.parametrize("controllers", ["P", "PI", "PID", "ID"])
def test_clean_states_pass_every_policy_untouched(controllers):
    """Averages and differences of clean states have subspaces of their own; no controller may move a state inside all."""
    theta, V, clean = clean_chain(10)
    policy = pid(COST, clean, controllers, share=1.0)
    x0 = V[0] @ [0.7, -1.3]
    states, controls = policy.rollout(lambda t, x: x @ theta[t].T, x0)
    assert np.abs(controls).max() < 1e-13
    assert relative(states[-1], np.linalg.multi_dot(theta[::-1]) @ x0) < 1e-12


@pytest.mark.parametrize("controllers", ["P", "PI", "PID"])
def test_every_policy_shrinks_what_is_off_the_subspace_and_nothing_else(controllers):
    theta, V, clean = clean_chain(11)
    policy = pid(COST, clean, controllers, share=1.0)
    x0 = np.random.default_rng(12).normal(size=N)
    on = V[0] @ (V[0].T @ x0)
    states, _ = policy.rollout(lambda t, x: x @ theta[t].T, x0)
    phi = np.linalg.multi_dot(theta[::-1])
    inside = V[T] @ (V[T].T @ states[-1])
    assert np.linalg.norm(states[-1] - inside) < 0.5 * np.linalg.norm(x0 - on)
    if controllers == "P":  # the others' subspaces mix layers, so what they see is not only what is off this one
        assert relative(inside, phi @ on) < 1e-12


def test_a_policy_is_linear_in_batches():
    theta, _, clean = clean_chain(13)
    policy = pid(COST, clean, "PID", share=1.0)
    x0 = np.random.default_rng(14).normal(size=(5, N))
    states, _ = policy.rollout(lambda t, x: x @ theta[t].T, x0)
    for i in range(5):
        assert relative(policy.rollout(lambda t, x: x @ theta[t].T, x0[i])[0], states[:, i]) < 1e-12


def test_channels_are_state_running_average_and_difference():
    x = np.random.default_rng(15).normal(size=(5, 3, 2))
    seen, average = channels(x), np.zeros((3, 2))
    for t in range(5):
        average = (t * average + x[t]) / (t + 1)  # the published recursion
        assert relative(seen["I"][t], average) < 1e-14
        assert (seen["D"][t] == (x[t] - x[t - 1] if t else 0.0)).all() and (seen["P"][t] == x[t]).all()


def test_subspaces_hold_the_asked_share_and_no_direction_more():
    X = np.random.default_rng(16).normal(size=(50, 6)) * [9, 5, 3, 1, 0.1, 0]
    s = np.linalg.svd(X, compute_uv=False)[:5] ** 2
    for share in (0.5, 0.9, 0.99, 1.0):
        (V,) = subspaces([X], share)
        held = np.sum((X @ V) ** 2)
        assert held >= share * s.sum() * (1 - 1e-12)
        assert held - s[V.shape[1] - 1] < share * s.sum()
    assert V.shape == (6, 5)


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
    with pytest.raises(ValueError, match="lookahead"):
        healing(1.0, 3, lookahead=0)
    with pytest.raises(ValueError, match='some of "P"'):
        pid(1.0, np.zeros((3, 4, 2)), "PX")
    with pytest.raises(ValueError, match="T \\+ 1 layers"):
        pid(1.0, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="share must lie"):
        subspaces([np.eye(2)], 0.0)
    with pytest.raises(ValueError, match="orthonormal"):
        healing(1.0, 3).control(0, np.ones(3), 2 * np.eye(3)[:, :1])
    with pytest.raises(ValueError, match="w must not be zero"):
        half_space_control(np.ones(3), np.zeros(3), 0.0, 0.0)
