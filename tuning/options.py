"""What the commands of the lab share: the options that name a task, bounds of numbers, files that can be written."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tuning import tasks

if TYPE_CHECKING:
    from tuning.subjects import Readout

COLUMNS = {"text": "text_a", "text_b": "text_b", "label": "label"}


def add_task(verb: argparse.ArgumentParser) -> None:
    """Add --task and the options that name its columns."""
    verb.add_argument("--task", required=True, help="an embedded task's name, a file, a folder or hub:NAME")
    add_columns(verb)


def add_columns(verb: argparse.ArgumentParser) -> None:
    """Add --text, --text-b and --label."""
    verb.add_argument("--text", metavar="COLUMN", help="the column of the text (default: by its usual names)")
    verb.add_argument("--text-b", metavar="COLUMN", help="the column of the second text, for pairs")
    verb.add_argument("--label", metavar="COLUMN", help="the column of the label (default: by its usual names)")


def columns(options: argparse.Namespace) -> dict[str, str] | None:
    """Return the columns that --text, --text-b and --label name, by their part, or None."""
    named = {part: getattr(options, option) for option, part in COLUMNS.items() if getattr(options, option)}
    return named or None


def load_task(options: argparse.Namespace) -> tasks.Task:
    """Return the task that the options name; warns once, on standard error, of held-out texts that stand in train."""
    task = tasks.load(options.task, columns=columns(options))
    warn(task)
    return task


def warn(task: tasks.Task) -> None:
    """Print the warning of `tasks.leak_warning` on standard error, if there is one."""
    if told := tasks.leak_warning(task):
        print(f"warning: {told}", file=sys.stderr, flush=True)


def bounded(options: argparse.Namespace, least: Mapping[str, float], *, above: Mapping[str, float] | None = None) -> None:
    """Raise ValueError unless every number given is finite and at least its bound, or above it."""
    for limits, strict in ((least, False), (above or {}, True)):
        for name, limit in limits.items():
            value = getattr(options, name, None)
            if value is not None and not (math.isfinite(value) and (value > limit if strict else value >= limit)):
                word = "above" if strict else "of at least"
                raise ValueError(f"--{name.replace('_', '-')} must be a number {word} {limit:g}, got {value:g}: correct it")


def target(path: str | None, option: str = "--out") -> Path | None:
    """Return the path of a file to write, whose folders may yet be made; raises ValueError when it cannot be written."""
    if path is None:
        return None
    found = Path(path)
    if not path or found.is_dir() or not writable(found.parent):
        raise ValueError(f"{option} must be a file in a folder that can be written, got {path!r}: choose another path")
    return found


def writable(folder: Path) -> bool:
    """Return whether the folder can be written, or made where it does not exist."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def same_classes(task: tasks.Task, readout: Readout, file: str) -> None:
    """Raise ValueError unless the task has as many classes as the head of a checkpoint."""
    if len(task.classes) != readout.classes:
        raise ValueError(
            f"expected a task with {readout.classes} classes for {file}, {task.name} has {len(task.classes)}: "
            "give the task that it was trained on"
        )


def parted(task: tasks.Task, examples: int | None, readout: int, seed: int, *, most: int | None = None) -> tasks.Parts:
    """Return the texts to train or measure on, and others for the frozen head (`tasks.disjoint`).

    Without ``examples`` they are what the head leaves, at most ``most``.
    """
    if examples is None:
        parts = tasks.disjoint(task, {"readout": readout}, seed)
        if most is None or len(parts.train) <= most:
            return parts
        examples = most
    return tasks.disjoint(task, {"train": examples, "readout": readout}, seed)
