"""Write a study's results as a table or a notebook, or a saved delta as a PEFT adapter folder.

costate export build/quick --out numbers.csv (or .parquet, .tex, .md) writes every number of a study; --table names another table:
trainings, verdicts, dictionary, or a claim. --out questions.ipynb writes the worked questions as a notebook about that study.
--table truth --out truth.json writes what costate advise learns from a study of options.
costate export --checkpoint FILE --out FOLDER writes a delta for PEFT, which loads it onto the same backbone; its readout stays in
the checkpoint.
"""

from __future__ import annotations

import argparse
import os

from .options import add_json, drawn, folder
from .output import plain

KINDS = ("csv", "parquet", "tex", "md", "ipynb", "json")
TABLES = ("numbers", "trainings", "verdicts", "dictionary")
TRUTH = "truth"  # of a study of options: what `costate advise` learns from


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("results", nargs="?", metavar="RESULTS", help="the results folder of a study, such as build/quick")
    parser.add_argument(
        "--table", metavar="NAME", help=f"{', '.join(TABLES)}, or a claim whose tested rows are written (default: numbers)"
    )
    parser.add_argument(
        "--backbone", help="of the checkpoint: a shipped one (costate list backbones), a folder or a hub name (default: nano)"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="a file of costate train --out, in the place of RESULTS")
    parser.add_argument("--out", required=True, metavar="PATH", help="the file of results, or the folder of the delta, to write")
    parser.add_argument(
        "--inside", metavar="PREFIX", help='the base model\'s name within a larger one, such as "bert." (default: none)'
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return what was written; raises ValueError for a delta that PEFT lacks and for results that cannot be written so."""
    if (options.results is None) == (options.checkpoint is None):
        raise ValueError("export writes a results folder or --checkpoint FILE: give one of the two")
    wrong = ("--table",) if options.checkpoint else ("--backbone", "--inside")
    for flag in wrong:
        if getattr(options, flag[2:]) is not None:
            raise ValueError(f"{flag} goes with {'RESULTS' if options.checkpoint else '--checkpoint'}: leave it out")
    return _delta(options) if options.checkpoint else _results(options)


def _results(options: argparse.Namespace) -> dict:
    """Write a table of a study, or the notebook about it."""
    out = drawn(options.out, "--out", KINDS)
    from ..results import read_verdicts
    from ..store import write_atomic

    read_verdicts(options.results)  # refused before anything is written
    kind = out.suffix[1:]
    if kind == "ipynb":
        if options.table is not None:
            raise ValueError("a notebook holds the worked questions and no table: leave out --table, or give a .csv")
        from ..notebook import notebook

        own = os.path.relpath(options.results, out.parent)  # notebooks run in the folder where they lie
        content, about = notebook(own).encode(), {"questions": options.results}
    elif (kind == "json") != (options.table == TRUTH):
        raise ValueError(f"--table {TRUTH} is a .json and no other table is: give both or neither")
    elif kind == "json":
        from ..truth import Truth

        known = Truth.read(options.results)
        content, about = known.dumped().encode(), {"table": TRUTH, "options": len(known.names), "tasks": len(known.tasks)}
    else:
        frame = _table(options.results, options.table or TABLES[0])
        about = {"table": options.table or TABLES[0], "rows": len(frame), "columns": list(frame.columns)}
        content = _bytes(frame, kind)
    write_atomic(out, content)
    return {"file": str(out), **about}


def _table(results: str, name: str):
    """Return a table of a study as a frame."""
    from .. import frame
    from ..quantities import dictionary
    from ..results import read_verdicts, rows

    made = {
        "numbers": frame.measurements,
        "trainings": frame.trainings,
        "verdicts": frame.verdicts,
        "dictionary": lambda folder: dictionary(frame.measurements(folder)).reset_index(),
    }
    claims = [claim["id"] for claim in read_verdicts(results)["claims"]]
    if name not in made and name not in claims:
        raise ValueError(f"--table takes {', '.join(TABLES)} or a claim of {results} ({', '.join(claims)}), got {name!r}")
    return made[name](results) if name in made else rows(results, name)


def _bytes(frame, kind: str) -> bytes:
    """Return a frame as the content of a file; raises ValueError where Parquet needs a package that is missing."""
    if kind != "parquet":
        from ..text_tables import written

        return written(frame, kind).encode()
    import io

    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, index=False)
    except ImportError:
        raise ValueError("writing .parquet needs pyarrow, which is not installed: pip install pyarrow, or give a .csv") from None
    return buffer.getvalue()


def _delta(options: argparse.Namespace) -> dict:
    """Write a saved delta as a PEFT folder."""
    out = folder(options.out)
    from tuning import backbones, checkpoints
    from tuning.peft_format import export_peft

    backbone = backbones.load(options.backbone or "nano")
    found = checkpoints.load(options.checkpoint, backbone)
    written = export_peft(out, backbone, found.subject.delta, found.params, inside=options.inside or "")
    return {
        "folder": str(written),
        "delta": found.subject.delta.name,
        "backbone": backbone.name,
        "files": sorted(path.name for path in written.glob("adapter_*")),
    }


def text(found: dict, options: argparse.Namespace) -> str:
    """Return what was written, in words."""
    return plain(found)
