"""Gauss-Newton is its between-class plus its within-class part exactly, and the widest gap is counted where it was put."""

import numpy as np
import pytest
import torch

from probes.curvature.hessian import gauss_newton, hessian
from validations.claims.curvature.experiment import class_means, factor, outliers, overlap, residual, spectrum
from validations.claims.curvature.plants import bilinear_setting
from validations.claims.shared.linearisation import linearise


def _problem(seed, n=12, c=3, m=7):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, c, m)), 2 * rng.standard_normal((n, c)), rng.integers(c, size=n)


@pytest.mark.parametrize("seed", range(20))
def test_between_and_within_add_up(seed):
    G, outputs, labels = _problem(seed)
    between, within = class_means(G, outputs, labels)
    x = factor(G, outputs)
    np.testing.assert_allclose(between.T @ between + within.T @ within, x.T @ x, atol=1e-12)
    assert np.linalg.matrix_rank(between) <= len(np.unique(labels)) * (G.shape[1] - 1)


def test_examples_that_are_their_class_leave_nothing_within():
    G, outputs, labels = _problem(0)
    G, outputs = G[:3][labels], outputs[:3][labels]
    _, within = class_means(G, outputs, labels)
    np.testing.assert_allclose(within, 0, atol=1e-14)


def test_a_probability_of_zero_gives_no_nan():
    G, outputs, labels = _problem(0)
    between, within = class_means(G, outputs + np.array([0.0, -1e4, 0.0]), labels)
    assert np.isfinite(between).all() and np.isfinite(within).all()


@pytest.mark.parametrize("count", (1, 3, 15))
def test_the_widest_gap_is_counted(count):
    values = np.r_[np.linspace(3.0, 2.0, count), np.linspace(0.9, 0.5, 40)]
    assert outliers(values) == count


@pytest.mark.parametrize("values, count", (([2.0, 1.9], 2), ([1.0], 1), ([1.0, 0.5, -0.4], 2), ([5.0, 1e-9, 1e-30], 1)))
def test_zeros_and_negative_values_end_the_count(values, count):
    assert outliers(np.array(values)) == count


@pytest.mark.parametrize("values", ([], [0.0, 0.0], [-1.0]))
def test_no_positive_eigenvalue_is_refused(values):
    with pytest.raises(ValueError, match="the first positive"):
        outliers(np.array(values))


def test_subspaces_overlap_by_their_principal_angles():
    basis = np.eye(6)
    assert overlap(basis[:, :2], basis[:, 1:3]) == pytest.approx(0.5)
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
    assert overlap(basis[:, :2], basis[:, :2] @ turned) == pytest.approx(1.0)


def test_the_hessian_is_gauss_newton_plus_the_residual():
    setting = bilinear_setting(1, 0, regime=None)
    subject = setting.subjects["delta"]
    generator = torch.Generator().manual_seed(0)
    params = {k: p + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for k, p in subject.initial.items()}
    lin = linearise(subject.outputs, params, setting.train)
    whole = hessian(subject.loss, params, [setting.train]).dense().numpy()
    rest = residual(setting, params, lin.loss.gradient(lin.y0)).dense().numpy()
    x = factor(lin.G, lin.y0)
    assert np.abs(rest).max() > 1e-3  # the bilinear block is there
    np.testing.assert_allclose(whole, x.T @ x + rest, atol=1e-12)

    def criterion(y, batch):
        return torch.nn.functional.cross_entropy(y, batch.labels)

    direct = gauss_newton(subject.outputs, criterion, params, [setting.train]).dense().numpy()
    np.testing.assert_allclose(direct, x.T @ x, atol=1e-12)
    np.testing.assert_allclose(spectrum(x)[:5], np.linalg.eigvalsh(direct)[::-1][:5], rtol=1e-9)
