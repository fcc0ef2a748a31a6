"""Score a saved delta on a task, beside the frozen model."""

from __future__ import annotations

import argparse

from .options import add_backbone, add_json, add_task, bounded
from .output import scores


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_backbone(parser)
    add_task(parser)
    parser.add_argument("--checkpoint", required=True, help="a file of costate train --out, or a PEFT folder with its classifier")
    parser.add_argument("--split", default="test", help="the split to score (default: test)")
    parser.add_argument("--length", type=int, default=64, help="longest text, in tokens (default: 64)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the scores of the frozen and of the tuned model; raises ValueError for a request that cannot be met."""
    bounded(options, {"length": 1, "threads": 1})
    import torch

    from tuning import backbones, checkpoints

    from .given import check_data, same_classes, score, task_of

    torch.set_num_threads(options.threads)
    task = task_of(options)
    if options.split not in task.splits:
        raise ValueError(f"expected a split of {task.name} among {', '.join(task.splits)}, got {options.split!r}")
    backbone = backbones.load(options.backbone)
    found = checkpoints.load(options.checkpoint, backbone)
    same_classes(task, found.subject.readout, options.checkpoint)
    check_data(task, options.task, backbone, options.length)
    batch = backbones.encode(backbone, task.splits[options.split], length=options.length)
    return {
        "backbone": backbone.name,
        "task": task.name,
        "delta": found.subject.delta.name,
        "size": found.subject.size,
        "frozen": score(found.subject, None, batch),
        "tuned": score(found.subject, found.params, batch),
    }


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the result in words."""
    return scores(found)
