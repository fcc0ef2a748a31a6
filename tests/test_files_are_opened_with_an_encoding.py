"""No file of the project is read or written in whatever encoding the locale has: the source is searched for such calls."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = ("theory", "tuning", "probes", "validations", "reports", "bench", "tests")
PATHS = ("read_text", "write_text")
OPENERS = ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile")  # of builtins, io, os, gzip, pathlib
PROCESSES = ("run", "Popen", "check_output")
TEXT = ("r", "w", "a", "x")


def without_encoding(source: str) -> list[int]:
    """The lines of calls that read or write text and name no encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and "encoding" not in {k.arg for k in node.keywords}:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of = node.func.value if isinstance(node.func, ast.Attribute) else None
            file = (name in PATHS and _lacks(name, node)) or (name in OPENERS and _text_mode(name, of, node))
            if file or (name in PROCESSES and any(k.arg in ("text", "universal_newlines") for k in node.keywords)):
                found.append(node.lineno)
    return found


def _lacks(name: str, node: ast.Call) -> bool:
    return len(node.args) <= (name == "write_text")  # read_text(encoding), write_text(data, encoding)


def _text_mode(name: str, of: ast.expr | None, node: ast.Call) -> bool:
    library = of.id if isinstance(of, ast.Name) else ""
    if name == "open" and library in ("os", "webbrowser", "tarfile", "zipfile"):
        return False
    modes = [k.value for k in node.keywords if k.arg == "mode"] + node.args
    given = {m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str) and len(m.value) <= 3}
    if library in ("gzip", "bz2", "lzma") or "Temporary" in name:
        return any("t" in mode for mode in given) or ("Temporary" in name and bool(given & {"w", "r", "w+", "r+"}))
    return not any("b" in mode for mode in given)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8', 'ignore')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('w', newline='')", True),
        ("gzip.open(path, 'rt')", True),
        ("gzip.open(path)", False),
        ("os.fdopen(handle, 'w')", True),
        ("os.fdopen(handle, 'wb')", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("tempfile.TemporaryFile()", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, text=True, encoding='utf-8')", False),
    ],
)
def test_the_search_sees_what_it_should(source, seen):
    assert bool(without_encoding(source)) == seen


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_names_its_encoding(room):
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not found
