"""Plants that take affine laws: controllers without training are exact on them, for the plant they were made for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .network import Plant, make_plant


@dataclass(frozen=True)
class LawPlant(Plant):
    """A plant whose delta may be exchanged; parameters "label/block.site.what" of several deltas add their signals."""

    delta: object = None

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor:
        total = torch.zeros((), dtype=self.dtype)
        for name, value in params.items():
            label, _, key = name.rpartition("/")
            if key == f"{port}.bias":
                total = total + value
            elif key == f"{port}.up":
                start = f"{label}/{port}" if label else port
                down, offset, up_bias = (params[f"{start}.{what}"] for what in ("down", "down_bias", "up_bias"))
                total = total + (base @ down.T + offset) @ value.T + up_bias
        return total


def law_plant(network: int, parameters: Mapping[str, tuple[int, ...]], seed: int = 0) -> LawPlant:
    """Return a system's plant with parameters that start at zero (down-projections at seeded noise)."""
    made = make_plant(network, parameters, seed)
    plant = LawPlant(**{f.name: getattr(made, f.name) for f in fields(made)})
    return replace(plant, C=0.3 * plant.C, strength=torch.ones_like(plant.strength))
