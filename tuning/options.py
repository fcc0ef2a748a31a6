"""What studies and commands share when they read a task: its warning, and its texts in parts."""

from __future__ import annotations

import sys

from tuning import tasks


def warn(task: tasks.Task) -> None:
    """Print the warning of `tasks.leak_warning` on standard error, if there is one."""
    if told := tasks.leak_warning(task):
        print(f"warning: {told}", file=sys.stderr, flush=True)


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
