"""`costate probe curvature`: the loss's curvature in a delta, from the whole of it down to its tensors."""

from __future__ import annotations

import argparse

import torch
from torch.nn.functional import cross_entropy

import probes
from probes import drawing
from tuning import backbones

from ...store import write_atomic
from ..options import drawn
from ..output import write_record
from ..probe import LEVELS
from . import tables
from .setting import setting

EIGENVALUE = "nats per squared unit"
UNITS = {
    "eigenvalues and traces": "nats per squared unit of the delta",
    "negative mass": "share of the block's eigenvalues",
    "a ± b": "b is a standard error",
    "[a, b]": "a 95 % interval",
    "neither": "exact",
    "~": "not converged",
}


def curvature(options: argparse.Namespace) -> dict:
    """Return the ends of the spectrum and a row per block; --out keeps all of it, --figure draws it."""
    out = drawn(options.out, "--out", ("json",))
    picture = drawn(options.figure, "--figure", drawing.FORMATS)
    if options.at == "checkpoint" and not options.checkpoint:
        raise ValueError("--at checkpoint needs --checkpoint FILE, as costate train --out saves it")
    s = setting(options)

    def criterion(y: torch.Tensor, batch: backbones.Batch) -> torch.Tensor:
        return cross_entropy(y, batch.labels)

    groups = tables.levels(list(s.point), options.by)
    op = probes.hessian(s.subject.loss, s.point, s.batches, allow_unused=True)
    top = probes.top_eigenpairs(op, min(options.top, op.shape[0]), seed=options.seed)
    flat = probes.gauss_newton_spectrum(s.subject.outputs, criterion, s.point, s.batches)
    found = probes.summaries(
        op,
        {label: names for label, (_, names) in groups.items()},
        params=s.point,
        batches=s.batches,
        outputs=s.subject.outputs,
        criterion=criterion,
        ridge=options.ridge,
        probes=options.probes,
        steps=options.steps,
        budget=options.budget,
        dense=options.dense,
        seed=options.seed,
    )
    of = {level: [row for row in found if groups[row.name][0] == level] for level in LEVELS}
    whole = max(found, key=lambda row: row.size)
    curve = drawing.density_curve(whole)
    result = s.header() | {
        "at": (options.at or "checkpoint") if options.checkpoint else "initial",
        "ridge": options.ridge,
        "units": UNITS,
        "hessian": top.values.tolist(),
        "residuals": top.residuals.tolist(),
        "status": top.status,
        "gauss_newton": flat.values[: options.top].tolist(),
        "gauss_newton_rank": flat.rank,
        "products": top.products + sum(row.products for row in found),
        "blocks": [tables.block_row(groups[row.name][0], row) for row in found],
    }
    if picture:
        figure = drawing.curvature_figure(whole, of["layer"] or found, of["block"] or found, unit=EIGENVALUE)
        write_atomic(picture, drawing.file_bytes(figure, picture.suffix[1:]))
    if out:
        density = {key: getattr(curve, key).tolist() for key in ("grid", "value", "lower", "upper")}
        whole_density = {"of": whole.name, "status": whole.density.status, "confidence": curve.confidence} | density
        write_record(out, result | {"density": whole_density})
    return result
