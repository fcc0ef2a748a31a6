"""Low-rank changes of the directions of weights, beside their lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Shapes
from tuning.deltas.maps import add_rows, frozen_weight, grouped, weight_change
from tuning.deltas.on_maps import LowRank
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class DoRA(LowRank):
    """m V / |V| on the target linear maps, V = W + (alpha / rank) B A with the norm taken row by row (Liu et al. 2024, eq. 5).

    The magnitude m of every output is trained and starts as |W|; A, B, `targets` and `blocks` are those of LoRA. With `detached`
    a backward pass takes |V| for a constant, as PEFT trains it (section 4.3): that is no derivative of the loss, so probes take
    the `exact` form, and studies refuse it.
    """

    taxon = Taxon(
        family="reparameterisation",
        does="weight change, direction and magnitude",
        numbers="2 L (2 r d + d)",
        peft="LoraConfig, use_dora",
    )

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None
    detached: bool = False

    @property
    def exact(self) -> DoRA:
        """Return the same function, differentiated through the norm."""
        return dataclasses.replace(self, detached=False)

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shapes A (rank, d_in), B (d_out, rank) and magnitude (d_out,) of every target."""
        return super().shapes(backbone) | {f"{key}.magnitude": (linear.d_out,) for key, linear in self.maps(backbone)}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return A gaussian with the seed, B zero, and the magnitudes of the frozen weights."""
        start = super().initial(backbone, seed)
        for key, linear in self.maps(backbone):
            start[f"{key}.magnitude"] = torch.linalg.vector_norm(frozen_weight(backbone, linear), dim=1)
        return start

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the change of each target's weight, applied to what enters it."""

        def at(key: str, linear: WeightMap) -> Callable:
            return lambda x, y: add_rows(y, linear.rows, F.linear(x, self._change(backbone, key, linear, params)))

        return Edits(outputs=grouped((linear.path, at(key, linear)) for key, linear in self.maps(backbone)))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: m V / |V| - W}, the same function written as a change of the weights."""
        made: dict[str, Tensor] = {}
        for key, linear in self.maps(backbone):
            name, change = weight_change(backbone, linear, self._change(backbone, key, linear, params))
            made[name] = made[name] + change if name in made else change
        return made

    def _change(self, backbone: Backbone, key: str, linear: WeightMap, params: dict[str, Tensor]) -> Tensor:
        a, b, magnitude = (params[f"{key}.{what}"] for what in ("A", "B", "magnitude"))
        weight = frozen_weight(backbone, linear)
        moved = weight + self.scale * b @ a
        length = torch.linalg.vector_norm(moved, dim=1)
        return (magnitude / (length.detach() if self.detached else length))[:, None] * moved - weight
