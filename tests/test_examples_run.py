"""The examples in the docstrings of theory and probes say what the code does; every module that has one is run."""

import doctest
import importlib
import pathlib

import pytest

import probes
import theory

ROOMS = [pathlib.Path(room.__file__).parent for room in (probes, theory)]
FILES = [path for room in ROOMS for path in sorted(room.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
MODULES = [".".join(path.relative_to(ROOMS[0].parent).with_suffix("").parts) for path in FILES]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module):
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted and not found.failed
