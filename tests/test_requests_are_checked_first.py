"""A request that cannot be met ends with one sentence and status 2 before any model is run."""

import json

import pytest

import tuning.backbones as backbones
from costate import main
from validations.commands.probe import INSTRUMENTS
from validations.commands.probing import dimension as probed

TASK = ["--task", "agreement"]
TRAIN = ["train", *TASK, "--delta", "port-bias"]
REFUSED = [
    ([*TRAIN, "--length", "-1"], "--length must be a number of at least 1, got -1"),
    ([*TRAIN, "--threads", "0"], "--threads must be"),
    ([*TRAIN, "--seed", "-1"], "--seed must be"),
    ([*TRAIN, "--examples", "0"], "--examples must be"),
    ([*TRAIN, "--examples", "900"], "too few to train on 900"),
    ([*TRAIN, "--readout", "0"], "--readout must be"),
    ([*TRAIN, "--steps", "0"], "--steps must be"),
    ([*TRAIN, "--batch-size", "-3"], "--batch-size must be"),
    ([*TRAIN, "--lr", "nan"], "--lr must be a number above 0, got nan"),
    ([*TRAIN, "--lr", "0"], "--lr must be a number above 0"),
    ([*TRAIN, "--weight-decay", "inf"], "--weight-decay must be"),
    ([*TRAIN, "--arm", "full", "--penalty", "-1"], "--penalty must be"),
    ([*TRAIN, "--arm", "full", "--tolerance", "-1"], "--tolerance must be"),
    ([*TRAIN, "--out", "{}/file/x.safetensors"], "--out must be a file in a folder that can be written"),
    ([*TRAIN, "--out", "{}"], "--out must be a file"),
    ([*TRAIN, "--out", ""], "--out must be a file"),
    ([*TRAIN, "--split", "nowhere"], "expected a split"),
    ([*TRAIN, "--text", "body"], "takes no columns"),
    (["train", "--task", "{}", "--delta", "port-bias"], "holds no train or test file"),
    (["train", "--task", "", "--delta", "port-bias"], ""),
    ([*TRAIN, "--backbone", "{}/file"], "expected a model folder"),
    ([*TRAIN, "--backbone", ""], "expected a model folder"),
    (["evaluate", *TASK, "--checkpoint", "{}"], "expected a checkpoint file"),
    (["evaluate", *TASK, "--checkpoint", "{}/file"], "damaged file"),
    (["probe", "response", *TASK, "--length", "0"], "--length must be"),
    (["probe", "response", *TASK, "--top", "0"], "--top must be"),
    (["probe", "response", *TASK, "--threads", "-2"], "--threads must be"),
    (["probe", "curvature", *TASK, "--ridge", "nan"], "--ridge must be a number above 0"),
    (["probe", "curvature", *TASK, "--probes", "0"], "--probes must be"),
    (["probe", "curvature", *TASK, "--steps", "0"], "--steps must be"),
    (["probe", "curvature", *TASK, "--dense", "-1"], "--dense must be"),
    (["probe", "curvature", *TASK, "--checkpoint", "{}"], "expected a checkpoint file"),
    (["probe", "curvature", *TASK, "--out", "{}/none/a.json"], "existing folder"),
    (["probe", "controllability", *TASK, "--margin", "nan"], "--margin must be"),
    (["probe", "controllability", *TASK, "--figure", "{}/none/a.svg"], "existing folder"),
    (["probe", "controllability", *TASK, "--figure", "{}/a.gif"], "--figure must end in .svg or .pdf or .png"),
    (["probe", "controllability", *TASK, "--against", "magic"], "expected a delta among"),
    (["probe", "representation", *TASK, "--examples", "5"], "takes at least 20 examples, got 5"),
    (["probe", "representation", *TASK, "--neighbours", "0"], "--neighbours must be"),
    (["probe", "dimension", *TASK, "--dimensions", "4,8"], "at least 3 different --dimensions"),
    (["probe", "dimension", *TASK, "--dimensions", "a,b"], "whole numbers between commas"),
    (["probe", "dimension", *TASK, "--dimensions", "4,8,99999999"], "dimension must lie between 1 and"),
    (["probe", "dimension", *TASK, "--dimensions", "0,8,9"], "dimension must lie between 1 and"),
    (["probe", "dimension", *TASK, "--runs", "1"], "--runs must be"),
    (["probe", "dimension", *TASK, "--penalty", "-1"], "--penalty must be"),
    (["probe", "dimension", *TASK, "--kind", "magic"], "kind must be one of"),
    (["validate", "--processes", "0"], "--processes must be"),
    (["validate", "--out", "{}/file"], "--out must be a folder"),
    (["validate", "--study", "{}"], "expected a study file"),
    (["bench", "--rounds", "0"], "--rounds must be"),
    (["bench", "magic"], "magic"),
    (["advise", "--data", "agreement", "--examples", "0"], "--examples must be"),
    (["advise", "--data", "agreement", "--threads", "0"], "--threads must be"),
    (["advise", "--data", "agreement", "--budget", "-5"], "--budget must be"),
    (["advise", "--data", "agreement", "--seed", "-1"], "--seed must be"),
    (["show", "{}"], "expected a results folder"),
    (["show", "{}/file"], ""),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_a_bad_request_is_one_sentence_and_no_work(capsys, monkeypatch, tmp_path, arguments, words):
    def worked(*_):
        pytest.fail("a model was run before the request was checked")

    monkeypatch.setattr(backbones, "hidden", worked)
    (tmp_path / "file").write_text("{", encoding="utf-8")
    assert main([text.format(tmp_path) for text in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and words in captured.err and captured.err.count("\n") == 1
    assert captured.out == "" and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint for two classes."""
    path = tmp_path_factory.mktemp("saved") / "two.safetensors"
    assert main([*TRAIN, "--steps", "1", "--examples", "8", "--length", "12", "--out", str(path)]) == 0
    return str(path)


READERS = [*(f"probe {name}" for name in INSTRUMENTS if name != "model"), "evaluate"]  # probe model reads PEFT adapters


@pytest.mark.parametrize("verb", READERS)
def test_a_checkpoint_of_other_classes_is_refused(capsys, saved, verb):
    assert main([*verb.split(), "--task", "quantifiers", "--checkpoint", saved, "--length", "12"]) == 2
    assert "expected a task with 2 classes" in capsys.readouterr().err


@pytest.mark.parametrize(("length", "status"), [("1", 2), ("2", 2), ("3", 0)])
def test_a_length_leaves_room_for_text(capsys, length, status):
    assert main([*TRAIN, "--steps", "1", "--examples", "8", "--length", length]) == status
    assert ("at least 3 tokens" in capsys.readouterr().err) == (status == 2)


def test_a_gain_that_is_none_is_stated_before_the_subspaces(capsys, monkeypatch):
    """Full tuning that is never better than the frozen model has no dimension: said after its runs, before any other."""
    fits = []
    fit = probed.fit

    def harmful(objective, initial, **budget):
        fits.append(initial)
        found = fit(objective, initial, tolerance=1.0, max_evaluations=1)
        return type(found)(**{**vars(found), "params": {k: v - 1e3 for k, v in found.params.items()}})

    monkeypatch.setattr(probed, "fit", harmful)
    size = ["--examples", "8", "--length", "12", "--dimensions", "2,4,8", "--runs", "2", "--delta", "port-bias"]
    assert main(["probe", "dimension", *TASK, *size, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "no gain" and found["value"] == "nan" and len(fits) == 2
    assert "no gain, of which a dimension could reach a share" in found["warning"]
