"""Changes of few entries of linear maps, which a fixed mask chooses."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Shapes
from tuning.deltas.maps import frozen_weight, weight_change
from tuning.deltas.on_maps import OnMaps
from tuning.edits import Edits
from tuning.taxonomy import Taxon

_LARGEST: weakref.WeakKeyDictionary[Backbone, dict] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class SHiRA(OnMaps):
    """A change of rank (d_in + d_out) entries, as many as LoRA trains, of every target linear map (Bhardwaj et al. 2024).

    The mask is fixed, unlike that of diff pruning (Guo et al. 2021), which learns one: the entries that are largest in magnitude
    (SHiRA-WM), or those that PEFT draws at random from `mask_seed`. `targets` and `blocks` are those of LoRA.
    """

    taxon = Taxon(
        family="specification",
        does="weight change of single entries, masked",
        numbers="4 L r d",
        peft="ShiraConfig",
    )

    rank: int
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None
    mask_seed: int | None = None

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape (rank (d_in + d_out),) of every target; raises ValueError where a map has not so many entries."""
        made: dict[str, tuple[int, ...]] = {}
        for key, linear in self.maps(backbone):
            count, whole = self.rank * (linear.d_in + linear.d_out), linear.d_in * linear.d_out
            if count > whole:
                raise ValueError(f"expected SHiRA of at most the {whole} entries of {key}, got {count}; give a smaller rank")
            made[f"{key}.values"] = (count,)
        return made

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return zero, whatever the seed."""
        for key, linear in self.maps(backbone):  # once and here, as no random number may be drawn under torch.func
            self.places(backbone, key, linear)
        return super().initial(backbone, seed)

    def places(self, backbone: Backbone, key: str, linear: WeightMap) -> Tensor:
        """Return the trained entries of a map, ascending indices of its weight (d_out, d_in) read row by row."""
        (count,) = self.shapes(backbone)[f"{key}.values"]
        if self.mask_seed is not None:
            return _drawn(linear.d_in * linear.d_out, count, self.mask_seed).to(backbone.device)
        known = _LARGEST.setdefault(backbone, {})
        if (key, count) not in known:
            size = frozen_weight(backbone, linear).abs().flatten()
            known[key, count] = size.argsort(descending=True, stable=True)[:count].sort().values
        return known[key, count]

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the changes, added to the weights inside the forward pass."""
        return Edits(weights=self.weight_changes(backbone, params))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: change}, zero outside the mask."""
        made: dict[str, Tensor] = {}
        for key, linear in self.maps(backbone):
            values = params[f"{key}.values"]
            flat = values.new_zeros(linear.d_out * linear.d_in).index_put((self.places(backbone, key, linear),), values)
            name, change = weight_change(backbone, linear, flat.view(linear.d_out, linear.d_in))
            made[name] = made[name] + change if name in made else change
        return made


@functools.lru_cache(maxsize=32)
def _drawn(entries: int, count: int, seed: int) -> Tensor:
    return torch.randperm(entries, generator=torch.Generator().manual_seed(seed))[:count].sort().values
