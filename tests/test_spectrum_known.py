"""Spectra, traces and densities of matrices that are known exactly."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from probes.curvature import gauss_newton, hessian
from probes.spectrum import density, gauss_newton_spectrum, top_eigenpairs, trace


def with_spectrum(values, seed=0):
    """A dense float64 matrix with the given eigenvalues in a random orthonormal frame, and that frame."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=g))[0]
    return q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T, q


CASES = {
    "separate": np.linspace(-3, 5, 120) ** 3,
    "repeated": np.r_[[4.0] * 5, [-4.0] * 3, [2.0] * 2, np.linspace(0, 1, 110)],
    "lora pairs": np.r_[[3, 3, 3, 3, -3, -3, -3, -3], 1e-3 * np.arange(112)],
    "low rank": np.r_[[7.0, 7.0, 1.0], np.zeros(117)],
    "zero": np.zeros(40),
    "identity": np.ones(40),
}


@pytest.mark.parametrize("which", ["magnitude", "largest", "smallest"])
@pytest.mark.parametrize("name", CASES)
def test_extreme_eigenvalues_with_multiplicity(name, which):
    values = CASES[name]
    matrix, _ = with_spectrum(values)
    found = top_eigenpairs(matrix, 10, which=which, tol=1e-6, max_products=500)
    key = {"magnitude": np.abs, "largest": lambda x: x, "smallest": lambda x: -x}[which]
    expected = np.sort(key(values))[::-1][:10]
    # an eigenvalue lies within the residual; tol is relative, its floor 10 eps of the scale
    floor = 1e-13 * np.abs(values).max()
    np.testing.assert_allclose(key(found.values.numpy()), expected, rtol=1e-6, atol=floor)
    assert found.status == "converged"
    x = found.vectors
    torch.testing.assert_close(x.T @ x, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-8)
    true = (matrix @ x - x * found.values).norm(dim=0)
    assert bool((true <= found.residuals + 1e-12 * (1 + np.abs(values).max())).all())


def test_float32_finds_the_same():
    values = CASES["lora pairs"]
    matrix, _ = with_spectrum(values)
    found = top_eigenpairs(matrix.float(), 10)
    np.testing.assert_allclose(np.sort(found.values.numpy())[[0, 3, -1, -4]], [-3, -3, 3, 3], rtol=1e-5)
    assert found.vectors.dtype == torch.float32


def test_budget_is_reported():
    matrix, _ = with_spectrum(np.linspace(1, 2, 300))
    found = top_eigenpairs(matrix, 5, tol=1e-12, max_products=12)
    assert found.status == "not converged" and found.products == 12
    with pytest.raises(ValueError, match="between 1 and 300"):
        top_eigenpairs(matrix, 301)


def test_trace_interval_covers():
    """Of 200 intervals at 95 % about 10 miss; more than 22 misses have probability below 1e-3."""
    matrix, _ = with_spectrum(np.linspace(-1, 3, 60))
    estimates = [trace(matrix, budget=16, seed=s) for s in range(200)]
    truth = float(matrix.diagonal().sum())
    misses = sum(not e.interval[0] <= truth <= e.interval[1] for e in estimates)
    assert misses <= 22
    mean, spread = np.mean([e.value for e in estimates]), np.std([e.value for e in estimates])
    assert abs(mean - truth) < 4 * spread / np.sqrt(200)
    assert 0.7 < np.mean([e.stderr for e in estimates]) / spread < 1.3


def test_trace_is_exact_where_it_must_be():
    """Signs square to one, so a diagonal matrix has no variance; neither has A - C with C = A."""
    exact = trace(torch.diag(torch.arange(7.0, dtype=torch.float64)), budget=4)
    assert exact.value == 21 and exact.stderr == 0
    matrix, _ = with_spectrum(np.linspace(-1, 3, 60))
    controlled = trace(matrix, budget=8, control=(matrix, 60.0))
    assert controlled.value == 60.0 and controlled.stderr == 0 and controlled.products == 8


def bilinear():
    """A LoRA-like loss, mean of a nonlinear function of x'(B A)': its A-B block is large and traceless."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(30, 6, dtype=torch.float64, generator=g)
    w = torch.randn(5, dtype=torch.float64, generator=g)
    params = {"a": 0.3 * torch.randn(2, 6, dtype=torch.float64, generator=g),
              "b": 0.3 * torch.randn(5, 2, dtype=torch.float64, generator=g)}
    return params, [(x,)], lambda p, batch: ((batch[0] @ p["a"].T @ p["b"].T) @ w).exp().mean()


def test_sign_flips_cancel_the_cross_block():
    params, batches, loss = bilinear()
    op = hessian(loss, params, batches)
    matrix = op.dense()
    plain, flipped = trace(op, budget=200), trace(op, budget=200, groups=["a", "b"])
    truth = float(matrix.diagonal().sum())
    for e in (plain, flipped):
        assert abs(e.value - truth) < 4 * e.stderr
    assert flipped.products == 200
    # Var of v'Av over signs is 2 sum of squared off-diagonals: flips remove the A-B part at twice the cost
    off = matrix - torch.diag(matrix.diagonal())
    whole, cross = 2 * float((off**2).sum()), 4 * float((off[:12, 12:] ** 2).sum())
    expected = np.sqrt((whole - cross) / whole * 2)
    # the log of each standard error is known to 1 / sqrt(2 probes): 0.09 for both
    assert abs(np.log(flipped.stderr / plain.stderr / expected)) < 0.35
    assert set(flipped.parts) == {"a", "b"}
    np.testing.assert_allclose(sum(p.value for p in flipped.parts.values()), flipped.value)
    with pytest.raises(ValueError, match="once"):
        trace(op, budget=200, groups=["a"])


def test_density_is_exact_when_small():
    values = np.linspace(-1, 2, 50)
    matrix, _ = with_spectrum(values)
    found = density(matrix)
    assert found.status == "exact" and found.products == 50
    np.testing.assert_allclose(np.sort(found.nodes[0]), values, atol=1e-12)
    assert found.cumulative([0.5]).value[0] == np.mean(values <= 0.5)


def test_density_by_quadrature():
    """Gauss rules are exact for moments up to 2 steps - 1 of each probe: only the probes' spread is left."""
    values = np.r_[[5.0] * 4, np.random.default_rng(0).uniform(-1, 1, 596)]
    matrix, _ = with_spectrum(values)
    found = density(matrix, probes=10, steps=20)
    assert found.status == "sampled" and found.products == 200
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=1e-12)
    assert abs(found.nodes.max() - 5) < 1e-9
    for power in (1, 2, 3):
        e = found.moment(power)
        assert abs(e.value - np.mean(values**power)) < 4 * e.stderr
    # the matrix itself, its square and its cube seen by the same probes: no sampling error in the comparison
    g = torch.Generator().manual_seed(0)
    v = torch.randn(600, 10, generator=g, dtype=torch.float64)
    v = v / v.norm(dim=0)
    for power in (1, 2, 3, 6):
        direct = (v * (torch.linalg.matrix_power(matrix, power) @ v)).sum(0).numpy()
        np.testing.assert_allclose((found.weights * found.nodes**power).sum(1), direct, rtol=1e-10)
    curve = found.on(np.linspace(-3, 7, 2001), 0.05)
    assert abs(np.trapezoid(curve.value, curve.grid) - 1) < 1e-6
    assert (curve.lower <= curve.value).all() and (curve.value <= curve.upper).all()


def test_density_survives_a_spent_sequence():
    """Two distinct eigenvalues: the Krylov space ends after two steps and the rule is exact."""
    matrix, _ = with_spectrum(np.r_[np.zeros(200), np.ones(400)])
    found = density(matrix, probes=4, steps=10)
    # after the space is spent only nodes at 0 and 1 carry weight
    away = np.minimum(abs(found.nodes), abs(found.nodes - 1))
    assert (found.weights[away > 1e-10] < 1e-12).all()
    assert abs(found.moment(1).value - 2 / 3) < 4 * found.moment(1).stderr


def network(p, batch):
    return torch.tanh(batch[0] @ p["u"].T) @ p["v"].T


def mean_entropy(y, batch):
    return cross_entropy(y, batch[1])


@pytest.fixture(scope="module")
def problem():
    g = torch.Generator().manual_seed(3)
    params = {"u": torch.randn(6, 5, dtype=torch.float64, generator=g),
              "v": torch.randn(3, 6, dtype=torch.float64, generator=g)}
    x, y = torch.randn(11, 5, dtype=torch.float64, generator=g), torch.randint(3, (11,), generator=g)
    return params, list(zip(x.split([4, 1, 6]), y.split([4, 1, 6]), strict=True))


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_gram_route_is_the_gauss_newton_spectrum(problem, budget):
    params, batches = problem
    dense = gauss_newton(network, mean_entropy, params, batches).dense()
    found = gauss_newton_spectrum(network, mean_entropy, params, batches, budget=budget)
    values = torch.linalg.eigvalsh(dense).flip(0)
    assert found.rank == min(22, 48) and found.status == "exact"       # N (C - 1) = 22 < D = 48
    torch.testing.assert_close(found.values, values[:22], rtol=1e-9, atol=1e-13)
    assert values[22:].abs().max() < 1e-13 and abs(found.trace - float(dense.trace())) < 1e-12
    x = found.vectors(5)
    torch.testing.assert_close(dense @ x, x * found.values[:5], rtol=1e-8, atol=1e-11)


def test_gram_route_with_an_indefinite_criterion(problem):
    params, batches = problem

    def saddle(y, batch):
        return (y[:, 0] ** 2 - 2 * y[:, 1] ** 2 + y[:, 0] * y[:, 2]).mean()

    found = gauss_newton_spectrum(network, saddle, params, batches)
    dense = gauss_newton(network, saddle, params, batches).dense()
    values = torch.linalg.eigvalsh(dense)
    order = values.abs().argsort(descending=True)[:found.rank]
    assert found.status == "indefinite"
    torch.testing.assert_close(found.values, values[order], rtol=1e-7, atol=1e-11)
    x = found.vectors(4)
    torch.testing.assert_close(dense @ x, x * found.values[:4], rtol=1e-6, atol=1e-9)


def test_gram_route_refuses_coupled_examples(problem):
    params, batches = problem
    with pytest.raises(ValueError, match="couples"):
        gauss_newton_spectrum(network, lambda y, b: (y.sum(0) ** 2).mean(), params, batches)
