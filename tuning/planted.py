"""A planted-teacher task: real text whose labels come from a known delta on the frozen backbone."""

from __future__ import annotations

import torch

from tuning.backbones import Backbone, Batch, encode
from tuning.subjects import Params, Subject, fit_readout, subject
from tuning.tasks import Task, relabel


def planted(
    backbone: Backbone, task: Task, delta: object, *, seed: int, strength: float = 1.0, length: int = 64
) -> tuple[Task, Subject, Params]:
    """The task with the labels that a known delta gives its texts, the teacher, and the teacher's parameters.

    The teacher is the frozen backbone with a readout fitted to the task's own labels and the delta at delta_0 + strength g,
    g standard gaussian in every number; its label is the largest logit. So the labels are realisable with this delta, with
    loss going to zero along its own parameters, and the number of directions that matter is at most the delta's size (Li et
    al. 2018, the planted solution sets of section 2). Raises ValueError when the teacher gives every text one label.
    """
    train = encode(backbone, task.splits["train"], length=length)
    teacher = subject(backbone, delta, fit_readout(backbone, train, len(task.classes)), seed)
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: value + strength * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for name, value in teacher.initial.items()
    }
    labels = {name: label(teacher, params, encode(backbone, split, length=length)) for name, split in task.splits.items()}
    if len(set(labels["train"].tolist())) < 2:
        raise ValueError(f"expected a teacher that uses two labels, strength {strength} gives one: lower it or change the seed")
    return relabel(task, f"{task.name}-planted", labels, task.classes), teacher, params


def label(teacher: Subject, params: Params, batch: Batch, *, chunk: int = 256):
    """The teacher's labels (B,), the largest logit of every example."""
    with torch.no_grad():
        pieces = [teacher.outputs(params, Batch(*(x[i : i + chunk] for x in batch))) for i in range(0, len(batch.labels), chunk)]
    return torch.cat(pieces).argmax(-1).cpu().numpy()
