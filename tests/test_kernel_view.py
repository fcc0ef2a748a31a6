"""The functional-space view: kernel, spectrum and rivals are the same operator read another way."""

import numpy as np
import pytest
import scipy.optimize
from control_problems import ensemble, relative

from theory import (
    curvature_eigenvalues,
    degrees_of_freedom,
    effective_dimension,
    ensemble_lq,
    gradient_rival,
    participation_ratio,
    predict,
    tangent_kernel,
)


@pytest.mark.parametrize("shape", [dict(N=6, C=3, M=40), dict(N=20, C=3, M=9)])
@pytest.mark.parametrize("loss", ["cross-entropy", "quadratic"])
def test_the_curvature_spectrum_is_the_dense_one(shape, loss):
    G, y0, cost = ensemble(0, loss=loss, **shape)
    H = sum(g.T @ h @ g for g, h in zip(G, cost.hessian(y0), strict=True)) / len(y0)
    dense = np.linalg.eigvalsh(H)[::-1]
    found = curvature_eigenvalues(tangent_kernel(G, 1.0), y0, cost)
    rank = min(shape["M"], shape["N"] * (2 if loss == "cross-entropy" else 3))
    assert len(found) >= rank
    assert np.abs(found[:rank] - dense[:rank]).max() < 1e-13 * dense[0]
    assert np.abs(found[rank:]).max(initial=0.0) < 1e-13 * dense[0]
    assert np.abs(dense[rank:]).max(initial=0.0) < 1e-13 * dense[0]


def test_the_kernel_is_the_weighted_gram_matrix():
    G, *_ = ensemble(1, N=4, C=2, M=10)
    R = np.geomspace(0.1, 2.0, 10)
    flat = G.reshape(8, 10)
    assert relative(tangent_kernel(G, R), flat @ np.diag(1 / R) @ flat.T) < 1e-14


def test_kernel_regression_predicts_what_the_control_does():
    """Ridge in function space (no control computed) against the control applied to new examples."""
    G, y0, cost = ensemble(2, N=8, C=3, M=50, loss="quadratic")
    G_new, y_new, _ = ensemble(3, N=5, C=3, M=50)
    z = ensemble_lq(G, y0, cost, 0.2)
    W = np.kron(np.eye(8), cost.weight[0]) / 8
    K = tangent_kernel(G, 0.2)
    cross = G_new.reshape(15, 50) @ G.reshape(24, 50).T / 0.2
    shift = cross @ np.linalg.solve(np.eye(24) + W @ K, W @ (cost.target - y0).ravel())
    assert relative(predict(G_new, y_new, z) - y_new, shift.reshape(5, 3)) < 1e-10


@pytest.mark.parametrize("r", [0.5, np.geomspace(0.05, 0.5, 30)])
def test_the_gradient_rival_is_the_best_multiple_of_the_gradient(r):
    G, y0, cost = ensemble(4, N=10, C=3, M=30)
    d = -np.tensordot(cost.gradient(y0) / 10, G, 2)
    found = gradient_rival(G, y0, cost, r)
    best = scipy.optimize.minimize_scalar(
        lambda s: cost.value(y0 + G @ (s * d)).mean() + 0.5 * s**2 * np.sum(r * d * d), options=dict(xtol=1e-12)
    )
    assert relative(found.z, best.x * d) < 1e-6  # a flat minimum seen through values alone
    assert relative(found.value, best.fun) < 1e-12
    assert relative(found.energy, np.sum(r * found.z**2)) < 1e-12
    assert ensemble_lq(G, y0, cost, r).value < found.value < cost.value(y0).mean()
    assert found.gradient_norm > 0


def test_no_gradient_no_step():
    G, y0, _ = ensemble(5, loss="quadratic")
    _, _, cost = ensemble(5, loss="quadratic")
    at_rest = type(cost)(y0, 1.0)
    assert not gradient_rival(G, y0, at_rest, 1.0).z.any()


def test_counts_of_directions():
    """Sums of up to 59 terms: a rounding each."""
    rounding = 59 * np.finfo(float).eps
    assert relative(participation_ratio([1, 1, 1, 0]), 3.0) < rounding
    assert relative(participation_ratio(0.5 ** np.arange(1, 60)), 3.0) < rounding
    values = np.array([4.0, 1.0, 0.1, 0.0])
    K = np.diag(values)
    assert relative(degrees_of_freedom(values, 0.5), np.trace(K @ np.linalg.inv(K + 0.5 * np.eye(4)))) < rounding
    assert effective_dimension(values, 0.5) == degrees_of_freedom(values, 0.5)
    assert effective_dimension(values, 1e-12) == pytest.approx(3.0, abs=1e-10)
    for bad in ([-1.0, 2.0], [np.nan], np.eye(2)):
        with pytest.raises(ValueError, match="eigenvalues"):
            participation_ratio(bad)
    with pytest.raises(ValueError, match="zero everywhere"):
        participation_ratio([0.0])
    with pytest.raises(ValueError, match="ridge"):
        degrees_of_freedom(values, 0.0)


def test_the_degrees_of_freedom_are_the_sensitivity_of_the_fit():
    """For a unit-weight quadratic, trace of d(fit)/d(target) = sum l/(l+r) over the curvature l (mean loss)."""
    G, y0, cost = ensemble(7, N=6, C=2, M=9, loss="quadratic")
    cost = type(cost)(cost.target, 1.0)
    flat = G.reshape(12, 9)
    hat = flat @ np.linalg.solve(flat.T @ flat / 6 + 0.3 * np.eye(9), flat.T / 6)
    assert relative(degrees_of_freedom(curvature_eigenvalues(tangent_kernel(G, 1.0), y0, cost), 0.3), np.trace(hat)) < 1e-12
