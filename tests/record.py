"""python tests/record.py [claim ...]: run claims on their known plants and write what came out into tests/known_answers.

Tests of the report build their results from these tables under the claims' own words. Every claim's are marked with the code and
the libraries that made them: while these stand, `test_known_answers_are_current` need not run its plants again. All claims take
about twelve minutes of two cores.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info

from validations.claims import CLAIMS, named
from validations.describe import provenance
from validations.judge import checked
from validations.plan import plant_experiments
from validations.sources import digest
from validations.store import write_atomic

FOLDER = pathlib.Path(__file__).with_name("known_answers")
DIGITS = 6
LIBRARIES = ("torch", "numpy", "scipy", "cvxpy", "transformers")
ARITHMETIC = "COSTATE_ARITHMETIC"  # the environment, by which `make test-shifts` says that it asks for another processor's


def answers(claims: Sequence[str], which: str) -> Iterator[tuple[str, dict, dict]]:
    """Yield (claim, tables by part, evidence by assumption) of claims run on their good or bad plants.

    The bad plants' tables are the tested rows alone: figures are drawn from the good ones.
    """
    for _, known, ids in plant_experiments():
        wanted = [named(claim) for claim in ids if claim in claims and known == which]
        cells = getattr(wanted[0], which)() if wanted else []
        for claim in wanted:
            parts = {"rows": claim.rows} | dict(claim.parts if which == "good" else {})
            tables = {part: _table([row for cell in cells for row in make(cell)]) for part, make in parts.items()}
            yield claim.id, tables, {a["name"]: a["evidence"] for a in checked(claim, cells)}


def _table(rows: Sequence[Mapping[str, Any]]) -> dict:
    """Return rows of the same columns as one record, numbers to six significant digits."""
    columns = list(rows[0])
    assert all(list(row) == columns for row in rows), f"expected rows of the same columns, got {columns} and others"
    return {"columns": columns, "rows": [[_short(value) for value in row.values()] for row in rows]}


def _short(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, list):
        return [_short(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def made_by(claim: str) -> str:
    """Return the mark of what a claim's answers depend on: its sources, the versions of libraries, a forced arithmetic."""
    versions = [importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES]
    forced = [os.environ[ARITHMETIC]] if ARITHMETIC in os.environ else []
    return " ".join([digest([named(claim).experiment.module, named(claim).module, "validations.judge"]), *versions, *forced])


def arithmetic() -> str:
    """Return what else digits depend on: the instructions that torch and the BLAS libraries take here."""
    blas = {one["architecture"] for one in threadpool_info() if "architecture" in one}
    return " ".join([torch.backends.cpu.get_cpu_capability(), *sorted(blas), provenance()["processor"]])


def difference(tables: Mapping[str, dict], known: Mapping[str, dict]) -> str:
    """Return where some tables differ from ones recorded under the same arithmetic; nothing where they are the same.

    Under another arithmetic sets of equal worth change places, and only verdicts can be compared.
    """
    for part, table in tables.items():
        if part not in known or table["columns"] != known[part]["columns"]:
            return f"the columns of {part}"
        if len(table["rows"]) != len(known[part]["rows"]):
            return f"the number of rows of {part}"
        for row, kept in zip(table["rows"], known[part]["rows"], strict=True):
            if not all(map(close, row, kept)):
                return f"{part}: {row} where {kept} was recorded"
    return ""


def close(one: Any, other: Any) -> bool:
    """Whether two recorded values are the same word, or the same number to one part in a thousand."""
    if isinstance(one, float) and isinstance(other, int | float):
        return one == other or abs(one - other) <= max(1e-3 * abs(other), 1e-6) or (one != one and other != other)
    return one == other


def read(claim: str) -> dict:
    """Return a claim's record: "made", a mark; "arithmetic"; "good", "bad": tables by part; "evidence": words by assumption."""
    return json.loads((FOLDER / f"{claim}.json").read_text(encoding="utf-8"))


def rows(claim: str, which: str = "good", part: str = "rows") -> list[dict]:
    """Return one of a claim's recorded tables as rows."""
    return as_rows(read(claim)[which][part])


def as_rows(table: Mapping) -> list[dict]:
    """Return a table as rows."""
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def _group(group: tuple[str, tuple[str, ...]]) -> list[tuple[str, str, dict, dict]]:
    return [(group[0], *answer) for answer in answers(group[1], group[0])]


def main(claims: Sequence[str]) -> None:
    """Record the claims named, all without a name."""
    chosen = [named(claim).id for claim in claims] or [claim.id for claim in CLAIMS]
    groups = [(which, tuple(id for id in ids if id in chosen)) for _, which, ids in plant_experiments()]
    found: dict[str, dict] = {claim: {} for claim in chosen}
    with ProcessPoolExecutor(2) as pool:
        for answered in pool.map(_group, [group for group in groups if group[1]]):
            for which, claim, tables, evidence in answered:
                found[claim] |= {which: tables} | ({"evidence": evidence} if which == "good" else {})
                if {"good", "bad"} <= set(found[claim]):
                    _write(claim, found[claim])


def _write(claim: str, found: Mapping) -> None:
    """Write a claim's answers."""
    path = FOLDER / f"{claim}.json"
    known = {"made": made_by(claim), "arithmetic": arithmetic()} | {key: found[key] for key in ("evidence", "good", "bad")}
    text = json.dumps(known, separators=(",", ":"), ensure_ascii=False).replace("],[", "],\n[")
    write_atomic(path, f"{text}\n".encode())
    print(path, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
