"""`costate probe response` and `controllability`: the response of the logits to a delta, and what each place reaches."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

import probes
from probes import drawing
from tuning import backbones
from tuning.deltas import parse, place_of
from tuning.subjects import subject

from ...store import write_atomic
from ..options import drawn
from ..output import aside, keeping, write_record
from . import tables
from .setting import Setting, places_of, setting

RESPONSE = {  # of the numbers, a line each
    "shape": "texts, classes, numbers of the delta: no more than texts x (classes - 1) directions can be seen",
    "singular_values": "how far all logits together move for a unit of the delta, along its strongest directions",
    "participation_ratio": "how many directions carry the response; near 1, one does: what moves all texts alike",
    "share": "the part of the squared response that comes from each place; equal shares speak for no place",
}
REACH = {
    "share": "the part of the squared response that comes from each place",
    "energy": "the least squared length of one control that moves all texts to the margin, as far as the ridge allows",
    "miss": "the part of the wanted shift that it leaves; near 1, the place cannot do it at this price",
    "example_energy": "the same for a control of its own for each text, in the median",
    "eta": "how far the network is from its linearisation under that control: above 0.3, energy and miss say little",
}


def response(options: argparse.Namespace) -> dict:
    """Return the leading singular values of G and the share of every place; --figure draws them, --out keeps all."""
    out, picture = _files(options)
    s = setting(options)
    result = s.header() | {"meaning": RESPONSE}
    with keeping(result, out):
        g = probes.response(s.subject.outputs, s.point, s.batches)
        result |= tables.spectral(g, places_of(g.names), options.top)
        if out:
            write_record(out, result)
        if picture:
            _draw({result["delta"]: probes.output_gramian(g)}, picture)
    return result


def controllability(options: argparse.Namespace) -> dict:
    """Return what each place reaches and at what price, and the same for other deltas with --against."""
    out, picture = _files(options)
    if options.by == "token" and (options.against or options.checkpoint):
        raise ValueError("--by token measures signals of the frozen model; leave out --against and --checkpoint")
    against = {text: parse(text) for text in options.against}
    s = setting(options, checked=lambda start: _head_names(start, options.delta) if options.by == "head" else None)
    outputs, point = _token_signals(s) if options.by == "token" else (s.subject.outputs, s.point)
    g = probes.response(outputs, point, s.batches)
    labels = torch.cat([b.labels for b in s.batches])
    shift = probes.margin_shift(g.outputs, labels, options.margin)
    whole = probes.output_gramian(g, _reach_places(s, g, options.by))
    found = s.header() | {"meaning": REACH} | ({"delta": "token signals", "size": g.shape[2]} if options.by == "token" else {})
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
        "places": [],
    }
    aside(f"the response to {g.shape[2]} numbers is known; {len(whole.places) + 1} places to price")
    with keeping(found, out):
        for name, part in {"all": whole, **whole.places}.items():
            cost = probes.least_energy(part, shift, ridge=options.ridge)
            z = part.control(g, cost.costate)
            moved = {k: point[k] + step.to(point[k]) for k, step in probes.layout.unflatten(z, g.shapes).items()}
            with torch.no_grad():
                reached = torch.cat([outputs(moved, b) for b in s.batches])
            eta = float(probes.departure(g, z, reached)[(shift != 0).any(1)].median())
            row = dataclasses.asdict(probes.reachability(name, part, shift, ridge=options.ridge))
            found["places"].append(row | {"eta": eta})
        responses = {found["delta"] if options.by == "token" or options.checkpoint else options.delta: g}
        for text, delta in against.items():
            other = subject(s.subject.backbone, delta, s.subject.readout, options.seed)
            responses[text] = probes.response(other.outputs, other.initial, s.batches)
        if options.against:
            table = probes.reach_table(responses, lambda y: probes.margin_shift(y, labels, options.margin), ridge=options.ridge)
            found["deltas"] = [dataclasses.asdict(row) for row in table]
        if out:
            write_record(out, found)
        if picture:
            _draw({name: probes.output_gramian(r) for name, r in responses.items()}, picture)
    return found


def _files(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Return where the record and the figure go; raises ValueError where they cannot be written."""
    return drawn(options.out, "--out", ("json",)), drawn(options.figure, "--figure", drawing.FORMATS)


def _token_signals(s: Setting) -> tuple:
    """Return the logits under one signal (T, d) per port, slot by slot (`probes.token_slots`), and the zero signals."""
    backbones.check_one_stack(s.subject.backbone, "a table by token")
    length = max(b.mask.shape[1] for b in s.batches)
    zero = torch.zeros(length, s.subject.width, dtype=s.subject.dtype, device=s.subject.backbone.device)

    def outputs(signals: Mapping, batch: backbones.Batch) -> torch.Tensor:
        slots, real = probes.token_slots(batch.mask), batch.mask[..., None]
        return s.subject.steered({port: z[slots] * real for port, z in signals.items()}, batch)

    return outputs, {port: zero for port in s.subject.ports}


def _reach_places(s: Setting, g: probes.Response, by: str) -> dict:
    """Return the groups of G's columns for a table by port, layer, head or token."""
    if by == "port":
        return places_of(g.names)
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
    axes = {name: (axis, heads) for name, axis in _head_names(s.point, s.subject.delta.name).items()}
    return probes.axis_places(g.shapes, axes, lambda i: f"head {i}")


def _head_names(point: Mapping[str, torch.Tensor], delta: str) -> dict[str, int]:
    """The parameters that belong to single heads, each with its axis of heads; raises ValueError for a delta without any."""
    axes = {}
    for name, value in point.items():
        last = tuple(name.split(".")[-2:])
        if last[0] in ("attention", "cross") and last[1] in ("keys", "values"):
            axes[name] = 1
        elif value.ndim == 2 and last in (("q", "B"), ("k", "B"), ("v", "B")):
            axes[name] = 0
    if not axes:
        raise ValueError(f"{delta} has no parameters of single heads; use a prefix or lora, or --by port")
    return axes


def _draw(gramians: Mapping[str, probes.OutputGramian], path: Path) -> None:
    """Write the reachable singular values of every delta against their index."""
    values = {name: found.values[: found.rank].tolist() for name, found in gramians.items()}
    write_atomic(path, drawing.file_bytes(drawing.reach_figure(values), path.suffix[1:]))
