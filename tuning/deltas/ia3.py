"""Factors on what linear maps read and put out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tuning.architectures import ROLES
from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Delta, Shapes, zeros
from tuning.deltas.maps import grouped, maps_of
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class IA3(Delta):
    """Trained factors on keys, values and the mlp's hidden layer, all one at the start (Liu et al. 2022).

    `targets` are roles of linear maps; those among `inputs` have what enters them scaled, the others what
    leaves them. `blocks` restricts it to some blocks.
    """

    taxon = Taxon(
        family="addition",
        does="multiplicative: factors at linear maps",
        numbers="L (2 d + m)",
        peft="IA3Config",
    )

    targets: tuple[str, ...] = ("k", "v", "down")
    inputs: tuple[str, ...] = ("down",)
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.targets or not {*self.targets, *self.inputs} <= set(ROLES):
            raise ValueError(f"expected IA3 targets and inputs among {', '.join(ROLES)}, got {self.targets} and {self.inputs}")

    @property
    def name(self) -> str:
        """Return a short name."""
        return "ia3"

    def _maps(self, backbone: Backbone) -> list[tuple[str, WeightMap, bool]]:
        maps = maps_of(backbone, [role for role in ROLES if role in self.targets], self.blocks)
        made = [(key, linear, key.rpartition(".")[2] in self.inputs) for key, linear in maps]
        if parts := [key for key, linear, enters in made if enters and linear.rows is not None]:
            raise ValueError(f"expected inputs of whole maps, {parts[0]} of {backbone.name} is fused; name qkv there")
        return made

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape (d_in,) of maps whose input is scaled, (d_out,) of the others."""
        return {key: (m.d_in if enters else m.d_out,) for key, m, enters in self._maps(backbone)}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return one, whatever the seed."""
        return {name: zeros(shape, backbone) + 1 for name, shape in self.shapes(backbone).items()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return products with what leaves the maps, or with what enters them."""

        def after(key: str, rows: Tensor | None, whole: int) -> Callable:
            factor = params[key]
            if rows is not None:
                factor = torch.index_add(zeros((whole,), backbone) + 1, 0, rows, factor - 1)
            return lambda x, y: y * factor

        def before(key: str) -> Callable:
            return lambda x: x * params[key]

        maps = self._maps(backbone)
        return Edits(
            outputs=grouped((m.path, after(key, m.rows, m.whole)) for key, m, enters in maps if not enters),
            inputs=grouped((m.path, before(key)) for key, m, enters in maps if enters),
        )
