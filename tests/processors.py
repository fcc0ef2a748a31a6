"""Runs cells under other processors' arithmetic and says by how much their numbers and their tested rows differ.

python tests/processors.py [--claim ID ...]: a line for each arithmetic and kind of numbers; the same arithmetic is the first.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

ARITHMETIC: dict[str, dict[str, str]] = {
    "the same": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    | {"OPENBLAS_CORETYPE": "Haswell"},
    "SSE2": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    | {"OPENBLAS_CORETYPE": "Nehalem"},
}
STUDY = "validate --study quick --tasks agreement --seeds 1 --deltas lora,prefix --processes 1"
CLAIMS = ("linearised-optimum", "practice-gain")  # trainings to their end by L-BFGS, and by AdamW as in practice
SHARES = {"median": 0.5, "nine in ten below": 0.9, "99 of 100 below": 0.99, "largest": 1.0}
ROOMS = {"predicted": "predicted before training", "cells": "measured", "rows": "in the tested rows"}


def validated(out: pathlib.Path, claims: Sequence[str], arithmetic: Mapping[str, str]) -> pathlib.Path:
    """Run the study into a folder under some arithmetic, in a process of its own, and return the folder."""
    words = [*STUDY.split(), *(word for claim in claims for word in ("--claim", claim)), "--out", str(out)]
    code = "import sys, costate; sys.exit(costate.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=os.environ | arithmetic, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return out


def numbers(folder: pathlib.Path, room: str) -> dict[str, float]:
    """Every number of the records in a room of a results folder, by its place."""
    found = {}
    for path in sorted((folder / room).glob("*.json")):
        record = json.loads(path.read_bytes())
        found |= dict(_numbers(record["record"] if room != "rows" else record, f"{room}/{path.stem}"))
    return found


def _numbers(value: object, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(part, f"{place}.{key}")
    elif isinstance(value, float):
        yield place, value


def differences(folder: pathlib.Path, other: pathlib.Path, room: str) -> np.ndarray:
    """The relative difference of every number of a room: 0 is the same, 2 the other sign."""
    mine, theirs = numbers(folder, room), numbers(other, room)
    assert mine.keys() == theirs.keys()
    a, b = np.array(list(mine.values())), np.array([theirs[place] for place in mine])
    size = np.maximum(np.abs(a), np.abs(b))
    return np.abs(a - b) / np.where(size > 0, size, 1.0)


def main(arguments: list[str] | None = None) -> int:
    """0 where a second run of the same arithmetic gives the same numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claim", action="append", help=f"default: {', '.join(CLAIMS)}")
    claims = parser.parse_args(arguments).claim or CLAIMS
    with tempfile.TemporaryDirectory(prefix="processors-") as place:
        room, moved = pathlib.Path(place), 0.0
        own = validated(room / "own", claims, {})
        for name, arithmetic in ARITHMETIC.items():
            other = validated(room / name.replace(" ", "-"), claims, arithmetic)
            for kind, said in ROOMS.items():
                off = differences(own, other, kind)
                told = ", ".join(f"{word} {np.quantile(off, q):.0e}" for word, q in SHARES.items())
                print(f"{name:<8} {len(off):>5} numbers {said}: relative differences {told}", flush=True)
                moved = max(moved, off.max() if name == "the same" else 0.0)
    return int(moved > 0)


if __name__ == "__main__":
    sys.exit(main())
