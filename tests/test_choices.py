"""A race spends what it may and finds what the grid would; a forecast is the table where nothing is told, and exact on lines."""

import dataclasses
import itertools
import json
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
from known_options import planted_truth, small_study
from seeds import shifted as own_seed

from costate import main
from tuning import load
from tuning.deltas import parse
from tuning.practice import Recipe, practised
from tuning.preparation import backbone_of, prepare, task_of
from validations import plan, publish, truth
from validations.claims import named
from validations.claims.choice import plants
from validations.claims.choice.calibrated import Calibrated, calibrated, fitted, radius, residuals
from validations.claims.choice.foretelling import Trained, told
from validations.claims.choice.options import FORECASTS, Options, Runs, foretold
from validations.claims.choice.race import Price, grid, halving, race, random_gain, shortened
from validations.claims.practice.experiment import EXPERIMENT, _training_seed, recipe_of
from validations.claims.shared.among import among
from validations.claims.shared.claim import Cell
from validations.store import Record
from validations.study import read

ROOT = pathlib.Path(__file__).parents[1]

STEPS = np.array([1, 2, 4, 8, 16, 32])
PRICE = Price(step=4.0, look=2.0)


def runs_of(falls):
    """Return runs whose dev losses fall evenly in the logarithm of the step to what is given."""
    ends = np.asarray(falls, dtype=float)
    losses = 1.0 - (1.0 - ends[:, None]) * np.log2(STEPS)[None] / 5
    return Runs(np.arange(len(ends)), STEPS, losses, 100 * (1.0 - losses))


def task_of_numbers(seed, weights=(3.0, -2.0), options=6, noise=0.0):
    """Return a task whose gains are linear in what was told, around a mean of each option's own."""
    rng = np.random.default_rng([5, seed])
    x = rng.standard_normal((options, 2))
    names = tuple("abcdefgh"[:options])
    return Options(names, x, 10.0 * np.arange(options) + x @ np.array(weights) + noise * rng.standard_normal(options))


@pytest.mark.parametrize("share", [0.1, 0.15, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("count", [5, 20, 78])
def test_a_race_spends_no_more_than_its_budget_and_finds_a_best_that_leads_throughout(share, count):
    runs = runs_of(np.random.default_rng(own_seed(count)).uniform(0.0, 0.9, count))
    whole = grid(runs, PRICE)
    budget = share * whole.spent
    for search in (race, halving):
        won = search(runs.losses, STEPS, list(np.argsort(runs.losses[:, -1])), budget, PRICE)
        assert won.spent <= max(budget, PRICE.run(STEPS)) + 1e-9 and won.run == whole.run


def test_a_race_of_one_is_a_whole_run():
    runs = runs_of([0.5, 0.2])
    won = race(runs.losses, STEPS, [0], 0.0, PRICE)
    assert (won.run, won.look) == (0, 5) and won.spent == 32 * PRICE.step + 2 * PRICE.look  # looked at from the cut on


def test_a_race_takes_the_look_of_the_least_dev_loss_that_it_has_seen():
    runs = runs_of([0.5])
    losses = runs.losses.copy()
    losses[0] = [0.9, 0.4, 0.8, 0.6, 0.7, 0.9]
    assert race(losses, STEPS, [0], 1e9, PRICE).look == 4 and halving(losses, STEPS, [0], 1e9, PRICE).look == 1


def test_the_best_of_runs_drawn_at_random_is_the_mean_over_all_draws():
    rng = np.random.default_rng(own_seed(3))
    runs = dataclasses.replace(runs_of(rng.random(7)), gained=rng.random((7, len(STEPS))))
    budget = 3 * PRICE.run(STEPS)
    drawn = [min(some, key=lambda run: runs.losses[run].min()) for some in itertools.combinations(range(7), 3)]
    assert random_gain(runs, budget, PRICE) == pytest.approx(np.mean(runs.reached[drawn]))


def test_a_shortened_grid_stops_every_run_where_the_budget_ends():
    runs = runs_of([0.5, 0.2, 0.4])
    won = shortened(runs, 3 * (8 * PRICE.step + PRICE.look), PRICE)
    assert (won.run, won.look) == (1, 3)


def test_a_race_drops_no_run_before_its_first_cut_and_takes_as_many_as_it_can_pay():
    runs = runs_of([0.5, 0.2, 0.1, 0.3])
    losses = runs.losses.copy()
    losses[2, :4] = 2.0  # late, and then best
    asked = []

    class Asked:
        def __getitem__(self, place):
            asked.append(place)
            return losses[place]

    won = race(Asked(), STEPS, [0, 1, 2, 3], 4 * PRICE.run(STEPS), PRICE)
    assert won.run == 2 and min(look for _, look in asked) == 4
    asked.clear()
    assert race(Asked(), STEPS, [0, 1, 2, 3], PRICE.run(STEPS), PRICE).run == 0 and {run for run, _ in asked} == {0}


def test_a_forecast_of_what_is_usual_is_the_table():
    tasks = [task_of_numbers(seed) for seed in range(4)]
    made = fitted(tasks, 1.0)
    assert np.allclose(made(np.mean([task.told for task in tasks], axis=0)), np.mean([task.gained for task in tasks], axis=0))


def test_linear_gains_are_foretold_and_noise_is_left_alone():
    tasks = [task_of_numbers(seed) for seed in range(8)]
    made = fitted(tasks, 1e-9)
    assert np.allclose(made.weights, [3.0, -2.0])
    usual = made.table - made.usual @ np.array([3.0, -2.0])
    assert np.allclose(made(tasks[0].told) - tasks[0].told @ np.array([3.0, -2.0]), usual)
    nothing = [task_of_numbers(seed, weights=(0.0, 0.0), noise=5.0) for seed in range(8)]
    assert np.abs(calibrated(nothing).weights).max() < 1.0


def test_a_residual_does_not_know_its_own_task():
    tasks = [task_of_numbers(seed, noise=2.0) for seed in range(5)]
    moved = dataclasses.replace(tasks[2], gained=tasks[2].gained + 7.0)
    before, after = (residuals([*tasks[:2], one, *tasks[3:]])[2] for one in (tasks[2], moved))
    assert np.allclose(after - before, 7.0)


def test_intervals_hold_at_their_level_on_new_tasks():
    covered = []
    for world in range(40):
        tasks = [task_of_numbers(100 * world + seed, noise=3.0) for seed in range(13)]
        *known, new = tasks
        covered.append(np.mean(np.abs(new.gained - calibrated(known)(new.told)) <= radius(known)))
    assert 0.85 < np.mean(covered) < 1.0


def test_an_interval_of_two_tasks_is_refused():
    with pytest.raises(ValueError, match="at least 3 tasks of known outcome"):
        radius([task_of_numbers(0), task_of_numbers(1)])


def test_what_is_told_is_what_a_practice_cell_with_one_linearisation_predicts():
    made = plants.settings(0)["lora"]
    setting = dataclasses.replace(made, options=made.options | {"relinearisations": 1, "steps": 24})
    said, recipes = EXPERIMENT.predict(setting).values, {"delta": recipe_of(setting.options)}
    ((_, found),) = told(setting, setting.subjects, recipes, _training_seed(setting))
    mine = found.losses
    theirs = foretold(said, said["start"]["dev_loss"])
    assert {name: said["start"]["dev_loss"] - mine[name] for name in FORECASTS} == pytest.approx(theirs, abs=1e-6)


def test_runs_of_a_race_are_those_of_the_sweep():
    given = prepare(load("nano"), task_of("agreement", "build/tasks", ()), seed=0, length=12, train=24, readout=24, test=8, dev=8)
    subject, recipe = (
        given.subject(parse("lora:rank=1"), 0, train_readout=True),
        Recipe(steps=6, batch_size=4, rates=(1e-2, 2e-2), looks=4),
    )
    swept = practised(subject, given.train, given.dev, given.test, recipe=recipe, seed=3)
    trained = Trained([(subject, rate) for rate in recipe.rates], given.train, given.dev, recipe, 3)
    for run, look in ((1, 1), (0, 3), (1, 3)):
        assert trained[run, look] == pytest.approx(swept.runs[run].path[look + 1].dev_loss, abs=1e-9)
    assert trained.passes == sum(3 * 4 * recipe.looked_at[look] for look in (1, 3, 3)) + 8 * (2 + 4 + 2)


def test_a_race_that_is_trained_takes_what_it_is_priced_at():
    given = prepare(load("nano"), task_of("agreement", "build/tasks", ()), seed=0, length=12, train=24, readout=24, test=8, dev=8)
    subject, recipe = given.subject(parse("lora:rank=1"), 0, train_readout=True), Recipe(steps=32, batch_size=4, looks=8)
    trained = Trained([(subject, rate) for rate in recipe.rates], given.train, given.dev, recipe, 3)
    won = race(trained, trained.steps, [0, 1, 2, 3], 1e9, trained.price)
    looks = [look for _, look in trained.hits]
    assert len(trained.steps) - 1 - trained.cut >= 2 and looks.count(len(trained.steps) - 1) == 2
    steps = won.spent - (4 + 2 * (len(trained.steps) - 1 - trained.cut)) * trained.price.look
    assert trained.passes == steps + len(looks) * trained.price.look


def test_cells_know_those_of_every_other_task():
    cells = [Cell(task, delta, 0, Record({}, {}), Record({}, {})) for task in "abc" for delta in ("full", "lora")]
    made = among(cells)
    assert [sorted({cell.task for cell in group.values()}) for group in made[0].others] == [["b"], ["c"]]


def test_a_task_is_of_development_or_decides(tmp_path):
    study = read("choices")
    assert set(study.development) <= set(study.every_task) and not set(study.development) & set(study.tasks)
    path = tmp_path / "twice.toml"
    text = (pathlib.Path(plan.__file__).parent / "studies" / "choices.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('development = ["agreement"', 'development = ["voice"'), encoding="utf-8")
    with pytest.raises(ValueError, match="got 'voice' twice"):
        read(str(path))


def test_no_verdict_rests_on_a_task_of_development(monkeypatch):
    study, bare = read("choices"), Record({}, {})
    claim = dataclasses.replace(
        named("choice-gain"), parts={}, assumptions=(), rivals=(), nulls=(), also=(),
        rows=lambda cell: [cell.at(None) | {"covered": float(cell.task in study.tasks), "nearer": 2.0}],
    )  # fmt: skip
    every = [Cell(task, "full", 0, bare, bare) for task in study.every_task]
    monkeypatch.setattr(publish, "cells", lambda store, found, claim: every)
    monkeypatch.setattr(publish, "plant_rows", lambda store, found, claim, which: [])
    tables, (judged,) = publish.decided(study, None, [], [claim])
    assert [row["task"] for row in tables["choice-gain", "rows"]] == list(study.tasks)
    assert judged["verdicts"][0]["criteria"][0]["estimate"] == 1.0 and judged["verdicts"][0]["tasks"] == len(study.tasks)


@pytest.fixture
def small(tmp_path):
    """A small study of known options, and its results."""
    return small_study(tmp_path)


def test_a_planted_best_option_is_advised_and_its_settings_are_peft_s(small, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    out = tmp_path / "settings"
    assert main(["advise", "--data", "agreement", *small, "--no-training", "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["choice"] == "lora" and made["rate"] == 0.004 and made["options"][0]["option"] == "lora"
    assert not made["options"][1]["tied"] and made["options"][0]["low"] > 0
    assert made["past"] == pytest.approx({
        "tasks": 6, "right": 6, "lost": 0.5, "correlation": 0.8, "correlation_of_means": 0.7,
        "race_lost": 0.2, "race_right": 6, "race_cost": 0.09,
    })  # fmt: skip
    config = peft.PeftConfig.from_pretrained(str(out))
    assert config.r == 4 and json.loads((out / "training.json").read_text(encoding="utf-8"))["rate"] == 0.004
    assert sorted(row["parameters"] for row in made["options"]) == sorted(
        plan.delta(read("choices").deltas[name]).size(backbone_of("nano")) for name in ("lora", "prefix", "bitfit")
    )


def test_a_race_stays_within_its_share_and_is_told(small, capsys):
    assert main(["advise", "--data", "agreement", *small, "--share", "0.5"]) == 0
    said = capsys.readouterr().out
    entered, share = map(int, re.search(r"chosen in a race of (\d) of 6 runs, for (\d+)% of all runs' passes", said).groups())
    assert 3 <= entered <= 4 and share <= 50 and "on the 6 tasks of the study choices on nano, each left out" in said


def test_options_without_a_gain_say_so(small, tmp_path, capsys):
    small[3] = str(planted_truth(tmp_path / "nothing", best="none"))
    assert main(["advise", "--data", "agreement", *small, "--no-training"]) == 0
    said = capsys.readouterr().out
    assert "keep the frozen model with its head" in said and said.count("not told from the best") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--budget", "3"], "a budget of at least"),
        (["--options", "lora,nothing"], "expected options among"),
        (["--results", "no-such-folder"], "run `make validate` first"),
        (["--share", "0"], "--share must be a number above 0"),
        (["--minutes", "0"], "--minutes must be a number above 0"),
        (["--level", "1"], "--level must be a number below 1"),
        (["--study", "practice"], "expected the results of the study practice"),
    ],
)
def test_what_cannot_be_advised_is_one_sentence(small, words, says, capsys):
    assert main(["advise", "--data", "agreement", *small, *words]) == 2
    said = capsys.readouterr().err
    assert re.search(says, said.splitlines()[-1]) and said.splitlines()[-1].startswith("error: ") and "Traceback" not in said


def test_a_truth_is_read_as_it_was_written(tmp_path, monkeypatch, capsys):
    folder, out = planted_truth(tmp_path / "results"), tmp_path / "truth.json"
    assert main(["export", str(folder), "--table", "truth", "--out", str(out)]) == 0
    monkeypatch.setattr(truth, "SHIPPED", out)
    whole, again = truth.Truth.read(folder), truth.Truth.shipped()
    assert (again.study, again.backbone, again.names) == (whole.study, whole.backbone, whole.names)
    for one, other in zip(whole.tasks, again.tasks, strict=True):
        assert one.names == other.names
        np.testing.assert_allclose(other.told, one.told, rtol=1e-5)
        np.testing.assert_allclose(other.gained, one.gained, rtol=1e-5)
    assert {name: list(rates) for name, rates in again.reached.items()} == {n: list(rates) for n, rates in whole.reached.items()}
    assert truth.record_of(again) == pytest.approx(truth.record_of(whole))
    assert main(["export", str(folder), "--table", "truth", "--out", str(tmp_path / "truth.csv")]) == 2


def test_the_truth_that_comes_with_the_lab_is_of_the_study_as_it_stands():
    shipped = truth.Truth.shipped()
    assert (shipped.study, shipped.backbone) == ("choices", read("choices").backbone)
    assert sorted(shipped.names) == sorted(read("choices").deltas) and len(shipped.tasks) == len(shipped.past) >= 5
    assert {task for task in shipped.past["task"]} <= set(read("choices").tasks)
    assert all(len(shipped.reached[name]) >= 5 for name in shipped.names)
    said = truth.record_of(shipped)
    page, readme = (" ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in ("CHOICES.md", "README.md"))
    assert f"{said['correlation']:.1f} [" in page
    told = f"for {said['race_cost']:.0%} of the grid's passes lost {said['race_lost']:.1f} points against the grid's own choice, "
    told += f"the forecast's choice {said['lost']:.1f} against the best in hindsight, at a rank correlation of "
    told += f"{said['correlation']:.2f}"
    assert told.replace("lost -", "lost −").replace("%", " %") in readme


def test_the_truth_of_some_options_is_that_of_all_without_the_rest(tmp_path):
    whole = truth.Truth.read(planted_truth(tmp_path))
    part = whole.only(["prefix", "lora"])
    assert part.tasks[2].gained.tolist() == [whole.tasks[2].gained[whole.names.index(name)] for name in ("prefix", "lora")]
    assert isinstance(whole.past, pd.DataFrame) and isinstance(calibrated(part.tasks), Calibrated)
