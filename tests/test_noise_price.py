"""What noise costs a policy: exact against simulation, and the value of feedback."""

import numpy as np
import pytest
from control_problems import definite, plant, relative

from theory import expected_cost, riccati


def problem(seed):
    A, B = plant(seed, n=4, m=2, T=5)
    rng = np.random.default_rng(seed + 30)
    more = dict(affine=0.3 * rng.normal(size=(5, 4)), reference=rng.normal(size=(6, 4)))
    return (A, B, definite(rng, 4), definite(rng, 2), definite(rng, 4), rng.normal(size=4)), more


def test_without_noise_it_is_the_realised_cost():
    data, more = problem(0)
    law = riccati(*data[:5], **more)
    assert relative(expected_cost(*data, 0.0, law.K, law.k, **more), law.cost(data[5])) < 1e-12


def test_simulation_agrees():
    """40000 rollouts; five standard errors, a false alarm in about two million."""
    data, more = problem(1)
    law = riccati(*data[:5], **more)
    rng = np.random.default_rng(2)
    cov = 0.05 * definite(rng, 4)
    noise = rng.multivariate_normal(np.zeros(4), cov, size=(5, 40000))
    costs = law.rollout(np.tile(data[5], (40000, 1)), noise).cost
    found = expected_cost(*data, cov, law.K, law.k, **more)
    assert abs(costs.mean() - found) < 5 * costs.std() / 200
    opened = expected_cost(*data, cov, [0 * K for K in law.K], [-u for u in law.rollout(data[5]).controls], **more)
    assert abs(costs.mean() - opened) > 5 * costs.std() / 200  # the test can tell the two policies apart


def test_the_price_of_noise_is_the_trace_form():
    """Closed loop 1/2 sum tr(P_{t+1} cov); open loop the same with the uncontrolled P: both known in closed form."""
    data, more = problem(3)
    law, idle = riccati(*data[:5], **more), riccati(data[0], [0 * b for b in data[1]], *data[2:5])
    cov = 0.1 * np.eye(4)
    closed = expected_cost(*data, cov, law.K, law.k, **more) - law.cost(data[5])
    opened = expected_cost(*data, cov, [0 * K for K in law.K], [-u for u in law.rollout(data[5]).controls], **more)
    opened -= law.cost(data[5])
    assert relative(closed, 0.5 * sum(np.trace(P @ cov) for P in law.P[1:])) < 1e-10
    assert relative(opened, 0.5 * sum(np.trace(P @ cov) for P in idle.P[1:])) < 1e-10
    assert closed < opened


@pytest.mark.parametrize("seed", range(3))
def test_no_policy_is_cheaper_than_the_regulator_under_noise(seed):
    data, more = problem(seed)
    law = riccati(*data[:5], **more)
    best = expected_cost(*data, 0.2, law.K, law.k, **more)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        K = [x + 0.01 * rng.normal(size=x.shape) for x in law.K]
        k = [x + 0.01 * rng.normal(size=x.shape) for x in law.k]
        assert expected_cost(*data, 0.2, K, k, **more) > best


def test_feedback_that_does_not_look_is_open_loop():
    """A feedback law whose Jacobian is zero pays the open-loop price."""
    data, more = problem(4)
    law = riccati(*data[:5], **more)
    u = law.rollout(data[5]).controls
    blind = expected_cost(*data, 0.1, [np.zeros((2, 4))] * 5, [-v for v in u], **more)
    seeing = expected_cost(*data, 0.1, law.K, law.k, **more)
    assert blind > seeing
    with pytest.raises(ValueError, match="one gain and one offset"):
        expected_cost(*data, 0.1, law.K[:3], law.k, **more)
