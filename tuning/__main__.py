"""The command line of the tuning room: python -m tuning list | train | evaluate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from tuning import backbones, checkpoints, tasks
from tuning.deltas import KINDS, parse
from tuning.options import add_task, bounded, load_task, parted, same_classes, target
from tuning.subjects import fit_head, subject
from tuning.training import fit, minibatch, penalized

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tuning", description=__doc__.partition(":")[0] + ".")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("list", help="architectures, shipped backbones, deltas and embedded tasks")
    train = verbs.add_parser("train", help="tune a delta on a task, report frozen and tuned scores")
    evaluate = verbs.add_parser("evaluate", help="score a saved delta on a task")
    for verb in (listing, train, evaluate):
        verb.add_argument("--json", action="store_true", help="print one JSON object")
    for verb in (train, evaluate):
        verb.add_argument("--backbone", default="nano", help="nano, minilm, a folder or a hub name (default nano)")
        add_task(verb)
        verb.add_argument("--split", default="test", help="the split to score (default test)")
        verb.add_argument("--length", type=int, default=64, help="longest text in tokens (default 64)")
        verb.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    train.add_argument("--delta", required=True, help='for example "lora:rank=4" or "prefix:length=8 & adapter:bottleneck=8"')
    train.add_argument("--arm", choices=("minibatch", "full"), default="minibatch", help="AdamW or full-batch L-BFGS")
    train.add_argument("--examples", type=int, help="training examples (default all that the head leaves)")
    train.add_argument(
        "--readout",
        type=int,
        default=600,
        help="other training examples, which fit the frozen head (default 600, at most half)",
    )
    train.add_argument("--steps", type=int, default=300, help="minibatch steps or full-batch evaluations (default 300)")
    train.add_argument("--batch-size", type=int, default=32)
    train.add_argument("--lr", type=float, default=1e-3)
    train.add_argument("--weight-decay", type=float, default=0.0)
    train.add_argument("--penalty", type=float, default=1e-3, help="L2 weight of the full-batch arm (default 1e-3)")
    train.add_argument("--tolerance", type=float, default=1e-4, help="gradient reduction of the full-batch arm")
    train.add_argument("--train-readout", action="store_true", help="tune the readout with the delta")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", help="where to save the delta (a .safetensors file)")
    evaluate.add_argument("--checkpoint", required=True, help="a file of train --out, or a PEFT folder with its classifier")
    return parser


def _list(_: argparse.Namespace) -> dict:
    return {
        "architectures": sorted(backbones.ARCHITECTURES),
        "backbones": ["nano", "minilm"],
        "deltas": [kind.__name__ for kind in KINDS.values()],
        "tasks": list(tasks.names()),
    }


def _split(task, name: str):
    if name not in task.splits:
        raise ValueError(f"expected a split of {task.name} among {', '.join(task.splits)}, got {name!r}")
    return task.splits[name]


def _train(options: argparse.Namespace) -> dict:
    delta, out = parse(options.delta), target(options.out)
    task = load_task(options)
    scored, parts = _split(task, options.split), parted(task, options.examples, options.readout, options.seed)
    backbone = backbones.load(options.backbone)
    train, test = (backbones.encode(backbone, split, length=options.length) for split in (parts.train, scored))
    readout = fit_head(backbone, parts.readout, len(task.classes), length=options.length)
    made = subject(backbone, delta, readout, options.seed, options.train_readout)
    frozen = _score(made, None, test)
    if options.arm == "minibatch":
        run = minibatch(
            made,
            train,
            steps=options.steps,
            batch_size=options.batch_size,
            lr=options.lr,
            weight_decay=options.weight_decay,
            seed=options.seed,
        )
    else:
        objective = penalized(made, _chunks(train), options.penalty)
        run = fit(objective, made.initial, tolerance=options.tolerance, max_evaluations=options.steps)
    result = {
        "backbone": backbone.name,
        "task": task.name,
        "delta": delta.name,
        "size": made.size,
        "examples": len(train.labels),
        "readout": len(parts.readout),
        "seed": options.seed,
        "frozen": frozen,
        "tuned": _score(made, run.params, test),
        "arm": options.arm,
        "converged": run.converged,
        "evaluations": run.evaluations,
        "cpu_seconds": round(run.cpu_seconds, 3),
    }
    if out:
        result["checkpoint"] = str(checkpoints.save(out, made, run.params, {"command": "train", **result}))
    return result


def _evaluate(options: argparse.Namespace) -> dict:
    task = load_task(options)
    scored = _split(task, options.split)
    backbone = backbones.load(options.backbone)
    found = checkpoints.load(options.checkpoint, backbone)
    same_classes(task, found.subject.readout, options.checkpoint)
    batch = backbones.encode(backbone, scored, length=options.length)
    return {
        "backbone": backbone.name,
        "task": task.name,
        "delta": found.subject.delta.name,
        "size": found.subject.size,
        "frozen": _score(found.subject, None, batch),
        "tuned": _score(found.subject, found.params, batch),
    }


def _chunks(batch: backbones.Batch, size: int = 64) -> list[backbones.Batch]:
    return [backbones.Batch(*(x[i : i + size] for x in batch)) for i in range(0, len(batch.labels), size)]


def _score(made, params, batch: backbones.Batch) -> dict[str, float]:
    """Loss and accuracy over all examples; the frozen model's without parameters."""
    with torch.no_grad():
        logits = torch.cat([made.steered({}, part) if params is None else made.outputs(params, part) for part in _chunks(batch)])
    loss = torch.nn.functional.cross_entropy(logits, batch.labels).item()
    return {
        "loss": round(loss, 6),
        "accuracy": round((logits.argmax(-1) == batch.labels).double().mean().item(), 6),
    }


def _show(value: dict, indent: str = "") -> None:
    for key, entry in value.items():
        if isinstance(entry, dict):
            print(f"{indent}{key}: " + ", ".join(f"{k} {v}" for k, v in entry.items()))
        else:
            print(f"{indent}{key}: {', '.join(map(str, entry)) if isinstance(entry, list) else entry}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 on success, 2 with one sentence on standard error for a bad request."""
    options = _parser().parse_args(arguments)
    try:
        bounded(options, LEAST, above={"lr": 0})
        torch.set_num_threads(getattr(options, "threads", 1))
        result = {"list": _list, "train": _train, "evaluate": _evaluate}[options.verb](options)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(result, sort_keys=True))
    else:
        _show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
