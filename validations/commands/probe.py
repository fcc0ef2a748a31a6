"""Measure one thing on one subject: a delta of a frozen backbone on a task, at its start or at a checkpoint.

costate probe MODEL --adapter DIR --data FILE looks at a Hugging Face model and its PEFT adapter on your own data: MODEL is a
folder or a hub name, FILE a jsonl of messages, prompt and completion, or text and label. See costate probe model --help.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from .options import add_backbone, add_json, add_place, add_task, bounded, usable
from .output import aside, plain

INSTRUMENTS = {
    "response": "G = dy/dz of the logits to a delta: its kernel's spectrum and every place's share",
    "curvature": "the loss's curvature in a delta, per layer and block: eigenvalue ends, trace, effective dimension",
    "controllability": "the output Gramian of a delta or of token signals: what each place reaches, and its price",
    "representation": "intrinsic dimension of the states of every layer, before and after tuning",
    "dimension": "the dimension of a random subspace of a delta that reaches a share of its full gain",
    "model": "a Hugging Face model with its PEFT adapter on your data: health, curvature, dimension and reach by module",
}
MODULES = {"response": "reach", "controllability": "reach", "representation": "dimension"}  # others are called like theirs
LEVELS = ("all", "delta", "layer", "block")  # the rows of a curvature table; delta: parts of a combination
LEAST = {  # what the numbers of a request must be at least
    "examples": 1,
    "readout": 1,
    "length": 1,
    "seed": 0,
    "threads": 1,
    "top": 1,
    "probes": 1,
    "steps": 1,
    "budget": 2,
    "dense": 0,
    "neighbours": 3,
    "runs": 2,
    "penalty": 0,
    "rank": 1,
    "sequences": 1,
    "batch": 1,
}


HELD_OUT = 300  # texts on which a quick probe scores
SPENT = {  # what a probe spends on a flag that is not given: quickly, and with --thorough
    "response": {"most": (128, 512), "held_out": (HELD_OUT, None)},
    "controllability": {"most": (128, 512), "held_out": (HELD_OUT, None)},
    "representation": {"most": (128, 1000), "held_out": (HELD_OUT, None)},
    "curvature": {
        "most": (24, 128),
        "held_out": (HELD_OUT, None),
        "ends": (LEVELS[:2], LEVELS),
        "density": ((), ("all",)),
        "budget": (24, 64),
    },
    "dimension": {
        "most": (72, 128),
        "held_out": (HELD_OUT, None),
        "dimensions": ("16,64,256", "4,16,64,256"),
        "runs": (2, 3),
        "steps": (24, 60),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every instrument."""
    instruments = parser.add_subparsers(dest="instrument", required=True, metavar="INSTRUMENT")
    for name, does in INSTRUMENTS.items():
        one = instruments.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
        if name != "model":
            _subject(one, name)
        _OWN.get(name, lambda _: None)(one)
        add_json(one)


def written_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the instrument `model` in front of a word that names none."""
    at = list(arguments).index("probe") + 1
    word = arguments[at] if at < len(arguments) else "-"
    slip = difflib.get_close_matches(word, INSTRUMENTS, n=1, cutoff=0.85) and not os.path.exists(word)
    own = word.startswith("-") or word in INSTRUMENTS or slip
    return list(arguments) if own else [*arguments[:at], "model", *arguments[at:]]


def run(options: argparse.Namespace) -> dict:
    """Return what the instrument measured; raises ValueError for a request that cannot be met."""
    for flag, spent in SPENT.get(options.instrument, {}).items():
        if getattr(options, flag, None) is None:
            setattr(options, flag, spent[options.thorough])
    bounded(options, LEAST, above={"ridge": 0, "margin": 0, "tolerance": 0, "minutes": 0, "share": 0})
    if "torch" not in sys.modules:  # which alone takes seconds
        subject = (options.model, options.data) if options.instrument == "model" else (options.backbone, options.task)
        aside(f"{options.instrument}: loading {' and '.join(subject)}")
    usable(options.device)
    import torch

    torch.set_num_threads(options.threads)
    name = options.instrument
    module = importlib.import_module(f"{__package__}.probing.{MODULES.get(name, name)}")
    return getattr(module, name)(options)


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the measurement in words; rows of blocks and of layers with the columns that fit a terminal."""
    if options.instrument == "model":
        from .probing.model import text as shown

        return plain(shown(found))
    from .probing.tables import headed

    return plain(headed(found))


def _subject(one: argparse.ArgumentParser, name: str) -> None:
    """Add the flags that say what is measured."""
    add_backbone(one)
    add_task(one)
    usual = "port-bias" if name == "controllability" else "lora:rank=4"
    one.add_argument("--delta", default=usual, help=f'such as "lora:rank=4" (default: {usual})')
    one.add_argument("--checkpoint", help="measure at what costate train --out saved, or a PEFT folder with its classifier")
    count = f"{_spent(name, 'most')}, or what the head leaves"
    one.add_argument("--examples", type=int, help=f"training examples (default: {count})")
    one.add_argument(
        "--readout", type=int, default=600, help="other training examples, which fit the frozen head (default: 600, at most half)"
    )
    one.add_argument("--thorough", action="store_true", help="spend more wherever a flag is not given; several times as long")
    one.add_argument("--length", type=int, default=64, help="longest text, in tokens (default: 64)")
    one.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    one.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    one.add_argument("--top", type=int, default=8, help="leading values printed (default: 8)")
    add_place(one)


def _spent(name: str, flag: str) -> str:
    """Return what a probe spends on a flag that is not given, in words of its help."""
    quick, thorough = (" ".join(x) if isinstance(x, tuple) else str(x) for x in SPENT[name][flag])
    return f"{quick or 'none'}; --thorough: {thorough}"


def _at(one: argparse.ArgumentParser, default: str) -> None:
    text = f"where to measure: the checkpoint's initial or saved point (default: {default})"
    one.add_argument("--at", choices=("initial", "checkpoint"), help=text)


def _out(one: argparse.ArgumentParser) -> None:
    one.add_argument("--out", metavar="FILE.json", help="write everything measured")
    one.add_argument("--figure", metavar="FILE", help="draw it, .svg, .pdf or .png")


def _curvature(one: argparse.ArgumentParser) -> None:
    _at(one, "saved")
    one.add_argument(
        "--by",
        nargs="+",
        default=LEVELS,
        choices=LEVELS,
        metavar="LEVEL",
        help=f"rows: any of {', '.join(LEVELS)} (default: every one)",
    )
    one.add_argument(
        "--ends",
        nargs="+",
        choices=LEVELS,
        metavar="LEVEL",
        help=f"rows with both ends of their spectrum, about 10 products each (default: {_spent('curvature', 'ends')})",
    )
    one.add_argument(
        "--density",
        nargs="+",
        choices=LEVELS,
        metavar="LEVEL",
        help="rows with a density and the negative mass, --probes times --steps products each (default: "
        f"{_spent('curvature', 'density')}; the largest for --figure)",
    )
    one.add_argument("--ridge", type=float, default=1e-3, help="r of the effective dimension, an L2 weight (default: 1e-3)")
    one.add_argument(
        "--dense",
        type=int,
        metavar="D",
        help="diagonalise blocks of up to D numbers, which gives all of their columns exactly (default: where that takes no "
        "more products than both ends, a trace and a density)",
    )
    one.add_argument("--probes", type=int, default=4, help="random vectors per density (default: 4)")
    one.add_argument("--steps", type=int, default=16, help="Lanczos steps per density (default: 16)")
    budget = _spent("curvature", "budget")
    one.add_argument("--budget", type=int, help=f"products for the traces, which all rows share (default: {budget})")
    one.add_argument(
        "--tolerance", type=float, default=1e-2, help="relative residual of an eigenvalue, which bounds its error (default: 0.01)"
    )
    one.add_argument("--dry-run", action="store_true", help="print what it would take: products, seconds, memory; and stop")
    _out(one)


def _response(one: argparse.ArgumentParser) -> None:
    _out(one)


def _representation(one: argparse.ArgumentParser) -> None:
    _at(one, "both")
    one.add_argument("--neighbours", type=int, default=20, help="neighbours of the likelihood (default: 20)")
    _out(one)


def _dimension(one: argparse.ArgumentParser) -> None:
    _out(one)
    told = {"dimensions": "dimensions to try", "runs": "seeds per dimension", "steps": "evaluations per run"}
    for flag, does in told.items():
        kind = str if flag == "dimensions" else int
        one.add_argument(f"--{flag}", type=kind, help=f"{does} (default: {_spent('dimension', flag)})")
    one.add_argument("--penalty", type=float, default=1e-3, help="L2 weight (default: 1e-3)")
    one.add_argument("--kind", default="sorf", help="sorf, dense, onehot or sparse (default: sorf)")


def _controllability(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--by",
        default="port",
        choices=("port", "layer", "head", "token"),
        help="places: parts of the delta, or the slots of a signal per token (default: port)",
    )
    one.add_argument("--against", nargs="+", default=[], metavar="DELTA", help="more deltas to compare")
    one.add_argument("--margin", type=float, default=1.0, help="target lead of the label (default: 1)")
    one.add_argument(
        "--ridge", type=float, default=0.01, help="price 1/ridge of a squared miss against control energy (default: 0.01)"
    )
    _out(one)


def _model(one: argparse.ArgumentParser) -> None:
    one.add_argument("model", metavar="MODEL", help="smollm2, a model folder or a hub name")
    one.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="jsonl (also .gz, csv, parquet) of messages, prompt and completion, text, or text and label",
    )
    one.add_argument("--adapter", metavar="DIR", help="a PEFT folder (default: a fresh LoRA, to look before training)")
    one.add_argument("--rank", type=int, help="rank of the fresh LoRA (default: 8)")
    one.add_argument(
        "--targets", nargs="+", metavar="MODULE", help="modules of the fresh LoRA (default: PEFT's choice for the model)"
    )
    one.add_argument(
        "--params", metavar="GLOB", nargs="+", help='numbers of the model itself instead of an adapter, "*.bias" say'
    )
    one.add_argument("--minutes", type=float, default=2.5, help="time to spend; data beyond is left out and named (default: 2.5)")
    one.add_argument("--sequences", type=int, help="the most sequences (default: all that the time allows)")
    one.add_argument("--batch", type=int, default=4, help="sequences in a batch (default: 4)")
    one.add_argument("--length", type=int, default=512, help="longest sequence, in tokens (default: 512)")
    one.add_argument(
        "--reduction", default="token", choices=("token", "sequence", "sum"), help="what the mean loss is over (default: token)"
    )
    one.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float64", "bfloat16", "float16"),
        help="of the base model (default: float32)",
    )
    one.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    one.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        help="torch threads (default: all cores)",
    )
    one.add_argument("--ridge", type=float, default=1e-3, help="r of the effective dimension, an L2 weight (default: 1e-3)")
    one.add_argument("--probes", type=int, default=8, help="products per trace (default: 8)")
    one.add_argument("--steps", type=int, default=12, help="Lanczos steps of each of two densities (default: 12)")
    one.add_argument("--share", type=float, default=0.9, help="share of the squared norm that rank_pattern keeps (default: .9)")
    one.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    one.add_argument("--dry-run", action="store_true", help="print the forecast of time and memory, and stop")
    one.add_argument("--out", metavar="FILE.json", help="write everything measured")
    one.add_argument("--table", metavar="FILE", help="write the modules as .csv or .parquet")
    one.add_argument("--figure", metavar="FILE", help="draw reach, change and rank by layer and module, .svg, .pdf or .png")
    one.add_argument("--html", metavar="FILE.html", help="write one page with all of it that needs no other file")


_OWN = {
    "response": _response,
    "model": _model,
    "curvature": _curvature,
    "controllability": _controllability,
    "representation": _representation,
    "dimension": _dimension,
}
