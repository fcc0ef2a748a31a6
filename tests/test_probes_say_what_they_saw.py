"""A probe says what it looked at, what its numbers mean and how it gets on; what was measured outlives what fails after it."""

import json

import pytest

from costate import main
from tuning.deltas import parse
from tuning.preparation import backbone_of, prepare, task_of
from validations.commands import probe
from validations.commands.given import score
from validations.commands.probing import curvature, dimension

SMALL = ["--task", "agreement", "--delta", "port-bias", "--examples", "24", "--length", "12"]
LESS = {
    "curvature": ["--top", "1", "--budget", "2", "--by", "all", "--tolerance", "0.5"],
    "dimension": ["--runs", "2", "--steps", "2", "--dimensions", "2,4,8"],
}
PROBES = [name for name in probe.INSTRUMENTS if name != "model"]


def told(capsys, *words: str) -> tuple[dict, str]:
    """The record and the standard error of a probe."""
    assert main(["probe", *words, *SMALL, *LESS.get(words[0], []), "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_tells_its_texts_and_scores_and_what_numbers_mean(capsys, name):
    found, said = told(capsys, name)
    assert (found["backbone"], found["task"], found["delta"], found["at"]) == ("nano", "agreement", "port-bias", "initial")
    assert found["examples"] == 24 and found["held_out"]["texts"] == probe.HELD_OUT
    for where in ("probed", "held_out"):
        assert found[where]["loss"] > 0 and 0 <= found[where]["accuracy"] <= 1
    assert len(found["meaning"]) >= 3 and all(len(line) < 130 for line in found["meaning"].values())
    assert said.splitlines()[0].startswith(f"{name} of port-bias in nano, 24 texts of agreement; the frozen head is fitted on")


def test_the_scores_are_those_of_the_whole_of_the_texts(capsys):
    """With --thorough all held-out texts count, which `costate train` scores too."""
    found, _ = told(capsys, "response", "--thorough")
    given = prepare(backbone_of("nano"), task_of("agreement", "build/tasks"), seed=0, length=12, train=24)
    made = given.subject(parse("port-bias"), 0)
    for where, texts in (("probed", given.train), ("held_out", given.split("test"))):
        own = score(made, None, texts)
        assert found[where]["accuracy"] == own["accuracy"] and found[where]["loss"] == pytest.approx(own["loss"], abs=2e-6)
    assert found["held_out"]["texts"] == len(given.split("test").labels)


def test_thorough_spends_more_on_every_flag_that_is_not_given():
    for name, flags in probe.SPENT.items():
        for flag, (quick, thorough) in flags.items():
            more = [len(x.split(",")) if isinstance(x, str) else len(x) if isinstance(x, tuple) else x for x in (quick, thorough)]
            assert more[1] is None or more[1] > more[0], (name, flag)


def failing(*_, **__):
    raise RuntimeError("the disk is\nfull")


def test_a_figure_that_fails_loses_no_measurement(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(curvature.drawing, "curvature_figure", failing)
    out, figure = tmp_path / "a.json", tmp_path / "a.svg"
    assert main(["probe", "curvature", *SMALL, *LESS["curvature"], "--out", str(out), "--figure", str(figure)]) == 2
    captured = capsys.readouterr()
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["unfinished"] == "the disk is full" and kept["blocks"] and kept["hessian"] and not figure.exists()
    assert "eff. dim." in captured.out
    assert captured.err.splitlines()[-1] == "error: the disk is full; what was measured until then is kept above"


def test_trainings_that_were_done_outlive_one_that_fails_and_a_stop(capsys, monkeypatch):
    fit, done = dimension.fit, []

    def stopped(*arguments, **options):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(dimension, "fit", stopped)
    monkeypatch.setattr(dimension.np, "mean", lambda scores: 2.0)  # a gain, whatever two steps are worth
    assert main(["probe", "dimension", *SMALL, *LESS["dimension"], "--json"]) == 130
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert len(found["full"]) == 2 and len(found["scores"]) == len(found["dimensions"]) == 1
    assert captured.err.splitlines()[-1] == "stopped; what was measured until then is kept above"
    assert "2 of 8 trainings" in captured.err
