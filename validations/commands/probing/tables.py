"""What `costate probe` shows of a measurement: rows and headings as plain JSON, and the lists that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

import probes
from probes.dimension.layers import LayerRepresentation

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
COMBINATION = "--by delta needs a combination of deltas, such as 'lora:rank=4 & port-bias'"
SHOWN = ("two_nn", "mle", "gride 8", "local_pca", "participation_ratio", "effective_rank")  # of a layer, in the table


def spectral(g: probes.Response, groups: Mapping[str, Sequence[str]], top: int) -> dict:
    """Return the leading singular values of G, how many matter, and the share of tr K that each group carries."""
    kernel = g.kernel().double()
    values = torch.linalg.eigvalsh(kernel).flip(0).clamp_min(0)
    parts = g.by_group(groups)
    shares = {k: float(part.kernel().double().trace() / kernel.trace()) for k, part in parts.items()}
    return {
        "shape": list(g.shape),
        "route": g.route,
        "status": g.status,
        "singular_values": values[:top].sqrt().tolist(),
        "participation_ratio": float(values.sum() ** 2 / (values**2).sum()),
        "share": shares,
    }


def levels(names: Sequence[str], wanted: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the rows of a curvature table: label -> (level, parameters), from the whole delta down to its tensors."""
    found = {"all": ("all", tuple(names))} if "all" in wanted else {}
    parts = {name.partition("/")[0] for name in names if "/" in name}
    for part in sorted(parts) if "delta" in wanted else ():
        found[part] = ("delta", tuple(name for name in names if name.startswith(f"{part}/")))
    for layer, some in probes.by_layer(names).items() if "layer" in wanted else ():
        found[f"layer {layer}" if layer.isdigit() else layer] = ("layer", some)
    for name in names if "block" in wanted else ():
        found.setdefault(name, ("block", (name,)))
    if not found:
        raise ValueError(COMBINATION)
    return found


def block_row(level: str, row: probes.BlockSummary) -> dict:
    """Return a block's summary as plain JSON."""

    def estimate(e: probes.Estimate) -> dict:
        return {"value": e.value, "stderr": e.stderr, "interval": list(e.interval)}

    mass = row.negative_mass
    ends = {end: None if (at := getattr(row, end)) is None else dataclasses.asdict(at) for end in ("largest", "smallest")}
    return {
        "place": row.name,
        "level": level,
        "size": row.size,
        **ends,
        "trace": estimate(row.trace),
        "gauss_newton_trace": row.gauss_newton_trace,
        "effective_dimension": estimate(row.effective_dimension),
        "negative_mass": None if mass is None else {"value": mass.value, "interval": list(mass.interval)},
        "route": row.route,
        "products": row.products,
    }


def layer_row(at: str, row: LayerRepresentation) -> dict:
    """Return a layer's dimensions as plain JSON."""
    values = {q: {"value": e.value, "stderr": e.stderr, "status": e.status} for q, e in row.estimates.items()}
    return {"at": at, "layer": row.name, "n": row.n, "dropped": row.dropped, "status": row.status, **values}


def dimension_list(text: str) -> list[int]:
    """Return the dimensions of --dimensions in order; raises ValueError unless they are three different whole numbers or more."""
    try:
        wanted = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise ValueError(f"--dimensions must be whole numbers between commas, such as 4,16,64, got {text!r}") from None
    if len(wanted) < 3:
        raise ValueError(f"a curve takes at least 3 different --dimensions, got {text!r}: name more")
    return wanted


def headed(found: Mapping) -> dict:
    """Return a result with the rows of blocks and of layers cut down to the columns of a printed table, and no density's grid."""
    made = {key: value for key, value in found.items() if key != "density"}
    if "blocks" in made:
        made["blocks"] = [{word: row[key] for key, word in HEADS.items()} for row in made["blocks"]]
    if "layers" in made:
        heads = ("at", "layer", "n", "dropped", *SHOWN)
        made["layers"] = [{head.replace("_", " "): row[head] for head in heads} for row in made["layers"]]
    return made
