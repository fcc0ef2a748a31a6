"""Cluster intervals cover at about their stated rate, and their p-values agree with them."""

import numpy as np
from scipy import stats

from validations.statistics import cluster_interval, holm, jensen_shannon, partial_rank_correlation


def mean(columns):
    return float(np.mean(columns["x"]))


def test_the_interval_covers_and_counts_clusters_not_rows():
    """200 repetitions of 12 clusters of 4 equal rows: coverage of a 95 % interval within 0.88-0.99 (false alarm < 1 %)."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        centre = rng.standard_normal(12)
        found = cluster_interval({"x": np.repeat(centre, 4)}, np.repeat(np.arange(12), 4), mean, replicates=400)
        hits += found.low <= 0.0 <= found.high
        assert found.clusters == 12
    assert 0.88 <= hits / 200 <= 0.99


def test_p_values_invert_the_interval():
    x = np.random.default_rng(4).gamma(2.0, size=20)
    found = cluster_interval({"x": x}, range(20), mean)
    assert abs(found.p_not_above(found.low) - 0.025) < 0.003
    assert abs(found.p_not_below(found.high) - 0.025) < 0.003


def test_holm_by_hand():
    assert np.allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert np.allclose(holm([0.5, 0.9]), [1.0, 1.0])


def test_the_partial_correlation_removes_the_rival_and_the_level():
    rng = np.random.default_rng(5)
    z = rng.standard_normal(400)
    x, y = z + 0.1 * rng.standard_normal(400), z + 0.1 * rng.standard_normal(400)
    group = np.repeat(["a", "b"], 200)
    y = y + 100.0 * (group == "b")
    assert partial_rank_correlation(x, y, [], group) > 0.9
    assert abs(partial_rank_correlation(x, y, [z], group)) < 0.35


def test_jensen_shannon_is_symmetric_and_bounded():
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert np.isclose(jensen_shannon(p, q), np.log(2)) and jensen_shannon(p, p) == 0.0
    r = np.array([0.3, 0.7])
    assert np.isclose(jensen_shannon(p, r), stats.entropy([0.65, 0.35]) - 0.5 * stats.entropy(r))
