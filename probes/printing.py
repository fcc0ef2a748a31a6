"""Where the command line's results go: checked paths, files that appear whole, and plain text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def checked(path: str | None, option: str, kinds: Sequence[str]) -> Path | None:
    """The path of a file to write, or None; ValueError before anything is measured when it cannot be written."""
    if path is None:
        return None
    found = Path(path)
    if found.suffix[1:] not in kinds:
        raise ValueError(f"{option} must end in {' or '.join('.' + kind for kind in kinds)}, got {path!r}")
    if not found.parent.is_dir() or found.is_dir() or not os.access(found.parent, os.W_OK):
        raise ValueError(f"{option} needs a file in an existing folder that can be written, got {path!r}")
    return found


def write(path: Path, content: bytes) -> None:
    """Writes the file under a temporary name and renames it, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def show(value: Mapping, indent: str = "") -> None:
    """Prints a result: nested mappings indented, lists of rows as tables, the rest a line each."""
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            print(f"{indent}{key}:")
            show(entry, indent + "  ")
        elif isinstance(entry, list) and entry and isinstance(entry[0], Mapping):
            print(f"{indent}{key}:")
            lines = [list(entry[0]), *([_word(x) for x in row.values()] for row in entry)]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            for line in lines:
                print(indent + "  " + "  ".join(x.rjust(w) for x, w in zip(line, widths, strict=True)))
        else:
            items = entry if isinstance(entry, list) else [entry]
            print(f"{indent}{key}: {', '.join(map(_word, items))}")


def _word(x) -> str:
    if isinstance(x, Mapping):  # an estimate, an interval or an eigenvalue
        text = f"{'' if x.get('converged', True) else '~'}{x['value']:.4g}"
        low, high = x.get("interval", (x["value"],) * 2)
        if x.get("stderr"):
            return f"{text} ± {x['stderr']:.2g}"
        return text if low == high else f"[{low:.2g}, {high:.2g}]"
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def finite(value):
    """The value with infinities as words, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
