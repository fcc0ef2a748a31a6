"""The command line of the instruments: python -m probes list | response | curvature | ..."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import probes
from tuning import backbones, checkpoints, tasks
from tuning.deltas import parse, place_of
from tuning.subject import fit_readout, subject
from tuning.training import fit, penalized

INSTRUMENTS = {
    "response": "G = dy/dz of the logits to a delta: its kernel's spectrum and every place's share",
    "curvature": "the loss's curvature in a delta: extreme Hessian eigenvalues, trace, Gauss-Newton spectrum",
    "controllability": "the output Gramian of one signal per port, shared by tokens: its spectrum and shares",
    "representation": "intrinsic dimension of the frozen (or tuned) features",
    "dimension": "the dimension of a random subspace of a delta that reaches a share of its full gain",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m probes", description=__doc__.partition(":")[0] + ".")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    listing = verbs.add_parser("list", help="the instruments and the functions behind them")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    for name, text in INSTRUMENTS.items():
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        verb.add_argument("--backbone", default="nano", help="nano (default), minilm, a folder or a hub name")
        verb.add_argument("--task", required=True, help="an embedded task's name or a file")
        verb.add_argument("--delta", default="lora:rank=4", help='for example "lora:rank=4" (the default)')
        verb.add_argument("--checkpoint", help="measure at what python -m tuning train --out saved")
        verb.add_argument("--examples", type=int, default=128, help="training examples (default 128)")
        verb.add_argument("--length", type=int, default=64, help="longest text, in tokens (default 64)")
        verb.add_argument("--seed", type=int, default=0)
        verb.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
        verb.add_argument("--top", type=int, default=8, help="leading values printed (default 8)")
        verb.add_argument("--double", action="store_true", help="compute in float64")
        verb.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "dimension":
            verb.add_argument("--dimensions", default="4,16,64,256", help="default 4,16,64,256")
            verb.add_argument("--runs", type=int, default=3, help="seeds per dimension (default 3)")
            verb.add_argument("--steps", type=int, default=60, help="evaluations per run (default 60)")
            verb.add_argument("--penalty", type=float, default=1e-3, help="L2 weight (default 1e-3)")
            verb.add_argument("--kind", default="sorf", help="sorf, dense, onehot or sparse (default sorf)")
    return parser


@dataclasses.dataclass(frozen=True)
class _Setting:
    """The subject, the point at which it is measured, and its batches."""

    subject: object
    point: dict
    batches: list
    test: object

    def header(self) -> dict:
        """What was measured."""
        return {
            "backbone": self.subject.backbone.name, "delta": self.subject.delta.name,
            "size": self.subject.size, "examples": sum(len(b.labels) for b in self.batches),
            "dtype": str(self.subject.dtype).removeprefix("torch."),
        }


def _setting(options: argparse.Namespace) -> _Setting:
    task = tasks.load(options.task)
    backbone = backbones.load(options.backbone, dtype=torch.float64 if options.double else torch.float32)
    count = min(options.examples, len(task.splits["train"]))
    train = backbones.encode(backbone, task.take("train", count, options.seed), length=options.length)
    test = backbones.encode(backbone, task.splits["test"], length=options.length)
    if options.checkpoint:
        found = checkpoints.load(options.checkpoint, backbone)
        made, point = found.subject, found.params
    else:
        readout = fit_readout(backbone, train, len(task.classes))
        made = subject(backbone, parse(options.delta), readout, options.seed)
        point = made.initial
    return _Setting(made, point, _parts(train), test)


def _parts(batch: backbones.Batch, size: int = 64) -> list[backbones.Batch]:
    return [backbones.Batch(*(x[i:i + size] for x in batch)) for i in range(0, len(batch.labels), size)]


def _spectral(g: probes.Response, groups: Mapping[str, Sequence[str]], top: int) -> dict:
    """The leading singular values of G, how many matter, and the share of tr K that each group carries."""
    kernel = g.kernel().double()
    values = torch.linalg.eigvalsh(kernel).flip(0).clamp_min(0)
    parts = g.by_group(groups)
    shares = {k: float(part.kernel().double().trace() / kernel.trace()) for k, part in parts.items()}
    return {
        "shape": list(g.shape), "route": g.route, "status": g.status,
        "singular_values": values[:top].sqrt().tolist(),
        "participation_ratio": float(values.sum() ** 2 / (values**2).sum()), "share": shares,
    }


def _places(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(place_of(name), []).append(name)
    return found


def _response(options: argparse.Namespace) -> dict:
    s = _setting(options)
    g = probes.response(s.subject.outputs, s.point, s.batches)
    return s.header() | _spectral(g, _places(g.names), options.top)


def _controllability(options: argparse.Namespace) -> dict:
    s = _setting(options)
    zero = torch.zeros(s.subject.width, dtype=s.subject.dtype, device=s.subject.backbone.device)
    g = probes.response(s.subject.steered, {port: zero for port in s.subject.ports}, s.batches)
    return s.header() | _spectral(g, {port: [port] for port in s.subject.ports}, options.top)


def _curvature(options: argparse.Namespace) -> dict:
    s = _setting(options)
    op = probes.hessian(s.subject.loss, s.point, s.batches, allow_unused=True)
    top = probes.top_eigenpairs(op, min(options.top, op.shape[0]), seed=options.seed)
    # a group per tensor: the large blocks between factors of one product have no trace, only variance
    trace = probes.trace(op, budget=max(32, 4 * len(op.names)), groups=op.names, seed=options.seed)
    exact = probes.gauss_newton_spectrum(
        s.subject.outputs, lambda y, b: cross_entropy(y, b.labels), s.point, s.batches)
    return s.header() | {
        "hessian": top.values.tolist(), "residuals": top.residuals.tolist(), "status": top.status,
        "trace": [trace.value, trace.stderr], "products": top.products + trace.products,
        "gauss_newton": exact.values[:options.top].tolist(), "gauss_newton_trace": exact.trace,
        "gauss_newton_rank": exact.rank,
    }


def _representation(options: argparse.Namespace) -> dict:
    s = _setting(options)
    edits = s.subject.edits(s.point) if options.checkpoint else None
    with torch.no_grad():
        x = torch.cat([backbones.features(s.subject.backbone, b, edits) for b in s.batches])
    curve, near = probes.gride(x), min(20, len(x) - 1)
    found = [probes.two_nn(x), probes.mle(x, near), *curve.estimates, probes.participation_ratio(x)]
    return s.header() | {"dropped": curve.dropped} | {e.quantity: [e.value, e.stderr] for e in found}


def _dimension(options: argparse.Namespace) -> dict:
    s = _setting(options)
    shapes = {k: v.shape for k, v in s.point.items()}
    objective = penalized(s.subject, s.batches, options.penalty)
    budget = {"tolerance": 1e-4, "max_evaluations": options.steps}

    def score(params: dict) -> float:
        hits = [s.subject.accuracy(params, b) * len(b.labels) for b in _parts(s.test)]
        return sum(hits) / len(s.test.labels)

    tried, scores = [], []
    for d in sorted({int(text) for text in options.dimensions.split(",")}):
        for run in range(options.runs):
            seed = 1000 * options.seed + run
            p = probes.random_subspace(shapes, d, kind=options.kind, seed=seed, dtype=s.subject.dtype)

            def moved(theta: dict, p=p) -> dict:
                return {k: s.point[k] + step for k, step in p.apply(theta["theta"]).items()}

            start = {"theta": torch.zeros(d, dtype=s.subject.dtype)}
            found = fit(lambda theta, moved=moved: objective(moved(theta)), start, **budget)
            tried.append(d)
            scores.append(score(moved(found.params)))
    full = []
    for run in range(options.runs):
        fresh = s.subject.delta.initial(s.subject.backbone, options.seed + 1 + run)
        full.append(score(fit(objective, {**s.point, **fresh}, **budget).params))
    floor = score(s.point)
    found = probes.threshold_dimension(tried, scores, baseline=full, chance=floor, seed=options.seed)
    return s.header() | {
        "dimensions": tried, "scores": scores, "full": full, "floor": floor, "value": found.value,
        "interval": list(found.interval), "isotonic": found.isotonic, "not_reached": found.not_reached,
        "status": found.status, "warning": found.warning,
    }


def _list(_: argparse.Namespace) -> dict:
    return {"instruments": INSTRUMENTS, "functions": sorted(n for n in probes.__all__ if n[0].islower())}


def _show(value: Mapping, indent: str = "") -> None:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            print(f"{indent}{key}:")
            _show(entry, indent + "  ")
        else:
            items = entry if isinstance(entry, list) else [entry]
            words = [f"{x:.6g}" if isinstance(x, float) else str(x) for x in items]
            print(f"{indent}{key}: {', '.join(words)}")


def _finite(value):
    """The value with infinities as words, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 on success, 2 with one sentence on standard error for a bad request."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(getattr(options, "threads", 1))
    verbs = {
        "list": _list, "response": _response, "curvature": _curvature, "controllability": _controllability,
        "representation": _representation, "dimension": _dimension,
    }
    try:
        result = verbs[options.verb](options)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(_finite(result), sort_keys=True))
    else:
        _show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
