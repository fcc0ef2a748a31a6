"""What there is to choose from: deltas, architectures, backbones and tasks, listed without loading torch."""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from tuning.architectures import ARCHITECTURES
from tuning.shipped import SHIPPED
from tuning.taxonomy import FAMILIES, Taxon

_DELTAS = Path(__file__).parent / "deltas"


@dataclass(frozen=True)
class Choice:
    """A delta: its name in short texts, its class, one sentence, its taxon, the settings it needs, the others with defaults."""

    name: str
    kind: str
    sentence: str
    taxon: Taxon
    needed: tuple[str, ...]
    options: dict[str, object]


@functools.cache
def kinds() -> dict[str, str]:
    """Return the class of every delta by its name in short texts: the table `tuning.deltas.KINDS`, read from its source."""
    for node in _source("__init__").body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "KINDS" and isinstance(node.value, ast.Dict):
            return {key.value: value.id for key, value in zip(node.value.keys, node.value.values, strict=True)}
    raise ValueError("expected the table KINDS in tuning/deltas/__init__.py, found none: write it as one dict")


@functools.cache
def deltas() -> tuple[Choice, ...]:
    """Return every delta, in the order of the table."""
    imports = [node for node in _source("__init__").body if isinstance(node, ast.ImportFrom)]
    home = {alias.name: node.module.rpartition(".")[2] for node in imports for alias in node.names}
    return tuple(_choice(name, kind, home[kind]) for name, kind in kinds().items())


def taxonomy() -> dict[str, Taxon]:
    """Return the place of every delta, by its name in short texts, families in the order of `FAMILIES`."""
    placed = sorted(deltas(), key=lambda delta: list(FAMILIES).index(delta.taxon.family))
    return {delta.name: delta.taxon for delta in placed}


def architectures() -> dict[str, str]:
    """Return the names in print of the supported architectures, by the name that a model's configuration has."""
    return {name: row.title for name, row in ARCHITECTURES.items()}


def backbones() -> tuple[str, ...]:
    """Return the names of the shipped backbones; any other is a folder or a name on the hub."""
    return tuple(SHIPPED)


def tasks() -> tuple[str, ...]:
    """Return the names of the embedded tasks; any other is a file, a folder or hub:NAME."""
    from tuning.tasks import names

    return names()


def _source(module: str) -> ast.Module:
    return ast.parse((_DELTAS / f"{module}.py").read_text(encoding="utf-8"))


def _choice(name: str, kind: str, module: str) -> Choice:
    """Return a delta as its class says it: the docstring's first sentence, and the fields of the record."""
    (found,) = (node for node in _source(module).body if isinstance(node, ast.ClassDef) and node.name == kind)
    text = " ".join((ast.get_docstring(found) or "").split())
    fields = {node.target.id: node.value for node in found.body if isinstance(node, ast.AnnAssign)}
    (placed,) = (node.value for node in found.body if isinstance(node, ast.Assign) and node.targets[0].id == "taxon")
    return Choice(
        name=name,
        kind=kind,
        sentence=re.match(r".*?\.(?= [A-Z`]|$)", text).group(),
        taxon=Taxon(**{word.arg: ast.literal_eval(word.value) for word in placed.keywords}),
        needed=tuple(field for field, default in fields.items() if default is None),
        options={field: ast.literal_eval(default) for field, default in fields.items() if default is not None},
    )
