"""From flags to what a command works on: its task, whether a checkpoint fits it, and scores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor

from tuning import tasks
from tuning.backbones import Backbone, Batch
from tuning.preparation import cut_shares
from tuning.subjects import Readout, Subject

from .options import columns
from .output import aside


def task_of(options: argparse.Namespace) -> tasks.Task:
    """Return the task that the flags name; warns once, on standard error, of held-out texts that stand in train."""
    task = tasks.load(options.task, columns=columns(options))
    tasks.warn(task)
    return task


def check_data(task: tasks.Task, asked: str, backbone: Backbone, length: int) -> None:
    """Print the check of a task's data on standard error, once a task; an embedded task, which is known, has none."""
    if asked not in tasks.names():
        for line in tasks.check_lines(task, cut_shares(backbone, task, length), length):
            aside(line)


def same_classes(task: tasks.Task, readout: Readout, file: str) -> None:
    """Raise ValueError unless the task has as many classes as the head of a checkpoint."""
    if len(task.classes) != readout.classes:
        raise ValueError(
            f"expected a task with {readout.classes} classes for {file}, {task.name} has {len(task.classes)}: "
            "give the task that it was trained on"
        )


def score(made: Subject, params: Mapping[str, Tensor] | None, whole: Batch) -> dict[str, float]:
    """Return loss and accuracy over all texts; the frozen model's without parameters."""
    with torch.no_grad():
        logits = torch.cat([made.steered({}, b) if params is None else made.outputs(params, b) for b in whole.chunks()])
    loss = torch.nn.functional.cross_entropy(logits, whole.labels).item()
    accuracy = (logits.argmax(-1) == whole.labels).double().mean().item()
    return {"loss": round(loss, 6), "accuracy": round(accuracy, 6)}
