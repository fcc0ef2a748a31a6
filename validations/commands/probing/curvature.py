"""`costate probe curvature`: the loss's curvature in a delta, from the whole of it down to its tensors."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

import probes
from probes import drawing
from probes.curvature.plan import Watched, plan, top_part
from tuning import backbones

from ...store import write_atomic
from ..options import drawn
from ..output import aside, keeping, write_record
from ..probe import LEVELS
from . import tables
from .progress import Forecast, Progress, duration, forecast
from .setting import setting

EIGENVALUE = "nats per squared unit"
TIMED, LONGEST = 5, 4.0  # products that are timed, and the seconds after which no further one is
UNITS = {
    "eigenvalues and traces": "nats per squared unit of the delta",
    "negative mass": "share of the block's eigenvalues",
    "a ± b": "b is a standard error",
    "[a, b]": "a 95 % interval",
    "neither": "exact",
    "~": "not converged",
    "-": "not measured: --ends LEVEL and --density LEVEL add it",
}
MEANING = {  # of the numbers, a line each
    "hessian": "the steepest curvatures of the loss: gradient descent is stable at rates below 2 over the largest",
    "gauss_newton": "the same without the network's own bending; where hessian is much larger, linear forecasts are off",
    "trace": "curvature summed over a block: a block of little trace is one that the loss hardly sees",
    "eff. dim.": "how many directions the texts determine against a weight decay of the ridge; at most texts x (classes - 1)",
    "products 0": "a block that no output depends on at this point, such as LoRA's A where B is zero",
}


def curvature(options: argparse.Namespace) -> dict:
    """Return the ends of the spectrum and a row per block, or with --dry-run the forecast of what they take.

    --out keeps all of it, --figure draws it. The forecast and the progress are told on standard error.
    """
    started = time.monotonic()
    out = drawn(options.out, "--out", ("json",))
    picture = drawn(options.figure, "--figure", drawing.FORMATS)
    if options.at == "checkpoint" and not options.checkpoint:
        raise ValueError("--at checkpoint needs --checkpoint FILE, as costate train --out saves it")
    if set(options.by) == {"delta"} and not options.checkpoint and "&" not in options.delta:
        raise ValueError(tables.COMBINATION)
    s = setting(options)

    def criterion(y: torch.Tensor, batch: backbones.Batch) -> torch.Tensor:
        return cross_entropy(y, batch.labels)

    groups = tables.levels(list(s.point), options.by)
    op = probes.hessian(s.subject.loss, s.point, s.batches, allow_unused=True)
    wanted = {label: names for label, (_, names) in groups.items()}
    largest = max(wanted, key=lambda label: sum(s.point[name].numel() for name in wanted[label]))
    drawn_too = {largest} if picture else set()
    choices = {
        "ends": {label for label, (level, _) in groups.items() if level in {*options.ends, *options.density}} | drawn_too,
        "densities": {label for label, (level, _) in groups.items() if level in options.density} | drawn_too,
        "probes": options.probes,
        "steps": options.steps,
        "budget": options.budget,
        "dense": options.dense,
        "tol": options.tolerance,
    }
    top = top_part(op, min(options.top, op.shape[0]))
    ahead = _forecast(op, (top, *plan(op, wanted, **choices)), started)
    aside(ahead.line())
    if options.dry_run:
        return s.header() | ahead.record()
    tell = Progress(ahead, aside)
    watched = Watched(op, top, tell)
    result = s.header() | {"ridge": options.ridge, "units": UNITS, "meaning": MEANING}
    with keeping(result, out):
        leading = probes.top_eigenpairs(watched, min(options.top, op.shape[0]), tol=options.tolerance, seed=options.seed)
        watched.finish()
        result |= {"hessian": leading.values.tolist(), "residuals": leading.residuals.tolist(), "status": leading.status}
        flat = probes.gauss_newton_spectrum(s.subject.outputs, criterion, s.point, s.batches)
        result |= {"gauss_newton": flat.values[: options.top].tolist(), "gauss_newton_rank": flat.rank}
        found = probes.summaries(
            op,
            wanted,
            params=s.point,
            batches=s.batches,
            outputs=s.subject.outputs,
            criterion=criterion,
            ridge=options.ridge,
            seed=options.seed,
            tell=tell,
            **choices,
        )
        result["products"] = leading.products + sum(row.products for row in found)
        result["blocks"] = [tables.block_row(groups[row.name][0], row) for row in found]
        aside(f"measured in {duration(time.monotonic() - started)}")
        whole = next(row for row in found if row.name == largest)
        result["density"] = None if whole.density is None else _density(whole)
        if out:
            write_record(out, result)
        if picture:
            of = {level: [row for row in found if groups[row.name][0] == level and row.largest is not None] for level in LEVELS}
            layers = [row for row in found if groups[row.name][0] == "layer"]
            figure = drawing.curvature_figure(whole, layers or found, of["block"] or of["layer"] or [whole], unit=EIGENVALUE)
            write_atomic(picture, drawing.file_bytes(figure, picture.suffix[1:]))
    return result


def _forecast(op: probes.Operator, parts: tuple, started: float) -> Forecast:
    """The forecast, from the time of a product after one that warms up: the median of a few."""
    v = torch.ones(op.shape[0], dtype=op.dtype, device=op.device)
    float((op @ v)[0])  # a number waits for the device
    times = []
    while len(times) < TIMED and sum(times) < LONGEST:
        before = time.monotonic()
        float((op @ v)[0])
        times.append(time.monotonic() - before)
    second = statistics.median(times)
    return forecast(parts, second, op.held, time.monotonic() - started)


def _density(whole: probes.BlockSummary) -> dict:
    """The smoothed density of a block, with its band, as plain JSON."""
    curve = drawing.density_curve(whole)
    values = {key: getattr(curve, key).tolist() for key in ("grid", "value", "lower", "upper")}
    return {"of": whole.name, "status": whole.density.status, "confidence": curve.confidence} | values
