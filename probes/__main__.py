"""The command line of the instruments: python -m probes list | response | curvature | ..."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import probes
from probes import drawing, printing, tables
from probes.dimension.layers import layer_representations
from tuning import backbones, checkpoints
from tuning.deltas import parse, place_of
from tuning.options import add_task, bounded, load_task, parted, same_classes
from tuning.subject import fit_head, subject
from tuning.training import fit, penalized

INSTRUMENTS = {
    "response": "G = dy/dz of the logits to a delta: its kernel's spectrum and every place's share",
    "curvature": "the loss's curvature in a delta, per layer and block: eigenvalue ends, trace, effective dimension",
    "controllability": "the output Gramian of a delta or of token signals: what each place reaches, and its price",
    "representation": "intrinsic dimension of the states of every layer, before and after tuning",
    "dimension": "the dimension of a random subspace of a delta that reaches a share of its full gain",
}


EIGENVALUE = "nats per squared unit"
UNITS = {
    "eigenvalues and traces": "nats per squared unit of the delta",
    "negative mass": "share of the block's eigenvalues",
    "a ± b": "b is a standard error",
    "[a, b]": "a 95 % interval",
    "neither": "exact",
    "~": "not converged",
}
HEADS = {  # the printed columns of a curvature table
    "place": "place",
    "size": "D",
    "largest": "largest",
    "smallest": "smallest",
    "trace": "trace",
    "gauss_newton_trace": "GN trace",
    "effective_dimension": "eff. dim.",
    "negative_mass": "negative mass",
    "route": "route",
    "products": "products",
}
SHOWN = ("two_nn", "mle", "gride 8", "local_pca", "participation_ratio", "effective_rank")  # of a layer, in the table
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
    "budget": 1,
    "dense": 0,
    "neighbours": 3,
    "runs": 2,
    "penalty": 0,
}
POINTS = 20  # examples that the dimensions of a representation need


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m probes", description=__doc__.partition(":")[0] + ".")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    listing = verbs.add_parser("list", help="the instruments and the functions behind them")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    for name, text in INSTRUMENTS.items():
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        verb.add_argument("--backbone", default="nano", help="nano (default), minilm, a folder or a hub name")
        add_task(verb)
        usual = "port-bias" if name == "controllability" else "lora:rank=4"
        verb.add_argument("--delta", default=usual, help=f'for example "lora:rank=4" (default {usual})')
        verb.add_argument("--checkpoint", help="measure at what tuning train --out saved, or a PEFT folder with its classifier")
        count = 32 if name == "curvature" else 128
        verb.add_argument("--examples", type=int, help=f"training examples (default {count}, or what the head leaves)")
        verb.add_argument(
            "--readout",
            type=int,
            default=600,
            help="other training examples, which fit the frozen head (default 600, at most half)",
        )
        verb.set_defaults(most=count)
        verb.add_argument("--length", type=int, default=64, help="longest text, in tokens (default 64)")
        verb.add_argument("--seed", type=int, default=0)
        verb.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
        verb.add_argument("--top", type=int, default=8, help="leading values printed (default 8)")
        verb.add_argument("--double", action="store_true", help="compute in float64")
        verb.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "curvature":
            verb.add_argument(
                "--at",
                choices=("initial", "checkpoint"),
                help="where to measure: the checkpoint's initial or saved point (default saved)",
            )
            verb.add_argument(
                "--by",
                nargs="+",
                default=LEVELS,
                choices=LEVELS,
                metavar="LEVEL",
                help=f"rows: any of {', '.join(LEVELS)} (default every one)",
            )
            verb.add_argument(
                "--ridge", type=float, default=1e-3, help="r of the effective dimension, an L2 weight (default 1e-3)"
            )
            verb.add_argument(
                "--dense",
                type=int,
                metavar="D",
                help="diagonalise blocks of up to D numbers (default where that takes fewer products)",
            )
            verb.add_argument("--probes", type=int, default=4, help="random vectors per density (default 4)")
            verb.add_argument("--steps", type=int, default=16, help="Lanczos steps per density (default 16)")
            verb.add_argument("--budget", type=int, default=32, help="products per trace (default 32)")
            verb.add_argument("--out", metavar="FILE.json", help="write everything measured")
            verb.add_argument("--figure", metavar="FILE", help="draw it, .svg, .pdf or .png")
        if name == "representation":
            verb.add_argument(
                "--at",
                choices=("initial", "checkpoint"),
                help="where to measure: the checkpoint's initial or saved point (default both)",
            )
            verb.add_argument("--neighbours", type=int, default=20, help="neighbours of the likelihood (default 20)")
            verb.add_argument("--out", metavar="FILE.json", help="write everything measured")
            verb.add_argument("--figure", metavar="FILE", help="draw it, .svg, .pdf or .png")
        if name == "dimension":
            verb.add_argument("--figure", metavar="FILE", help="draw runs, curve and threshold, .svg, .pdf or .png")
            verb.add_argument("--dimensions", default="4,16,64,256", help="default 4,16,64,256")
            verb.add_argument("--runs", type=int, default=3, help="seeds per dimension (default 3)")
            verb.add_argument("--steps", type=int, default=60, help="evaluations per run (default 60)")
            verb.add_argument("--penalty", type=float, default=1e-3, help="L2 weight (default 1e-3)")
            verb.add_argument("--kind", default="sorf", help="sorf, dense, onehot or sparse (default sorf)")
        if name == "controllability":
            verb.add_argument(
                "--by",
                default="port",
                choices=("port", "layer", "head", "token"),
                help="places: parts of the delta, or the slots of a signal per token (default port)",
            )
            verb.add_argument("--against", nargs="+", default=[], metavar="DELTA", help="more deltas to compare")
            verb.add_argument("--margin", type=float, default=1.0, help="target lead of the label (default 1)")
            verb.add_argument(
                "--ridge", type=float, default=0.01, help="price 1/ridge of a squared miss against control energy (default 0.01)"
            )
            verb.add_argument("--figure", metavar="FILE", help="draw the singular values by delta, .svg or .png")
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
            "backbone": self.subject.backbone.name,
            "delta": self.subject.delta.name,
            "size": self.subject.size,
            "examples": sum(len(b.labels) for b in self.batches),
            "dtype": str(self.subject.dtype).removeprefix("torch."),
        }


def _setting(options: argparse.Namespace, least: int = 1) -> _Setting:
    delta, task = parse(options.delta), load_task(options)
    parts = parted(task, options.examples, options.readout, options.seed, most=options.most)
    if len(parts.train) < least:
        raise ValueError(f"{options.verb} takes at least {least} examples, got {len(parts.train)}: give more --examples")
    backbone = backbones.load(options.backbone, dtype=torch.float64 if options.double else torch.float32)
    train = backbones.encode(backbone, parts.train, length=options.length)
    test = backbones.encode(backbone, task.splits["test"], length=options.length)
    if options.checkpoint:
        found = checkpoints.load(options.checkpoint, backbone)
        made = found.subject
        same_classes(task, made.readout, options.checkpoint)
        point = made.initial if getattr(options, "at", None) == "initial" else found.params
    else:
        readout = fit_head(backbone, parts.readout, len(task.classes), length=options.length)
        made = subject(backbone, delta, readout, options.seed)
        point = made.initial
    return _Setting(made, point, _parts(train), test)


def _parts(batch: backbones.Batch, size: int = 64) -> list[backbones.Batch]:
    return [backbones.Batch(*(x[i : i + size] for x in batch)) for i in range(0, len(batch.labels), size)]


def _places(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(place_of(name), []).append(name)
    return found


def _response(options: argparse.Namespace) -> dict:
    s = _setting(options)
    g = probes.response(s.subject.outputs, s.point, s.batches)
    return s.header() | tables.spectral(g, _places(g.names), options.top)


def _controllability(options: argparse.Namespace) -> dict:
    printing.checked(options.figure, "--figure", ("svg", "png"))
    if options.by == "token" and (options.against or options.checkpoint):
        raise ValueError("--by token measures signals of the frozen model; leave out --against and --checkpoint")
    against = {text: parse(text) for text in options.against}
    s = _setting(options)
    outputs, point = _token_signals(s) if options.by == "token" else (s.subject.outputs, s.point)
    g = probes.response(outputs, point, s.batches)
    labels = torch.cat([b.labels for b in s.batches])
    shift = probes.margin_shift(g.outputs, labels, options.margin)
    whole = probes.output_gramian(g, _reach_places(s, g, options.by))
    rows = []
    for name, part in {"all": whole, **whole.places}.items():
        cost = probes.least_energy(part, shift, ridge=options.ridge)
        z = part.control(g, cost.costate)
        moved = {k: point[k] + step for k, step in probes.layout.unflatten(z.to(g.outputs), g.shapes).items()}
        with torch.no_grad():
            reached = torch.cat([outputs(moved, b) for b in s.batches])
        eta = float(probes.departure(g, z, reached)[(shift != 0).any(1)].median())
        rows.append(dataclasses.asdict(probes.reachability(name, part, shift, ridge=options.ridge)) | {"eta": eta})
    found = s.header() | ({"delta": "token signals", "size": g.shape[2]} if options.by == "token" else {})
    found |= {
        "shape": list(g.shape),
        "route": g.route,
        "status": whole.status,
        "singular_values": whole.values[: options.top].tolist(),
        "participation_ratio": whole.participation_ratio,
        "share": {k: part.share for k, part in whole.places.items()},
        "by": options.by,
        "margin": options.margin,
        "ridge": options.ridge,
        "places": rows,
    }
    responses = {found["delta"] if options.by == "token" or options.checkpoint else options.delta: g}
    for text, delta in against.items():
        other = subject(s.subject.backbone, delta, s.subject.readout, options.seed)
        responses[text] = probes.response(other.outputs, other.initial, s.batches)
    if options.against:
        table = probes.reach_table(responses, lambda y: probes.margin_shift(y, labels, options.margin), ridge=options.ridge)
        found["deltas"] = [dataclasses.asdict(row) for row in table]
    if options.figure:
        _draw({name: probes.output_gramian(r) for name, r in responses.items()}, options.figure)
    return found


def _token_signals(s: _Setting) -> tuple:
    """The logits under one signal (T, d) per port, slot by slot (`probes.token_slots`), and the zero signals."""
    length = max(b.mask.shape[1] for b in s.batches)
    zero = torch.zeros(length, s.subject.width, dtype=s.subject.dtype, device=s.subject.backbone.device)

    def outputs(signals: Mapping, batch: backbones.Batch) -> torch.Tensor:
        slots, real = probes.token_slots(batch.mask), batch.mask[..., None]
        return s.subject.steered({port: z[slots] * real for port, z in signals.items()}, batch)

    return outputs, {port: zero for port in s.subject.ports}


def _reach_places(s: _Setting, g: probes.Response, by: str) -> dict:
    """The groups of G's columns for a table by port, layer, head or token."""
    if by == "port":
        return _places(g.names)
    if by == "layer":
        found: dict[str, list[str]] = {}
        for name in g.names:
            found.setdefault(place_of(name).partition(".")[0], []).append(name)
        return found
    if by == "token":
        length = next(iter(g.shapes.values()))[0]
        words = {0: "first", length - 1: "last"}
        axes = {name: (0, length) for name in g.names}
        return probes.axis_places(g.shapes, axes, lambda i: words.get(i, "content"))
    heads = s.subject.backbone.key_value_heads  # where queries share keys, a head is the whole group
    axes = {}
    for name, shape in g.shapes.items():
        last = tuple(name.split(".")[-2:])
        if last in (("attention", "keys"), ("attention", "values")):
            axes[name] = (1, heads)
        elif len(shape) == 2 and last in (("q", "B"), ("k", "B"), ("v", "B")):
            axes[name] = (0, heads)
    if not axes:
        raise ValueError(f"{s.subject.delta.name} has no parameters of single heads; use a prefix or lora, or --by port")
    return probes.axis_places(g.shapes, axes, lambda i: f"head {i}")


def _draw(gramians: Mapping[str, probes.OutputGramian], path: str) -> None:
    """Writes the reachable singular values of every delta against their index, on logarithmic axes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "costate"}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name, found in gramians.items():
            axes.loglog(np.arange(1, found.rank + 1), found.values[: found.rank].cpu().numpy(), label=name)
        axes.set(xlabel="output direction", ylabel="reach per root of control energy")
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else {"Software": None})


def _curvature(options: argparse.Namespace) -> dict:
    out = printing.checked(options.out, "--out", ("json",))
    picture = printing.checked(options.figure, "--figure", drawing.FORMATS)
    if options.at == "checkpoint" and not options.checkpoint:
        raise ValueError("--at checkpoint needs --checkpoint FILE, as python -m tuning train --out saves it")
    s = _setting(options)

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
        printing.write(picture, drawing.file_bytes(figure, picture.suffix[1:]))
    if out:
        density = {key: getattr(curve, key).tolist() for key in ("grid", "value", "lower", "upper")}
        whole_density = {"of": whole.name, "status": whole.density.status, "confidence": curve.confidence} | density
        text = json.dumps(printing.finite(result | {"density": whole_density}), sort_keys=True, indent=1)
        printing.write(out, (text + "\n").encode())
    return result


def _representation(options: argparse.Namespace) -> dict:
    out = printing.checked(options.out, "--out", ("json",))
    picture = printing.checked(options.figure, "--figure", drawing.FORMATS)
    if options.at == "checkpoint" and not options.checkpoint:
        raise ValueError("--at checkpoint needs --checkpoint FILE, as python -m tuning train --out saves it")
    s = _setting(options, least=POINTS)
    points = {"initial": s.subject.initial, "checkpoint": s.point} if options.checkpoint else {"initial": s.point}
    wanted = {at: point for at, point in points.items() if options.at in (None, at)}
    found = {
        at: layer_representations(_layer_states(s.subject, point), s.batches, k=options.neighbours, seed=options.seed)
        for at, point in wanted.items()
    }
    rows = [tables.layer_row(at, row) for at, layers in found.items() for row in layers]
    result = s.header() | {"units": {"a ± b": "b is a standard error"}, "layers": rows}
    if picture:
        series = {at: {q: [r.estimates[q] for r in layers] for q in SHOWN} for at, layers in found.items()}
        names = [row.name for row in next(iter(found.values()))]
        printing.write(picture, drawing.file_bytes(drawing.layers_figure(series, names), picture.suffix[1:]))
    if out:
        printing.write(out, (json.dumps(printing.finite(result), sort_keys=True, indent=1) + "\n").encode())
    return result


def _layer_states(made, point: Mapping):
    """The function of a batch that gives the pooled states (B, d) between the blocks, and after the last norm."""
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


def _dimension(options: argparse.Namespace) -> dict:
    picture = printing.checked(options.figure, "--figure", drawing.FORMATS)
    wanted = tables.dimension_list(options.dimensions)
    s = _setting(options)
    shapes = {k: v.shape for k, v in s.point.items()}
    for d in wanted[:1] + wanted[-1:]:  # refused before anything is trained
        if not 1 <= d <= s.subject.size:
            raise ValueError(f"dimension must lie between 1 and the delta's {s.subject.size} numbers, got {d}")
    probes.random_subspace(shapes, wanted[0], kind=options.kind, seed=options.seed, dtype=s.subject.dtype)
    objective = penalized(s.subject, s.batches, options.penalty)
    budget = {"tolerance": 1e-4, "max_evaluations": options.steps}

    def score(params: dict) -> float:
        hits = [s.subject.accuracy(params, b) * len(b.labels) for b in _parts(s.test)]
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
            p = probes.random_subspace(shapes, d, kind=options.kind, seed=seed, dtype=s.subject.dtype)

            def moved(theta: dict, p=p) -> dict:
                return {k: s.point[k] + step for k, step in p.apply(theta["theta"]).items()}

            start = {"theta": torch.zeros(d, dtype=s.subject.dtype)}
            found = fit(lambda theta, moved=moved: objective(moved(theta)), start, **budget)
            tried.append(d)
            scores.append(score(moved(found.params)))
    found = probes.threshold_dimension(tried, scores, baseline=full, chance=floor, seed=options.seed)
    if picture:
        seeds = list(range(options.runs)) * (len(tried) // options.runs)
        figure = drawing.dimension_figure(found, tried, scores, seeds=seeds, baseline=full, chance=floor, score="test accuracy")
        printing.write(picture, drawing.file_bytes(figure, picture.suffix[1:]))
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


def _list(_: argparse.Namespace) -> dict:
    return {"instruments": INSTRUMENTS, "functions": sorted(n for n in probes.__all__ if n[0].islower())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 on success, 2 with one sentence on standard error for a bad request."""
    options = _parser().parse_args(arguments)
    verbs = {
        "list": _list,
        "response": _response,
        "curvature": _curvature,
        "controllability": _controllability,
        "representation": _representation,
        "dimension": _dimension,
    }
    try:
        bounded(options, LEAST, above={"ridge": 0, "margin": 0})
        torch.set_num_threads(getattr(options, "threads", 1))
        result = verbs[options.verb](options)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(printing.finite(result), sort_keys=True))
    else:
        if "blocks" in result:
            result["blocks"] = [{word: row[key] for key, word in HEADS.items()} for row in result["blocks"]]
        if "layers" in result:
            heads = ("at", "layer", "n", "dropped", *SHOWN)
            result["layers"] = [{head.replace("_", " "): row[head] for head in heads} for row in result["layers"]]
        printing.show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
