"""Verdicts on planted worlds are wrong no more often than they say, and what is shipped was counted by the present code."""

import pytest

from validations import calibrate

ON_A_BAR = [effect for effect in calibrate.EFFECTS if "bar" in effect.name]


@pytest.mark.parametrize("tasks", [5, 12])
@pytest.mark.parametrize("effect", ON_A_BAR, ids=lambda e: e.name)
def test_a_truth_on_a_bar_is_seldom_called_off_it(tasks, effect):
    """40 worlds of 8 verdicts, 160 pairs that may err together: at a rate of 0.03 more than 20 pairs have probability < 1e-6."""
    row = calibrate.row(effect, tasks, 1.0, worlds=40)
    assert row["wrong_supported"] * 320 <= 40 and row["wrong_refuted"] * 320 <= 40 and row["coverage"] > 0.8


def test_power_grows_with_tasks_and_an_absent_effect_is_refuted():
    clear, absent = calibrate.EFFECTS[0], calibrate.EFFECTS[3]
    few, many = (calibrate.row(clear, tasks, 2.0, worlds=30)["right"] for tasks in (5, 18))
    assert few + 0.2 < many and many > 0.95
    assert calibrate.row(absent, 12, 1.0, worlds=10)["right"] > 0.9


def test_the_shipped_error_rates_were_counted_by_the_present_code_and_hold():
    record = calibrate.shipped()
    assert record, "the code that decides has changed: run `make calibrate`"
    assert record["worlds"] >= 500
    assert len(record["rows"]) == len(calibrate.TASKS) * len(calibrate.SPREADS) * len(calibrate.EFFECTS)
    for line in record["lines"]:
        assert line["wrong_supported"] <= record["limit"] and line["wrong_refuted"] <= record["limit"]
        assert line["coverage_low"] >= 0.93 and line["coverage_high"] <= 0.975
