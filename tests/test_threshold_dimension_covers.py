"""The dimension at a threshold: its interval covers at the stated rate, and censoring is honest."""

import math

import numpy as np
import pytest

from probes.dimension import threshold_dimension

CHANCE, FULL = 0.1, 0.95
LEVELS = np.repeat(np.linspace(3, 11, 10), 3)           # log2 d, three seeds each
RISES = {"logistic": (lambda u: 1 / (1 + np.exp(-u)), math.log(9)),
         "gompertz": (lambda u: np.exp(-np.exp(-u)), -math.log(-math.log(0.9)))}


def simulate(truth, d90, width, noise, rng, failed=0.0):
    """(dimensions, scores, baseline) with the true threshold at log2 d = d90."""
    shape, offset = RISES[truth]
    y = CHANCE + (FULL - CHANCE) * shape((LEVELS - d90) / width + offset)
    y = y + noise * rng.standard_normal(len(y))
    lost = rng.random(len(y)) < failed
    y[lost] = CHANCE
    return 2**LEVELS, y, FULL + noise * rng.standard_normal(5)


@pytest.mark.parametrize("truth", RISES)
def test_interval_covers(truth):
    """Nominal 0.9 of 20 draws: fewer than 14 covered has probability below 3e-3 (binomial)."""
    rng, covered, errors = np.random.default_rng(0), 0, []
    for _ in range(20):
        d90 = rng.uniform(6, 9)
        d, y, full = simulate(truth, d90, rng.uniform(0.5, 1.2), 0.015, rng)
        found = threshold_dimension(d, y, baseline=full, chance=CHANCE)
        covered += found.interval[0] <= 2**d90 <= found.interval[1]
        errors.append(math.log2(found.value) - d90)
        assert found.interval[0] < found.value < found.interval[1] and found.n == 30 and found.levels == 10
    assert covered >= 14
    # an interval of 0.3 in log2 d means a standard error near 0.09; twice that is a wrong estimator
    assert np.sqrt(np.mean(np.square(errors))) < 0.18


def test_failed_runs_do_not_move_it():
    rng = np.random.default_rng(1)
    d, y, full = simulate("logistic", 7.0, 0.8, 0.01, rng)
    y[[16, 21]] = CHANCE                                 # two runs that never left chance, near the threshold
    found = threshold_dimension(d, y, baseline=full, chance=CHANCE)
    assert found.interval[0] <= 2**7 <= found.interval[1] and abs(math.log2(found.value) - 7) < 0.3


def test_censoring_is_not_extrapolated():
    rng = np.random.default_rng(2)
    d, y, full = simulate("logistic", 14.0, 0.8, 0.01, rng)
    above = threshold_dimension(d, y, baseline=full, chance=CHANCE)
    assert above.value == math.inf and above.interval[1] == math.inf and above.not_reached > 0.95
    assert above.status == "not reached" and above.isotonic == math.inf
    d, y, full = simulate("logistic", 1.0, 0.5, 0.01, rng)
    below = threshold_dimension(d, y, baseline=full, chance=CHANCE)
    assert below.value == 0 and below.below > 0.95 and below.status == "below" and below.interval[0] == 0


def test_misfit_is_named():
    """A staircase with a long plateau just below the threshold is no rise of the family."""
    rng = np.random.default_rng(3)
    y = np.select([LEVELS < 5, LEVELS < 9.5], [CHANCE, 0.6], FULL) + 0.005 * rng.standard_normal(len(LEVELS))
    found = threshold_dimension(2**LEVELS, y, baseline=[FULL, FULL + 0.001, FULL - 0.001], chance=CHANCE)
    assert found.status == "misfit" and "isotonic" in found.warning


def test_chance_correction_and_share():
    """The threshold is chance + share (baseline - chance); uncorrected it is share x baseline, here lower."""
    d, y, full = simulate("logistic", 7.0, 0.8, 0.003, np.random.default_rng(4))
    found = threshold_dimension(d, y, baseline=full, chance=CHANCE)
    assert found.threshold == pytest.approx(CHANCE + 0.9 * (full.mean() - CHANCE))
    assert found.uncorrected < found.value
    half = threshold_dimension(d, y, baseline=full, chance=CHANCE, share=0.5)
    assert math.log2(half.value) == pytest.approx(7 - 0.8 * math.log(9), abs=0.05)
    inside = np.interp(found.value, found.curve.dimension, found.curve.value)
    assert inside == pytest.approx(found.threshold, abs=0.01)


def test_bad_input_is_a_sentence():
    d, y = [1, 2, 4, 8], [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(ValueError, match="at least 2 full runs"):
        threshold_dimension(d, y, baseline=[0.9], chance=0.1)
    with pytest.raises(ValueError, match="exceed chance"):
        threshold_dimension(d, y, baseline=[0.1, 0.1], chance=0.2)
    with pytest.raises(ValueError, match="3 distinct"):
        threshold_dimension([2, 2, 4], y[:3], baseline=[0.9, 0.9], chance=0.1)
    with pytest.raises(ValueError, match="finite"):
        threshold_dimension(d, [0.1, np.nan, 0.3, 0.4], baseline=[0.9, 0.8], chance=0.1)
