"""From flags to what a command works on: the task, the backbone, a subject with its frozen head, batches and scores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor

from tuning import tasks
from tuning.backbones import Batch
from tuning.options import warn
from tuning.subjects import Readout, Subject

from .options import columns


def task_of(options: argparse.Namespace) -> tasks.Task:
    """Return the task that the flags name; warns once, on standard error, of held-out texts that stand in train."""
    task = tasks.load(options.task, columns=columns(options))
    warn(task)
    return task


def split_of(task: tasks.Task, name: str) -> tasks.Split:
    """Return a split of a task; raises ValueError naming those that it has."""
    if name not in task.splits:
        raise ValueError(f"expected a split of {task.name} among {', '.join(task.splits)}, got {name!r}")
    return task.splits[name]


def same_classes(task: tasks.Task, readout: Readout, file: str) -> None:
    """Raise ValueError unless the task has as many classes as the head of a checkpoint."""
    if len(task.classes) != readout.classes:
        raise ValueError(
            f"expected a task with {readout.classes} classes for {file}, {task.name} has {len(task.classes)}: "
            "give the task that it was trained on"
        )


def batches(whole: Batch, size: int = 64) -> list[Batch]:
    """Return a batch in parts of at most `size` texts."""
    return [Batch(*(x[i : i + size] for x in whole)) for i in range(0, len(whole.labels), size)]


def score(made: Subject, params: Mapping[str, Tensor] | None, whole: Batch) -> dict[str, float]:
    """Return loss and accuracy over all texts; the frozen model's without parameters."""
    with torch.no_grad():
        logits = torch.cat([made.steered({}, b) if params is None else made.outputs(params, b) for b in batches(whole)])
    loss = torch.nn.functional.cross_entropy(logits, whole.labels).item()
    accuracy = (logits.argmax(-1) == whole.labels).double().mean().item()
    return {"loss": round(loss, 6), "accuracy": round(accuracy, 6)}
