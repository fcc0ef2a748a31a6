"""Intrinsic dimensions of known clouds: the golden table, agreed on by three libraries, and closed forms."""

import numpy as np
import pytest
from sklearn.neighbors import KDTree

from probes.dimension.representation import gride, local_pca, mle, participation_ratio, two_nn


def cloud(kind, d, noise=0.0, seed=0, n=5000, ambient=128):
    """The golden table's points: a manifold of dimension d in a random subspace of `ambient` dimensions, and noise.

    sphere: the unit sphere; gauss: a standard Gaussian; cube: uniform in [0, 1]^d; swiss: the roll (t cos t, y, t sin t) / 10
    with t in [1.5 pi, 4.5 pi] and y in [0, 21], both uniform.
    """
    rng = np.random.default_rng(seed)
    if kind == "swiss":
        t, y = 1.5 * np.pi * (1 + 2 * rng.random(n)), 21 * rng.random(n)
        z = np.stack([t * np.cos(t), y, t * np.sin(t)], 1) / 10
    elif kind == "cube":
        z = rng.random((n, d))
    else:
        z = rng.standard_normal((n, d + 1 if kind == "sphere" else d))
    if kind == "sphere":
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    frame = np.linalg.qr(rng.standard_normal((ambient, z.shape[1])))[0]
    return z @ frame.T + noise * rng.standard_normal((n, ambient))


# kind, d, noise: TwoNN and pooled MLE (k = 20) of seed 0;
# mean of the local MLE, Gride n1 = 8, participation ratio, effective rank: means of 3 seeds
GOLDEN = [
    ("sphere", 2, 0.0, 1.8985, 1.9968, 2.00, 2.02, 3.00, 3.00),
    ("sphere", 10, 0.0, 9.3208, 9.2682, 9.18, 9.17, 10.98, 10.99),
    ("gauss", 5, 0.0, 5.1528, 5.0562, 5.06, 5.04, 5.00, 5.00),
    ("gauss", 20, 0.0, 17.6692, 16.0191, 16.01, 15.82, 19.92, 19.96),
    ("cube", 5, 0.0, 4.6112, 4.5888, 4.58, 4.54, 5.00, 5.00),
    ("cube", 20, 0.0, 15.6524, 14.8906, 14.81, 14.77, 19.93, 19.96),
    ("swiss", 2, 0.0, 1.9306, 1.9698, 1.97, 1.97, 2.95, 2.97),
    ("sphere", 5, 0.01, 7.1963, 5.7858, 5.72, 5.60, 6.14, 6.64),
    ("gauss", 10, 0.05, 12.4846, 10.9493, 10.90, 10.74, 10.58, 12.21),
    ("swiss", 2, 0.01, 23.3465, 6.5125, 6.71, 5.84, 3.01, 3.25),
]


@pytest.mark.recorded_draws("three libraries gave the table's digits for the points of seed 0")
@pytest.mark.parametrize("kind, d, noise, nearest, pooled, local, scale8, span, entropy", GOLDEN)
def test_golden_table(kind, d, noise, nearest, pooled, local, scale8, span, entropy):
    """The same points give the same numbers to the printed digits; means of seeds to 3 standard errors."""
    X, k = cloud(kind, d, noise), 20
    found, curve, linear = mle(X, k), gride(X, (1, 8)), participation_ratio(X)
    # the table's numerator is n (k - 1) - 1; the digits are rounded to four
    assert abs(found.value * (1 - 1 / (found.n * (k - 1))) - pooled) < 5e-5
    assert abs(curve.values[0] - nearest) < 5e-5
    for estimate, mean in (
        (found.parts["mean"], local),
        (curve.estimates[1], scale8),
        (linear, span),
        (linear.parts["effective_rank"], entropy),
    ):
        # the table's mean of 3 seeds is rounded to two digits
        assert abs(estimate.value - mean) < 0.005 + 3 * estimate.stderr * np.sqrt(4 / 3), estimate
    assert found.n == curve.n == 5000 and found.dropped == curve.dropped == 0


def test_two_nn_is_the_nearest_scale_of_gride_and_local_pca_finds_a_sphere():
    X = cloud("sphere", 10)
    assert two_nn(X).value == pytest.approx(gride(X, (1,)).values[0], rel=1e-12)
    # the neighbourhoods of a sphere are flat discs of dimension d to leading order
    assert abs(local_pca(X, 100).value - 10) < 0.5


def test_pooled_divides_by_k_minus_one_and_mean_by_k_minus_two():
    """In a ball that is exactly uniform both are unbiased; the wrong pairing is off by 1 / (k - 1) = 11 %."""
    rng, k, d = np.random.default_rng(0), 10, 3
    X = rng.random((4000, d))
    X = np.concatenate([X, X + np.eye(d)[0], X - np.eye(d)[0]])[:4000]
    found = mle(X, k)
    r = KDTree(X).query(X, k + 1)[0][:, 1:]
    logs = np.log(r[:, -1:] / r[:, :-1]).sum(1)
    assert found.value == pytest.approx(4000 * (k - 1) / logs.sum(), rel=1e-9)
    assert found.parts["mean"].value == pytest.approx(np.mean((k - 2) / logs), rel=1e-9)
    # the two agree with each other within their errors only when each has its own constant
    assert abs(found.value - found.parts["mean"].value) < 3 * found.stderr


@pytest.mark.parametrize("estimator", [two_nn, lambda X: mle(X, 10), lambda X: gride(X, (4,)).estimates[0]])
def test_standard_error_is_the_spread(estimator):
    """Over 120 clouds the spread is known to 6.5 %, so five times that on either side fails once in 1e6.

    Taking points as independent would be off by 1.3 to 4.
    """
    found = [estimator(np.random.default_rng(s).standard_normal((600, 3))) for s in range(120)]
    ratio = np.mean([e.stderr for e in found]) / np.std([e.value for e in found])
    assert 0.7 < ratio < 1.45


def test_duplicates_are_dropped_and_counted():
    X = cloud("gauss", 3, n=400)
    twice = np.concatenate([X, X[:50]])
    a, b = two_nn(X), two_nn(twice)
    assert b.dropped == 50 and b.n == 400 and b.value == pytest.approx(a.value, rel=1e-9)
    assert mle(twice, 10).dropped == gride(twice).dropped == local_pca(twice, 20).dropped == 50


def test_small_and_far_from_the_origin():
    """Distances that vanish in a Gram matrix keep their digits, at any scale."""
    X = cloud("gauss", 4, n=800, ambient=8)
    assert two_nn(1e-6 * X).value == pytest.approx(two_nn(X).value, rel=1e-9)
    far = X + 1e6 * (np.arange(8) == 0)
    assert two_nn(far).value == pytest.approx(two_nn(X).value, rel=1e-6)


def test_linear_measures_closed_form():
    """Three equal axes have participation ratio and effective rank 3; halving variances give 3 and 4."""
    axes = np.concatenate([np.eye(4)[:3], -np.eye(4)[:3]])
    flat = participation_ratio(np.tile(axes, (10, 1)))
    assert flat.value == pytest.approx(3) and flat.parts["effective_rank"].value == pytest.approx(3)
    scaled = np.concatenate([np.eye(40), -np.eye(40)]) * np.sqrt(0.5 ** np.arange(40))
    halving = participation_ratio(scaled)
    assert halving.value == pytest.approx(3, rel=1e-9)
    assert halving.parts["effective_rank"].value == pytest.approx(4, rel=1e-8)


def test_local_pca_of_planes():
    """Points of a 3-plane have 3 principal components and no more, on either side of k = D."""
    X = cloud("gauss", 3, n=500, ambient=60)
    assert local_pca(X, 20, share=1.0).value == local_pca(X, 80, share=1.0).value == 3


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match="distinct points"):
        two_nn(np.ones((10, 2)))
    with pytest.raises(ValueError, match="k must be at least 3"):
        mle(cloud("gauss", 2, n=50), 2)
    with pytest.raises(ValueError, match="finite array"):
        two_nn(np.ones((4, 2, 2)))
    with pytest.raises(ValueError, match="all of them are equal"):
        participation_ratio(np.ones((30, 2)))
