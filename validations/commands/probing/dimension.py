"""`costate probe representation` and `dimension`: dimensions of the states of every layer, and of a sufficient subspace."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

import probes
from probes import drawing
from probes.dimension.layers import layer_representations
from tuning import backbones
from tuning.subjects import Subject
from tuning.training import fit, penalized

from ...store import write_atomic
from ..options import drawn
from ..output import aside, keeping, write_record
from . import tables
from .progress import duration
from .setting import setting

POINTS = 20  # examples that the dimensions of a representation need
LAYERS = {  # of the numbers, a line each
    "two nn, mle, gride 8": "dimension of the states' cloud near each text, at growing distances",
    "local pca": "directions that a text's neighbours span; at most their number, so more --neighbours and --examples see more",
    "participation ratio": "how many principal directions carry the variance of the whole cloud",
    "effective rank": "the same by entropy: what a linear probe has to work with",
}
THRESHOLD = {
    "full": "held-out accuracy of each run that trains all numbers of the delta",
    "floor": "held-out accuracy of the frozen model; a dimension reaches a share of what full is above it",
    "scores": "held-out accuracy of each run in a random subspace, by its dimension",
    "value": "the smallest dimension that reaches nine tenths of the gain; above or below all that were tried, a bound",
    "interval": "95 % over runs: an end at 0 or inf says that the dimensions tried do not enclose it",
}


def representation(options: argparse.Namespace) -> dict:
    """Return the dimensions of every layer's states, before and after tuning."""
    out = drawn(options.out, "--out", ("json",))
    picture = drawn(options.figure, "--figure", drawing.FORMATS)
    if options.at == "checkpoint" and not options.checkpoint:
        raise ValueError("--at checkpoint needs --checkpoint FILE, as costate train --out saves it")
    s = setting(options, least=max(POINTS, options.neighbours))
    points = {"initial": s.subject.initial, "checkpoint": s.point} if options.checkpoint else {"initial": s.point}
    wanted = {at: point for at, point in points.items() if options.at in (None, at)}
    result = s.header() | {"units": {"a ± b": "b is a standard error"}, "meaning": LAYERS, "layers": []}
    found = {}
    with keeping(result, out):
        for at, point in wanted.items():
            found[at] = layer_representations(_layer_states(s.subject, point), s.batches, k=options.neighbours, seed=options.seed)
            result["layers"] += [tables.layer_row(at, row) for row in found[at]]
        if out:
            write_record(out, result)
        if picture:
            series = {at: {q: [r.estimates[q] for r in layers] for q in tables.SHOWN} for at, layers in found.items()}
            names = [row.name for row in next(iter(found.values()))]
            write_atomic(picture, drawing.file_bytes(drawing.layers_figure(series, names), picture.suffix[1:]))
    return result


def _layer_states(made: Subject, point: Mapping) -> Callable[[backbones.Batch], dict]:
    """Return the function of a batch that gives the pooled states (B, d) between the blocks, and after the last norm."""
    backbone = made.backbone
    edits = made.edits(point)
    blocks = len({port.block for port in backbone.ports})

    def states(batch: backbones.Batch) -> dict:
        run = backbones.frame(backbone, edits, record=True)
        last = backbones.hidden(backbone, batch, run)
        held = [*(run.inputs[f"{block}.attention"] for block in range(blocks)), last]
        names = ["embedding", *(f"block {block}" for block in range(blocks))]
        return {name: backbones.pool(backbone, x, batch.mask) for name, x in zip(names, held, strict=True)}

    return states


def dimension(options: argparse.Namespace) -> dict:
    """Return the threshold dimension with the runs that it rests on; "no gain" before any run in a subspace."""
    out = drawn(options.out, "--out", ("json",))
    picture = drawn(options.figure, "--figure", drawing.FORMATS)
    wanted = tables.dimension_list(options.dimensions)

    def fitting(start: Mapping) -> None:
        size = sum(p.numel() for p in start.values())
        for d in wanted[:1] + wanted[-1:]:
            if not 1 <= d <= size:
                raise ValueError(f"dimension must lie between 1 and the delta's {size} numbers, got {d}")
        probes.random_subspace({k: v.shape for k, v in start.items()}, wanted[0], kind=options.kind, seed=options.seed)

    s = setting(options, checked=fitting)
    shapes, at = {k: v.shape for k, v in s.point.items()}, {"dtype": s.subject.dtype, "device": s.subject.backbone.device}
    objective = penalized(s.subject, s.batches, options.penalty)
    budget = {"tolerance": 1e-4, "max_evaluations": options.steps}

    def score(params: dict) -> float:
        hits = [s.subject.accuracy(params, b) * len(b.labels) for b in s.test.chunks()]
        return sum(hits) / len(s.test.labels)

    floor, begun = score(s.point), time.monotonic()
    result = s.header() | {"meaning": THRESHOLD, "full": [], "floor": floor, "dimensions": [], "scores": []}
    fits = options.runs * (1 + len(wanted))

    def told(done: int) -> None:
        left = (time.monotonic() - begun) / done * (fits - done)
        aside(f"{done} of {fits} trainings, accuracy {(result['scores'] or result['full'])[-1]:.3f}; about {duration(left)} left")

    with keeping(result, out):
        for run in range(options.runs):  # first: without a gain there is no share of it to reach
            fresh = s.subject.delta.initial(s.subject.backbone, options.seed + 1 + run)
            result["full"].append(score(fit(objective, {**s.point, **fresh}, **budget).params))
            told(run + 1)
        mean = np.mean(result["full"])
        if mean <= floor:
            said = f"all {s.subject.size} numbers reach a mean test accuracy of {mean:.4g}, the frozen model has {floor:.4g}"
            result |= {
                "value": math.nan,
                "interval": [0.0, math.inf],
                "status": "no gain",
                "warning": f"{said}: no gain, of which a dimension could reach a share; give more --examples or --steps",
            }
            return _written(out, result)
        for number, d in enumerate(wanted, 1):
            for run in range(options.runs):
                seed = 1000 * options.seed + run
                p = probes.random_subspace(shapes, d, kind=options.kind, seed=seed, **at)

                def moved(theta: dict, p=p) -> dict:
                    return {k: s.point[k] + step for k, step in p.apply(theta["theta"]).items()}

                start = {"theta": torch.zeros(d, **at)}
                found = fit(lambda theta, moved=moved: objective(moved(theta)), start, **budget)
                result["dimensions"].append(d)
                result["scores"].append(score(moved(found.params)))
                told(options.runs * number + run + 1)
        tried, scores, full = (result[name] for name in ("dimensions", "scores", "full"))
        found = probes.threshold_dimension(tried, scores, baseline=full, chance=floor, seed=options.seed)
        result |= {
            "value": found.value,
            "interval": list(found.interval),
            "isotonic": found.isotonic,
            "not_reached": found.not_reached,
            "status": found.status,
            "warning": found.warning,
        }
        _written(out, result)
        if picture:
            seeds = list(range(options.runs)) * len(wanted)
            figure = drawing.dimension_figure(
                found, tried, scores, seeds=seeds, baseline=full, chance=floor, score="test accuracy"
            )
            write_atomic(picture, drawing.file_bytes(figure, picture.suffix[1:]))
    return result


def _written(out: Path | None, result: dict) -> dict:
    """Return a result, written to its file where one is wanted."""
    if out:
        write_record(out, result)
    return result
