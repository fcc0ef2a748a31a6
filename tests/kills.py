"""Kills a study of 42 cells by SIGKILL at random moments, lets it go on, and compares its results with those of an unharmed one.

python tests/kills.py [--kills 100] [--seed 0]: prints a line for each kill, and fails when a file is torn or a byte differs.
"""

import argparse
import hashlib
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import costate
import validations.run
from validations.store import PHASES, WRITING, Store

HERE = pathlib.Path(__file__).parent
LOADED = validations.run  # before the forks
STUDY = HERE / "cheap.toml"
ROOMS = ("cells", "predicted", "rows")


def started(out: pathlib.Path, processes: int) -> int:
    """The process that runs the study into a folder: a fork of this one, where what takes seconds to load is there."""
    words = ["validate", "--study", str(STUDY), "--out", str(out), "--processes", str(processes)]
    if process := os.fork():
        return process
    for stream in (1, 2):
        os.dup2(os.open(out.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os._exit(costate.main(words))


def ended(process: int, after: float) -> int | None:
    """The exit code of a process when it ends within so many seconds, else None."""
    until = time.monotonic() + after
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def digests(folder: pathlib.Path) -> dict[str, str]:
    """The sha256 of every result, by its place."""
    files = [path for room in ROOMS for path in sorted((folder / room).glob("*.*"))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_whole(folder: pathlib.Path) -> int:
    """The number of files that are there, each whole: its checksum fits, or ValueError names it."""
    store, count = Store(folder), 0
    for phase in PHASES:
        for path in (folder / phase).glob("*.json"):
            store.read(phase, path.stem)
            count += 1
    return count


def killed(out: pathlib.Path, after: float, processes: int) -> bool:
    """Run the study and kill it so many seconds later; whether it was still running."""
    run = started(out, processes)
    if (code := ended(run, after)) is None:
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
    elif code:
        raise SystemExit(
            f"the study ended with code {code} instead of going on: {(out.parent / 'said').read_text(encoding='utf-8')}"
        )
    return code is None


def main(arguments: list[str] | None = None) -> int:
    """The number of differences, over all studies that were killed and went on; 0 is what should come out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, help="seconds in which a kill comes (default: what the study takes unharmed)")
    options = parser.parse_args(arguments)
    draw, kills, half, finished, wrong = random.Random(options.seed), 0, 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        room = pathlib.Path(place)
        begun = time.monotonic()
        killed(room / "peace", 3600.0, 1)
        whole, known = time.monotonic() - begun, digests(room / "peace")
        print(f"left in peace: {len(known)} files in {whole:.0f} s", flush=True)
        out = room / "killed 0"
        while kills < options.kills:
            if killed(out, draw.uniform(0.0, options.within or whole), processes=1 + (kills % 10 == 9)):
                kills += 1
                there, writing = check_whole(out), len(list(out.glob(f"*/{WRITING}*")))
                half += writing > 0
                print(f"kill {kills}: {there} records, all whole, {writing} files left in writing", flush=True)
            else:
                finished += 1
                wrong += digests(out) != known
                out = room / f"killed {finished}"
        killed(out, 3600.0, 1)
        wrong += digests(out) != known or bool(list(out.rglob(f"{WRITING}*")))
    print(f"{kills} kills, {half} of them during a write; {finished + 1} studies went on to their end, {wrong} of them differ")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
