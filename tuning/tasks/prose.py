"""Clean English sentences from the docstrings of installed packages, read with ``ast`` and never imported.

The packages this lab depends on are the one body of real text that every installation has. Their versions
differ from machine to machine, so whatever is built from them carries a digest of its content.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import pathlib
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MIN_WORDS, MAX_WORDS, MIN_LETTERS = 5, 24, 0.75
# Test suites, vendored copies and generated code are not a package's own prose.
SKIPPED_FOLDERS = {"tests", "test", "testing", "_vendor", "vendored", "externals", "extern", "site-packages"}
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
# Digits, quotes, markup, operators and code fall outside this alphabet, so one pattern refuses them all.
PLAIN_SENTENCE = re.compile(r"[A-Z][-' ,;:()a-z]*\.")
WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
UNDERLINE = re.compile(r"^(-{3,}|={3,}|~{3,}|\^{3,})\s*$")
COLON_HEADING = re.compile(r"^(Args|Arguments|Parameters|Returns?|Yields?|Raises|Notes?|Examples?|References):\s*$")

OWNERS = {
    ast.Module: "module",
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
}
BLOCKS = ("finalbody", "orelse", "handlers", "body")


@dataclass(frozen=True)
class Sentence:
    """One clean sentence and where it stood."""

    text: str
    package: str
    file: str
    docstring: int
    paragraph: int
    position: int
    section: str  # "" for the running text, else the lower-case heading
    owner: str  # "class", "function" or "module"


def listed(text: str) -> tuple[str, ...]:
    """Return the entries of a list that is written as one text."""
    return tuple(text.split())


def words(text: str) -> tuple[str, ...]:
    """Return the lower-case words of a text, punctuation dropped."""
    return tuple(WORD.findall(text.lower()))


def is_prose(text: str) -> bool:
    """Return whether a text is one plain English sentence.

    Plain: a capital, then lower-case words and light punctuation up to one full stop; 5 to 24 words; at least
    three quarters of its characters letters. Capitals after the first letter are refused as well: they are
    class names, proper names and acronyms, the easiest give-aways of a library.
    """
    if not PLAIN_SENTENCE.fullmatch(text):
        return False
    letters = sum(c.isalpha() for c in text)
    return MIN_WORDS <= len(text.split()) <= MAX_WORDS and letters >= MIN_LETTERS * len(text)


def paragraphs(docstring: str) -> list[tuple[str, str]]:
    """Return (section, text) of every run of equally indented non-blank lines; headings open sections."""
    lines = inspect.cleandoc(docstring).splitlines()
    found: list[tuple[str, str]] = []
    run: list[str] = []
    section, indent = "", 0
    for number, line in enumerate([*lines, ""]):
        bare = line.strip()
        width = len(line) - len(line.lstrip())
        following = lines[number + 1].strip() if number + 1 < len(lines) else ""
        heading = UNDERLINE.match(following) or COLON_HEADING.match(bare)
        if run and (not bare or width != indent or heading):
            found.append((section, " ".join(run)))
            run = []
        if heading and bare:
            section = bare.rstrip(":").lower()
        elif bare and not UNDERLINE.match(bare):
            run.append(bare)
            indent = width
    return found


def docstrings(tree: ast.Module) -> list[tuple[str, str]]:
    """Return (owner, docstring) of module, classes and functions; only statements are visited, for speed."""
    found = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if type(node) in OWNERS and (docstring := ast.get_docstring(node, clean=False)):
            found.append((OWNERS[type(node)], docstring))
        for field in BLOCKS:
            stack += reversed(getattr(node, field, ()))
    return found


def file_sentences(source: str, package: str, file: str) -> list[Sentence]:
    """Return the clean sentences of every docstring in a source text, in order; none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = []
    for number, (owner, docstring) in enumerate(docstrings(tree)):
        for place, (section, text) in enumerate(paragraphs(docstring)):
            for position, sentence in enumerate(SENTENCE_END.split(text)):
                if is_prose(sentence):
                    found.append(Sentence(sentence, package, file, number, place, position, section, owner))
    return found


def root(package: str) -> pathlib.Path:
    """Return where a package's source lies, without importing it; dotted names and stdlib modules allowed."""
    top, *rest = package.split(".")
    if top in sys.stdlib_module_names:
        base = pathlib.Path(sysconfig.get_paths()["stdlib"]) / top
    else:
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"the package {top!r} gives this task its text but is not installed: pip install {top}")
        base = pathlib.Path(next(iter(spec.submodule_search_locations)))
    path = base.joinpath(*rest)
    if path.is_dir():
        return path
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    raise ValueError(f"no Python source of {package!r} at {path}: reinstall {top}, or choose another task")


def version(package: str) -> str:
    """Return the version of an installed package, or of Python for a module of the standard library."""
    top = package.split(".")[0]
    if top in sys.stdlib_module_names:
        return "python " + ".".join(map(str, sys.version_info[:3]))
    try:
        return importlib.metadata.version({"sklearn": "scikit-learn"}.get(top, top))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def hashed(text: str) -> int:
    """Return 64 bits of SHA-256: an order and a coin that are the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def source_files(package: str) -> list[tuple[str, pathlib.Path]]:
    """Return (relative name, path) of a package's own source files, in an order fixed by a hash of names."""
    base = root(package)
    if base.is_file():
        return [(base.name, base)]
    named = [(path.relative_to(base).as_posix(), path) for path in base.rglob("*.py")]
    own = [(name, path) for name, path in named if not SKIPPED_FOLDERS.intersection(name.split("/"))]
    return sorted(own, key=lambda pair: hashed(pair[0]))


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cyclic collector: trees hold no cycles, and scanning them triples the cost of a parse."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@functools.cache
def sentences(package: str, most: int) -> tuple[Sentence, ...]:
    """Return about ``most`` clean sentences of a package: whole files in hash order until there are enough.

    Reading whole files, and stopping early, keeps the cost of a 50 MB package near that of a small one.
    """
    found: list[Sentence] = []
    with collector_paused():
        for name, path in source_files(package):
            found += file_sentences(path.read_text(encoding="utf-8", errors="replace"), package, name)
            if len(found) >= most:
                break
    return tuple(found)
