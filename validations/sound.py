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
    whole, last = _whole(folder, cells)
    if not afresh and whole == _mark(folder)[1]:
        return
    store, now, kept = Store(folder), states(folder), "" if afresh else _kept(folder)
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


def _whole(folder: pathlib.Path, cells: Mapping[str, str]) -> tuple[str, int]:
    """Return a digest of some cells' checksums and of the state of all files of cells, and when the last of these changed."""
    told, latest = [repr(list(cells.items()))], 0
    for phase in PHASES:
        with contextlib.suppress(OSError), os.scandir(folder / phase) as entries:
            found = sorted(
                (entry.name, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
                for entry in entries
                for about in (entry.stat(),)
            )
            latest = max([latest, *(one[3] for one in found)])
            told.append(repr(found))
    return digest("\n".join(told).encode()), latest


def states(folder: pathlib.Path, phases: Sequence[str] = PHASES) -> dict[str, tuple[str, int]]:
    """Return of every cell's files in some phases size, times and number, as a text, and when the last of them changed."""
    found: dict[str, list[str]] = {}
    latest: dict[str, int] = {}
    for phase in phases:
        with contextlib.suppress(OSError), os.scandir(folder / phase) as entries:
            for entry in entries:
                key, _, suffix = entry.name.partition(".")
                about = entry.stat()
                state = f"{phase}.{suffix}:{about.st_size}:{about.st_mtime_ns}:{about.st_ctime_ns}:{about.st_ino}"
                found.setdefault(key, []).append(state)
                latest[key] = max(latest.get(key, 0), about.st_ctime_ns)
    return {key: (",".join(sorted(files)), latest[key]) for key, files in found.items()}


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
