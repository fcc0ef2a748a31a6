"""The instruments' command line prints what it measured, and one sentence for a bad request."""

import ast
import json
import pathlib

import pytest

import probes
from probes.__main__ import main


def test_list_names_every_function(capsys):
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["functions"]) == {name for name in probes.__all__ if name[0].islower()}
    assert all(callable(getattr(probes, name)) for name in found["functions"])


def test_response_of_a_shipped_model(capsys):
    chosen = ["--task", "agreement", "--delta", "port-bias", "--examples", "6", "--length", "16"]
    assert main(["response", *chosen, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "exact" and found["route"] == "vmap"
    assert sum(found["share"].values()) == pytest.approx(1, rel=1e-5)


def test_bad_request_is_a_sentence(capsys):
    assert main(["response", "--task", "agreement", "--delta", "nothing", "--examples", "6"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_instruments_know_no_theory_and_no_model():
    for path in pathlib.Path(probes.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        roots = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        roots |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        forbidden = {"theory", "validations", "reports", "transformers"}
        assert not roots & (forbidden if path.name == "__main__.py" else forbidden | {"tuning"}), path
