"""`costate probe representation` and `dimension`: dimensions of the states of every layer, and of a sufficient subspace."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping

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
from ..output import write_record
from . import tables
from .setting import setting

POINTS = 20  # examples that the dimensions of a representation need


def representation(options: argparse.Namespace) -> dict:
    """Return the dimensions of every layer's states, before and after tuning."""
    out = drawn(options.out, "--out", ("json",))
    picture = drawn(options.figure, "--figure", drawing.FORMATS)
    if options.at == "checkpoint" and not options.checkpoint:
        raise ValueError("--at checkpoint needs --checkpoint FILE, as costate train --out saves it")
    s = setting(options, least=POINTS)
    points = {"initial": s.subject.initial, "checkpoint": s.point} if options.checkpoint else {"initial": s.point}
    wanted = {at: point for at, point in points.items() if options.at in (None, at)}
    found = {
        at: layer_representations(_layer_states(s.subject, point), s.batches, k=options.neighbours, seed=options.seed)
        for at, point in wanted.items()
    }
    rows = [tables.layer_row(at, row) for at, layers in found.items() for row in layers]
    result = s.header() | {"units": {"a ± b": "b is a standard error"}, "layers": rows}
    if picture:
        series = {at: {q: [r.estimates[q] for r in layers] for q in tables.SHOWN} for at, layers in found.items()}
        names = [row.name for row in next(iter(found.values()))]
        write_atomic(picture, drawing.file_bytes(drawing.layers_figure(series, names), picture.suffix[1:]))
    if out:
        write_record(out, result)
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
    picture = drawn(options.figure, "--figure", drawing.FORMATS)
    wanted = tables.dimension_list(options.dimensions)
    s = setting(options)
    shapes = {k: v.shape for k, v in s.point.items()}
    for d in wanted[:1] + wanted[-1:]:  # refused before anything is trained
        if not 1 <= d <= s.subject.size:
            raise ValueError(f"dimension must lie between 1 and the delta's {s.subject.size} numbers, got {d}")
    at = {"dtype": s.subject.dtype, "device": s.subject.backbone.device}
    probes.random_subspace(shapes, wanted[0], kind=options.kind, seed=options.seed, **at)
    objective = penalized(s.subject, s.batches, options.penalty)
    budget = {"tolerance": 1e-4, "max_evaluations": options.steps}

    def score(params: dict) -> float:
        hits = [s.subject.accuracy(params, b) * len(b.labels) for b in s.test.chunks()]
        return sum(hits) / len(s.test.labels)

    full, floor = [], score(s.point)
    for run in range(options.runs):  # first: without a gain there is no share of it to reach
        fresh = s.subject.delta.initial(s.subject.backbone, options.seed + 1 + run)
        full.append(score(fit(objective, {**s.point, **fresh}, **budget).params))
    result = s.header() | {"full": full, "floor": floor}
    if np.mean(full) <= floor:
        said = f"all {s.subject.size} numbers reach a mean test accuracy of {np.mean(full):.4g}, the frozen model has {floor:.4g}"
        return result | {
            "dimensions": [],
            "scores": [],
            "value": math.nan,
            "interval": [0.0, math.inf],
            "status": "no gain",
            "warning": f"{said}: no gain, of which a dimension could reach a share; give more --examples or --steps",
        }
    tried, scores = [], []
    for d in wanted:
        for run in range(options.runs):
            seed = 1000 * options.seed + run
            p = probes.random_subspace(shapes, d, kind=options.kind, seed=seed, **at)

            def moved(theta: dict, p=p) -> dict:
                return {k: s.point[k] + step for k, step in p.apply(theta["theta"]).items()}

            start = {"theta": torch.zeros(d, **at)}
            found = fit(lambda theta, moved=moved: objective(moved(theta)), start, **budget)
            tried.append(d)
            scores.append(score(moved(found.params)))
    found = probes.threshold_dimension(tried, scores, baseline=full, chance=floor, seed=options.seed)
    if picture:
        seeds = list(range(options.runs)) * (len(tried) // options.runs)
        figure = drawing.dimension_figure(found, tried, scores, seeds=seeds, baseline=full, chance=floor, score="test accuracy")
        write_atomic(picture, drawing.file_bytes(figure, picture.suffix[1:]))
    return result | {
        "dimensions": tried,
        "scores": scores,
        "value": found.value,
        "interval": list(found.interval),
        "isotonic": found.isotonic,
        "not_reached": found.not_reached,
        "status": found.status,
        "warning": found.warning,
    }
