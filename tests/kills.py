"""Kills a study of 42 cells by SIGKILL at random moments, lets it go on, and compares its results with those of one left in peace.

python tests/kills.py [--kills 100] [--seed 0]: prints a line for each kill, and fails when a file is torn or a byte differs.
"""

import argparse
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from validations.store import PHASES, WRITING, Store

HERE = pathlib.Path(__file__).parent
STUDY = HERE / "cheap.toml"
ROOMS = ("cells", "predicted", "rows")


def command(out: pathlib.Path, processes: int) -> list[str]:
    """The command that runs the study into a folder."""
    return [sys.executable, "-m", "costate", "validate", "--study", str(STUDY), "--out", str(out), "--processes", str(processes)]


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
    run = subprocess.Popen(command(out, processes), cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        code = run.wait(after)
        if code:
            raise SystemExit(f"the study ended with code {code} instead of going on")
        return False
    except subprocess.TimeoutExpired:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        return True


def main(arguments: list[str] | None = None) -> int:
    """The number of differences, over all studies that were killed and went on; 0 is what should come out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw, kills, half, finished, wrong = random.Random(options.seed), 0, 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        room = pathlib.Path(place)
        begun = time.monotonic()
        subprocess.run(command(room / "peace", 1), cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
        whole, known = time.monotonic() - begun, digests(room / "peace")
        print(f"left in peace: {len(known)} files in {whole:.0f} s", flush=True)
        out = room / "killed 0"
        while kills < options.kills:
            if killed(out, draw.uniform(0.0, 0.6 * whole), processes=1 + (kills % 4 == 0)):
                kills += 1
                there, writing = check_whole(out), len(list(out.rglob(f"{WRITING}*")))
                half += writing > 0
                print(f"kill {kills}: {there} records, all whole, {writing} files left in writing", flush=True)
            else:
                finished += 1
                wrong += digests(out) != known
                out = room / f"killed {finished}"
        subprocess.run(command(out, 1), cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
        wrong += digests(out) != known or bool(list(out.rglob(f"{WRITING}*")))
    print(f"{kills} kills, {half} of them during a write; {finished + 1} studies went on to their end, {wrong} of them differ")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
