"""Deltas on other tasks and what a step takes: rows say what they claim, and counts are those of the network."""

import dataclasses

import numpy as np
import pytest
import torch

from tuning import load
from tuning.deltas import build
from tuning.preparation import prepare, task_of
from tuning.subjects import READOUT_PARAMETERS, fit_readout
from validations.claims import named
from validations.claims.resources.counted import DELTAS, FULL, Shape, activations, numbers, passes, peak
from validations.claims.resources.experiment import KINDS, Held, Network, Step, cut, peak_of
from validations.claims.shared.among import among
from validations.claims.shared.claim import Cell
from validations.claims.shared.setting import Setting
from validations.claims.transferability.claim import chance
from validations.claims.transferability.experiment import landed, mark
from validations.store import Record
from validations.study import read
from validations.verdict import columned

TASKS = [f"{group}{k}" for group in "abcd" for k in range(3)]
GROUPS = {group: [task for task in TASKS if task[0] == group] for group in "abcd"}
CLAIM = named("facts-transfer")


def cells(reached):
    """Return cells of twelve tasks whose own delta gains 40 points and a moved one what `reached` says of source and target."""
    made = []
    for number, task in enumerate(TASKS):
        rng = np.random.default_rng(number)
        told = {"mark": task, "start": {"accuracy": 0.5}, "groups": GROUPS, "senses": {"all": [*GROUPS["a"], *GROUPS["b"]]}}
        arrays = {
            "mean": rng.standard_normal(4),
            "head": np.outer([-1, 1], rng.standard_normal(4)),
            "words": rng.permutation(9)[:4],
        }
        moved = {other: {"fitted": 0.5 + reached(task, other), "kept": 0.4} for other in TASKS if other != task}
        made.append(Cell(task, "lora", 0, Record(told, arrays), Record({"accuracy": 0.9, "loss": 0.1, "moved": moved}, {})))
    return among(made)


def columns(reached):
    return columned([row for cell in cells(reached) for row in CLAIM.rows(cell)])


def statistic(found, label):
    return next(one.statistic(found) for one in (*CLAIM.criteria, *CLAIM.also) if one.label.startswith(label))


def test_shares_are_of_the_targets_own_gain():
    found = columns(lambda source, target: 0.3 if source[0] == target[0] else 0.1)
    assert len(found["task"]) == 12 * 11 and found["same"].sum() == 12 * 2
    assert statistic(found, "share of the own gain within") == pytest.approx(0.75)
    assert statistic(found, "share within groups less") == pytest.approx(0.5)
    assert statistic(found, "share of targets whose best") == 1.0
    assert statistic(found, "lead of a common group beside") == pytest.approx(0.5)
    assert statistic(found, "share within groups, with the source's head") == pytest.approx(-0.25)


def test_no_dealing_of_groups_leads_where_groups_matter_and_many_do_where_others_do():
    strong = columns(lambda source, target: 0.3 if source[0] == target[0] else 0.1)
    assert chance(strong) < 0.5 and statistic(strong, "that lead above") > 0
    crossed = columns(lambda source, target: 0.3 if source[1] == target[1] else 0.1)
    assert statistic(crossed, "that lead above") < 0 < chance(crossed)


def test_a_task_that_is_left_out_is_left_out_as_a_source():
    found = columns(lambda source, target: 0.4 if "a0" in (source, target) else 0.0)
    without = {name: values[found["task"] != "a0"] for name, values in found.items()}
    assert statistic(found, "share of the own gain within") > 0
    assert statistic(without, "share of the own gain within") == 0.0


def test_a_task_in_no_group_has_no_row():
    alone = [
        dataclasses.replace(cell, predicted=Record(cell.predicted.values | {"groups": {"a": GROUPS["a"]}}, cell.predicted.arrays))
        for cell in cells(lambda source, target: 0.1)
    ]
    rows = [row for cell in among(alone) for row in CLAIM.rows(cell)]
    assert {row["task"] for row in rows} == {row["source"] for row in rows} == set(GROUPS["a"])


def test_groups_of_the_study_are_its_tasks_three_by_three():
    study = read("transferability")
    groups = study.parts["transferability"].options["groups"]
    assert sorted(task for own in groups.values() for task in own) == sorted(study.tasks)
    assert {len(own) for own in groups.values()} == {3}


@pytest.fixture(scope="module")
def setting():
    given = prepare(load("nano"), task_of("voice", "build/tasks", ()), seed=0, length=12, train=40, readout=24, test=20, dev=8)
    subject = given.subject(build({"kind": "LoRA", "rank": 2}), 0)
    return Setting({"delta": subject}, given.train, given.test, 0, 1.0, 1.0, 1, dev=given.dev)


def test_a_head_under_a_delta_is_fitted_as_frozen_heads_are(setting):
    subject = setting.subjects["delta"]
    head = fit_readout(subject.backbone, setting.train, 2)
    frozen = dataclasses.replace(subject, readout=head).accuracy(subject.initial, setting.test)
    assert landed(setting, subject.initial) == {"fitted": pytest.approx(frozen)}
    moved = {name: value + 0.1 for name, value in subject.initial.items()}
    brought = moved | dict(zip(READOUT_PARAMETERS, (head.weight, head.bias), strict=True))
    kept = dataclasses.replace(subject, readout=head).accuracy(moved, setting.test)
    assert landed(setting, brought)["kept"] == pytest.approx(kept)
    assert mark(setting) != mark(dataclasses.replace(setting, train=setting.test))


def test_a_study_without_groups_is_refused(setting):
    with pytest.raises(ValueError, match="expected the option groups"):
        CLAIM.experiment.predict(setting)


@pytest.fixture(scope="module")
def network():
    backbone = load("nano-2x32")
    return Network(backbone, cut(backbone, 20, 8), (8,))


@pytest.mark.parametrize("option", (FULL, *DELTAS))
def test_counted_numbers_are_those_that_are_tuned(network, option):
    own = KINDS[option].initial(network.backbone, 0).values() if option != FULL else network.backbone.model.parameters()
    assert numbers(network.shape, option) == sum(value.numel() for value in own)


@pytest.mark.parametrize("option", (FULL, *DELTAS))
def test_counted_activations_are_what_derivatives_hold(network, option):
    step, held = Step.of(network.backbone, option, network.texts), {}
    step()
    own = {value.untyped_storage().data_ptr() for group in step.optimizer.param_groups for value in group["params"]}
    own |= {value.untyped_storage().data_ptr() for value in network.backbone.model.parameters()}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step.loss()
    # Left out are masks, what the loss holds, and that nothing before the first block's own delta needs a derivative.
    assert sum(held.values()) == pytest.approx(activations(network.shape, option, 8), rel=0.08)


def test_a_step_holds_what_is_counted_and_the_model_is_not_counted(network):
    step = Step.of(network.backbone, FULL, network.texts)
    assert peak_of(step) == pytest.approx(peak(network.shape, FULL, 8), rel=0.1)
    with Held() as held:
        x = torch.ones(1000)
        y = x.view(10, 100) + 1
        del x
        z = y * 2
    assert held.most == 3 * 4000 - 4000 and z.shape == y.shape


def test_passes_are_three_of_full_tuning_and_two_of_a_delta_of_no_size():
    long = Shape(blocks=2, width=512, inner=2048, heads=8, weights=1, tokens=1)
    assert passes(long, FULL) == pytest.approx(3.0) and passes(long, "bitfit") == pytest.approx(2.0, abs=0.01)
    assert all(passes(long, "bitfit") < passes(long, option) for option in ("lora", "adapter", "prompt"))


def test_deltas_of_the_study_are_those_that_are_measured():
    study = read("efficiency")
    own = {name: build({k: v for k, v in spec.items() if k != "label"}) for name, spec in study.deltas.items()}
    assert {name: own[name] for name in KINDS} == KINDS
