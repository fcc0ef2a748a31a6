"""What a study publishes: its verdicts and tables, tied by checksums to each other and to the cells that they were made from."""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from .sound import sound
from .store import REMEDY, Store, file_digest, read_json, sealed, unsealed, write_json

VERDICTS = "verdicts.json"


@contextlib.contextmanager
def reading(folder: str | pathlib.Path) -> Iterator[None]:
    """Raise ValueError inside where a record whose checksum fits is not of the shape that this version writes."""
    try:
        yield
    except (LookupError, AttributeError, TypeError) as error:
        said = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ValueError(f"{folder} holds a record of another shape than this version writes ({said}): {REMEDY}") from error


def table_name(claim: str, part: str = "rows") -> str:
    """Return the name of a claim's table: part "rows" is the tested table, other parts feed its figure."""
    return claim if part == "rows" else f"{claim}.{part}"


def write_verdicts(
    folder: str | pathlib.Path, record: Mapping, *, tables: Mapping[tuple[str, str], Sequence], cells: Sequence[str]
) -> dict:
    """Write the tables and then verdicts.json, with a checksum over itself, the tables and the cells, and return the record.

    tables: (claim, part) -> rows; part "rows" is the tested table, other parts feed the claim's figure. cells: their keys.
    Raises ValueError naming a value that is not finite, or a cell that is damaged.
    """
    folder = pathlib.Path(folder)
    known = {table_name(*which): _file(folder, table_name(*which)) for which in tables}
    for which, made in tables.items():
        write_json(known[table_name(*which)], unicode(made))
    tied = {
        "tables": {name: file_digest(path) for name, path in known.items()},
        "cells": {key: Store(folder).checksum(key) for key in cells},
        "order": list(cells),  # in which rows were made: tables are sorted by key when they are written
    }
    write_json(folder / VERDICTS, sealed({**unicode(record), "tied": tied}, "verdicts"))
    return _verdicts(folder)


def read_verdicts(folder: str | pathlib.Path, *, afresh: bool = False) -> dict:
    """Return the verdicts of a study's results folder; `afresh` reads cells too that were found sound before.

    Raises ValueError when the folder holds none, and naming the file when verdicts, tables and cells do not fit together.
    """
    if not (pathlib.Path(folder) / VERDICTS).is_file():
        raise ValueError(f"expected a results folder with {VERDICTS}, got {folder}: run `make validate` first")
    try:
        return _checked(folder, afresh=afresh)
    except ValueError as error:
        raise ValueError(f"{error}: {REMEDY}") from None


def standing(folder: str | pathlib.Path, inputs: str) -> dict | None:
    """Return the verdicts that were made from `inputs`, or None where there are none or what they rest on was changed."""
    try:
        record = _checked(folder)
    except ValueError:
        return None
    return record if record.get("inputs") == inputs else None


def mend(folder: str | pathlib.Path, report: Callable[[str], None]) -> None:
    """Say in one line of `report` what is wrong with the verdicts and tables that are there; publishing makes them anew."""
    if (pathlib.Path(folder) / VERDICTS).is_file():
        try:
            _checked(folder, cells=False)
        except ValueError as error:
            report(f"{error}: the verdicts are made anew")


def table(folder: str | pathlib.Path, record: Mapping, claim: str, part: str = "rows") -> pd.DataFrame:
    """Return a table of the verdicts `record`; raises ValueError for a table that they lack and for a file that was changed."""
    name, known = table_name(claim, part), record["tied"]["tables"]
    if name not in known:
        raise ValueError(f"expected one of {', '.join(sorted(known)) or 'no table yet'}, got {name!r}")
    try:
        return pd.DataFrame(_table(folder, record, name))
    except ValueError as error:
        raise ValueError(f"{error}: {REMEDY}") from None


def tables(folder: str | pathlib.Path, record: Mapping) -> dict[str, list]:
    """Return the rows of every table of the verdicts `record` by its name; raises ValueError for a file that was changed."""
    return {name: _table(folder, record, name) for name in record["tied"]["tables"]}


def unicode(value: Any) -> Any:
    """Return a record in which lone surrogates, as folders' names may have, are written out: tables and pages take none."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", lambda found: f"[U+{ord(found[0]):04X}]", value)
    if isinstance(value, Mapping):
        return {unicode(k): unicode(v) for k, v in value.items()}
    return [unicode(v) for v in value] if isinstance(value, list | tuple) else value


def rows(folder: str | pathlib.Path, claim: str, part: str = "rows") -> pd.DataFrame:
    """Return one claim's evidence as a tidy frame; part "rows" is the tested table, other parts feed its figure."""
    return table(folder, read_verdicts(folder), claim, part)


def _file(folder: str | pathlib.Path, name: str) -> pathlib.Path:
    return pathlib.Path(folder) / "rows" / f"{name}.json"


def _verdicts(folder: str | pathlib.Path) -> dict:
    """Return the record of verdicts.json when it fits its own checksum."""
    record, path = unsealed(pathlib.Path(folder) / VERDICTS, "verdicts"), pathlib.Path(folder) / VERDICTS
    tied = record.get("tied")
    sound = isinstance(tied, dict) and isinstance(record.get("claims"), list)
    if not sound or not all(isinstance(tied.get(name), dict) for name in ("tables", "cells")):
        raise ValueError(f"{path} is no record of verdicts, though its checksum fits")
    return record


def _table(folder: str | pathlib.Path, record: Mapping, name: str) -> list:
    """Return a table's rows when its file is the one that the verdicts were made with."""
    _tied(folder, record, name)
    return read_json(_file(folder, name))


def _tied(folder: str | pathlib.Path, record: Mapping, name: str) -> None:
    """Raise ValueError unless a table's file is the one that the verdicts were made with."""
    path = _file(folder, name)
    if file_digest(path) != record["tied"]["tables"][name]:
        raise ValueError(f"{path} is not the table that {VERDICTS} was made with")


def _checked(folder: str | pathlib.Path, *, cells: bool = True, afresh: bool = False) -> dict:
    """Return the verdicts when they, their tables and, with `cells`, their cells fit together; else ValueError names the file."""
    record = _verdicts(folder)
    for name in record["tied"]["tables"]:
        _tied(folder, record, name)
    if cells:
        sound(folder, record["tied"]["cells"], afresh=afresh)
    return record
