"""The subject of a probe, the point at which it is measured, and its batches."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tuning import backbones, checkpoints
from tuning.backbones import Batch
from tuning.deltas import parse, place_of
from tuning.preparation import prepare
from tuning.subjects import Subject

from ..given import check_data, same_classes, task_of
from ..options import usable


@dataclass(frozen=True, eq=False)
class Setting:
    """A subject, a point of its delta, the batches to measure on, and the held-out texts."""

    subject: Subject
    point: Mapping[str, Tensor]
    batches: list[Batch]
    test: Batch

    def header(self) -> dict:
        """Return what was measured, as the first lines of a result."""
        return {
            "backbone": self.subject.backbone.name,
            "delta": self.subject.delta.name,
            "size": self.subject.size,
            "examples": sum(len(b.labels) for b in self.batches),
            "dtype": str(self.subject.dtype).removeprefix("torch."),
        }


def setting(options: argparse.Namespace, least: int = 1, *, ready: Callable[[], None] = lambda: None) -> Setting:
    """Return what the flags name; `ready` is called once all is read, before the first text goes through the network.

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
    if options.checkpoint:
        found = checkpoints.load(options.checkpoint, backbone)
        made = found.subject
        same_classes(task, made.readout, options.checkpoint)
        point = made.initial if getattr(options, "at", None) == "initial" else found.params
        ready()
    else:
        ready()
        made = given.subject(delta, options.seed)
        point = made.initial
    return Setting(made, point, given.train.chunks(), given.split("test"))


def places_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of a delta's parameters by their place."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(place_of(name), []).append(name)
    return found
