"""What the commands' flags share: those that name a task, bounds of numbers, files that can be written. No torch."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..study import DTYPES

COLUMNS = {"text": "text_a", "text_b": "text_b", "label": "label"}
CORES = os.cpu_count() or 1
PROCESSES = min(2, CORES)
MOST = {"threads": max(8, CORES), "processes": max(64, 4 * CORES), "seed": 2**32 - 1, "share": 1, "tolerance": 1}


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add --device and --dtype, with --double for the latter's float64."""
    parser.add_argument("--device", default="cpu", help="where networks run: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help=f"of the model's weights; deltas and logits are float32 at least (default: {DTYPES[0]})",
    )
    parser.add_argument("--double", dest="dtype", action="store_const", const="float64", help="the same as --dtype float64")


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Add --backbone."""
    parser.add_argument(
        "--backbone", default="nano", help="a shipped one (costate list backbones), a folder or a hub name (default: nano)"
    )


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add --task and the flags that name its columns."""
    parser.add_argument("--task", required=True, help="an embedded task's name, a file, a folder or hub:NAME")
    add_columns(parser)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add --columns, and --text, --text-b and --label for one column each."""
    parser.add_argument(
        "--columns", metavar="PART=NAME,...", help="the columns of text, text_b and label, as in text=body,label=mood"
    )
    parser.add_argument("--text", metavar="COLUMN", help="the column of the text (default: by its usual names)")
    parser.add_argument("--text-b", metavar="COLUMN", help="the column of the second text, for pairs")
    parser.add_argument("--label", metavar="COLUMN", help="the column of the label (default: by its usual names)")


def columns(options: argparse.Namespace) -> dict[str, str] | None:
    """Return the columns that --columns, --text, --text-b and --label name, by their part, or None.

    Raises ValueError for a part that is unknown, named twice or without a column.
    """
    named = {part: getattr(options, option) for option, part in COLUMNS.items() if getattr(options, option)}
    for entry in options.columns.split(",") if options.columns is not None else ():
        option, _, column = (word.strip() for word in entry.partition("="))
        part = COLUMNS.get(option, option)
        if part not in COLUMNS.values() or not column or part in named:
            said = "text, text_b and label, each once, such as text=body,label=mood"
            raise ValueError(f"--columns takes {said}, got {options.columns!r}: correct it")
        named[part] = column
    return named or None


def bounded(options: argparse.Namespace, least: Mapping[str, float], *, above: Mapping[str, float] | None = None) -> None:
    """Raise ValueError unless every number given is finite and at least its bound, or above it, and at most that of MOST."""
    for limits, strict in ((least, False), (above or {}, True)):
        for name, limit in limits.items():
            given = getattr(options, name, None)
            for value in given if isinstance(given, list) else [given]:
                if value is not None and not (math.isfinite(value) and (value > limit if strict else value >= limit)):
                    word = "above" if strict else "of at least"
                    raise ValueError(f"--{name.replace('_', '-')} must be a number {word} {limit:g}, got {value:g}: correct it")
    for name, most in MOST.items():
        if (given := getattr(options, name, None) or 0) > most:
            where = " on this machine" if name in ("threads", "processes") else ""
            raise ValueError(f"--{name} must be at most {most}{where}, got {given}: lower it")


def target(path: str | None, option: str = "--out") -> Path | None:
    """Return the path of a file to write, whose folders may yet be made; raises ValueError when it cannot be written."""
    if path is None:
        return None
    found = Path(path)
    if not path or found.is_dir() or not writable(found.parent):
        raise ValueError(f"{option} must be a file in a folder that can be written, got {path!r}: choose another path")
    return found


def folder(path: str, option: str = "--out") -> Path:
    """Return the path of a folder to write to, which may yet be made; raises ValueError when it cannot be."""
    if not path or not writable(Path(path)):
        raise ValueError(f"{option} must be a folder that can be made and written, got {path!r}: choose another path")
    return Path(path)


def writable(place: Path) -> bool:
    """Return whether the folder can be written, or made where it does not exist."""
    nearest = next(above for above in (place, *place.absolute().parents) if above.exists())
    return nearest.is_dir() and _takes_files(nearest)


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made there; asked by making one, for a superuser is told of rights that /proc does not have."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def drawn(path: str | None, option: str, kinds: Sequence[str]) -> Path | None:
    """Return the path of a file of one of the kinds in a folder that exists, or None; raises ValueError for any other."""
    if path is None:
        return None
    found = Path(path)
    if found.suffix[1:] not in kinds:
        raise ValueError(f"{option} must end in {' or '.join('.' + kind for kind in kinds)}, got {path!r}")
    if not found.parent.is_dir() or found.is_dir() or not _takes_files(found.parent):
        raise ValueError(f"{option} needs a file in an existing folder that can be written, got {path!r}")
    return found


def usable(device: str) -> str:
    """Return the device if networks can run on it; raises ValueError for one that torch does not know or does not see here."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"expected a device that torch can use, such as cpu or cuda, got {device!r}: {reason}") from None
    return device
