"""Tune a delta on a task, and print the scores of the frozen and of the tuned model on held-out text."""

from __future__ import annotations

import argparse

from .options import add_backbone, add_json, add_task, bounded, target
from .output import scores

LEAST = {
    "length": 1,
    "threads": 1,
    "examples": 1,
    "readout": 1,
    "steps": 1,
    "batch_size": 1,
    "weight_decay": 0,
    "penalty": 0,
    "tolerance": 0,
    "seed": 0,
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_backbone(parser)
    add_task(parser)
    parser.add_argument("--delta", required=True, help='such as "lora:rank=4" or "prefix:length=8 & adapter:bottleneck=8"')
    parser.add_argument("--arm", choices=("minibatch", "full"), default="minibatch", help="AdamW or full-batch L-BFGS")
    parser.add_argument("--split", default="test", help="the split to score (default: test)")
    parser.add_argument("--examples", type=int, help="training examples (default: all that the head leaves)")
    parser.add_argument(
        "--readout", type=int, default=600, help="other training examples, which fit the frozen head (default: 600, at most half)"
    )
    parser.add_argument("--length", type=int, default=64, help="longest text, in tokens (default: 64)")
    parser.add_argument("--steps", type=int, default=300, help="minibatch steps or full-batch evaluations (default: 300)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts a step (default: 32)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of AdamW (default: 1e-3)")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="weight decay of AdamW (default: 0)")
    parser.add_argument("--penalty", type=float, default=1e-3, help="L2 weight of the full-batch arm (default: 1e-3)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="gradient reduction at which the full-batch arm stops (default: 1e-4)"
    )
    parser.add_argument("--train-readout", action="store_true", help="tune the readout with the delta")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--out", metavar="FILE", help="save the delta in this .safetensors file")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return what was trained and how well it scores; raises ValueError for a request that cannot be met."""
    bounded(options, LEAST, above={"lr": 0})
    import torch

    from tuning import backbones, checkpoints
    from tuning.deltas import parse
    from tuning.preparation import prepare
    from tuning.training import fit, minibatch, penalized

    from .given import check_data, fitting, score, task_of

    torch.set_num_threads(options.threads)
    delta, out = parse(options.delta), target(options.out)
    task, backbone = task_of(options), backbones.load(options.backbone)
    sizes = {"train": options.examples, "readout": options.readout}
    fitting(delta, backbone)
    check_data(task, options.task, backbone, options.length)
    given = prepare(backbone, task, seed=options.seed, length=options.length, **sizes)
    test, train = given.split(options.split), given.train
    made = given.subject(delta, options.seed, train_readout=options.train_readout)
    frozen = score(made, None, test)
    if options.arm == "minibatch":
        settings = {name: getattr(options, name) for name in ("steps", "batch_size", "lr", "weight_decay", "seed")}
        found = minibatch(made, train, **settings)
    else:
        objective = penalized(made, train.chunks(), options.penalty)
        found = fit(objective, made.initial, tolerance=options.tolerance, max_evaluations=options.steps)
    result = {
        "backbone": backbone.name,
        "task": task.name,
        "delta": delta.name,
        "size": made.size,
        "examples": len(train.labels),
        "readout": len(given.parts.readout),
        "seed": options.seed,
        "frozen": frozen,
        "tuned": score(made, found.params, test),
        "arm": options.arm,
        "converged": found.converged,
        "evaluations": found.evaluations,
        "cpu_seconds": round(found.cpu_seconds, 3),
    }
    if out:
        result["checkpoint"] = str(checkpoints.save(out, made, found.params, {"command": "train", **result}))
    return result


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the result in words."""
    return scores(found)
