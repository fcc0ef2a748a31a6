"""The subject of a probe, the point at which it is measured, and its batches."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tuning import backbones, checkpoints
from tuning.backbones import Batch, encode
from tuning.deltas import parse, place_of
from tuning.preparation import prepare
from tuning.subjects import Subject
from tuning.tasks import Split

from ..given import check_data, fitting, same_classes, task_of
from ..options import usable
from ..output import aside


@dataclass(frozen=True, eq=False)
class Setting:
    """A subject, a point of its delta (`at`), the batches to measure on, held-out texts, and how many are right by chance."""

    subject: Subject
    point: Mapping[str, Tensor]
    batches: list[Batch]
    test: Batch
    task: str
    at: str
    majority: float

    def header(self) -> dict:
        """Return what was measured, as the first lines of a result: the model, the point, the texts, and how it scores there."""
        probed, held_out = (_scores(self.subject, self.point, some) for some in (self.batches, self.test.chunks()))
        made = {
            "backbone": self.subject.backbone.name,
            "task": self.task,
            "delta": self.subject.delta.name,
            "size": self.subject.size,
            "at": self.at,
            "examples": sum(len(b.labels) for b in self.batches),
            "dtype": str(self.subject.backbone.dtype).removeprefix("torch."),
            "probed": probed,
            "held_out": {"texts": len(self.test.labels), **held_out, "majority": round(self.majority, 6)},
        }
        if held_out["accuracy"] <= self.majority:
            made["note"] = "the head is no better than its most common class here: more --readout texts would say more"
        return made


def setting(
    options: argparse.Namespace, least: int = 1, *, checked: Callable[[Mapping[str, Tensor]], object] = lambda start: None
) -> Setting:
    """Return what the flags name; says so on standard error before the first text goes through the network.

    checked: called with the delta's numbers before that, to refuse a request that does not fit them.
    Raises ValueError for fewer than `least` examples and for a checkpoint of other classes.
    """
    delta, task = parse(options.delta), task_of(options)
    backbone = backbones.load(options.backbone, dtype=getattr(torch, options.dtype), device=usable(options.device))
    check_data(task, options.task, backbone, options.length)
    sizes = {"train": options.examples, "readout": options.readout, "most": options.most}
    given = prepare(backbone, task, seed=options.seed, length=options.length, **sizes)
    if len(given.parts.train) < least:
        raise ValueError(
            f"{options.instrument} takes at least {least} examples, got {len(given.parts.train)}: give more --examples"
        )
    saved = checkpoints.load(options.checkpoint, backbone) if options.checkpoint else None
    if saved:
        same_classes(task, saved.subject.readout, options.checkpoint)
    checked(saved.params if saved else fitting(delta, backbone).initial(backbone, options.seed))
    head = "" if saved else f"; the frozen head is fitted on {len(given.parts.readout)} others"
    of = saved.subject.delta.name if saved else delta.name
    aside(f"{options.instrument} of {of} in {backbone.name}, {len(given.parts.train)} texts of {task.name}{head}")
    made = saved.subject if saved else given.subject(delta, options.seed)
    at = "checkpoint" if saved and getattr(options, "at", None) != "initial" else "initial"
    held_out = _some(task.splits["test"], options.held_out, options.seed)
    return Setting(
        subject=replace(made, delta=made.delta.exact),
        point=saved.params if at == "checkpoint" else made.initial,
        batches=given.train.chunks(),
        test=encode(backbone, held_out, length=options.length),
        task=task.name,
        at=at,
        majority=float(np.bincount(held_out.labels).max() / len(held_out)),
    )


def _some(split: Split, most: int | None, seed: int) -> Split:
    """Return a split, or so many of its examples, drawn and in their own order."""
    if most is None or len(split) <= most:
        return split
    return split.rows(np.sort(np.random.default_rng(seed).permutation(len(split))[:most]))


def _scores(subject: Subject, params: Mapping[str, Tensor], batches: Sequence[Batch]) -> dict[str, float]:
    """Return loss and accuracy over batches."""
    with torch.no_grad():
        logits = torch.cat([subject.outputs(params, batch) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    loss = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    return {"loss": round(loss, 6), "accuracy": round((logits.argmax(-1) == labels).double().mean().item(), 6)}


def places_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of a delta's parameters by their place."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(place_of(name), []).append(name)
    return found
