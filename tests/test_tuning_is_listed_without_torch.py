"""The catalogue says what the live classes are, and neither it nor the room's front door loads torch."""

import ast
import dataclasses
import importlib
import pathlib
import subprocess
import sys

import pytest

import tuning
from tuning import backbones, catalogue, deltas, tasks

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "pandas", "sklearn", "scipy")
LIST = "from tuning import catalogue as c; c.deltas(), c.architectures(), c.backbones(), c.tasks()"


@pytest.mark.parametrize("code", ["import tuning.architectures", LIST])
def test_listing_loads_nothing_heavy(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(done.stdout.split())


def test_deltas_are_listed_as_they_are():
    assert [choice.name for choice in catalogue.deltas()] == list(deltas.KINDS)
    for choice in catalogue.deltas():
        kind = deltas.KINDS[choice.name]
        assert choice.kind == kind.__name__
        assert " ".join(kind.__doc__.split()).startswith(choice.sentence) and choice.sentence.endswith(".")
        defaults = {entry.name: entry.default for entry in dataclasses.fields(kind)}
        assert choice.needed == tuple(name for name, default in defaults.items() if default is dataclasses.MISSING)
        assert choice.options == {name: default for name, default in defaults.items() if name not in choice.needed}


def test_the_rest_is_listed_as_it_is():
    assert catalogue.tasks() == tasks.names()
    assert catalogue.architectures() == {name: row.title for name, row in backbones.ARCHITECTURES.items()}
    assert "nano" in catalogue.backbones() and backbones.load(catalogue.backbones()[0]).architecture in catalogue.architectures()


def test_the_front_door_gives_what_the_modules_have():
    assert {kind.__name__ for kind in deltas.KINDS.values()} < set(tuning.__all__) <= set(dir(tuning))
    for name in tuning.__all__:
        assert getattr(tuning, name) is getattr(importlib.import_module(f"tuning.{tuning._MODULE[name]}"), name)
    with pytest.raises(AttributeError, match="has no attribute 'telepathy'"):
        _ = tuning.telepathy


def test_validations_import_from_modules_so_that_results_follow_their_code():
    """What is imported through the front door is not seen in a cell's key, which follows imports."""
    for path in (ROOT / "validations").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "tuning" and "bench" not in path.parts:
                assert not {alias.name for alias in node.names} & set(tuning.__all__), path
