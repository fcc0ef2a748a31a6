"""Kills a study of 42 cells by SIGKILL at random moments, lets it go on, and compares its results with those of an unharmed one.

python tests/kills.py [--kills 100] [--seed 0] [--out FOLDER]: prints a line for each kill and how the kills were spread over the
study's progress, and fails when a file is torn or a byte differs. What was done in FOLDER is kept there and counts when it is
named again, under the same code. A kill waits for a random number of further files, and then for a random part of the time that
a file takes, so that kills fall anywhere in the study however busy the machine is.
"""

import argparse
import hashlib
import json
import math
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import costate
import validations.run
from validations.store import PHASES, WRITING, Store, read_json

HERE = pathlib.Path(__file__).parent
LOADED = validations.run  # before the forks
STUDY = HERE / "cheap.toml"
ROOMS = ("cells", "predicted", "rows")
SHARE = 0.25  # of all files: a kill waits for at most so many more, so that a study is killed about eight times
TENTHS = 10  # of the progress, for which kills are counted


def started(out: pathlib.Path, processes: int) -> int:
    """The process that runs the study into a folder: a fork of this one, where what takes seconds to load is there."""
    words = ["validate", "--study", str(STUDY), "--out", str(out), "--processes", str(processes)]
    if process := os.fork():
        return process
    for stream in (1, 2):
        os.dup2(os.open(out.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os._exit(costate.main(words))


def written(folder: pathlib.Path) -> list[pathlib.Path]:
    """The results that are there."""
    return [path for room in ROOMS for path in sorted((folder / room).glob("*.*")) if not path.name.startswith(WRITING)]


def digests(folder: pathlib.Path) -> dict[str, str]:
    """The sha256 of every result, by its place."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in written(folder)}


def check_whole(folder: pathlib.Path) -> int:
    """The number of records that are there, each whole: its checksum fits, or ValueError names it."""
    store, count = Store(folder), 0
    for phase in PHASES:
        for path in (folder / phase).glob("*.json"):
            store.read(phase, path.stem)
            count += 1
    return count


def ran(out: pathlib.Path, processes: int = 1, *, files: float = math.inf, first: float = 0.0, each: float = 0.0) -> bool:
    """Run the study, and kill it when `files` more are there, a whole number and a part; whether it was still running then.

    The part is one of `each`, the seconds that a file takes, and before any file one of `first`, those until the first one.
    """
    there, due = len(written(out)), math.inf
    run, begun = started(out, processes), time.monotonic()
    while time.monotonic() < due:
        found, status = os.waitpid(run, os.WNOHANG)
        if found and (code := os.waitstatus_to_exitcode(status)):
            said = (out.parent / "said").read_text(encoding="utf-8")
            raise SystemExit(f"the study ended with code {code} instead of going on: {said}")
        if found:
            return False
        if due == math.inf and files < math.inf and len(written(out)) >= there + int(files):
            due = (begun if files < 1 else time.monotonic()) + files % 1 * (first if files < 1 else each)
        time.sleep(0.002)
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    return True


def peace(room: pathlib.Path) -> dict:
    """Run the study unharmed, once for a room, and return how long it took until its first file and for each."""
    if not (room / "peace.json").is_file():
        out = room / "peace"
        shutil.rmtree(out, ignore_errors=True)
        begun = time.time()
        ran(out)
        whole = time.time() - begun
        first = min(path.stat().st_mtime for path in written(out)) - begun
        told = {"seconds": whole, "first": first, "each": (whole - first) / len(written(out))}
        (room / "peace.json").write_text(json.dumps(told), encoding="utf-8")
    return read_json(room / "peace.json")


class Journal:
    """What was done in a room, a line for each kill and for each study that came to its end."""

    def __init__(self, room: pathlib.Path):
        self.path = room / "journal.jsonl"
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        self.lines = [json.loads(line) for line in text.splitlines()]

    def note(self, **line) -> None:
        """Keep one more line."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, name: str) -> list:
        """What the lines that have a name say under it."""
        return [line[name] for line in self.lines if name in line]


def summary(journal: Journal) -> str:
    """How many kills there were, at which progress, and how many studies differ."""
    places, ends = journal.of("progress"), journal.of("differs")
    tenths = [sum(min(int(place * TENTHS), TENTHS - 1) == tenth for place in places) for tenth in range(TENTHS)]
    return (
        f"{len(places)} kills, {sum(map(bool, journal.of('writing')))} of them during a write, by tenths of the study's "
        f"progress: {' '.join(map(str, tenths))}; {len(ends)} studies went on to their end, {sum(ends)} of them differ"
    )


def main(arguments: list[str] | None = None) -> int:
    """The number of differences, over all studies that were killed and went on; 0 is what should come out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="where studies and what was counted are kept, to go on from there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        room = options.out or pathlib.Path(place)
        room.mkdir(parents=True, exist_ok=True)
        took, known, journal = peace(room), digests(room / "peace"), Journal(room)
        print(f"left in peace: {len(known)} files in {took['seconds']:.0f} s", flush=True)
        while (kills := len(journal.of("progress"))) < options.kills or "progress" in journal.lines[-1]:
            out, draw = room / f"killed {len(journal.of('differs'))}", random.Random(f"{options.seed} {len(journal.lines)}")
            files = draw.uniform(0.0, SHARE * len(known)) if kills < options.kills else math.inf
            if ran(out, 1 + (kills % 10 == 9), files=files, first=took["first"], each=took["each"]):
                there, writing = check_whole(out), len(list(out.glob(f"*/{WRITING}*")))
                journal.note(progress=len(written(out)) / len(known), writing=writing)
                print(f"kill {kills + 1}: {there} records, all whole, {writing} files left in writing", flush=True)
            else:
                journal.note(differs=digests(out) != known or bool(list(out.rglob(f"{WRITING}*"))))
    print(summary(journal))
    return sum(journal.of("differs"))


if __name__ == "__main__":
    sys.exit(main())
