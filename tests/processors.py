"""Runs cells of the quick study under other processors' arithmetic and says by how much their numbers differ.

python tests/processors.py [--claim ID ...] [--tasks A,B] [--deltas A,B]: a line for each arithmetic, and whether a second run of
the same arithmetic gives the same numbers. With --record the report's sentence about other processors says what came out.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

RECORD = pathlib.Path(__file__).parents[1] / "reports" / "processors.json"
ARITHMETIC: dict[str, dict[str, str]] = {
    "own": {},
    "own again": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    | {"OPENBLAS_CORETYPE": "Haswell"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    | {"OPENBLAS_CORETYPE": "Nehalem"},
}
PHASES = {"predicted": "predicted before training", "cells": "measured after it"}
SHARES = {"median": 0.5, "nine in ten at most": 0.9, "largest": 1.0}


def run_cells(options: argparse.Namespace, folder: pathlib.Path) -> None:
    """Run the cells of the chosen part of the study into a folder, without those on plants."""
    from validations import plan
    from validations.asked import asked
    from validations.engine import one_thread
    from validations.run import execute

    rest = dict.fromkeys(("examples", "length", "backbone", "dtype"))
    study, claims, _ = asked("quick", claims=options.claim, tasks=options.tasks, deltas=options.deltas, seeds=1, **rest)
    cache = folder.parent / "tasks"
    with one_thread():
        for kind, job in plan.jobs(study, claims, cache):
            if kind != plan.PLANTS:
                execute(job, folder=str(folder), cache=str(cache), device="cpu")


def numbers(folder: pathlib.Path, phase: str) -> dict[str, float]:
    """Every number of a phase's records, by its place."""
    paths = sorted((folder / phase).glob("*.json"))
    return {at: x for path in paths for at, x in _numbers(json.loads(path.read_bytes())["record"], path.stem)}


def _numbers(value: object, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(part, f"{place}.{key}")
    elif isinstance(value, float):
        yield place, value


def differences(folder: pathlib.Path, other: pathlib.Path, phase: str) -> dict[str, float]:
    """The difference of every number of a phase, relative to the larger of the two: 0 is the same, 2 the other sign."""
    mine, theirs = numbers(folder, phase), numbers(other, phase)
    assert mine.keys() == theirs.keys()
    return {at: abs(x - theirs[at]) / (max(abs(x), abs(theirs[at])) or 1.0) for at, x in mine.items()}


def main(arguments: list[str] | None = None) -> int:
    """0 where a second run of the same arithmetic gives the same numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claim", action="append", help="default: linearised-optimum, whose cells train one delta to its end")
    parser.add_argument("--tasks", default="agreement")
    parser.add_argument("--deltas", default="lora,prefix")
    parser.add_argument("--record", action="store_true", help="write the differences to reports/processors.json")
    parser.add_argument("--into", type=pathlib.Path, help="only run the cells here, under the arithmetic of this process")
    options = parser.parse_args(arguments)
    options.claim = options.claim or ["linearised-optimum"]
    if options.into:
        run_cells(options, options.into)
        return 0
    words = [word for claim in options.claim for word in ("--claim", claim)] + [
        "--tasks",
        options.tasks,
        "--deltas",
        options.deltas,
    ]
    with tempfile.TemporaryDirectory(prefix="processors-") as place:
        room, begun = pathlib.Path(place), []
        for name, arithmetic in ARITHMETIC.items():
            command = [sys.executable, __file__, *words, "--into", str(room / name / "cells of it")]
            begun.append(subprocess.Popen(command, env=os.environ | arithmetic))
        if any([process.wait() for process in begun]):
            return 1
        found, other = {}, {phase: [] for phase in PHASES}
        for name in list(ARITHMETIC)[1:]:
            for phase, said in PHASES.items():
                off = differences(room / "own" / "cells of it", room / name / "cells of it", phase)
                found[name, phase] = max(off.values())
                other[phase] += [] if name == "own again" else off.values()
                told = ", ".join(f"{word} {np.quantile(list(off.values()), q):.1e}" for word, q in SHARES.items())
                print(f"{name:<10} {len(off):>4} numbers {said}: {told} ({max(off, key=off.get)})", flush=True)
        if options.record:
            told = {word: float(np.quantile(sum(other.values(), []), q)) for word, q in (("half", 0.5), ("nine_in_ten", 0.9))}
            told |= {f"largest_{phase}": max(off) for phase, off in other.items()}
            RECORD.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return int(any(found["own again", phase] > 0 for phase in PHASES))


if __name__ == "__main__":
    sys.exit(main())
