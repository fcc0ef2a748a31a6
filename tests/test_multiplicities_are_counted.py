"""Extreme eigenvalues come as often as they occur, at both ends, and the bound on what was not seen holds."""

import numpy as np
import pytest
import torch
from seeds import shifted

from probes.curvature import lanczos
from probes.curvature.spectrum import end_eigenpairs, top_eigenpairs

D = 600


class Diagonal:
    """An operator with given eigenvalues that counts its products; Lanczos from a random start sees no more of it."""

    def __init__(self, values, dtype=torch.float64):
        self.values, self.dtype, self.shape, self.products = torch.as_tensor(values).to(dtype), dtype, (len(values),) * 2, 0

    def __matmul__(self, v):
        self.products += 1 if v.ndim == 1 else v.shape[1]
        return self.values * v if v.ndim == 1 else self.values[:, None] * v


SPREAD = np.random.default_rng(0).uniform(-0.3, 0.3, D)
SPECTRA = {
    "pairs of multiplicity 4": np.r_[np.repeat([2.0, -2.0, 1.5, -1.5], 4), SPREAD[16:]],
    "near pairs": np.r_[2 + 1e-3 * np.arange(4), -2 - 1e-3 * np.arange(4), [1.0] * 3, SPREAD[11:]],
    "one end repeated": np.r_[[1.0] * 6, np.linspace(-1, 0.9, D - 6)],
    "projection": np.r_[np.ones(12), np.zeros(D - 12)],
    "slow decay": 1 / np.arange(1.0, D + 1),
    "identity": np.ones(D),
    "zero": np.zeros(D),
}


@pytest.mark.parametrize("which", lanczos.ORDERS)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_copy_is_found(name, which, dtype):
    values = SPECTRA[name]
    if (name, which) == ("slow decay", "smallest"):  # the last of 600 values 3e-6 apart: out of reach, and said to be
        assert top_eigenpairs(Diagonal(values, dtype), 10, which=which, max_products=100).status == "not converged"
        return
    wanted = np.sort(lanczos.ORDERS[which](values))[::-1][:10]
    for seed in range(3):
        op = Diagonal(values, dtype)
        found = top_eigenpairs(op, 10, which=which, seed=shifted(seed))
        assert found.status == "converged" and found.products == op.products
        # a pair counts when its residual is below 1e-3: values that close may stand in for each other
        np.testing.assert_allclose(lanczos.ORDERS[which](found.values.numpy()), wanted, rtol=2e-3, atol=1e-6)
        gram = found.vectors.T @ found.vectors
        torch.testing.assert_close(gram, torch.eye(10, dtype=dtype), rtol=0, atol=1e-5)
        measured = (op.values[:, None] * found.vectors - found.vectors * found.values.to(dtype)).norm(dim=0)
        torch.testing.assert_close(measured.double(), found.residuals, rtol=0.1, atol=1e-5)


def test_no_start_hides_a_copy():
    """The proof's random start may hold next to nothing of the copy it looks for; it goes on until that is excluded."""
    values = SPECTRA["pairs of multiplicity 4"]
    wanted = np.sort(abs(values))[::-1][:10]
    for seed in range(4, 20):
        found = top_eigenpairs(Diagonal(values), 10, seed=seed)
        assert found.status == "converged"
        np.testing.assert_allclose(found.values.abs(), wanted, rtol=2e-3)


def test_a_proof_that_would_take_long_is_left_soon():
    """Two of the five leading values stand in a bulk, where a proof by the complement would take as long as a whole sequence."""
    bulk = 0.3 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    values = torch.cat([torch.tensor([20.0, 15.0, 12.0]), bulk])
    whole, first = top_eigenpairs(Diagonal(values), 5, tol=1e-2), top_eigenpairs(Diagonal(values), 5, tol=1e-2, proof=False)
    assert whole.status == "converged" and whole.products < 3 * first.products  # one sequence more, and a few steps


def test_a_distinct_spectrum_costs_few_products_more_than_one_sequence():
    """On a LoRA-like spectrum, eight leading values and a decaying rest, ten pairs and the proof take under 40 products."""
    rest = 3e-4 * np.exp(-np.arange(4000) / 40) * np.resize([1, -1], 4000)
    values = np.r_[4.862, 4.853, 4.849, -4.847, 4.844, -4.840, -4.834, -4.816, 0.74, -0.69, 1e3 * rest] * 1e-3
    for seed in range(5):
        found = top_eigenpairs(Diagonal(values, torch.float32), 10, seed=shifted(seed))
        assert found.status == "converged" and found.products < 40
        np.testing.assert_allclose(np.sort(found.values), np.sort(values[:10]), rtol=1e-4)


def test_the_bound_on_the_unseen_holds_and_is_not_idle():
    """No eigenvector has a larger share in the start than the bound says, at any step; away from the spectrum it vanishes."""
    values = np.r_[1.0, np.linspace(-0.5, 0.5, D - 1)]
    for seed in range(5):
        start = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        start[-1] = 5.0  # one share far above the others
        start /= start.norm()
        shares = start.numpy() ** 2
        run = lanczos._Krylov(Diagonal(values), start, torch.zeros(D, 0, dtype=torch.float64))
        bounds = []
        for _ in range(24):
            run.step()
            bounds.append([lanczos.unseen(run.alpha, run.beta, t) for t in (*values, 1.2, -0.7)])
        bounds = np.array(bounds)
        # once an eigenvalue has converged its bound is its share, with the recurrence's rounding
        assert (bounds[:, :D] >= shares * (1 - 1e-6)).all()
        assert (np.diff(bounds, axis=0) <= 1e-12).all()
        assert (bounds[-1, D:] < 1e-12).all() and bounds[-1, 0] < 1.1 * shares[0]


def test_both_ends_by_one_sequence():
    for name in ("pairs of multiplicity 4", "projection", "zero", "identity"):
        values = SPECTRA[name]
        found = end_eigenpairs(Diagonal(values))
        np.testing.assert_allclose(found.values, [values.max(), values.min()], atol=3e-3)
        assert found.status == "converged" and found.vectors.shape == (D, 2)


def test_a_search_that_was_cut_short_goes_on():
    values = SPECTRA["pairs of multiplicity 4"]
    short = top_eigenpairs(Diagonal(values), 8, max_products=15)
    assert short.status == "not converged" and short.products == 15
    whole = top_eigenpairs(Diagonal(values), 8)
    for start in (short, whole, whole.vectors[:, :5]):
        again = top_eigenpairs(Diagonal(values), 8, start=start)
        assert again.status == "converged"
        np.testing.assert_allclose(np.sort(again.values), np.sort(whole.values), rtol=1e-5)
    assert top_eigenpairs(Diagonal(values), 8, start=whole).products < whole.products / 2


def test_small_matrices_are_diagonalised():
    values = np.r_[3.0, -3.0, 3.0, 0.5, 0.0]
    op = Diagonal(values)
    found = top_eigenpairs(op, 3)
    assert op.products == 5 and found.products == 5 and sorted(found.values.tolist()) == [-3, 3, 3]
    assert top_eigenpairs(Diagonal([2.0]), 1).values.tolist() == [2]


def test_bad_input_is_a_sentence():
    for values in (np.full(D, np.nan), [np.inf, 1.0]):
        with pytest.raises(ValueError, match="not finite"):
            top_eigenpairs(Diagonal(values), 1)
    with pytest.raises(ValueError, match="start must hold vectors"):
        top_eigenpairs(Diagonal(SPREAD), 1, start=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="max_products"):
        top_eigenpairs(Diagonal(SPREAD), 1, max_products=0)
