"""Verdicts on planted worlds are wrong no more often than they say, and what is shipped was counted by the present code."""

import pytest

from validations import calibrate


@pytest.mark.parametrize("tasks", [5, 12])
@pytest.mark.parametrize("effect", [e for e in calibrate.EFFECTS if "bar" in e.name and e.tails != "skewed"], ids=lambda e: e.name)
def test_a_truth_on_a_bar_is_seldom_called_off_it(tasks, effect):
    """At a rate of 0.025 or less among 40 worlds of 8 verdicts, more than 24 of 320 wrong on a side has probability < 1e-6."""
    row = calibrate.row(effect, tasks, 1.0, worlds=40)
    assert row["wrong_supported"] * 320 <= 24 and row["wrong_refuted"] * 320 <= 24 and row["coverage"] > 0.87


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
