"""Public functions of the rooms say in one way what they do: a verb, one sentence in the first line, and not much more."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROOMS = ("theory", "tuning", "probes", "validations", "reports", "bench")
FILES = [ROOT / "costate.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
VERBS = frozenset(
    ("Return", "Yield", "Write", "Add", "Raise", "Refuse", "Measure", "Compare", "Solve", "Run", "Draw", "Print", "Compute",
     "Set", "Give", "Take", "Attach", "Mark", "Plot", "Scatter", "Strip", "Turn", "Make", "Put", "Warn", "Say", "Remove", "End",
     "Pause")
)  # fmt: skip
LINES = 18
TORCH = {"forward", "backward", "setup_context", "jvp", "vmap"}  # methods that torch calls and describes


def public(body: list[ast.stmt], name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (name, function) of all functions and methods that no underscore hides."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if isinstance(node, ast.FunctionDef):
                yield f"{name} {node.name}", node
            else:
                yield from public(node.body, f"{name} {node.name}")


FOUND = [one for path in FILES for one in public(ast.parse(path.read_text(encoding="utf-8")).body, str(path.relative_to(ROOT)))]
SAID = [(name, ast.get_docstring(function)) for name, function in FOUND if ast.get_docstring(function)]


@pytest.mark.parametrize("room", [*ROOMS, "costate.py"])
def test_a_docstring_opens_with_a_verb_and_ends_its_first_sentence_on_its_line(room):
    for name, said in SAID:
        if name.startswith(room):
            first = said.splitlines()[0]
            assert first.split()[0].rstrip(",") in VERBS and first.endswith((".", ":")), f"{name}: {first}"
            assert len(said.splitlines()) <= LINES, name


def test_only_methods_that_stand_for_described_ones_say_nothing():
    """A plant's `outputs`, say, is what `Subject.outputs` says; only methods may lean on others of their name."""
    described = {name.rpartition(" ")[2] for name, _ in SAID} | TORCH
    silent = [name for name, function in FOUND if not ast.get_docstring(function)]
    assert not [name for name in silent if name.count(" ") == 1 or name.rpartition(" ")[2] not in described]
