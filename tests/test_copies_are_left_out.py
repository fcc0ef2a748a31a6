"""Near duplicates, ties, far clusters and units: a dimension is right, or a status says why there is none."""

import numpy as np
import pytest

from probes import gride, local_pca, mle, participation_ratio, two_nn

ESTIMATORS = {
    "two_nn": two_nn,
    "mle": lambda X: mle(X, 10),
    "mle, many": lambda X: mle(X, 40),
    "mean": lambda X: mle(X, 10).parts["mean"],
    "gride": lambda X: gride(X, (4,)).estimates[0],
    "local_pca": lambda X: local_pca(X, 40),
}
LIKELIHOODS = ["two_nn", "mle", "gride"]
EPS = np.finfo(float).eps


def uniform(d, n=300, ambient=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, d)) @ np.linalg.qr(rng.standard_normal((ambient, d)))[0].T


def copies(X, of, size, seed=1):
    """The points of X and, behind them, copies of those numbered `of`, each moved by `size` in a random direction."""
    step = np.random.default_rng(seed).standard_normal((len(of), X.shape[1]))
    return np.concatenate([X, X[of] + size * step / np.linalg.norm(step, axis=1, keepdims=True)])


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("share", [1, 30, 300])
def test_the_dimension_is_that_of_the_sample_without_copies(name, size, share):
    """One pair, a tenth and all of the points in pairs: the same points stay, so the same number comes out.

    A copy is told by the points beyond it: a thousand times as far or more, and so far that not one in 1e6 clouds of as many
    points has such a pair by chance. One with another point nearer than that may stay.
    """
    for d in (2, 3, 8):
        X = uniform(d)
        apart = np.linalg.norm(X[:, None] - X[None], axis=-1) + np.diag(np.full(len(X), np.inf))
        untold = int(np.sum(apart.min(1)[:share] < 2 * max(1e3, (len(X) / 1e-6) ** (1 / d)) * size))
        alone, twice = ESTIMATORS[name](X), ESTIMATORS[name](copies(X, np.arange(share), size))
        assert alone.status == twice.status == "ok" and alone.dropped == 0 and alone.method == ""
        assert share - untold <= twice.dropped <= share and twice.n - alone.n == share - twice.dropped
        if untold == 0:
            assert twice.value == alone.value and twice.method == f"{share} near duplicates left out"


def test_groups_and_copies_of_copies():
    X = uniform(3)
    four = copies(X, np.repeat(np.arange(50), 3), 1e-8)  # groups of four
    nested = copies(copies(X, np.arange(40), 1e-6), np.arange(40), 1e-11, seed=2)
    mixed = np.concatenate([copies(X, np.arange(40), 1e-8), X[100:120]])  # equal ones too
    for Y, left in ((four, 150), (nested, 80), (mixed, 60)):
        found = two_nn(Y)
        assert found.value == two_nn(X).value and found.dropped == left and found.n == 300 and found.status == "ok"
    assert two_nn(mixed).method == "40 near duplicates left out"


@pytest.mark.parametrize("d", [1, 2, 3, 5, 10])
def test_a_cloud_without_copies_keeps_all_points(d):
    """By the stated risk, below 1e-6 a cloud; densities that differ by 1e6, curves and Gaussians are no copies."""
    for seed in range(5):
        X = uniform(d, seed=seed)
        rng = np.random.default_rng(seed)
        blob = np.concatenate([X[:150], 5 + 1e-6 * X[150:]])
        for Y in (X, blob, rng.standard_normal((300, d)), np.exp(3 * rng.standard_normal((300, d)))):
            assert two_nn(Y).dropped == 0


def test_a_fractal_of_small_dimension_has_no_copies():
    """Middle intervals of 98 % cut out again and again: dimension log 2 / log 100 = 0.15, ratios of 1e3 are its law."""
    for seed in range(5):
        digits = np.random.default_rng(seed).integers(2, size=(400, 7))
        x = (digits * 0.99 * 100.0 ** -np.arange(7)).sum(1)
        assert two_nn(np.unique(x)[:, None]).method == ""


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("side, d", [(16, 2), (6, 3)])
def test_a_lattice_has_a_status(name, side, d):
    X = np.stack(np.meshgrid(*[np.arange(float(side))] * d), -1).reshape(-1, d)
    for scale in (1.0, 1e-160, 1e160):
        for Y in (scale * X, scale * np.concatenate([X, np.zeros((len(X), 30))], 1)):
            found = ESTIMATORS[name](Y)
            assert found.status != "ok" and str(len(X)) in found.status
    few = np.random.default_rng(0).integers(40, size=(300, d)).astype(float)  # a sample of a grid
    assert "ties" in ESTIMATORS[name](few).status or "equal distance" in ESTIMATORS[name](few).status


def test_no_number_is_ok_unless_it_is_one():
    shapes = [
        np.eye(20),
        np.concatenate([np.eye(20), -np.eye(20)]),
        np.arange(40.0)[:, None],
        np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2),
        np.geomspace(1e-300, 1, 60)[:, None],
        np.random.default_rng(0).integers(2, size=(60, 12)).astype(float),
    ]
    for X in shapes:
        estimates = [two_nn(X), *gride(X, (1, 2, 4)).estimates, local_pca(X, 10)]
        estimates += [mle(X, 5), mle(X, 5).parts["mean"]]
        for found in estimates:
            assert found.status != "ok" or np.isfinite([found.value, found.stderr, *found.interval]).all(), found


@pytest.mark.parametrize("name", [*ESTIMATORS, "participation_ratio"])
@pytest.mark.parametrize("ambient", [3, 30])
def test_the_dimension_has_no_unit(name, ambient):
    """A power of two is exact; other scales and places are the points' own rounding."""
    X, estimator = uniform(3, ambient=ambient), {**ESTIMATORS, "participation_ratio": participation_ratio}[name]
    plain = estimator(X)
    for exponent in (-530, -100, 100, 530):
        assert estimator(np.ldexp(X, exponent)).value == plain.value
    for scale in (1e-160, 1e-20, 1e20, 1e160):
        assert estimator(scale * X).value == pytest.approx(plain.value, rel=1e-9)
    assert gride(1e160 * X, (2,)).scale[0] == pytest.approx(1e160 * gride(X, (2,)).scale[0], rel=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("ambient", [5, 30])
def test_clusters_far_apart_are_seen_from_near(name, ambient):
    """Two clusters: the dimension is that at a separation of 100, to the rounding eps s of the farther one's points, which
    moves a ratio of neighbours at distance .1 by some eps s / .1. Local principal components count and do not move.
    """
    X = uniform(3, 400, ambient)
    estimate = ESTIMATORS[name]

    def apart(s):
        return np.concatenate([X[:200], X[200:] + s * (np.arange(ambient) == 0)])

    near = estimate(apart(100.0)).value
    for s in (1e4, 1e5, 1e6, 1e7, 1e8, 1e9):
        assert estimate(apart(s)).value == pytest.approx(near, rel=1e-12 + 1e3 * EPS * s)
        assert estimate(apart(s)).status == "ok"
