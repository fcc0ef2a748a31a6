"""A data base of options: a known best is found, nothing to gain is said, no forecast reads held-out text."""

import dataclasses

import numpy as np
import pytest
import torch

from tuning import load
from tuning.deltas import parse
from tuning.preparation import prepare, task_of
from validations.claims import named
from validations.claims.choice.options import Runs
from validations.claims.options.claim import _beyond, _chosen, surely
from validations.claims.options.experiment import EXPERIMENT
from validations.claims.options.known import FEATURES, RIVALS, called, nearest, of_rates, of_runs, told
from validations.claims.shared.among import among
from validations.claims.shared.claim import Cell
from validations.claims.shared.setting import Setting
from validations.store import Record
from validations.study import read

DELTAS, RATES, TASKS = ("full", "lora", "prefix"), (0.001, 0.004, 0.016), tuple("abcdefg")
STUDY = read("options")


def cell(task, delta, gains, falls, sharpness=4.0, signature=(1.0, 0.0)):
    """Return a finished cell whose runs gain some points, of which falls of the dev loss were told."""
    rates = [
        {"rate": rate, "path": fall, "late": fall, "moved": fall, "hits": 0.0, "early": 0.5, "fitted": 0.2, "eta": 0.5}
        for rate, fall in zip(RATES, falls, strict=True)
    ]
    predicted = Record(
        {
            "start": {"accuracy": 0.5, "loss": 0.7, "dev_loss": 0.7},
            "told": {"optimum": max(falls), "alignment": 0.1, "dimension": 2.0, "curvature": 1.0, "sharpness": sharpness},
            "rates": rates,
            "rivals": {name: float(DELTAS.index(delta)) for name in RIVALS},
            "passes": 10,
        },
        {"signature": np.array(signature)},
    )
    runs = [
        {
            "rate": rate,
            "finite": True,
            "looks": [
                {"step": step, "dev_loss": 0.7 - 0.01 * gain * step / 4, "accuracy": 0.5 + 0.01 * gain * step / 4}
                for step in (0, 1, 2, 4)
            ],
        }
        for rate, gain in zip(RATES, gains, strict=True)
    ]
    return Cell(task, delta, 0, predicted, Record({"runs": runs, "accuracy": 0.5 + 0.01 * max(gains)}, {}))  # fmt: skip


def base(gain, noise=0.2):
    """Return cells of every task in which an option gains what `gain` says (task, delta, rate), and falls are told with it."""
    made = []
    for t, task in enumerate(TASKS):
        for d, delta in enumerate(DELTAS):
            rng = np.random.default_rng([5, t, d])
            gains = [gain(t, d, r) + noise * rng.standard_normal() for r in range(len(RATES))]
            made.append(cell(task, delta, gains, [0.01 * gain(t, d, r) for r in range(len(RATES))]))
    return [one for one in among(made) if one.delta == "full"]


def rows(claim, cells):
    return [row for one in cells for row in named(claim).rows(one)]


def test_a_task_with_a_known_best_option_finds_it_where_no_table_does():
    cells = base(lambda t, d, r: 10.0 * ((t + d + r) % 3 == 0) + 2.0 * (r == t % 3))
    found = rows("options-forecast", cells)
    assert len(found) == len(TASKS)
    assert max(row["lost_forecast"] for row in found) < 1.0 < np.mean([row["lost_table"] for row in found])
    assert min(row["order_forecast"] for row in found) > 0.6


def test_a_task_with_nothing_to_gain_says_so():
    assert [row["surely"] for row in rows("options-gain", base(lambda t, d, r: 0.0, noise=1.0))] == [0.0] * len(TASKS)
    assert min(row["surely"] for row in rows("options-gain", base(lambda t, d, r: 10.0, noise=1.0))) > 5.0
    assert surely(2.0, 3.0) == 0.0 and surely(5.0, 3.0) == 2.0


def test_too_few_other_tasks_give_no_rows():
    few = base(lambda t, d, r: float(d))[:2]
    alone = [dataclasses.replace(one, others=one.others[:2]) for one in few]
    for claim in STUDY.claims:
        assert rows(claim, alone) == [] and len(rows(claim, few)) == 2


def test_an_option_is_a_delta_at_a_rate_in_one_order_everywhere():
    group = base(lambda t, d, r: 3.0 * d + r, noise=0.0)[0].beside
    own = of_runs(group)
    assert called(group) == [(delta, rate) for delta in DELTAS for rate in RATES]
    assert own.names[1] == "full at 0.004" and own.told.shape == (9, len(FEATURES))
    assert own.gained == pytest.approx([3.0 * d + r for d in range(3) for r in range(3)])
    assert np.array_equal(own.gained, Runs.of(group).reached)


def test_options_of_which_a_rival_says_the_same_are_chosen_by_their_mean_gain():
    assert _chosen(np.array([1.0, 2.0, 2.0]), np.array([9.0, 1.0, 3.0])) == 2


def test_a_best_rate_at_an_end_of_the_sweep_is_met_by_any_beyond():
    ends = np.array([[-8.0, -4.0]] * 5)
    swept, said = np.array([-8.0, -8.0, -4.0, -4.0, -6.0]), np.array([-10.0, -7.0, -3.0, -5.5, -5.0])
    assert _beyond(said, swept, ends) == pytest.approx([0.0, 1.0, 0.0, 1.5, 1.0])


def test_a_rate_follows_the_sharpness_that_other_tasks_tie_it_to():
    made = []
    for t, task in enumerate(TASKS):
        middle = 2.0 * (t - 3) / 3  # the best rate, in octaves from the middle of the sweep
        for delta in DELTAS:
            falls = [-0.1 * (np.log2(rate / 0.004) - middle) ** 2 for rate in RATES]
            made.append(cell(task, delta, [100 * fall for fall in falls], falls, sharpness=2.0 ** (3 - 2 * middle)))
    found = rows("options-rate", [one for one in among(made) if one.delta == "full"])
    assert np.mean([row["off_forecast"] for row in found]) < 0.3 < np.mean([row["off_usual"] for row in found])
    assert of_rates(among(made)[0].beside).gained[0] == pytest.approx(np.log2(0.004) - 2.0, abs=1e-6)


def test_the_nearest_task_is_that_of_the_most_like_signature():
    near = [(1.0, 0.0), (0.0, 1.0), (-0.9, 0.1)]
    groups = [
        {delta: cell(task, delta, [gain] * 3, [0.0] * 3, signature=signature) for delta in DELTAS}
        for task, gain, signature in zip("abc", (0.0, 4.0, 7.0), near, strict=True)
    ]
    assert nearest(groups[0], groups[1:]) == pytest.approx([7.0] * 9)


@pytest.fixture(scope="module")
def setting():
    backbone = load("nano")
    given = prepare(backbone, task_of("agreement", "build/tasks", ()), seed=0, length=12, train=24, readout=24, test=8, dev=8)
    options = {"steps": 6, "batch_size": 4, "looks": 3, "rates": [1e-3, 1e-2], "texts": 16}
    return lambda spec: Setting(
        subjects={"delta": given.subject(parse(spec), 0)}, train=given.train, dev=given.dev, test=given.test, seed=0, penalty=1.0,
        tolerance=1.0, evaluations=1, options=options,
    )  # fmt: skip


@pytest.mark.parametrize("spec", ["lora:rank=2", "prefix:length=2"])
def test_what_is_told_reads_no_held_out_text(setting, spec):
    given = setting(spec)
    other = dataclasses.replace(
        given, test=given.test._replace(labels=1 - given.test.labels, tokens=torch.flip(given.test.tokens, [0]))
    )
    said, again = (EXPERIMENT.predict(one).values for one in (given, other))
    for name in ("told", "rates", "rivals"):
        assert said[name] == again[name]
    assert said["start"]["loss"] != again["start"]["loss"]
    assert all(np.isfinite([number for one in told(said) for number in one.values()]))
    texts, dev = 16, 8
    assert said["passes"] == texts * 3 + dev * (3 + 2)


def test_runs_are_those_of_practice_with_the_head(setting):
    given = setting("lora:rank=2")
    said = EXPERIMENT.measure(given, Record({}, {})).values
    assert [run["rate"] for run in said["runs"]] == [1e-3, 1e-2] and [look["step"] for look in said["runs"][0]["looks"]] == [
        0,
        1,
        2,
        6,
    ]
    best = min((look["dev_loss"], look["accuracy"]) for run in said["runs"] for look in run["looks"][1:])
    assert said["accuracy"] == best[1]


def test_a_cell_without_dev_text_is_refused(setting):
    with pytest.raises(ValueError, match="give the part's option dev"):
        EXPERIMENT.predict(dataclasses.replace(setting("bitfit"), dev=None))


def test_the_study_has_thirty_options_on_tasks_of_development_and_of_test():
    part = STUDY.parts["options"].options
    count = sum(len(part.get(delta, {}).get("rates", part["rates"])) for delta in STUDY.deltas)
    assert count >= 30 and len(STUDY.development) >= 3 and len(STUDY.tasks) >= 8
    assert not set(STUDY.development) & set(STUDY.tasks)
