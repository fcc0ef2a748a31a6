"""The facts of delta tuning: rows say what they claim, choices never see their own task, a sequence freezes what came before."""

import dataclasses

import numpy as np
import pytest
import torch

from tuning import load
from tuning.deltas import build
from tuning.practice import Recipe, practised
from tuning.preparation import prepare, task_of
from validations.claims import named
from validations.claims.combination.experiment import measure, predict, stage, stages
from validations.claims.combination.plants import AT_ONCE, IN_SEQUENCE, SINGLES
from validations.claims.facts.plants import PUBLISHED_ORDER
from validations.claims.shared.among import among
from validations.claims.shared.claim import Cell, side_by_side
from validations.claims.shared.setting import Setting, own_seed
from validations.claims.shots.plants import amount, called
from validations.plan import options_of, prepared
from validations.store import Record
from validations.study import read

STUDY = read("facts")
NUMBERS = dict(zip(PUBLISHED_ORDER, (800, 80, 160, 240, 10), strict=True))
LOOKS = (1, 2, 4, 8, 16)


def cell(task, delta, accuracy, *, start=0.5, losses=(0.9, 0.8, 0.6, 0.4, 0.2), numbers=1):
    """Return a cell that ends at an accuracy, with a fall of the held-out loss from 1 along its looks."""
    looks = [
        {"step": s, "dev_loss": loss, "loss": loss, "accuracy": accuracy}
        for s, loss in zip((0, *LOOKS), (1.0, *losses), strict=True)
    ]
    said = {"start": {"loss": 1.0, "accuracy": start}, "majority": 0.4, "numbers": numbers}
    best = min(looks[1:], key=lambda look: look["dev_loss"])
    met = {"accuracy": accuracy, "loss": best["loss"], "step": best["step"], "rate": 0.01, "looks": looks}
    return Cell(task, delta, 0, Record(said, {}), Record(met, {}))


def rows(claim, cells):
    return [
        row
        for one in side_by_side(cells)
        for row in (named(claim).rows(one) if one.delta in (named(claim).deltas or (one.delta,)) else [])
    ]


def test_an_order_is_one_as_published_and_less_in_any_other():
    published = [cell("a", name, 0.9 - 0.1 * k, numbers=NUMBERS[name]) for k, name in enumerate(PUBLISHED_ORDER)]
    reverse = [cell("a", name, 0.5 + 0.1 * k, numbers=NUMBERS[name]) for k, name in enumerate(PUBLISHED_ORDER)]
    (row,), (other,) = rows("facts-order", published), rows("facts-order", reverse)
    assert row["order"] == pytest.approx(1.0) and other["order"] == pytest.approx(-1.0)
    assert row["order_counted"] == pytest.approx(0.6) == -other["order_counted"]
    assert row["best_is_full"] == 1.0 and other["best_is_full"] == 0.0 and row["spread"] == pytest.approx(40.0)
    assert rows("facts-order", published[:4]) == []


def test_what_is_reached_counts_from_chance():
    cells = [cell(task, "full", full, start=0.5) for task, full in (("a", 0.8), ("b", 0.9))]
    cells += [cell(task, "lora", own, start=0.5) for task, own in (("a", 0.7), ("b", 0.6))]
    columns = {name: np.array([row[name] for row in rows("facts-gap", cells)]) for name in ("over", "over_full", "over_frozen")}
    relative, gain = (criterion.statistic(columns) for criterion in named("facts-gap").criteria)
    assert relative == pytest.approx((0.3 + 0.2) / (0.4 + 0.5)) and gain == pytest.approx((0.2 + 0.1) / (0.3 + 0.4))


def test_steps_are_to_the_runs_own_end_and_the_last_where_nothing_falls():
    late = dict(
        zip(
            PUBLISHED_ORDER,
            ((0.2, 0.2, 0.2, 0.2, 0.2), *[(0.9, 0.2, 0.2, 0.2, 0.2)] * 2, (0.9, 0.9, 0.2, 0.2, 0.2), (1.1,) * 5),
            strict=True,
        )
    )
    (row,) = rows(
        "facts-convergence", [cell("a", name, 0.9, losses=losses, numbers=NUMBERS[name]) for name, losses in late.items()]
    )
    assert row["steps"] == 1.0 and row["order"] == pytest.approx(1.0) and row["prompt_later"] == 4.0
    assert 0 < row["first"] < 1 and row["alike"] == 0.0 and row["prefix_later"] == pytest.approx(row["first"] + 1)


def combined(reached):
    """Return the cells of tasks whose options reach what is given, and 0.5 where nothing is."""
    names = (*SINGLES, *AT_ONCE, *IN_SEQUENCE)
    return [cell(task, name, own.get(name, 0.5)) for task, own in reached.items() for name in names]


def leads(claim, reached):
    return {one.task: named(claim).rows(one)[0]["lead"] for one in among(combined(reached)) if one.delta == "adapter"}


@pytest.mark.parametrize("claim, option, other", [("facts-combination", *AT_ONCE[:2]), ("facts-sequence", *IN_SEQUENCE[:2])])
def test_a_combination_is_chosen_on_the_other_tasks_alone(claim, option, other):
    reached = {task: {option: 0.8, "adapter": 0.7} for task in "abc"}
    assert leads(claim, reached) == pytest.approx(dict.fromkeys("abc", 10.0))
    lucky = {**reached, "a": {other: 1.0, "adapter": 0.7, option: 0.6}}  # the best in hindsight is not taken
    assert leads(claim, lucky)["a"] == pytest.approx(-10.0)


def test_few_texts_are_compared_with_as_many():
    reached = {"full": (0.5, 0.7, 0.9), "lora": (0.6, 0.7, 0.8), "adapter": (0.6, 0.7, 0.8), "bitfit": (0.9, 0.7, 0.8)}
    cells = [
        cell("a", called(name, texts), own)
        for name, each in reached.items()
        for texts, own in zip((16, 64, 256), each, strict=True)
    ]
    (row,) = rows("facts-few-shot", cells)
    assert (
        row["lead_few"] == pytest.approx(20.0) and row["lead_some"] == pytest.approx(0.0) and row["fades"] == pytest.approx(30.0)
    )


def test_numbers_of_the_study_are_in_the_order_of_the_published_ratios():
    nano = load("nano")
    sizes = {name: sum(value.numel() for value in build(_spec(name)).initial(nano, 0).values()) for name in PUBLISHED_ORDER}
    assert sorted(sizes, key=sizes.get, reverse=True) == ["full", "prefix", "adapter", "lora", "prompt"]


def _spec(name, study=STUDY):
    return {key: value for key, value in study.deltas[name].items() if key != "label"}


def test_few_texts_are_few_for_head_and_step_too():
    study = read("few-shot")
    options = study.parts["shots"].options
    for name in study.deltas:
        assert {options[name][part] for part in ("train", "readout", "dev")} == {amount(name)}


def test_a_template_stands_around_every_text_and_is_never_cut():
    template = read("combination-template").parts["combination"].options["template"]
    nano, task = load("nano"), task_of("word-swap", "build/tasks", ())
    sizes = {"train": 40, "readout": 40, "test": 8, "dev": 8}
    plain, asked = (
        prepare(nano, task, seed=0, length=length, **sizes, **options)
        for length, options in ((24, {}), (28, {"template": template}))
    )
    words = nano.tokenizer(template.format(text=""), add_special_tokens=False)["input_ids"]
    assert len(words) == 4 and nano.tokenizer.mask_token_id in words
    for bare, full in zip(_tokens(plain.train), _tokens(asked.train), strict=True):
        assert full[-5:-1] == words and full[-1] == bare[-1]
        text = full[1:-5]
        assert bare[1:-1][: len(text)] == text and (len(bare) == 24 or text == bare[1:-1])
    assert not torch.equal(plain.readout.weight, asked.readout.weight)  # the head reads the template's words too


def _tokens(batch):
    return [row[mask].tolist() for row, mask in zip(batch.tokens, batch.mask, strict=True)]


def test_a_template_of_a_study_reaches_its_cells_texts():
    study = read("combination-template")
    made = {
        "sizes": {"train": 16, "test": 8, "length": 28, "readout": 16},
        "options": options_of(study, study.parts["combination"], "adapter") | {"dev": 8},
        "columns": [],
        "backbone_name": "nano",
        "task": "voice",
        "seed": 0,
        "seeds": [0],
    }
    assert prepared(made, "build/tasks").template == "{text} This is [MASK]."
    with pytest.raises(ValueError, match="give its prompts a template"):
        prepared(made | {"head": {"prompt": {"template": "", "words": []}}}, "build/tasks")


def test_combinations_of_few_texts_and_in_a_template_are_those_of_all():
    whole = read("combination")
    for name in ("combination-shots", "combination-template"):
        study = read(name)
        assert study.tasks == whole.tasks and study.deltas == whole.deltas and study.claims == whole.claims
        assert study.parts["combination"].options["rates"] == whole.parts["combination"].options["rates"]
    few = read("combination-shots")
    assert {few.sizes.train, few.sizes.readout, few.parts["combination"].options["dev"]} == {16} and len(few.seeds) == 3


@pytest.fixture(scope="module")
def given():
    return prepare(load("nano"), task_of("voice", "build/tasks", ()), seed=0, length=12, train=24, readout=24, test=8, dev=8)


@pytest.fixture(scope="module")
def three(given):
    return given.subject(build(_spec("prompt-bitfit-adapter", read("sequence"))), 0)


def test_a_stage_trains_its_last_part_and_the_head_and_leaves_the_others(given, three):
    assert stages(three) == [("prompt",), ("prompt", "bitfit"), ("prompt", "bitfit", "adapter")]
    recipe, reached = Recipe(steps=3, batch_size=4, rates=(1e-2,), looks=2), {}
    last = torch.zeros(0)
    for there in stages(three):
        made = stage(three, there, reached)
        before = made.outputs(made.initial, given.test)
        if reached:  # BitFit and adapter begin at rest: the stage starts where the one before ended
            torch.testing.assert_close(before, last, rtol=1e-5, atol=1e-6)
        found = practised(made, given.train, given.dev, given.test, recipe=recipe, seed=1)
        assert {name.partition("/")[0] for name in found.params} == {there[-1], "readout.weight", "readout.bias"}
        reached = {**reached, **found.params}
        last = torch.as_tensor(found.chosen.outputs, dtype=before.dtype)
    assert set(reached) == {*three.initial, "readout.weight", "readout.bias"}


def test_a_sequence_of_one_part_is_that_delta_alone(given):
    alone = given.subject(build({"kind": "Combined", "parts": [["adapter", _spec("adapter")]]}), 0)
    options = {"dev": 8, "steps": 4, "batch_size": 4, "rates": (1e-2,), "looks": 2, "sequence": 1}
    setting = Setting({"delta": alone}, given.train, given.test, 0, 1.0, 1.0, 1, options=options, dev=given.dev)
    met = measure(setting, predict(setting)).values
    subject = stage(alone, ("adapter",), {})
    seed = own_seed(setting, 227, 0)
    plain = practised(subject, given.train, given.dev, given.test, recipe=Recipe(4, 4, (1e-2,), looks=2), seed=seed)
    assert met["accuracy"] == plain.chosen.accuracy and met["loss"] == plain.chosen.loss
    assert [one["part"] for one in met["stages"]] == ["adapter"]


def test_a_cell_without_dev_text_is_refused(given, three):
    setting = Setting({"delta": three}, given.train, given.test, 0, 1.0, 1.0, 1, options={"steps": 2})
    with pytest.raises(ValueError, match="give the part's option dev"):
        named("facts-order").experiment.measure(dataclasses.replace(setting, dev=None), Record({}, {}))
