"""The numbers of a study as columns, kept beside its cells under the checksums of what they were read from, and read once."""

import contextlib
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .sound import paced
from .store import digest, write_atomic

NAME = ".numbers"
WORDS = ("claim", "stage", "task", "delta", "port", "quantity")  # columns of texts, kept as places in a list; -1 where absent
LINE = ("claim", "row", "stage", "task", "delta", "seed", "port", "inside", "quantity", "value")
KINDS = dict.fromkeys(LINE, "int64") | {"value": "float64"}  # while lines are read; what is kept is as narrow as it can be
ABSENT = -1  # of inside; of a seed, which may not be negative, too


@dataclass(frozen=True)
class Piece:
    """What some lines are read from: a name, a mark that changes with it (None: it is read each time), and how it is read."""

    name: str
    mark: str | None
    read: Callable[[], Iterable[tuple]]


@dataclass(frozen=True)
class Lines:
    """Lines of all pieces as columns by the names of `LINE`, the texts that their words stand for, the lines of each piece."""

    columns: dict[str, np.ndarray]
    texts: list[str]
    counts: np.ndarray


def lines(folder: pathlib.Path, state: str, pieces: Callable[[], Sequence[Piece]], code: str) -> Lines:
    """Return the lines of some pieces, in their order; those that were read before under the same mark are not read again.

    state: changes with any piece, so that under one state the pieces need not be asked for; "" where some are read each time.
    What is kept is a copy that anyone may remove: it is used where it fits its own checksum, was made by the same `code`, and
    for the pieces whose marks it has. A folder that cannot be written is read anew each time. Raises what reading raises, and
    TypeError for a line that has no place among columns.
    """
    before, told, kept = _kept(folder, code)
    if state and before == state:
        return kept
    names = [(name, mark) for name, mark in json.loads(told)]
    known = {(name, mark): number for number, (name, mark) in enumerate(names) if mark is not None}
    chosen, missing, wanted = [], [], pieces()
    for piece in wanted:
        chosen.append(known.get((piece.name, piece.mark), len(names) + len(missing)))
        if chosen[-1] >= len(names):
            missing.append(piece)
    if missing or chosen != list(range(len(names))):
        kept = _taken(_joined(kept, [list(piece.read()) for piece in paced(missing, "read for the first time")]), chosen)
    elif not state:
        return kept
    with contextlib.suppress(OSError):
        write_atomic(folder / NAME, _packed([(piece.name, piece.mark) for piece in wanted], kept, f"{code} {state}"))
    return kept


def _joined(kept: Lines, read: Sequence[Sequence[tuple]]) -> Lines:
    """Return kept lines and those of further pieces."""
    texts = list(kept.texts)
    places = {text: place for place, text in enumerate(texts)}

    def place(value: object) -> int:
        if value is None or value != value:
            return -1
        if not isinstance(value, str):
            raise TypeError(f"{value!r} stands where a text belongs")
        if value not in places:
            places[value] = len(texts)
            texts.append(value)
        return places[value]

    columns = {}
    for name, values in zip(LINE, zip(*(line for piece in read for line in piece), strict=True), strict=False):
        new = map(place, values) if name in WORDS else map(_whole, values) if name in ("seed", "inside") else values
        columns[name] = np.concatenate([kept.columns[name], np.fromiter(new, KINDS[name], len(values))])
    counts = np.array([len(piece) for piece in read], "int64")
    return Lines(columns or kept.columns, texts, np.concatenate([kept.counts, counts]))


def _whole(value: object) -> int:
    """Return a whole number, `ABSENT` for none; raises TypeError for another value."""
    if value is None or value != value:
        return ABSENT
    if isinstance(value, str) or value != int(value) or value < 0:
        raise TypeError(f"{value!r} stands where a whole number belongs")
    return int(value)


def _taken(found: Lines, chosen: Sequence[int]) -> Lines:
    """Return the lines of some of the pieces, in the order given."""
    starts, places = np.cumsum(found.counts) - found.counts, np.array(chosen, "int64")
    counts = found.counts[places]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.repeat(starts[places], counts) + within
    return Lines({name: column[order] for name, column in found.columns.items()}, found.texts, counts)


def _packed(names: Sequence[tuple[str, str | None]], found: Lines, made: str) -> bytes:
    """Return lines with their pieces' names and marks as the bytes of a file; made: by which code, under which state."""
    buffer, told = io.BytesIO(), {"names": names, "texts": found.texts}
    texts = {name: np.frombuffer(json.dumps(text).encode(), "uint8") for name, text in told.items()}
    np.savez(buffer, counts=found.counts, **texts, **{name: _narrow(column) for name, column in found.columns.items()})
    data = buffer.getvalue()
    return f"{_seal(made, data)} {made}\n".encode() + data


def _narrow(column: np.ndarray) -> np.ndarray:
    """Return whole numbers in the fewest bytes that hold all of them and their negatives."""
    if column.dtype.kind == "f" or not len(column):
        return column
    return column.astype(np.min_scalar_type(-1 - int(np.abs(column).max())))


def _seal(made: str, data: bytes) -> str:
    return digest(f"{made} {digest(data)}".encode())


def _kept(folder: pathlib.Path, code: str) -> tuple[str, bytes, Lines]:
    """Return what is kept: its state, names and marks of pieces as JSON, lines; none where it is missing, old or damaged."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        with (folder / NAME).open("rb") as file:
            seal, _, made = file.readline(1000).decode().rstrip("\n").partition(" ")
            data = file.read()
        by, _, state = made.partition(" ")
        if by == code and seal == _seal(made, data):
            read = np.load(io.BytesIO(data), allow_pickle=False)
            columns = {name: read[name] for name in LINE}
            return state, bytes(read["names"]), Lines(columns, json.loads(bytes(read["texts"])), read["counts"])
    empty = {name: np.empty(0, kind) for name, kind in KINDS.items()}
    return "", b"[]", Lines(empty, [], np.empty(0, "int64"))
