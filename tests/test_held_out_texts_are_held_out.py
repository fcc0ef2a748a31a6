"""Heads are fitted on texts of their own, training leaves out what is tested on, and leaks are said on standard error."""

import json

import numpy as np
import pytest

from costate import main
from tuning import load, tasks
from tuning.preparation import prepare
from tuning.tasks.task import Split, keys, make_task

TEXTS = [f"film {i} is {'good' if i % 2 else 'bad'}" for i in range(120)]


def made(leaked=0, loud=0):
    """120 training texts; 40 test texts, of which the first `leaked` stand in train and the next `loud` but for case."""
    seen = TEXTS[:leaked] + [f"  {text.upper()} " for text in TEXTS[leaked : leaked + loud]]
    held = seen + [f"new {text}" for text in TEXTS[leaked + loud : 40]]
    labels = np.arange(120) % 2
    splits = {"train": Split(tuple(TEXTS), None, labels), "test": Split(tuple(held), None, labels[:40])}
    return make_task("made", "made", ("bad", "good"), splits, "made here")


def test_leaks_are_counted():
    found = tasks.describe(made(leaked=5, loud=3))
    assert found["overlap"] == {"test": 5}
    assert found["leaks"] == {"test": {"texts": 40, "exact": 5, "folded": 8, "share": 0.2}}
    assert "8 of 40 test texts (20 %) of made also stand in train" in tasks.leak_warning(made(leaked=5, loud=3))
    assert tasks.leak_warning(made()) is None


@pytest.fixture
def folder(tmp_path):
    def write(task):
        for name, split in task.splits.items():
            lines = [json.dumps({"text": t, "label": int(y)}) for t, y in zip(split.text_a, split.labels, strict=True)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return str(tmp_path)

    return write


SHORT = ["--length", "12"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--delta", "port-bias", "--steps", "1", *SHORT],
        ["probe", "response", "--delta", "port-bias", "--examples", "6", *SHORT],
    ],
)
def test_commands_warn_once(capsys, folder, arguments):
    leaky = folder(made(leaked=40))
    assert main([*arguments, "--task", leaky]) == 0
    told = capsys.readouterr().err
    assert told.count("warning: ") == 1 and told.startswith("warning: 40 of 40 test texts (100 %)")
    clean = folder(made())
    assert main([*arguments, "--task", clean]) == 0
    assert "warning" not in capsys.readouterr().err


def test_evaluating_warns_too(capsys, folder, tmp_path):
    leaky, saved = folder(made(leaked=40)), str(tmp_path / "saved.safetensors")
    assert main(["train", "--task", leaky, "--delta", "port-bias", "--steps", "1", *SHORT, "--out", saved]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--task", leaky, "--checkpoint", saved, *SHORT]) == 0
    assert capsys.readouterr().err.startswith("warning: 40 of 40 test texts")


def test_the_texts_of_a_probe_are_among_those_trained_on():
    """With one seed, fewer examples are a subset of more, so that a checkpoint is probed where it was trained."""
    backbone, task = load("nano"), tasks.load("agreement")
    few, many, rest, most = (
        prepare(backbone, task, seed=3, **n).parts for n in ({"train": 32}, {"train": 200}, {}, {"most": 32})
    )
    assert set(keys(few.train)) < set(keys(many.train)) and not set(keys(few.train)) & set(keys(many.readout))
    assert len(rest.train) == 600 and len(most.train) == 32
