"""The command derive prints text or JSON, and one sentence for a wrong name; its room needs no torch."""

import json
import subprocess
import sys

from costate import main


def test_text_and_json(capsys):
    assert main(["derive", "prefix-gate"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("A prefix is a gate") and "(1 - lambda) o" in text
    assert main(["derive", "prefix-gate", "output-feedback", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [d["title"] for d in data] == ["A prefix is a gate", "Optimal feedback from the outputs"]


def test_a_wrong_name_is_one_sentence_and_status_two(capsys):
    assert main(["derive", "everything"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "maximum-principle" in err


def test_the_room_needs_neither_torch_nor_the_heavy_solvers():
    heavy = ("torch", "transformers", "cvxpy")
    code = f"import sys, theory, validations.commands.derive; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert found.stdout.strip() == "[]"
