"""Iterated linear-quadratic control and successive approximation: they end at extremals, and theory says when they get there."""

import numpy as np
import pytest
import scipy.linalg
from control_problems import definite, plant, relative, residual_network

from theory import Process, adjoint, error_constant, hamiltonian, ilqr, msa, msa_radius, reach, riccati, shoot

T, M = 4, 2


def linear_process(seed, price, n=3):
    """A linear-quadratic process with a terminal cost, its Hessian (T M, T M) and its block-diagonal B'B."""
    A, B = plant(seed, n=n, m=M, T=T)
    rng = np.random.default_rng(seed + 30)
    Qf, x0 = definite(rng, n), rng.normal(size=n)
    process = Process(
        lambda t, x, u: A[t] @ x + B[t] @ u, lambda t, x, u: (A[t], B[t]), lambda x: (0.5 * float(x @ Qf @ x), Qf @ x), price, T
    )
    G = reach(A, B)
    return process, x0, G.T @ Qf @ G, scipy.linalg.block_diag(*(b.T @ b for b in B)), riccati(A, B, 0.0, price, Qf)


def gated_network(seed, n=3):
    """x + tanh(W x + V u): the control enters through a nonlinearity, so no closed form applies."""
    rng = np.random.default_rng(seed)
    W, V, target = 0.4 * rng.normal(size=(T, n, n)), rng.normal(size=(T, n, M)), 0.5 * rng.normal(size=n)

    def jacobians(t, x, u):
        slope = (1 - np.tanh(W[t] @ x + V[t] @ u) ** 2)[:, None]
        return np.eye(n) + slope * W[t], slope * V[t]

    return Process(
        lambda t, x, u: x + np.tanh(W[t] @ x + V[t] @ u),
        jacobians,
        lambda x: (0.5 * float((x - target) @ (x - target)), x - target),
        2.0,
        T,
    ), rng.normal(size=n)


def bilinear_network(seed, n=3):
    """x + tanh(W x) + u_1 S_1 x + u_2 S_2 x: affine in the control, with a Jacobian that depends on it."""
    rng = np.random.default_rng(seed)
    W, S = 0.4 * rng.normal(size=(n, n)), 0.4 * rng.normal(size=(M, n, n))
    return Process(
        lambda t, x, u: x + np.tanh(W @ x) + np.tensordot(u, S, 1) @ x,
        lambda t, x, u: (np.eye(n) + (1 - np.tanh(W @ x) ** 2)[:, None] * W + np.tensordot(u, S, 1), (S @ x).T),
        lambda x: (0.5 * float(x @ x), x),
        0.5,
        T,
    ), rng.normal(size=n)


def test_on_a_linear_process_one_linear_quadratic_step_is_the_regulator():
    process, x0, _, _, law = linear_process(0, 0.3)
    found = ilqr(process, x0, np.random.default_rng(1).normal(size=(T, M)), terminal=law.problem.Qf)
    assert found.converged and len(found.costs) == 2
    assert relative(found.u, np.array(law.rollout(x0).controls)) < 1e-10
    assert relative(found.costs[-1], law.cost(x0)) < 1e-12


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_iterated_linear_quadratic_control_falls_to_the_extremal(seed):
    """Near a minimum the distance to it is the gradient over the least curvature, here with a factor 2 for the cubic terms.

    The stage weight is the quartic cost's own Hessian. A wrong weight changes the path and its length, not the end.
    """
    process, x0 = residual_network(seed)
    found = ilqr(process, x0, np.zeros((T, M)), terminal=1.0, stage=lambda t, x: np.diag(0.12 * x**2), max_iterations=1000)
    assert found.converged and (np.diff(found.costs) <= 1e-14 * found.costs[0]).all()
    best = shoot(process, x0, found.u)
    start = found.u + 0.01 * np.random.default_rng(seed).normal(size=found.u.shape)
    other = ilqr(process, x0, start, terminal=2.0, max_iterations=400)
    assert (np.diff(other.costs) <= 1e-14 * other.costs[0]).all()
    assert other.costs[-1] - best.adjoint.cost < 1e-3 * (other.costs[0] - best.adjoint.cost)
    for end in (found, other):
        slopes = np.linalg.norm(end.adjoint.gradient) + np.linalg.norm(best.adjoint.gradient)
        assert np.linalg.norm(end.u - best.u) <= 2 * slopes / best.curvature


def golden_process():
    return Process(
        lambda t, x, u: np.tanh(1.5 * x) + u,
        lambda t, x, u: (np.diag(1.5 / np.cosh(1.5 * x) ** 2), np.eye(1)),
        lambda x: (0.5 * float((x - 1.5) @ (x - 1.5)), x - 1.5),
        0.05,
        4,
    )


@pytest.mark.parametrize("solve", [lambda *p: ilqr(*p, terminal=1.0), lambda *p: msa(*p, rho=1.0, max_iterations=500)])
def test_the_golden_nonlinear_problem(solve):
    """1e-6 in u: the reference is a quasi-Newton answer."""
    found = solve(golden_process(), [0.2], np.zeros(4))
    assert found.converged
    assert relative(found.costs[-1], 0.010433233198357532) < 1e-9
    assert relative(found.u.ravel(), [0.12102610872886024, 0.11569222208985647, 0.18327840767700945, 0.5820377461335744]) < 1e-6


def test_the_radius_tells_which_sweeps_reach_the_golden_optimum():
    process = golden_process()
    best = shoot(process, [0.2], np.zeros(4)).u
    for rho, reaches in ((0.0, False), (0.4, False), (1.0, True)):
        assert (msa_radius(process, [0.2], best, rho=rho) < 1) == reaches
        assert msa(process, [0.2], best + 0.01, rho=rho, max_iterations=500).converged == reaches


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_basic_sweeps_converge_exactly_where_the_radius_is_below_one(seed):
    """On a linear process the radius is lambda_max(G'QfG)/r: priced 20 % either side of it, sweeps contract or blow up.

    Both at the predicted rate: from a start along the dominant direction the error turns its sign and scales by -radius.
    """
    _, _, curvature, _, _ = linear_process(seed, 1.0)
    values, V = np.linalg.eigh(curvature)
    for factor in (0.8, 1.2):
        process, x0, _, _, law = linear_process(seed, values[-1] / factor)
        best = np.array(law.rollout(x0).controls)
        assert relative(msa_radius(process, x0, best), factor) < 1e-6
        errors = [msa(process, x0, best + 1e-3 * V[:, -1].reshape(T, M), max_iterations=k).u - best for k in (1, 2)]
        assert relative(errors[0].ravel(), -factor * 1e-3 * V[:, -1]) < 1e-6
        assert relative(errors[1], -factor * errors[0]) < 1e-6
        found = msa(process, x0, np.zeros((T, M)), max_iterations=300)
        assert found.converged == (factor < 1)
        if factor < 1:
            assert relative(found.u, best) < 1e-7
        else:
            assert found.costs[-1] > 1e3 * found.costs[0]


@pytest.mark.parametrize("make", [residual_network, gated_network, bilinear_network])
@pytest.mark.parametrize("rho", [0.0, 2.0])
def test_the_radius_is_that_of_the_sweeps_own_derivative(make, rho):
    """One sweep differentiated by central differences of 1e-4 at an extremal found by shooting.

    1e-3: the inner solver leaves 1e-8 of 1e-4, and third derivatives, times radii up to 20, as much. Only a Hamiltonian
    with a minimum in the control has a sweep: one gated network in six has none at rho = 0, so twelve fail once in 2e9.
    """
    for seed in range(5, 17):
        process, x0 = make(seed)
        best = shoot(process, x0, np.zeros((T, M))).u
        try:
            radius = msa_radius(process, x0, best, rho=rho)
            break
        except ValueError as refusal:
            assert "no minimum in the control" in str(refusal) and make is gated_network
    steps = 1e-4 * np.eye(T * M).reshape(-1, T, M)
    sweep = [msa(process, x0, best + e, rho=rho, max_iterations=1, tolerance=0.0).u.ravel() for e in (*steps, *-steps)]
    derivative = (np.array(sweep[: T * M]) - np.array(sweep[T * M :])).T / 2e-4
    assert relative(np.abs(np.linalg.eigvals(derivative)).max(), radius) < 1e-3


@pytest.mark.parametrize("make", [residual_network, gated_network, bilinear_network])
@pytest.mark.parametrize("rho", [0.0, 3.0])
def test_every_step_minimises_its_extended_hamiltonian(make, rho):
    process, x0 = make(7)
    rng = np.random.default_rng(8)
    u = 0.3 * rng.normal(size=(T, M))
    now = adjoint(process, x0, u)
    v = msa(process, x0, u, rho=rho, max_iterations=1).u

    def extended(t, w):
        x, lam = now.states[t], now.costates[t + 1]
        forth = process.step(t, x, w) - now.states[t + 1]
        back = process.jacobians(t, x, w)[0].T @ lam + process.running(t, x)[1] - now.costates[t]
        return hamiltonian(process, t, x, lam, w) + 0.5 * rho * float(forth @ forth + back @ back)

    for t in range(T):
        assert extended(t, v[t]) < extended(t, u[t])
        for _ in range(20):
            assert extended(t, v[t] + 1e-2 * rng.normal(size=M)) > extended(t, v[t])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_error_estimates_constant_is_the_one_of_the_linear_process(seed):
    """J(v) - J(u) - dH = 1/2 d'G'QfGd there, so C is half the largest eigenvalue of (G'QfG, blockdiag B'B), and attained."""
    process, x0, curvature, blocks, _ = linear_process(seed, 0.1)
    values, V = scipy.linalg.eigh(curvature, blocks)
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(T, M))
    for _ in range(20):
        assert error_constant(process, x0, u, u + rng.normal(size=(T, M))) <= 0.5 * values[-1] * (1 + 1e-9)
    assert relative(error_constant(process, x0, u, u + V[:, -1].reshape(T, M)), 0.5 * values[-1]) < 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_beyond_twice_the_constant_every_sweep_lowers_the_cost(seed):
    """And by at least (1 - 2C/rho) of the Hamiltonian's fall; the basic method on the same instances raises it.

    On a linear process the excess is a quadratic form that every sweep contracts by the squared radius, good to 1e-6.
    """
    process, x0, curvature, blocks, law = linear_process(seed, 0.02)
    C = 0.5 * scipy.linalg.eigh(curvature, blocks, eigvals_only=True)[-1]
    rng = np.random.default_rng(seed + 60)
    for _ in range(3):
        u = rng.normal(size=(T, M))
        found = msa(process, x0, u, rho=2.2 * C, max_iterations=200)
        assert (found.mu >= 0).all() and found.constants.max() <= C * (1 + 1e-6)
        assert (np.diff(found.costs) <= -(1 - 1 / 1.1) * found.mu + 1e-12 * found.costs[0]).all()
        best = np.array(law.rollout(x0).controls)
        left = (msa_radius(process, x0, best, rho=2.2 * C) * (1 + 1e-6)) ** (2 * len(found.mu))
        assert found.costs[-1] - law.cost(x0) < left * (found.costs[0] - law.cost(x0)) + 1e-12 * found.costs[0]
        assert (np.diff(msa(process, x0, u, max_iterations=5).costs) > 0).any()


def test_on_a_network_a_measured_constant_buys_descent():
    """C measured on pairs of controls around the start, doubled with a margin of three; without it the first sweep climbs."""
    process, x0 = residual_network(5)
    process = Process(process.step, process.jacobians, process.terminal, 0.05, T, stage=process.stage)
    rng = np.random.default_rng(9)
    pairs = 0.5 * rng.normal(size=(40, 2, T, M))
    C = max(error_constant(process, x0, *pair) for pair in pairs)
    assert 0 < C < np.inf
    found = msa(process, x0, pairs[0, 0], rho=6 * C, max_iterations=100)
    assert (np.diff(found.costs) < 0).all() and found.costs[-1] < 0.5 * found.costs[0]
    assert msa(process, x0, pairs[0, 0], max_iterations=1).costs[-1] > found.costs[0]


def test_wrong_input_is_refused():
    process, x0, *_ = linear_process(0, 1.0)
    with pytest.raises(ValueError, match="must hold 4 controls"):
        msa(process, x0, np.zeros((3, M)))
    with pytest.raises(ValueError, match="rho must be at least 0"):
        msa(process, x0, np.zeros((T, M)), rho=-1.0)
    with pytest.raises(ValueError, match="semi-definite"):
        ilqr(process, x0, np.ones((T, M)), terminal=-1.0)
