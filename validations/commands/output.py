"""What the commands print: progress, records as plain text, and records that JSON can hold."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Unfinished(Exception):
    """What a command had found when a later step failed or was stopped; the reason is its cause."""

    def __init__(self, found: dict):
        super().__init__("a later step failed")
        self.found = found


def say(line: str, options: argparse.Namespace) -> None:
    """Print a line of progress: on standard output, or on standard error where that is for JSON."""
    print(line, file=sys.stderr if options.json else sys.stdout, flush=True)


def aside(line: str) -> None:
    """Print a line of progress on standard error, whatever the result is printed as."""
    print(line, file=sys.stderr, flush=True)


def plain(record: Mapping) -> str:
    """Return a record as text: nested mappings indented, lists of rows as tables, the rest a line each."""
    return "\n".join(_lines(record, ""))


def scores(record: Mapping) -> str:
    """Return a record as text with each of its two scores, `frozen` and `tuned`, on a line."""
    in_words = {at: ", ".join(f"{key} {value}" for key, value in record[at].items()) for at in ("frozen", "tuned")}
    return plain({**record, **in_words})


def _lines(record: Mapping, indent: str) -> Iterator[str]:
    for key, entry in record.items():
        if isinstance(entry, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(entry, indent + "  ")
        elif isinstance(entry, list) and entry and isinstance(entry[0], Mapping):
            yield f"{indent}{key}:"
            lines = [list(entry[0]), *([_word(x) for x in row.values()] for row in entry)]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            for line in lines:
                yield indent + "  " + "  ".join(x.rjust(w) for x, w in zip(line, widths, strict=True))
        else:
            items = entry if isinstance(entry, list) else [entry]
            yield f"{indent}{key}: {', '.join(map(_word, items))}"


def _word(x: object) -> str:
    if x is None:  # not measured
        return "-"
    if isinstance(x, Mapping):  # an estimate, an interval or an eigenvalue
        text = f"{'' if x.get('converged', True) else '~'}{x['value']:.4g}"
        low, high = x.get("interval", (x["value"],) * 2)
        if x.get("stderr"):
            return f"{text} ± {x['stderr']:.2g}"
        return text if low == high else f"[{low:.2g}, {high:.2g}]"
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def finite(value: object) -> object:
    """Return the value with infinities as words, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def keeping(found: dict, out: Path | None = None) -> Iterator[None]:
    """Raise `Unfinished` with what `found` holds by then when something inside fails or is stopped; `out` is written too."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError, OSError, KeyboardInterrupt) as error:
        found["unfinished"] = " ".join(str(error).split()) or type(error).__name__
        if out:
            write_record(out, found)
        raise Unfinished(found) from error


def write_record(path: Path, record: Mapping) -> None:
    """Write a record to a JSON file, which appears whole."""
    from ..store import write_atomic

    write_atomic(path, (json.dumps(finite(record), sort_keys=True, indent=1) + "\n").encode())
