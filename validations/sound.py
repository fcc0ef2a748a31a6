"""Which cells were found sound and the state of their files then, as git's index has it: none is read again until one changes."""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from .store import Store, digest, write_atomic

NAME = ".sound"
FRESH = 2_000_000_000  # nanoseconds: a file may change again within one tick of the disk's clock, so younger ones are read again
PHASES = ("predicted", "cells")
SILENCE = 5.0  # seconds until a reading of many files says how far it is

Item = TypeVar("Item")


def paced(items: Sequence[Item], doing: str) -> Iterator[Item]:
    """Yield some items, and say on stderr every `SILENCE` seconds how many are done."""
    said = time.monotonic()
    for done, item in enumerate(items):
        if (now := time.monotonic()) - said > SILENCE:
            said = now
            print(f"{doing}: {done:,} of {len(items):,} done", file=sys.stderr, flush=True)
        yield item


def sound(folder: str | pathlib.Path, cells: Mapping[str, str], *, afresh: bool = False) -> None:
    """Raise ValueError naming the first cell whose checksum is not the one given, or whose files are damaged.

    A cell is taken for sound unread where size, number and both times of its files are those of an earlier check, of which the
    time of change cannot be set by hand; `afresh` reads every cell.
    """
    folder = pathlib.Path(folder)
    state, last = stamp(folder, PHASES)
    whole = digest(f"{state} {list(cells.items())}".encode())
    if not afresh and whole == _mark(folder)[1]:
        return
    store, now, kept = Store(folder), states(folder, PHASES), "" if afresh else _kept(folder)
    known, made, until = set(kept.split("\n")), [], time.time_ns() - FRESH
    for key, checksum in paced(list(cells.items()), "checking cells"):
        state, changed = now.get(key, ("", until))
        line = f"{key} {checksum} {state}"
        if line not in known and store.checksum(key) != checksum:
            raise ValueError(f"{store.path('cells', key, '.json')} is not the cell that the verdicts were made with")
        if changed < until:
            made.append(line)
    text = "\n".join(made)
    if made and (text != kept or last < until):
        with contextlib.suppress(OSError):  # a folder that cannot be written is read anew each time
            write_atomic(folder / NAME, f"{digest(text.encode())} {whole if last < until else '-'}\n{text}".encode())


def stamp(folder: pathlib.Path, phases: Sequence[str]) -> tuple[str, int]:
    """Return a digest of the state of all files in some phases, and when the last of them changed."""
    told, latest = [], 0
    for phase in phases:
        files, changed = _files(folder / phase)
        told.append("\n".join(sorted(files)))
        latest = max([latest, *changed])
    return digest("\0".join(told).encode()), latest


def states(folder: pathlib.Path, phases: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return the state of every cell's files in some phases, as a text, and when the last of them changed."""
    found: dict[str, list[str]] = {}
    latest: dict[str, int] = {}
    for phase in phases:
        for file, changed in zip(*_files(folder / phase), strict=True):
            key = file.partition(".")[0]
            found.setdefault(key, []).append(f"{phase}.{file}")
            latest[key] = max(latest.get(key, 0), changed)
    return {key: (",".join(sorted(files)), latest[key]) for key, files in found.items()}


def _files(room: pathlib.Path) -> tuple[list[str], list[int]]:
    """Return of every file in a folder its name, size, times and number, as a text, and when it changed: one that goes, now."""
    found, changed = [], []
    try:
        entries = os.scandir(room)
    except OSError:
        return found, changed
    with entries:
        for entry in entries:
            try:
                about = entry.stat()
                state, at = f"{about.st_size}:{about.st_mtime_ns}:{about.st_ctime_ns}:{about.st_ino}", about.st_ctime_ns
            except OSError:
                state, at = "gone", time.time_ns()
            found.append(f"{entry.name}:{state}")
            changed.append(at)
    return found, changed


def _mark(folder: pathlib.Path) -> tuple[str, str]:
    """Return the digest of what an earlier check left and that of the whole store then; empty where it is missing or damaged."""
    try:
        with (folder / NAME).open("rb") as file:
            text, _, whole = file.readline(200).decode().rstrip("\n").partition(" ")
            return text, whole
    except (OSError, ValueError):
        return "", ""


def _kept(folder: pathlib.Path) -> str:
    """Return what an earlier check left of every cell, nothing where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        text = (folder / NAME).read_bytes().partition(b"\n")[2]
        return text.decode() if digest(text) == _mark(folder)[0] else ""
    return ""
