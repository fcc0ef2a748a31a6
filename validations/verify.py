"""Whether a results folder is what its study left behind: every checksum, and the rows and verdicts computed again."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from .engine import Job
from .results import VERDICTS, read_verdicts, table_name, tables, unicode
from .store import REMEDY, Store, canonical
from .study import Study

REPORT = "report.pdf"
DIGITS = 1e-9
MARK = b"verdicts "  # before the verdicts' checksum among the keywords of a PDF


def verify(folder: str | pathlib.Path) -> dict:
    """Return what was found sound: numbers of verdicts, tables and cells, and whether rows and verdicts were computed again.

    All checksums are computed anew; then, where the code that decides is the one that decided, every claim's rows and verdicts
    are made again from the cells and compared; a report.pdf in the folder must carry the verdicts' checksum. Raises ValueError
    naming the first file that does not fit.
    """
    folder = pathlib.Path(folder)
    record = read_verdicts(folder, afresh=True)
    store, keys = Store(folder), record["tied"]["cells"]
    aside = sorted({path.stem for path in (folder / "cells").glob("*.json")} - set(keys))
    for key in aside:
        try:
            store.checksum(key)
        except ValueError as error:
            raise ValueError(f"{error}; no verdict rests on it: remove it") from None
    again = _computed_again(folder, record)
    return {
        "folder": str(folder),
        "verdicts": sum(len(claim["verdicts"]) for claim in record["claims"]),
        "tables": len(record["tied"]["tables"]),
        "cells": len(keys),
        "other_cells": len(aside),
        "computed_again": again,
        "report": _report(folder / REPORT, record["seal"]),
        "seal": record["seal"],
    }


def text(found: Mapping) -> str:
    """Return what `verify` found, in words."""
    words = {"verdicts": "verdicts", "tables": "tables of rows", "cells": "cells with their predictions"}
    counts = ", ".join(f"{found[name]} {word}" for name, word in words.items())
    others = f"; {found['other_cells']} cells of no verdict are sound too" if found["other_cells"] else ""
    report = {True: f"{REPORT} carries these verdicts", None: f"there is no {REPORT}"}[found["report"]]
    return "\n".join(
        [
            f"every checksum fits: {counts}{others}",
            f"rows and verdicts: {found['computed_again']}",
            report,
            f"sha256 {found['seal']}",
        ]
    )


def _report(path: pathlib.Path, seal: str) -> bool | None:
    """Return True where the PDF carries the checksum, None where there is no PDF; raises ValueError for another's."""
    if not path.is_file():
        return None
    if MARK + seal.encode() not in path.read_bytes():
        raise ValueError(
            f"{path} was not made from these verdicts, or by an earlier version: make it again with `costate report`"
        )
    return True


def _computed_again(folder: pathlib.Path, record: Mapping) -> str:
    """Return in words whether rows and verdicts were made again from the cells; raises ValueError where they differ."""
    from .claims import CLAIMS
    from .publish import decided, judged_by

    known = {claim.id: claim for claim in CLAIMS}
    claims = [known[claim["id"]] for claim in record["claims"] if claim["id"] in known]
    if len(claims) < len(record["claims"]) or record.get("judged_by") != judged_by(claims):
        return "not computed again, since other code decided on them: run the study again to decide with this one"
    rows, judged = decided(_study(record), Store(folder), _found(folder, record), claims)
    kept = tables(folder, record)
    for which, made in rows.items():
        if not _alike(kept[table_name(*which)], _plain(made)):
            raise ValueError(f"the table {table_name(*which)} of {folder} is not what its cells give: {REMEDY}")
    for kept, made in zip(record["claims"], judged, strict=True):
        if not _alike(kept, _plain(made)):
            raise ValueError(f"the verdict on {kept['id']} in {folder / VERDICTS} is not what its cells give: {REMEDY}")
    return "computed again from the cells, the same"


def _plain(made: Any) -> Any:
    """Return a record as its file holds it."""
    return json.loads(canonical(unicode(made)))


def _study(record: Mapping) -> Study:
    """Return of the study what a verdict depends on: its unit, its looks, its deltas' labels and its tasks of development."""
    told = record["study"]
    deltas = {delta["name"]: {"label": delta["label"]} for delta in told["deltas"]}
    aside = tuple(told.get("development", ()))
    return Study(told["name"], "", "", "", (), (), (), deltas, aside, unit=told["unit"], looks=told["looks"])


def _found(folder: pathlib.Path, record: Mapping) -> list[tuple[str, Job]]:
    """Return the study's cells as (kind, job) in the order in which its rows were made, named as the study names their tasks."""
    names = {task["digest"]: task["name"] for task in record["study"]["tasks"]}
    made = []
    for key in record["tied"]["order"]:
        settings = Store(folder).settings(key)
        settings = settings | {"name": names.get(settings.get("digest"), settings.get("name"))}
        made.append((settings["kind"], Job(key, "", 1.0, settings)))
    return made


def _alike(kept: Any, made: Any) -> bool:
    """Return whether two records are the same words, and the same numbers but for another processor's last digits."""
    if isinstance(made, Mapping):
        return isinstance(kept, Mapping) and set(kept) == set(made) and all(_alike(kept[k], made[k]) for k in made)
    if isinstance(made, list | tuple):
        return isinstance(kept, list) and len(kept) == len(made) and all(map(_alike, kept, made))
    if isinstance(made, float) and isinstance(kept, int | float):
        return math.isclose(kept, made, rel_tol=DIGITS, abs_tol=DIGITS)
    return kept == made
