"""Different tasks have different names, however alike their folders are called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tuning.tasks import files


def distinct_names(specs: Sequence[str], embedded: Sequence[str]) -> dict[str, str]:
    """Return a name for each task that `load` takes, by what it was asked as: the shortest that no other task has.

    A folder is called by its last name, a file without its ending, a hub data set without its owner; where two would
    be called alike, endings and then folders above are added until they differ. Raises ValueError for a task named twice.
    """
    ladders = {spec: [spec] if spec in embedded else _ladder(spec) for spec in specs}
    if len(ladders) < len(specs):
        twice = next(spec for spec in specs if list(specs).count(spec) > 1)
        raise ValueError(f"the task {twice!r} is named twice: name it once, rows of one task are no two tasks")
    step = dict.fromkeys(ladders, 0)
    while True:
        named = {spec: ladder[step[spec]] for spec, ladder in ladders.items()}
        alike = [spec for spec in ladders if list(named.values()).count(named[spec]) > 1]
        longer = [spec for spec in alike if step[spec] + 1 < len(ladders[spec])]
        if alike and not longer:
            raise ValueError(f"the tasks {' and '.join(map(repr, alike))} are the same data: name it once")
        if not alike:
            return named
        for spec in longer:
            step[spec] += 1


def _ladder(spec: str) -> list[str]:
    """Return the names of a task, the shortest first and the last unlike that of any other."""
    if spec.startswith("hub:"):
        owner, _, config = spec.removeprefix("hub:").partition(":")
        last = owner.rpartition("/")[2]
        return list(dict.fromkeys((last, f"{last}:{config}" if config else last, spec.removeprefix("hub:"), spec)))
    parts = Path(os.path.abspath(spec)).parts
    tails = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
    end = None if Path(spec).is_dir() else files.suffix(Path(spec))
    return [tails[0].removesuffix(end), *tails] if end else tails
