"""The rooms import one way: the contracts hold, and a planted violation breaks them."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _lint(folder: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    paths = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=paths, encoding="utf-8")


@pytest.fixture()
def copy(tmp_path):
    for room in ("theory", "tuning", "probes", "validations", "reports", "bench"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "nano", "nano-family"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy):
    done = _lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "path, line",
    [
        ("theory/kernel.py", "import torch"),
        ("theory/kernel.py", "import probes.reach.response"),
        ("probes/reach/response.py", "import theory"),
        ("tuning/subjects.py", "import validations"),
        ("reports/load.py", "import probes"),
        ("reports/load.py", "import bench"),
        ("validations/study.py", "import bench"),
        ("validations/study.py", "import validations.commands.options"),
    ],
)
def test_a_planted_violation_fails(copy, path, line):
    with open(copy / path, "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = _lint(copy)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr
