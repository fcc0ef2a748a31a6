"""The linear maps that a delta acts on, by their roles, and how its change enters each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Backbone, WeightMap, transposed
from tuning.deltas.places import chosen_blocks


def maps_of(backbone: Backbone, roles: Iterable[str], blocks: tuple[int, ...] | None) -> list[tuple[str, WeightMap]]:
    """Return ("block.site.role", linear map) of these roles in these blocks."""
    return [
        (f"{block}.{site}.{role}", backbone.linear(block, role, site))
        for block in chosen_blocks(backbone, blocks)
        for role in roles
        for site in backbone.sites(block, role)
    ]


def add_rows(y: Tensor, rows: Tensor | None, change: Tensor) -> Tensor:
    """Return y with the change added to all of its columns, or to the columns `rows` of a fused output."""
    return y + change if rows is None else torch.index_add(y, -1, rows, change)


def add_low_rank(y: Tensor, rows: Tensor | None, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return y with scale b a x added as in `add_rows`; where all columns change, in one pass over them."""
    small = F.linear(x, a)
    if rows is not None:
        return add_rows(y, rows, scale * F.linear(small, b))
    return torch.addmm(y.flatten(0, -2), small.flatten(0, -2), b.T, alpha=scale).view(y.shape)


def grouped(pairs: Iterable[tuple[str, Callable]]) -> dict[str, tuple[Callable, ...]]:
    """Return the edits of every path, in the order given."""
    table: dict[str, tuple[Callable, ...]] = {}
    for path, edit in pairs:
        table[path] = table.get(path, ()) + (edit,)
    return table


def frozen_weight(backbone: Backbone, linear: WeightMap) -> Tensor:
    """Return the frozen weight (d_out, d_in) of a map."""
    module = backbone.model.get_submodule(linear.path)
    weight = module.weight.detach()
    weight = weight.T if transposed(module) else weight
    return weight if linear.rows is None else weight[linear.rows]


def weight_change(backbone: Backbone, linear: WeightMap, change: Tensor) -> tuple[str, Tensor]:
    """Return (parameter, additive change in the layout the module stores) for a change (d_out, d_in) of a map."""
    module = backbone.model.get_submodule(linear.path)
    if linear.rows is not None:
        full = torch.zeros((linear.whole, linear.d_in), dtype=change.dtype, device=change.device)
        change = torch.index_add(full, 0, linear.rows, change)
    return f"{linear.path}.weight", change.T if transposed(module) else change
