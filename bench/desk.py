"""How long a person waits for a probe: its processor time, the time until it says a word, and its longest silence."""

from __future__ import annotations

import functools
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.timing import Amount, Row, weigh
from validations.commands.probe import SPENT

ROOT = Path(__file__).parents[1]
TASK = "voice"  # a task on which a delta gains, so that the dimension probe runs to its end
BOUNDS = {"nano": 60.0, "minilm": 180.0}  # seconds that a probe with its defaults may take
FIRST = 2.0  # seconds within which it has said what it does


@dataclass(frozen=True)
class Wait:
    """What a command took: seconds of processor and of wall time, until its first line, and without a line at most."""

    cpu: float
    wall: float
    first: float
    silence: float


def waited(words: Sequence[str]) -> Wait:
    """Run a command of costate in a process of its own, on one thread, and return what it took.

    Raises RuntimeError with the last line that it said when it fails.
    """
    before, begun, heard, said = os.times(), time.perf_counter(), [], b""
    with (
        subprocess.Popen(
            [sys.executable, "costate.py", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running,
        selectors.DefaultSelector() as streams,
    ):
        for stream in (running.stdout, running.stderr):
            streams.register(stream, selectors.EVENT_READ)
        while streams.get_map():
            for key, _ in streams.select():
                if heard_now := os.read(key.fd, 1 << 16):
                    heard.append(time.perf_counter() - begun)
                    said = heard_now
                else:
                    streams.unregister(key.fileobj)
    wall, after = time.perf_counter() - begun, os.times()
    if running.returncode:
        raise RuntimeError(f"costate {' '.join(words)} failed: {said.decode(errors='replace').strip().splitlines()[-1:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    pauses = [late - early for early, late in zip([0.0, *heard], [*heard, wall], strict=True)]
    return Wait(cpu, wall, heard[0], max(pauses))


def probes(backbone: str, *, names: Sequence[str] = tuple(SPENT), more: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of every probe of a backbone with its defaults, against what is asked of each.

    more: further flags, for smaller probes. Bounds are seconds on a quiet machine: others' work on it lengthens waits, not
    processor time.
    """
    for name in names:
        took = waited(["probe", name, "--task", TASK, "--backbone", backbone, *more])
        note = f"{took.wall:.0f} s by the clock, at most {took.silence:.0f} of them silent"
        most = Amount(f"{BOUNDS[backbone]:g} s", BOUNDS[backbone], line=1.0, note=note)
        yield from weigh(backbone, name, Amount("processor time", took.cpu), [most], "CPU s")
        yield from weigh(backbone, name, Amount("first line", took.first), [Amount(f"{FIRST:g} s", FIRST, line=1.0)], "s waited")


CASES = {backbone: functools.partial(probes, backbone) for backbone in BOUNDS}
