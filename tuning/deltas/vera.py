"""Low-rank changes whose matrices are random and shared, and whose scales are trained."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Shapes, zeros
from tuning.deltas.maps import add_low_rank, grouped, weight_change
from tuning.deltas.on_maps import OnMaps
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class VeRA(OnMaps):
    """W + diag(b) B diag(d) A on the target linear maps, A and B frozen and shared by all (Kopiczko et al. 2024, eq. 2).

    A (rank, d_in) and B (d_out, rank) are uniform with variance 2 / columns, drawn from the seed `projection` as PEFT draws them
    for the largest target, and cut to size for the others. Trained are b, zero at the start, and d, which starts as `d_initial`.
    """

    taxon = Taxon(
        family="reparameterisation",
        does="weight change, scaled random matrices",
        numbers="2 L (r + d)",
        peft="VeraConfig",
    )

    rank: int
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None
    projection: int = 0
    d_initial: float = 0.1

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shapes d (rank,) and b (d_out,) of every target."""
        made: dict[str, tuple[int, ...]] = {}
        for key, linear in self.maps(backbone):
            made |= {f"{key}.d": (self.rank,), f"{key}.b": (linear.d_out,)}
        return made

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return d as `d_initial` and b zero, whatever the seed."""
        self.drawn(backbone)  # once and here, as no random number may be drawn under torch.func
        start = {name: zeros(shape, backbone) for name, shape in self.shapes(backbone).items()}
        return {name: value + self.d_initial * name.endswith(".d") for name, value in start.items()}

    def drawn(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Return the frozen A (rank, the largest d_in) and B (the largest d_out of a module, rank) in float32."""
        maps = [linear for _, linear in self.maps(backbone)]
        return _drawn(self.rank, max(m.d_in for m in maps), max(m.whole for m in maps), self.projection)

    def _projections(self, backbone: Backbone) -> tuple[Tensor, ...]:
        return tuple(matrix.to(backbone.device, backbone.dtype) for matrix in self.drawn(backbone))

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the scaled product, added to what each target computes; the full matrix is never formed."""
        A, B = self._projections(backbone)

        def at(key: str, linear: WeightMap) -> Callable:
            return lambda x, y: add_low_rank(y, linear.rows, x, *_scaled(A, B, key, linear, params), 1.0)

        return Edits(outputs=grouped((linear.path, at(key, linear)) for key, linear in self.maps(backbone)))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: diag(b) B diag(d) A}, the same function written as a change of the weights."""
        made: dict[str, Tensor] = {}
        A, B = self._projections(backbone)
        for key, linear in self.maps(backbone):
            a, b = _scaled(A, B, key, linear, params)
            name, change = weight_change(backbone, linear, b @ a)
            made[name] = made[name] + change if name in made else change
        return made


def _scaled(A: Tensor, B: Tensor, key: str, linear: WeightMap, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return diag(d) A and diag(b) B of one map; a part of a fused module has that module's rows of B."""
    B = B[: linear.d_out] if linear.rows is None else B[linear.rows]
    return params[f"{key}.d"][:, None] * A[:, : linear.d_in], params[f"{key}.b"][:, None] * B


@functools.lru_cache(maxsize=32)
def _drawn(rank: int, d_in: int, d_out: int, seed: int) -> tuple[Tensor, Tensor]:
    generator, made = torch.Generator().manual_seed(seed), []
    for shape in ((rank, d_in), (d_out, rank)):
        bound = (6 / shape[1]) ** 0.5
        made.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
    return tuple(made)
