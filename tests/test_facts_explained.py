"""The facts explained: forecasts read no held-out text, rows compare what they say, rivals see other tasks alone."""

import dataclasses

import numpy as np
import pytest
import torch

from tuning import load
from tuning.deltas import build
from tuning.preparation import prepare, task_of
from validations.claims import named
from validations.claims.explained.experiment import EXPERIMENT
from validations.claims.explained.plants import PUBLISHED_ORDER
from validations.claims.shared.among import among
from validations.claims.shared.claim import Cell
from validations.claims.shared.setting import Setting
from validations.store import Record
from validations.study import read

STUDY = read("explained")
STEPS = (1, 2, 4, 8, 16)


def falling(arrives, loss):
    """Return looks at a run that falls from 1 to 0.5 at one step."""
    return [{"step": 0, loss: 1.0}] + [{"step": s, loss: 0.5 if s >= arrives else 1.0} for s in STEPS]


def cell(task, delta, *, foretold=1, arrives=1, told=(0.6, 0.7), accuracy=0.7, loss=0.5, worth=0.0):
    """Return a cell with what was foretold (step; dev loss and accuracy of the optimum), and what was measured."""
    forecast = dict(zip(("dev_loss", "accuracy"), told, strict=True))
    said = {
        "start": {"loss": 1.0, "accuracy": 0.5},
        "majority": 0.5,
        "numbers": 1,
        "forecasts": dict.fromkeys(("start", "optimum", "path", "network"), forecast),
        "path": {"step": 16, "looks": falling(foretold, "dev_loss")},
        "kernel": {"curvature": 1.0, "dimension": 1.0, "alignment": 1.0, "gradient": 1.0},
        "worth": {"state": worth, "gate": 0.0, "first": worth},
    }
    met = {"accuracy": accuracy, "loss": loss, "step": 16, "rate": 0.01, "looks": falling(arrives, "loss")}
    return Cell(task, delta, 0, Record(said, {}), Record(met, {}))


def rows(claim, cells):
    return {
        one.task: named(claim).rows(one)[0] for one in among(cells) if one.delta in named(claim).deltas and named(claim).rows(one)
    }


def test_steps_foretold_are_ranked_and_their_distance_is_in_octaves():
    cells = [
        cell(task, name, foretold=step, arrives=2 * step if task == "a" else step)
        for task in "abcd"
        for name, step in zip(PUBLISHED_ORDER, (1, 2, 4, 8, 8), strict=True)
    ]
    found = rows("explained-convergence", cells)
    assert found["a"]["order"] == pytest.approx(1.0) and found["b"]["off"] == pytest.approx(0.0)
    assert 0.5 < found["a"]["later"] <= 1.0 and found["a"]["off"] == pytest.approx(found["a"]["later"])
    assert found["a"]["order_numbers"] == found["a"]["order_curvature"] == 0.0


def test_the_mean_on_other_tasks_never_sees_the_own_one():
    reached = (0.9, 0.8, 0.7, 0.6, 0.5)
    cells = [
        cell(task, name, accuracy=own)
        for task in "abcd"
        for name, own in zip(PUBLISHED_ORDER, reached[::-1] if task == "a" else reached, strict=True)
    ]
    found = rows("explained-order", cells)
    assert found["a"]["order_usual"] == pytest.approx(-1.0) and found["b"]["order_usual"] == pytest.approx(1.0)


def test_a_gap_is_full_tunings_lead_foretold_and_measured():
    told = {"full": (0.1, 0.9)} | dict.fromkeys(PUBLISHED_ORDER[1:], (0.2, 0.8))
    cells = [
        cell(task, name, told=told[name], accuracy=0.9 if name == "full" else 0.85) for task in "abcd" for name in PUBLISHED_ORDER
    ]
    found = rows("explained-gap", cells)["a"]
    assert found["gap"] == pytest.approx(5.0) and found["gap_foretold"] == pytest.approx(10.0)
    assert found["off"] == pytest.approx(5.0) == found["off_none"] and found["off_usual"] == pytest.approx(0.0)


def test_a_line_through_other_tasks_foretells_what_is_linear():
    cells = [
        one
        for task, worth in zip("abcde", (0.1, 0.2, 0.3, 0.4, 0.9), strict=True)
        for one in (cell(task, "prefix", loss=0.5 + 2 * worth, worth=worth), cell(task, "adapter", loss=0.4))
    ]
    found = rows("explained-feedback", cells)
    assert all(row["off"] == pytest.approx(0.0, abs=1e-9) and row["off_usual"] > 0.01 for row in found.values())


@pytest.fixture(scope="module")
def setting():
    given = prepare(load("nano"), task_of("voice", "build/tasks", ()), seed=0, length=12, train=24, readout=24, test=8, dev=12)
    subject = given.subject(build({k: v for k, v in STUDY.deltas["prefix"].items() if k != "label"} | {"length": 2}), 0)
    options = {"dev": 12, "steps": 6, "batch_size": 4, "rates": (1e-2,), "looks": 3, "worth": 8}
    return Setting({"delta": subject}, given.train, given.test, 0, 1.0, 1.0, 1, regime=0.1, options=options, dev=given.dev)


def test_forecasts_read_no_held_out_text(setting):
    told = EXPERIMENT.predict(setting).values
    other = dataclasses.replace(setting, test=setting.test._replace(labels=1 - setting.test.labels))
    again = EXPERIMENT.predict(other).values
    assert told["start"] != again["start"]
    for name in ("forecasts", "path", "kernel", "worth"):
        assert told[name] == again[name]


def test_forecasts_read_the_labels_of_training_text(setting):
    turned = setting.train.labels.clone()
    turned[: len(turned) // 2] = 1 - turned[: len(turned) // 2]
    other = dataclasses.replace(setting, train=setting.train._replace(labels=turned))
    told, again = (EXPERIMENT.predict(one).values for one in (setting, other))
    assert told["forecasts"]["start"] == again["forecasts"]["start"]
    assert told["forecasts"]["optimum"] != again["forecasts"]["optimum"] and told["kernel"] != again["kernel"]


def test_the_first_step_of_the_path_is_that_of_training(setting):
    """One step of AdamW moves a network as its tangent model where the rate is small."""
    small = dataclasses.replace(setting, options=setting.options | {"steps": 1, "looks": 1, "rates": (1e-5,)})
    predicted = EXPERIMENT.predict(small)
    subject = small.subjects["delta"].with_readout()
    seen = dataclasses.replace(small, test=small.dev)
    met = EXPERIMENT.measure(seen, predicted).values
    start, foretold = (look["dev_loss"] for look in predicted.values["path"]["looks"])
    assert met["looks"][1]["dev_loss"] - start == pytest.approx(foretold - start, rel=0.05)
    assert subject.initial.keys() > small.subjects["delta"].initial.keys()


def test_several_rates_are_refused(setting):
    with pytest.raises(ValueError, match="expected one rate"):
        EXPERIMENT.predict(dataclasses.replace(setting, options=setting.options | {"rates": (1e-2, 1e-3)}))


def test_the_kernel_is_the_deltas_own_gradient(setting):
    told = EXPERIMENT.predict(setting).values["kernel"]
    subject = setting.subjects["delta"]
    params = {name: value.clone().requires_grad_() for name, value in subject.initial.items()}
    slopes = torch.autograd.grad(subject.loss(params, setting.train), list(params.values()))
    assert told["gradient"] == pytest.approx(float(np.sqrt(sum(float((g**2).sum()) for g in slopes))), rel=1e-3)
    assert 0 < told["alignment"] <= 1 and told["dimension"] > 1


def test_sizes_and_rates_are_those_of_the_facts():
    facts = read("facts")
    own, other = STUDY.parts["explained"].options, facts.parts["facts"].options
    assert all(facts.deltas[name] == spec for name, spec in STUDY.deltas.items()) and STUDY.sizes == facts.sizes
    assert own["rates"] == other["rates"] and own["steps"] == other["steps"] and own["looks"] == other["looks"]
    assert all(own[name]["rates"] == other[name]["rates"] for name in ("full", "prefix", "prompt", "bitfit"))
    assert set(STUDY.tasks) <= set(facts.tasks) and not set(STUDY.tasks) & set(facts.development)
