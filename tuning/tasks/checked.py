"""A check of a task's data in sentences: sizes and balance, texts that are cut, copies, and texts under two labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from tuning.tasks.task import Task, keys

SHOWN = 6  # classes that are named one by one


def check_of(task: Task, cut: Mapping[str, float] | None = None, length: int = 0) -> dict:
    """Return what there is to know of a task's data before it is used, ready for JSON.

    sizes: texts by split. balance: the share of each class in train. copies: how many texts of train repeat an earlier one, and
    contradictions: how many different texts stand there under more than one label, case and spacing aside in both. overlap: how
    many texts of each other split also stand in train. truncated: `cut`, the share of each split's texts that are longer than
    `length` tokens.
    """
    train = task.splits["train"]
    texts = keys(train)
    labels: dict[tuple, set[int]] = {}
    for key, label in zip(texts, train.labels.tolist(), strict=True):
        labels.setdefault(key, set()).add(label)
    counts = np.bincount(train.labels, minlength=len(task.classes)) / len(train)
    return {
        "sizes": {name: len(split) for name, split in task.splits.items()},
        "balance": dict(zip(task.classes, counts.tolist(), strict=True)),
        "copies": len(texts) - len(labels),
        "contradictions": sum(len(found) > 1 for found in labels.values()),
        "overlap": {name: sum(key in labels for key in keys(split)) for name, split in task.splits.items() if name != "train"},
        "truncated": dict(cut or {}),
        "length": length,
    }


def check_lines(task: Task, cut: Mapping[str, float] | None = None, length: int = 0) -> list[str]:
    """Return `check_of` as one or two sentences; the overlap of the splits is `tuning.tasks.leak_warning`'s."""
    found = check_of(task, cut, length)
    sizes = ", ".join(f"{n} {name}" for name, n in found["sizes"].items())
    shares = Counter(found["balance"]).most_common()
    named = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares[:SHOWN])
    more = f" and {len(shares) - SHOWN} more" if len(shares) > SHOWN else ""
    lines = [f"data: {task.name} has {sizes} texts; in train {named}{more}"]
    cuts = ", ".join(f"{100 * share:.2g} % of {name}" for name, share in found["truncated"].items() if share)
    told = [f"{cuts} texts are longer than {length} tokens and cut (--length)"] if cuts else []
    told += [f"{found['copies']} texts of train are copies of others there"] if found["copies"] else []
    told += [f"{found['contradictions']} texts of train stand there under two labels"] if found["contradictions"] else []
    return [*lines, *([f"data: {'; '.join(told)}"] if told else [])]
