"""Count how often verdicts are wrong on planted worlds, where the answer is known."""

from __future__ import annotations

import argparse
import pathlib

from .options import PROCESSES, add_json, bounded


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--worlds", type=int, default=500, help="worlds a row (default: 500, as shipped)")
    parser.add_argument("--processes", type=int, default=PROCESSES, help=f"worker processes (default: {PROCESSES})")
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FILE", help="the JSON file to write (default: the one that reports show)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the calibration, and write it to its file."""
    bounded(options, {"worlds": 1, "processes": 1})
    from .. import calibrate
    from ..store import write_json

    record = calibrate.calibrate(options.worlds, processes=options.processes)
    write_json(options.out or calibrate.FILE, record)
    return record


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the calibration, a line per number of tasks."""
    from ..calibrate import written

    return written(found)
