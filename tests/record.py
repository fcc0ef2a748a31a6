"""python tests/record.py [claim ...]: run claims on their known plants and write what came out into tests/known_answers.

Tests of the report build their results from these tables under the claims' own words; `test_known_answers_are_current` says when
to record anew. All claims take about ten minutes of one core.
"""

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from validations.claims import CLAIMS, named
from validations.judge import checked
from validations.plan import plant_experiments
from validations.store import write_atomic

FOLDER = pathlib.Path(__file__).with_name("known_answers")
DIGITS = 6


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


def read(claim: str) -> dict:
    """Return what a claim's plants came to: "good" and "bad" -> tables by part, "evidence" -> words by assumption."""
    return json.loads((FOLDER / f"{claim}.json").read_text(encoding="utf-8"))


def rows(claim: str, which: str = "good", part: str = "rows") -> list[dict]:
    """Return one of a claim's recorded tables as rows."""
    table = read(claim)[which][part]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def main(claims: Sequence[str]) -> None:
    """Record the claims named, all without a name."""
    chosen = [named(claim).id for claim in claims] or [claim.id for claim in CLAIMS]
    bad = {claim: tables for claim, tables, _ in answers(chosen, "bad")}
    for claim, good, evidence in answers(chosen, "good"):
        known = {"evidence": evidence, "good": good, "bad": bad[claim]}
        text = json.dumps(known, separators=(",", ":"), ensure_ascii=False).replace("],[", "],\n[")
        write_atomic(FOLDER / f"{claim}.json", f"{text}\n".encode())
        print(FOLDER / f"{claim}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
