"""Spectra of matrices that are known exactly."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from probes.curvature.hessian import gauss_newton
from probes.curvature.spectrum import gauss_newton_spectrum, top_eigenpairs


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


def network(p, batch):
    return torch.tanh(batch[0] @ p["u"].T) @ p["v"].T


def mean_entropy(y, batch):
    return cross_entropy(y, batch[1])


@pytest.fixture(scope="module")
def problem():
    g = torch.Generator().manual_seed(3)
    params = {"u": torch.randn(6, 5, dtype=torch.float64, generator=g), "v": torch.randn(3, 6, dtype=torch.float64, generator=g)}
    x, y = torch.randn(11, 5, dtype=torch.float64, generator=g), torch.randint(3, (11,), generator=g)
    return params, list(zip(x.split([4, 1, 6]), y.split([4, 1, 6]), strict=True))


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_gram_route_is_the_gauss_newton_spectrum(problem, budget):
    params, batches = problem
    dense = gauss_newton(network, mean_entropy, params, batches).dense()
    found = gauss_newton_spectrum(network, mean_entropy, params, batches, budget=budget)
    values = torch.linalg.eigvalsh(dense).flip(0)
    assert found.rank == min(22, 48) and found.status == "exact"  # N (C - 1) = 22 < D = 48
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
    order = values.abs().argsort(descending=True)[: found.rank]
    assert found.status == "indefinite"
    torch.testing.assert_close(found.values, values[order], rtol=1e-7, atol=1e-11)
    x = found.vectors(4)
    torch.testing.assert_close(dense @ x, x * found.values[:4], rtol=1e-6, atol=1e-9)


def test_gram_route_refuses_coupled_examples(problem):
    params, batches = problem
    with pytest.raises(ValueError, match="couples"):
        gauss_newton_spectrum(network, lambda y, b: (y.sum(0) ** 2).mean(), params, batches)
