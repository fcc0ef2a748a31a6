"""Makes a store of 10^5 cells, a finished study with many more seeds, and times `costate list`, `show` and loading its numbers.

python tests/many_cells.py [--like build/quick] [--cells 100000] [--out FOLDER]: a line for each, with wall and CPU seconds.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from validations.results import read_verdicts, tables, write_verdicts
from validations.store import Record, Store, content_key

KEPT = 64  # numbers of an array that a copy has: what is timed reads none of them, but their bytes are checked
LIMIT = 5.0  # seconds for each reading after the first
READINGS = {
    "list": "import costate; costate.main(['list'])",
    "show": "import costate; costate.main(['show', {folder!r}])",
    "load": "import costate; print(len(costate.measurements({folder!r})), 'numbers')",
    "trainings": "import costate; print(len(costate.trainings({folder!r})), 'trainings')",
}


def write(folder: pathlib.Path, like: pathlib.Path, cells: int) -> int:
    """Write the study of the folder `like` with so many seeds that it has at least so many cells; return how many it has."""
    record, old, new = read_verdicts(like), Store(like), Store(folder)
    keys = [key for key in record["tied"]["cells"] if "seed" in old.settings(key)]
    kept = {key: {phase: old.read(phase, key) for phase in ("predicted", "cells", "provenance")} for key in keys}
    settings = {key: old.settings(key) for key in keys}
    seeds = 1 + max(one["seed"] for one in settings.values())
    rounds, made = -(-cells // len(keys)), []
    for turn, key in itertools.product(range(rounds), keys):
        own = settings[key] | {"seed": settings[key]["seed"] + turn * seeds}
        made.append(content_key(own))
        for phase, found in kept[key].items():
            values = json.loads(json.dumps(found.values)) | ({"cpu_seconds": 1.0 + turn} if phase == "provenance" else {})
            arrays = {name: array.ravel()[:KEPT] for name, array in found.arrays.items()}
            new.write(phase, made[-1], {} if phase == "provenance" else own, Record(values, arrays))
    rows = {
        (name.partition(".")[0], name.partition(".")[2] or "rows"): list(_many(table, rounds, seeds))
        for name, table in tables(like, record).items()
    }
    write_verdicts(folder, {k: v for k, v in record.items() if k not in ("tied", "seal")}, tables=rows, cells=made)
    return len(made)


def _many(table: list[dict], rounds: int, seeds: int) -> Iterator[dict]:
    for turn, row in itertools.product(range(rounds), table):
        yield row | ({"seed": row["seed"] + turn * seeds} if "seed" in row else {})


def timed(code: str) -> tuple[float, float, str]:
    """The wall and CPU seconds of a fresh interpreter that runs some code, and its last line."""
    begun, before = time.monotonic(), os.times()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8")
    wall, after = time.monotonic() - begun, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, (done.stdout.strip().splitlines() or [""])[-1]


def main(arguments: list[str] | None = None) -> int:
    """0 where each reading after the first takes at most `LIMIT` CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--like", type=pathlib.Path, default=pathlib.Path("build/quick"), help="a finished study")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--out", type=pathlib.Path, help="where the store is made and kept; used again when it is there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="many-cells-") as place:
        folder = options.out or pathlib.Path(place) / "many"
        if not (folder / "verdicts.json").is_file():
            begun = time.monotonic()
            made = write(folder, options.like, options.cells)
            print(f"a store of {made} cells made in {time.monotonic() - begun:.0f} s", flush=True)
        late = 0
        for name, code in READINGS.items():
            for turn in ("first", "again"):
                wall, cpu, last = timed(code.format(folder=str(folder)))
                late += turn == "again" and cpu > LIMIT
                print(f"{name:<10} {turn}  {wall:6.1f} s, {cpu:6.1f} CPU s  {last[:60]}", flush=True)
    return late


if __name__ == "__main__":
    sys.exit(main())
