"""Whoever prepares a subject, its head is fitted on texts of its own; and preparing is drawing, fitting and encoding, no more."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
import torch
from known_options import planted_truth

import tuning.preparation
import tuning.subjects
from costate import main
from tuning import Adapter, Subject, encode, fit_readout, tasks
from tuning.preparation import backbone_of, prepare, task_of
from tuning.tasks.task import Split, keys, make_task
from validations import plan, run, study
from validations.claims import named
from validations.claims.choice import foretelling
from validations.commands import advise

TEXTS = [f"film {i} is {'good' if i % 2 else 'bad'}" for i in range(160)]


@pytest.fixture
def folder(tmp_path):
    """A task of 120 texts to train on, the first ten of them also among the 50 of test."""
    for name, texts in {"train": TEXTS[:120], "test": TEXTS[:10] + TEXTS[120:]}.items():
        lines = [json.dumps({"text": text, "label": text.split()[-1]}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(tmp_path)


def study_cell(folder, tmp_path):
    """What a study does to one cell."""
    sizes = study.Sizes(train=20, test=20, length=12, readout=60)
    deltas = {"port-bias": {"kind": "PortBias"}}
    asked = dataclasses.replace(study.read("quick"), tasks=(folder,), sizes=sizes, deltas=deltas, seeds=(0, 1), parts={})
    for _, job in plan.jobs(asked, [named("tunable-ports")], tmp_path):
        if job.settings["kind"] != plan.PLANTS:
            given = run.setting(job.settings, str(tmp_path))
            (subject,) = given.subjects.values()
            for batch in (given.train, given.test):
                subject.outputs(subject.initial, batch)


def advice_on(folder, tmp_path, monkeypatch):
    """What advice is drawn from, without the forecasts themselves."""

    def told(setting, subjects, recipes, seed, until):
        for subject in subjects.values():
            for batch in (setting.train, setting.dev):
                subject.outputs(subject.initial, batch)
        raise InterruptedError

    monkeypatch.setattr(foretelling, "told", told)
    parser = argparse.ArgumentParser()
    advise.add(parser)
    results = str(planted_truth(tmp_path / "results"))
    with pytest.raises(InterruptedError):
        advise.run(parser.parse_args(["--data", folder, "--results", results, "--examples", "20", "--length", "12"]))


@pytest.mark.parametrize("caller", ["study", "advise", "probes", "tuning"])
def test_the_head_is_fitted_on_no_text_that_a_delta_sees(caller, monkeypatch, folder, tmp_path):
    fitted, seen = [], []
    fit, outputs = tuning.subjects.fit_readout, Subject.outputs

    def texts(batch):
        return {tuple(row[real].tolist()) for row, real in zip(batch.tokens, batch.mask, strict=True)}

    def fitting(backbone, batch, *rest, **more):
        fitted.append(texts(batch))
        return fit(backbone, batch, *rest, **more)

    def seeing(subject, delta, batch, **options):
        seen.append(texts(batch))
        return outputs(subject, delta, batch, **options)

    for module in (tuning.subjects, tuning.preparation):
        monkeypatch.setattr(module, "fit_readout", fitting)
    monkeypatch.setattr(Subject, "outputs", seeing)
    prepare.cache_clear()
    command = ["--delta", "port-bias", "--task", folder, "--length", "12"]
    if caller == "study":
        study_cell(folder, tmp_path)
    elif caller == "advise":
        advice_on(folder, tmp_path, monkeypatch)
    elif caller == "probes":
        assert main(["probe", "response", "--examples", "6", *command]) == 0
    else:
        assert main(["train", "--steps", "2", *command]) == 0
    assert fitted and seen
    if caller == "study":  # seed by seed: another seed's texts may be this one's
        assert all(not head & batch for head, batch in zip(np.repeat(fitted, 2), seen, strict=True))
    else:
        assert not set.union(*fitted) & set.union(*seen)


def made(n=160):
    labels = np.arange(n) % 2
    train, test = (Split(tuple(f"{word} {i}" for i in range(n)), None, labels) for word in ("text", "held"))
    loud = Split(tuple(text.upper() for text in test.text_a), None, labels)
    return make_task("made", "made", ("a", "b"), {"train": train, "test": test, "test_loud": loud}, "here")


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_preparing_is_parting_fitting_and_encoding():
    frozen, task, seeds = backbone_of("nano"), made(), (2, 0)
    found = prepare(frozen, task, seed=0, seeds=seeds, length=9, train=20, readout=30, test=25)
    parts = tasks.disjoint(task, {"train": 20, "readout": 30, "test": 25}, 0, seeds=seeds)
    for name in ("train", "test"):
        assert same(getattr(found, name), encode(frozen, getattr(parts, name), length=9))
    assert list(found.perturbed) == ["loud"] and same(
        found.perturbed["loud"], encode(frozen, parts.perturbed["test_loud"], length=9)
    )
    head = fit_readout(frozen, encode(frozen, parts.readout, length=9), 2, C=0.03)
    assert torch.equal(found.readout.weight, head.weight) and torch.equal(found.readout.bias, head.bias)
    subject = found.subject(Adapter(2), 3)
    assert subject.readout is found.readout and subject.seed == 3 and subject.size == subject.delta.size(frozen)
    assert set(found.subject(Adapter(2), 3, train_readout=True).initial) - set(subject.initial) == {
        "readout.weight",
        "readout.bias",
    }


def test_equal_requests_are_one_record_and_other_requests_are_others():
    frozen, task = backbone_of("nano"), task_of("agreement", "never-written")
    assert backbone_of("nano") is frozen and task_of("agreement", "never-written") is task
    assert prepare(frozen, task, seed=0, train=9) is prepare(frozen, task, seed=0, train=9)
    assert prepare(frozen, task, seed=0, train=9) is not prepare(frozen, task, seed=1, train=9)


def test_without_sizes_a_task_is_used_up():
    frozen, task = backbone_of("nano"), made()
    whole = prepare(frozen, task, seed=0)
    assert len(whole.parts.train) == len(whole.parts.readout) == 80 and len(whole.parts.test) == 160
    few = prepare(frozen, task, seed=0, most=12)
    assert len(few.parts.train) == 12 and set(keys(few.parts.train)) < set(keys(whole.parts.train))
    assert len(prepare(frozen, task, seed=0, most=100).parts.train) == 80
    assert same(whole.split("test"), encode(frozen, task.splits["test"]))
    with pytest.raises(ValueError, match="expected a split of made among train, test, test_loud, got 'dev'"):
        whole.split("dev")
