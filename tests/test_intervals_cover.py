"""Intervals over tasks cover at about their stated rate, whatever the seeds within a task share; p-values agree with them."""

import numpy as np
import pytest
from scipy import stats

from validations.statistics import (
    Positive,
    RankOverTasks,
    cells_of,
    holm,
    interval,
    jensen_shannon,
    partial_rank_correlation,
    task_interval,
    within,
)


def mean(columns):
    return float(np.mean(columns["x"]))


def slope(columns):
    return float(columns["a"] @ columns["x"] / (columns["a"] @ columns["a"]))


def test_for_task_means_the_interval_is_student_s_where_nothing_is_skewed():
    x = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    found = task_interval({"x": np.repeat(x, 3)}, np.repeat(list("abcde"), 3), mean)
    low, high = stats.t.interval(0.95, 4, loc=x.mean(), scale=stats.sem(x))
    assert np.allclose([found.value, found.low, found.high, found.tasks], [0.0, low, high, 5])
    assert np.isclose(found.p_not_above(-1.0), stats.ttest_1samp(x, -1.0, alternative="greater").pvalue)
    assert np.isclose(found.p_not_below(1.0), stats.ttest_1samp(x, 1.0, alternative="less").pvalue)


@pytest.mark.parametrize("seeds", [1, 3, 9])
def test_seeds_of_one_task_are_no_evidence_of_their_own(seeds):
    """600 repetitions of 6 tasks whose seeds agree: coverage at least 0.92 (false alarm < 1e-4), however many seeds."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        found = task_interval({"x": np.repeat(rng.standard_normal(6), seeds)}, np.repeat(np.arange(6), seeds), mean)
        hits += found.low <= 0.0 <= found.high
        assert found.tasks == 6
    assert hits / 600 >= 0.92


def test_skewed_errors_are_not_taken_for_small():
    """2000 repetitions of 8 half-normal tasks: the upper end misses the truth in less than 0.03, Student's in 0.06 of them."""
    rng = np.random.default_rng(4)
    x, truth = np.abs(rng.standard_normal((2000, 8))), np.sqrt(2 / np.pi)
    missed = np.mean([interval({"x": row}, range(8), Positive(mean)).high < truth for row in x])
    plain = np.mean(x.mean(1) + stats.t.ppf(0.975, 7) * stats.sem(x, axis=1) < truth)
    assert missed < 0.03 < 0.045 < plain


@pytest.mark.parametrize("statistic", [mean, slope, Positive(mean)])
def test_p_values_invert_the_interval(statistic):
    rng = np.random.default_rng(5)
    columns = {"x": rng.gamma(2.0, size=12), "a": rng.gamma(2.0, size=12)}
    found = interval(columns, range(12), statistic)
    assert np.isclose(found.p_not_above(found.low), 0.025) and np.isclose(found.p_not_below(found.high), 0.025)
    assert found.low < found.value < found.high


def test_tasks_that_all_say_the_same_are_tested_by_their_signs():
    found = task_interval({"x": np.ones(12)}, np.repeat(np.arange(6), 2), mean)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.p_not_above(0.5) == 0.5**6 and found.p_not_above(1.0) == 1.0 and found.p_not_below(2.0) == 0.5**6


def test_no_floor_of_a_resampling_bounds_a_clear_effect():
    x = 1.0 + 1e-4 * np.array([-1.0, 0.5, 0.3, -0.2, 0.4])
    assert task_interval({"x": x}, range(5), mean).p_not_above(0.5) < 1e-8


def test_a_statistic_that_needs_every_task_decides_nothing():
    def needs_all(columns):
        return float("nan") if len(columns["x"]) < 5 else 1.0

    found = task_interval({"x": np.arange(5.0)}, range(5), needs_all)
    assert found.p_not_above(-9.0) == 1.0 and found.p_not_below(9.0) == 1.0 and np.isnan(found.low)


def test_a_positive_statistic_that_vanishes_is_judged_as_it_is():
    x = np.array([0.0, 0.1, 0.2, 0.1, 0.0])
    assert interval({"x": x}, range(5), Positive(lambda c: float(np.min(c["x"])))).upper.scale == "plain"
    found, plain = (interval({"x": x}, range(5), one) for one in (Positive(mean), mean))
    assert (found.value, found.low) == (plain.value, plain.low) and found.high > plain.high


def test_two_tasks_give_no_interval():
    with pytest.raises(ValueError, match="at least 3 tasks"):
        task_interval({"x": np.arange(6.0)}, [0, 0, 0, 1, 1, 1], mean)


def test_a_rank_correlation_over_tasks_has_fisher_s_interval_on_task_means():
    rng = np.random.default_rng(6)
    x, y, tasks = rng.standard_normal(24), rng.standard_normal(24), np.repeat(np.arange(8), 3)
    columns = {"x": x, "y": y, "task": tasks}
    means = [np.array([v[tasks == t].mean() for t in range(8)]) for v in (x, y)]
    rho = stats.spearmanr(*means).statistic
    found = interval(columns, tasks, RankOverTasks("x", "y"))
    assert np.isclose(found.value, rho) and np.isclose(RankOverTasks("x", "y")(columns), rho)
    z, e = np.arctanh(rho), np.sqrt(1.06 / 5)
    assert np.allclose([found.low, found.high], np.tanh([z - 1.95996 * e, z + 1.95996 * e]), atol=1e-5)
    assert np.isclose(found.p_not_above(found.low), 0.025) and np.isclose(found.p_not_below(found.high), 0.025)


def test_cells_with_names_that_run_together_stay_apart():
    columns = {"task": np.array(["a", "a1", "a1"]), "seed": np.array([11, 1, 1]), "x": np.array([1.0, 2.0, 4.0])}
    assert len(set(cells_of(columns))) == 2
    assert list(within(columns, mean)) == [1.0, 3.0]


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
