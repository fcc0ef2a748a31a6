"""Costates are derivatives, extremals are stationary, and on linear problems both are the regulator."""

import numpy as np
import pytest
from control_problems import definite, plant, relative, residual_network

from theory import Process, adjoint, hamiltonian, riccati, shoot


def difference(f, x, h=1e-5):
    steps = h * np.eye(x.size).reshape(-1, *x.shape)
    return np.array([(f(x + e) - f(x - e)) / (2 * h) for e in steps]).reshape(x.shape)


def test_costates_and_gradient_are_derivatives_of_the_cost():
    """Central differences at 1e-5 are good to about 1e-10."""
    process, x0 = residual_network(0)
    u = np.random.default_rng(1).normal(size=(4, 2))
    found = adjoint(process, x0, u)
    assert relative(found.gradient, difference(lambda v: adjoint(process, x0, v).cost, u)) < 1e-8
    assert relative(found.costates[0], difference(lambda x: adjoint(process, x, u).cost, x0)) < 1e-8


def test_the_hamiltonian_generates_both_equations():
    process, x0 = residual_network(2)
    u = np.random.default_rng(3).normal(size=(4, 2))
    found = adjoint(process, x0, u)
    for t in range(4):
        lam, x = found.costates[t + 1], found.states[t]
        in_control = difference(lambda v, t=t, x=x, lam=lam: hamiltonian(process, t, x, lam, v), u[t])
        in_state = difference(lambda y, t=t, lam=lam: hamiltonian(process, t, y, lam, u[t]), x)
        assert relative(in_control, found.gradient[t]) < 1e-7
        assert relative(in_state, found.costates[t]) < 1e-7


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_extremals_are_stationary_strict_minima(seed):
    process, x0 = residual_network(seed)
    found = shoot(process, x0, np.zeros((4, 2)))
    assert found.converged and found.curvature > 0
    R = process.metric(2)
    for t in range(4):
        B = process.jacobians(t, found.adjoint.states[t], found.u[t])[1]
        assert np.abs(found.u[t] + np.linalg.solve(R, B.T @ found.adjoint.costates[t + 1])).max() < 1e-10
    rng = np.random.default_rng(seed)
    for _ in range(10):
        assert adjoint(process, x0, found.u + 1e-2 * rng.normal(size=(4, 2))).cost > found.adjoint.cost


def test_on_a_linear_system_the_extremal_is_the_regulators_trajectory():
    A, B = plant(7, n=3, m=2, T=4)
    rng = np.random.default_rng(8)
    Q, R, Qf, x0 = definite(rng, 3), definite(rng, 2), definite(rng, 3), rng.normal(size=3)
    process = Process(
        lambda t, x, u: A[t] @ x + B[t] @ u,
        lambda t, x, u: (A[t], B[t]),
        lambda x: (0.5 * float(x @ Qf @ x), Qf @ x),
        R,
        4,
        stage=lambda t, x: (0.5 * float(x @ Q @ x), Q @ x),
    )
    law = riccati(A, B, Q, R, Qf)
    found = shoot(process, x0, rng.normal(size=(4, 2)))
    assert relative(found.u, np.array(law.rollout(x0).controls)) < 1e-9
    assert relative(found.adjoint.cost, law.cost(x0)) < 1e-12
    for t in range(5):
        assert relative(found.adjoint.costates[t], law.P[t] @ found.adjoint.states[t]) < 1e-9  # the costate is P x


def test_controls_that_do_not_fit_are_refused():
    process, x0 = residual_network(9)
    with pytest.raises(ValueError, match="must hold 4 controls"):
        adjoint(process, x0, np.zeros((3, 2)))
