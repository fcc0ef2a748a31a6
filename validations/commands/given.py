"""From flags to what a command works on: its task, whether a checkpoint fits it, and scores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor

from tuning import tasks
from tuning.backbones import Backbone, Batch
from tuning.deltas import Combined, Delta
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


def fitting(delta: Delta, backbone: Backbone) -> Delta:
    """Return the delta if it fits the backbone; raises ValueError for blocks, ports or weights that are not there.

    A rank or bottleneck above the width is refused too: such a delta has more numbers than the maps that it stands in for.
    """
    for part in [part for _, part in delta.parts] if isinstance(delta, Combined) else [delta]:
        for name in ("rank", "bottleneck"):
            if (given := getattr(part, name, 0)) > backbone.width:
                raise ValueError(
                    f"expected a {name} of at most {backbone.width}, the width of {backbone.name}, got {given}: lower it"
                )
    delta.initial(backbone, 0)
    return delta


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
