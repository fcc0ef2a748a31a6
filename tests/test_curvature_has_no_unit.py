"""Results at scale s are s times those at scale 1: bit for bit at powers of two, and right or not converged at any scale."""

import numpy as np
import pytest
import torch

from probes.curvature.density import density
from probes.curvature.spectrum import end_eigenpairs, gauss_newton_spectrum, top_eigenpairs
from probes.curvature.trace import frobenius, trace
from probes.curvature.unit import Unit
from probes.reach.linear_maps import block_svd

SCALES = [(torch.float32, -66), (torch.float32, -40), (torch.float32, 66), (torch.float64, -200), (torch.float64, 200)]


def matrix_of(values, seed=0, dtype=torch.float64):
    """A dense symmetric matrix with the given eigenvalues in a random orthonormal frame."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=g))[0]
    found = (q * torch.as_tensor(np.asarray(values), dtype=torch.float64)) @ q.T
    return ((found + found.T) / 2).to(dtype)


OUTLIER = np.r_[1.0, np.full(119, 1e-3)]  # a flat bulk, whose rounding is far below its largest neighbour
PAIRS = np.r_[[1.0] * 4, [-1.0] * 4, np.linspace(-0.2, 0.3, 112)]


def measured(matrix, unit):
    """Every number that is in units of the curvature, divided by the unit, and every one that has none."""
    found = []
    for which in ("magnitude", "largest", "smallest"):
        pairs = top_eigenpairs(matrix, 8, which=which)
        found += [pairs.values / unit, pairs.residuals / unit, pairs.vectors, pairs.converged]
        again = top_eigenpairs(matrix, 8, which=which, start=pairs.vectors[:, :5])
        found += [again.values / unit, again.residuals / unit]
    few, ends = top_eigenpairs(matrix, 2, tol=1e-6), end_eigenpairs(matrix)
    found += [few.values / unit, few.converged, ends.values / unit, ends.residuals / unit, ends.vectors]
    for found_density in (density(matrix, probes=4, steps=16), density(matrix, probes=8, steps=15)):  # sampled and dense
        mass, near = found_density.negative_mass(), found_density.mass_near_zero(0.1 * unit)
        found += [
            found_density.nodes / unit,
            found_density.weights,
            found_density.width / unit,
            mass.value,
            *mass.interval,
            near.value,
            *near.interval,
            found_density.resolution / unit,
        ]
        found += [found_density.moment(1).value / unit, found_density.moment(2).value / unit**2]
    for estimate in (trace(matrix, budget=24), trace(matrix, budget=24, method="hutch++"), frobenius(matrix, budget=24)):
        found += [estimate.value / unit, estimate.stderr / unit, *np.divide(estimate.interval, unit)]
    return [np.asarray(x) for x in found]


@pytest.mark.parametrize(("dtype", "power"), SCALES)
@pytest.mark.parametrize("values", [OUTLIER, PAIRS], ids=["outlier", "pairs"])
def test_a_power_of_two_changes_no_bit(dtype, power, values):
    matrix = matrix_of(values, dtype=dtype)
    for one, other in zip(measured(matrix, 1.0), measured(matrix * 2.0**power, 2.0**power), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scale", [1e-20, 1e-16, 1e-13, 1e-12, 1e20])
def test_what_is_called_converged_is_right_at_any_scale(scale):
    for seed in range(3):
        matrix = matrix_of(scale * OUTLIER, seed, torch.float32)
        exact = np.sort(np.linalg.eigvalsh(matrix.double().numpy() / scale))[::-1]
        for found, wanted in (
            (top_eigenpairs(matrix, 8, seed=seed), exact[:8]),
            (top_eigenpairs(matrix, 1, seed=seed), exact[:1]),
            (end_eigenpairs(matrix, seed=seed), exact[[0, -1]]),
        ):
            assert found.status == "converged"
            np.testing.assert_allclose(found.values.numpy() / scale, wanted, atol=2e-6)
        assert density(matrix, probes=2, steps=20, seed=seed).negative_mass().interval[0] == 0


def test_singular_triples_at_any_scale():
    """LAPACK scales tiny and huge matrices itself, so the last bits differ."""
    g = torch.Generator().manual_seed(0)
    plain = torch.randn(80, 60, generator=g) * torch.logspace(0, -3, 60)
    exact = torch.linalg.svdvals(plain.double())[:5]
    for power in (-80, -66, 66, 80):
        K = plain * 2.0**power
        found = block_svd(lambda v, K=K: K @ v, lambda v, K=K: K.T @ v, (80, 60), 5, dtype=torch.float32, block=6)
        assert found.status == "converged" and found.sweeps > 1
        torch.testing.assert_close(found.values.double() / 2.0**power, exact, rtol=1e-4, atol=0)
        error = K @ found.right - found.left * found.values
        torch.testing.assert_close(found.residuals / 2.0**power, (error / 2.0**power).norm(dim=0), rtol=0.1, atol=1e-5)


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_the_gauss_newton_spectrum_follows_its_criterion(budget):
    g = torch.Generator().manual_seed(0)
    params, batch = {"w": torch.randn(3, 5, generator=g)}, (torch.randn(8, 5, generator=g), torch.randn(8, 3, generator=g))

    def spectrum(unit):
        return gauss_newton_spectrum(
            lambda p, b: b[0] @ p["w"].T, lambda y, b: unit * (y - b[1]).square().mean(), params, [batch], budget=budget
        )

    plain = spectrum(1.0)
    for power in (-66, 66):
        found = spectrum(2.0**power)
        assert found.rank == plain.rank and found.status == "exact"
        torch.testing.assert_close(found.values / 2.0**power, plain.values, rtol=1e-6, atol=0)
        torch.testing.assert_close(found.vectors(1).abs(), plain.vectors(1).abs(), rtol=1e-4, atol=1e-5)


def test_a_unit_is_a_power_of_two_above_the_first_product():
    for scale in (3e-30, 0.5, 1.0, 7e25):
        op = Unit(torch.eye(3) * scale)
        assert op.factor == 1.0 and not (op @ torch.zeros(3)).any() and op.factor == 1.0
        first = op @ torch.ones(3)
        assert np.log2(op.factor) == round(np.log2(op.factor)) and (first >= 0.5).all() and (first <= 1).all()
        np.testing.assert_allclose((op @ torch.ones(3, 2)).double() * op.factor, np.full((3, 2), scale), rtol=1e-6)
    with pytest.raises(ValueError, match="not finite"):
        Unit(torch.eye(3) * float("inf")) @ torch.ones(3)
