"""The shared and the per-example optimum: stationary, unique, the same by every route."""

import numpy as np
import pytest
import scipy.optimize
from control_problems import ensemble, relative

from theory import CrossEntropy, Quadratic, ensemble_lq, per_example_lq, tangent_kernel

SHAPES = [dict(N=12, C=3, M=8), dict(N=6, C=4, M=60), dict(N=9, C=2, M=9)]  # primal, dual, at the border
LOSSES = ("cross-entropy", "quadratic")


def objective(G, y0, loss, R):
    def value(z):
        y = y0 + G @ z
        gradient = np.tensordot(loss.gradient(y) / len(y0), G, 2) + R * z
        return loss.value(y).mean() + 0.5 * z @ (R * z), gradient

    return value


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("r", [1.0, 1e-3])
def test_stationary_and_what_a_general_optimiser_finds(shape, loss, r):
    """scipy stops at gradients of 1e-10, which the penalty r turns into distances of 1e-10 / r."""
    G, y0, cost = ensemble(1, loss=loss, **shape)
    found = ensemble_lq(G, y0, cost, r)
    value = objective(G, y0, cost, np.full(shape["M"], r))
    assert found.converged
    start = np.linalg.norm(value(np.zeros(shape["M"]))[1])
    assert found.gradient_norm < 1e-12 * start
    assert np.linalg.norm(value(found.z)[1]) < 1e-12 * start  # recomputed here, not read from the record
    assert relative(found.value, value(found.z)[0]) < 1e-14
    other = scipy.optimize.minimize(
        value, np.zeros(shape["M"]), jac=True, method="L-BFGS-B", options=dict(maxiter=20000, maxfun=40000, ftol=0.0, gtol=1e-10)
    )
    assert np.linalg.norm(other.x - found.z) <= 2 * np.linalg.norm(other.jac) / r
    assert found.value <= other.fun + 1e-14


@pytest.mark.parametrize("loss", LOSSES)
def test_kernel_and_control_routes_agree(loss):
    """Padding the control with useless numbers forces the kernel route on a problem the other route can solve."""
    G, y0, cost = ensemble(2, N=8, C=3, M=10, loss=loss)
    padded = np.concatenate([G, np.zeros((8, 3, 40))], 2)
    short, long = ensemble_lq(G, y0, cost, 0.05), ensemble_lq(padded, y0, cost, 0.05)
    assert relative(long.z[:10], short.z) < 1e-11
    assert np.abs(long.z[10:]).max() == 0.0
    given = ensemble_lq(padded, y0, cost, 0.05, kernel=tangent_kernel(padded, 0.05))
    assert relative(given.z, long.z) < 1e-11


def test_a_diagonal_penalty_is_a_change_of_units():
    G, y0, cost = ensemble(3, N=6, C=3, M=40)
    R = np.geomspace(0.01, 1.0, 40)
    found = ensemble_lq(G, y0, cost, R)
    scaled = ensemble_lq(G / np.sqrt(R), y0, cost, 1.0)
    assert relative(np.sqrt(R) * found.z, scaled.z) < 1e-11
    assert relative(found.energy, scaled.energy) < 1e-11
    assert relative(ensemble_lq(G, y0, cost, R, kernel=tangent_kernel(G, R)).z, found.z) < 1e-11


def test_quadratic_loss_is_ridge_regression():
    G, y0, cost = ensemble(4, loss="quadratic")
    N, C, M = G.shape
    flat, W = G.reshape(-1, M), np.kron(np.eye(N), cost.weight[0]) / N
    z = np.linalg.solve(flat.T @ W @ flat + 0.1 * np.eye(M), flat.T @ W @ (cost.target - y0).ravel())
    found = ensemble_lq(G, y0, cost, 0.1)
    assert relative(found.z, z) < 1e-11
    assert found.iterations <= 2  # Newton is exact here, the second step polishes rounding


def test_the_order_of_examples_does_not_matter():
    G, y0, cost = ensemble(5, N=10, C=3, M=50)
    order = np.random.default_rng(6).permutation(10)
    moved = ensemble_lq(G[order], y0[order], CrossEntropy(cost.labels[order]), 0.01)
    found = ensemble_lq(G, y0, cost, 0.01)
    assert relative(moved.z, found.z) < 1e-10
    assert relative(moved.outputs, found.outputs[order]) < 1e-10


def test_doubling_the_data_changes_nothing():
    G, y0, cost = ensemble(7)
    twice = ensemble_lq(np.concatenate([G, G]), np.concatenate([y0, y0]), CrossEntropy(np.tile(cost.labels, 2)), 0.01)
    assert relative(twice.z, ensemble_lq(G, y0, cost, 0.01).z) < 1e-10


def test_a_common_shift_of_the_logits_is_invisible():
    G, y0, cost = ensemble(8, N=8, C=4, M=70)
    shift = np.random.default_rng(9).normal(size=(8, 1, 70))
    assert relative(ensemble_lq(G + shift, y0 + 3.0, cost, 0.1).z, ensemble_lq(G, y0, cost, 0.1).z) < 1e-9


@pytest.mark.parametrize("loss", LOSSES)
def test_dear_control_is_one_gradient_step(loss):
    """r z -> -gradient at zero as r grows, with an error that shrinks like 1/r."""
    G, y0, cost = ensemble(10, loss=loss)
    gradient = np.tensordot(cost.gradient(y0) / len(y0), G, 2)
    errors = [relative(r * ensemble_lq(G, y0, cost, r).z, -gradient) for r in (1e4, 1e6)]
    assert errors[1] < 1e-4 and 80 < errors[0] / errors[1] < 125


def test_the_costate_gives_the_control():
    G, y0, cost = ensemble(11, N=7, C=3, M=30)
    found = ensemble_lq(G, y0, cost, 0.1)
    assert relative(-np.tensordot(found.costate, G, 2) / 0.1, found.z) < 1e-10
    assert np.abs(found.costate.sum(1)).max() < 1e-14  # softmax costates carry no common shift


def test_a_subspace_is_never_better_and_a_larger_one_never_worse():
    G, y0, cost = ensemble(12, N=10, C=3, M=24)
    P = np.linalg.qr(np.random.default_rng(13).normal(size=(24, 24)))[0]
    values = [ensemble_lq(G @ P[:, :d], y0, cost, 0.01).value for d in (1, 4, 12, 24)]
    assert all(b < a for a, b in zip(values, values[1:], strict=False))
    assert relative(values[-1], ensemble_lq(G, y0, cost, 0.01).value) < 1e-12


@pytest.mark.parametrize("r", [1e-4, 1e-7])
def test_separable_data_and_cheap_control_still_converge(r):
    G, y0, cost = ensemble(14, N=20, C=3, M=200)
    found = ensemble_lq(G, 5.0 * y0, cost, r)
    start = np.linalg.norm(np.tensordot(cost.gradient(5.0 * y0) / 20, G, 2))
    assert found.converged and found.gradient_norm < 1e-9 * start
    each = per_example_lq(G, 5.0 * y0, cost, r)
    assert each.converged.all()


@pytest.mark.parametrize("loss", LOSSES)
def test_each_examples_control_is_the_ensemble_of_one(loss):
    G, y0, cost = ensemble(15, N=5, C=3, M=20, loss=loss)
    R = np.geomspace(0.02, 0.5, 20)
    each = per_example_lq(G, y0, cost, R)
    for i in range(5):
        one = slice(i, i + 1)
        own = CrossEntropy(cost.labels[one]) if loss == "cross-entropy" else Quadratic(cost.target[one], cost.weight[i])
        alone = ensemble_lq(G[one], y0[one], own, R)
        assert relative(each.z[i], alone.z) < 1e-9
        assert relative([each.value[i], each.loss[i], each.energy[i]], [alone.value, alone.loss, alone.energy]) < 1e-9
    start = np.linalg.norm(np.einsum("nc,ncm->nm", cost.gradient(y0), G), axis=1)
    assert (each.gradient_norm < 1e-9 * start).all() and each.converged.all()


def test_one_control_for_all_is_never_cheaper_than_one_each():
    G, y0, cost = ensemble(16, N=10, C=3, M=40)
    assert per_example_lq(G, y0, cost, 0.05).value.mean() < ensemble_lq(G, y0, cost, 0.05).value


def test_nothing_to_gain_is_an_answer():
    G, y0, _ = ensemble(17)
    found = ensemble_lq(G, y0, Quadratic(y0), 1.0)
    assert found.converged and not found.z.any() and found.value == 0.0


def test_wrong_problems_are_refused():
    G, y0, cost = ensemble(18, N=6, C=3, M=30)
    with pytest.raises(ValueError, match="r must be positive"):
        ensemble_lq(G, y0, cost, 0.0)
    with pytest.raises(ValueError, match="one per control"):
        ensemble_lq(G, y0, cost, np.ones(3))
    with pytest.raises(ValueError, match="shape"):
        ensemble_lq(G, y0[:, :2], cost, 1.0)
    with pytest.raises(ValueError, match="one row per label"):
        ensemble_lq(G, y0, CrossEntropy(cost.labels[:3]), 1.0)
    with pytest.raises(ValueError, match="labels must lie in 0..2"):
        ensemble_lq(G, y0, CrossEntropy(cost.labels + 1), 1.0)
    with pytest.raises(ValueError, match="kernel is not G R"):
        ensemble_lq(G, y0, cost, 0.1, kernel=tangent_kernel(G, 1.0))  # the kernel of another penalty
    with pytest.raises(ValueError, match="finite"):
        ensemble_lq(np.where(G.max() - 0.1 < G, np.nan, G), y0, cost, 1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_derivatives(loss):
    """Central differences with step 1e-5 err by about 1e-10; 1e-8 leaves two digits."""
    _, y, cost = ensemble(19, N=4, C=3, loss=loss)
    h = 1e-5
    for c in range(3):
        e = np.zeros((4, 3))
        e[:, c] = h
        assert relative((cost.value(y + e) - cost.value(y - e)) / (2 * h), cost.gradient(y)[:, c]) < 1e-8
        assert relative((cost.gradient(y + e) - cost.gradient(y - e)) / (2 * h), cost.hessian(y)[:, c]) < 1e-8
    E = cost.basis(3)
    assert relative(E.T @ E, np.eye(E.shape[1])) < 1e-14
    assert np.abs(cost.gradient(y) - cost.gradient(y) @ E @ E.T).max() < 1e-14  # the basis holds every gradient


@pytest.mark.parametrize("margin", [1.0, 20.0, 40.0, 300.0])
def test_confident_examples_keep_their_digits(margin):
    """Two classes in closed form: log(1 + e^-m), its slope -1/(1 + e^m) and its curvature e^-m/(1 + e^-m)^2."""
    y, small = np.array([[margin, 0.0], [0.0, margin], [margin, 0.0]]), np.exp(-margin)
    cost = CrossEntropy(np.array([0, 1, 1]))
    assert relative(cost.value(y), [np.log1p(small)] * 2 + [margin + np.log1p(small)]) < 1e-14
    slope = small / (1 + small)
    np.testing.assert_allclose(cost.gradient(y), [[-slope, slope], [slope, -slope], [1 - slope, slope - 1]], rtol=1e-13)
    bend = small / (1 + small) ** 2
    np.testing.assert_allclose(cost.hessian(y), np.tile([[bend, -bend], [-bend, bend]], (3, 1, 1)), rtol=1e-13)
