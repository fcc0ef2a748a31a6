"""The instruments' command line prints what it measured, and one sentence for a bad request."""

import ast
import json
import pathlib

import numpy as np
import pytest

import probes
from costate import main


def test_response_of_a_shipped_model(capsys):
    chosen = ["--task", "agreement", "--delta", "port-bias", "--examples", "6", "--length", "16"]
    assert main(["probe", "response", *chosen, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "exact" and found["route"] == "vmap"
    assert sum(found["share"].values()) == pytest.approx(1, rel=1e-5)


SMALL = ["probe", "curvature", "--task", "agreement", "--examples", "6", "--length", "16"]


def test_curvature_of_a_checkpoint_by_layer_and_block(capsys, tmp_path):
    saved, out, figure = (tmp_path / name for name in ("a.safetensors", "a.json", "a.svg"))
    delta = ["--task", "agreement", "--delta", "port-bias:ports=2.mlp+3.attention+3.mlp"]
    assert main(["train", *delta, "--examples", "6", "--length", "16", "--steps", "2", "--out", str(saved)]) == 0
    capsys.readouterr()
    options = [*SMALL, "--checkpoint", str(saved), "--dense", "600", "--top", "2", "--double"]
    assert main([*options, "--out", str(out), "--figure", str(figure)]) == 0
    table = capsys.readouterr().out.splitlines()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found) >= {"at", "ridge", "units", "blocks", "density", "hessian", "gauss_newton", "products"}
    rows = {row["place"]: row for row in found["blocks"]}
    assert list(rows) == ["all", "layer 2", "layer 3", "2.mlp.bias", "3.attention.bias", "3.mlp.bias"]
    assert [row["size"] for row in rows.values()] == [384, 128, 256, 128, 128, 128]
    whole = rows["all"]
    assert found["at"] == "checkpoint" and whole["products"] == 384 and whole["route"] == "dense"
    assert sum(row["trace"]["value"] for place, row in rows.items() if place.endswith("bias")) == pytest.approx(
        whole["trace"]["value"], rel=1e-10
    )
    extremes = [whole["largest"]["value"], whole["smallest"]["value"]]
    assert max(extremes, key=abs) == pytest.approx(found["hessian"][0], rel=1e-6)
    for row in rows.values():
        assert whole["smallest"]["value"] <= row["smallest"]["value"] <= row["largest"]["value"] <= whole["largest"]["value"]
        assert 0 < row["effective_dimension"]["value"] <= 6 + 1e-9 and row["gauss_newton_trace"] > 0
    area = np.trapezoid(found["density"]["value"], found["density"]["grid"])
    assert found["density"]["status"] == "exact" and area == pytest.approx(1, abs=0.01)
    heads = next(line for line in table if "negative mass" in line and "eff. dim." in line)
    assert heads.split()[:2] == ["place", "D"] and sum("bias" in line for line in table) >= 3
    assert figure.read_text(encoding="utf-8").startswith("<?xml")
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "a.json", "a.svg"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--at", "checkpoint"], "--at checkpoint needs --checkpoint"),
        (["--out", "{}/a.txt"], "--out must end in .json"),
        (["--figure", "{}/a.gif"], "--figure must end in .svg or .pdf or .png"),
        (["--figure", "{}/none/a.svg"], "existing folder"),
        (["--ridge", "0", "--out", "{}/a.json", "--delta", "bitfit"], "--ridge must be a number above 0"),
        (["--by", "delta", "--out", "{}/a.json"], "--by delta needs a combination"),
        (["--checkpoint", "{}/none", "--figure", "{}/a.svg"], "expected a checkpoint file"),
    ],
)
def test_a_bad_curvature_request_leaves_nothing(capsys, tmp_path, options, words):
    assert main([*SMALL, *(text.format(tmp_path) for text in options)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and words in captured.err and captured.err.count("\n") == 1
    assert captured.out == "" and not list(tmp_path.iterdir())


def test_bad_request_is_a_sentence(capsys):
    assert main(["probe", "response", "--task", "agreement", "--delta", "nothing", "--examples", "6"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_instruments_know_no_theory_and_no_model():
    for path in pathlib.Path(probes.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        roots = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        roots |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        forbidden = {"theory", "tuning", "validations", "reports", "bench", "transformers"}
        assert not roots & forbidden, path
