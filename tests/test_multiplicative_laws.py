"""Laws that multiply the state, as LoRA and IA3 do: closed forms, the problem as it is written, and the rank's nearest gain."""

import cvxpy as cp
import numpy as np
import pytest
from control_problems import relative

from theory import CrossEntropy, Quadratic, convex
from theory.multiplicative import balanced, factor_law, lora_law, moment_price
from theory.shared_gain import Ensemble

R = 0.05


def ensemble(seed, *, N=8, C=3, T=3, m=4, q=5, ports=2, loss="cross-entropy"):
    """Random states of any mean at ports, in which examples have tokens of different number, and a loss."""
    rng = np.random.default_rng(seed)
    weights = (np.arange(T) < rng.integers(1, T + 1, N)[:, None]).astype(float)
    real = weights > 0
    weights /= weights.sum(1, keepdims=True)
    G = tuple(rng.normal(size=(N, C, T, m)) * real[:, None, :, None] for _ in range(ports))
    phi = tuple(1.0 + rng.normal(size=(N, T, q)) @ rng.normal(size=(q, q)) for _ in range(ports))
    cost = CrossEntropy(rng.integers(0, C, N)) if loss == "cross-entropy" else Quadratic(rng.normal(size=(N, C)))
    return Ensemble(G, phi, rng.normal(size=(N, C)), weights), cost


def energy(seen, gains):
    """The mean energy of the signals K phi, example by example and token by token."""
    spent = sum(seen.weights[..., None] * (f @ K.T) ** 2 for f, K in zip(seen.phi, gains, strict=True))
    return float(spent.sum() / len(seen.y0))


def test_a_scalar_gain_in_closed_form():
    rng = np.random.default_rng(0)
    h, a = 2.0 + rng.normal(size=7), rng.normal(size=7)
    seen = Ensemble((np.ones((7, 1, 1, 1)),), (h.reshape(7, 1, 1),), np.zeros((7, 1)), np.ones((7, 1)))
    for noise in (0.0, 0.7):
        ((B, A),) = lora_law(seen, Quadratic(a[:, None]), 0.3, 1, noise=noise).factors
        assert relative(B @ A, [[np.mean(a * h) / np.mean(h**2) / (1 + 0.3 * (1 + noise**2))]]) < 1e-12
        ((factor,), _) = factor_law(seen, Quadratic(a[:, None]), 0.3, noise=noise)
        assert relative(factor, [1 + np.mean(a * h) / np.mean(h**2) / (1 + 0.3 * (1 + noise**2))]) < 1e-12


def test_the_price_is_the_energy_of_the_signal_whatever_the_states_mean():
    seen, cost = ensemble(1)
    gains = lora_law(seen, cost, R, 4).law.K
    priced = sum(np.trace(K @ S @ K.T) for K, S in zip(gains, moment_price(seen), strict=True))
    assert relative(priced, energy(seen, gains)) < 1e-12
    noisy = moment_price(seen, 2.0)
    assert relative(noisy[0] - moment_price(seen)[0], 4.0 * np.trace(moment_price(seen)[0]) / 5 * np.eye(5)) < 1e-12


@pytest.mark.parametrize("loss", ["cross-entropy", "quadratic"])
def test_a_general_convex_solver_finds_the_same_values(loss):
    """The oracle is handed both problems token by token: a gain of full rank, and a factor on what maps put out."""
    seen, cost = ensemble(2, N=5, C=2, T=2, m=3, q=3, loss=loss)
    law = lora_law(seen, cost, R, 3).law
    factors, found = factor_law(seen, cost, R)
    K, d = [cp.Variable((3, 3)) for _ in seen.G], [cp.Variable(3) for _ in seen.G]
    full = least(seen, cost, lambda t, f: K[t] @ f)
    diagonal = least(seen, cost, lambda t, f: cp.multiply(d[t], f))
    assert relative(law.value, full) < 1e-6 and relative(found.value, diagonal) < 1e-6  # the oracle's own tolerance is 1e-8
    assert full < diagonal  # IA3 is a gain that is diagonal
    assert relative(np.concatenate(factors), 1.0 + np.concatenate([x.value for x in d])) < 1e-3


def least(seen, cost, signal):
    terms = []
    for i, y in enumerate(seen.y0):
        for t, (g, f) in enumerate(zip(seen.G, seen.phi, strict=True)):
            for tau, w in enumerate(seen.weights[i]):
                if w > 0:
                    u = signal(t, f[i, tau])
                    y = y + g[i, :, tau] @ u
                    terms.append(R / 2 * w * cp.sum_squares(u))
        fit = (
            cp.log_sum_exp(y) - y[int(cost.labels[i])]
            if isinstance(cost, CrossEntropy)
            else cp.sum_squares(y - cost.target[i]) / 2
        )
        terms.append(fit)
    problem = cp.Minimize(sum(terms) / len(seen.y0))
    convex._solve(problem)
    return problem.value


def test_factors_are_the_nearest_of_their_rank_and_equally_large():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(6, 6))
    K, S = rng.normal(size=(4, 6)), root @ root.T + np.eye(6)
    B, A = balanced(K, S, 2)
    L = np.linalg.cholesky(S)
    s = np.linalg.svd(K @ L, compute_uv=False)
    assert relative(np.linalg.norm((K - B @ A) @ L) ** 2, np.sum(s[2:] ** 2)) < 1e-10
    assert relative(B.T @ B, A @ A.T) < 1e-10 and relative(A @ A.T, np.diag(np.diag(A @ A.T))) < 1e-10
    B, A = balanced(K, S, 7)
    assert B.shape == (4, 7) and A.shape == (7, 6) and relative(B @ A, K) < 1e-10


def test_the_cheap_law_is_one_gradient_step_of_whitened_states():
    seen, cost = ensemble(4)
    cheap = lora_law(seen, cost, R, 4, noise=0.5, cheap=True).law
    costate = cost.gradient(seen.y0) / len(seen.y0)
    for g, f, S, K in zip(seen.G, seen.phi, moment_price(seen, 0.5), cheap.K, strict=True):
        slope = np.einsum("nc,nctm,ntq->mq", costate, g, f)
        assert relative(K, -slope @ np.linalg.inv(S) / R) < 1e-10


def test_a_number_that_is_never_put_out_keeps_its_factor():
    seen, cost = ensemble(5, m=5)
    seen.phi[0][..., 2] = 0.0
    factors, _ = factor_law(seen, cost, R)
    assert factors[0][2] == 1.0 and np.abs(factors[0] - 1.0).max() > 1e-3


def test_bad_requests_are_refused():
    seen, cost = ensemble(6)
    with pytest.raises(ValueError, match="at least 0"):
        moment_price(seen, -1.0)
    with pytest.raises(ValueError, match="rank of at least 1"):
        lora_law(seen, cost, R, 0)
    with pytest.raises(ValueError, match="another width"):
        factor_law(seen, cost, R)
    with pytest.raises(ValueError, match="positive"):
        lora_law(seen, cost, 0.0, 1)
