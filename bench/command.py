"""Measure the lab's solvers and instruments beside others: ratios of CPU time, and how far the answers differ."""

from __future__ import annotations

import argparse

from validations.commands.options import add_json, bounded


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "name", nargs="?", default="control", help="control, curvature, dimension, practice, desk (default: control)"
    )
    parser.add_argument("--case", action="append", default=[], help="run this case only; may be repeated")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved repeats (default: 9)")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the rows with what they depend on; prints each as it is measured, unless as JSON."""
    bounded(options, {"rounds": 2})
    import dataclasses

    import bench

    rows = []
    for row in bench.run(options.name, options.case, rounds=options.rounds):
        if not options.json:
            print(bench.line(row) if rows else f"{bench.HEADER}\n{bench.line(row)}", flush=True)
        rows.append(dataclasses.asdict(row) | {"met": row.met})
    return {"bench": options.name} | bench.provenance() | {"rows": rows}


def text(found: dict, options: argparse.Namespace) -> None:
    """Return None: the rows were printed one by one."""
