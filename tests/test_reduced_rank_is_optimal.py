"""Reduced-rank ridge regression: ridge at full rank, Eckart-Young for an orthonormal design, and no better factors exist."""

import numpy as np
import pytest
import scipy.optimize

from theory.regression import reduced_rank

N, P, M = 12, 5, 4
RIDGE = 0.7


def problem(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, P)), rng.standard_normal((N, M))


def objective(B, X, U):
    return np.sum((U - X @ B) ** 2) + RIDGE * np.sum(B**2)


def test_full_rank_is_ridge_regression():
    X, U = problem(0)
    down, up = reduced_rank(X, U, RIDGE, M)
    ridge = np.linalg.solve(X.T @ X + RIDGE * np.eye(P), X.T @ U)
    assert np.allclose((up @ down).T, ridge, atol=1e-12)


def test_an_orthonormal_design_keeps_the_leading_singular_part():
    """With X'X = I the ridge solution is X'U / (1 + ridge), and its best approximation of rank k is Eckart and Young's."""
    X, U = problem(1)
    X = np.linalg.qr(X)[0]
    left, s, right = np.linalg.svd(X.T @ U / (1 + RIDGE), full_matrices=False)
    down, up = reduced_rank(X, U, RIDGE, 2)
    assert np.allclose((up @ down).T, (left[:, :2] * s[:2]) @ right[:2], atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2])
def test_no_factors_of_that_rank_are_better(rank):
    X, U = problem(2)
    down, up = reduced_rank(X, U, RIDGE, rank)
    assert down.shape == (rank, P) and np.allclose(up.T @ up, np.eye(rank), atol=1e-12)
    least = objective((up @ down).T, X, U)

    def value(z):
        a, b = z[: rank * P].reshape(rank, P), z[rank * P :].reshape(M, rank)
        return objective((b @ a).T, X, U)

    rng = np.random.default_rng(3)
    found = min(scipy.optimize.minimize(value, rng.standard_normal(rank * (P + M))).fun for _ in range(4))
    assert abs(found - least) < 1e-6 * least  # BFGS ends at gradients of 1e-5


def test_what_does_not_fit_is_refused():
    X, U = problem(0)
    with pytest.raises(ValueError, match="one N"):
        reduced_rank(X, U[1:], RIDGE, 1)
    with pytest.raises(ValueError, match="ridge"):
        reduced_rank(X, U, 0.0, 1)
    with pytest.raises(ValueError, match="rank"):
        reduced_rank(X, U, RIDGE, M + 1)
