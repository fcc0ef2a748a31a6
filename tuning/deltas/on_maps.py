"""What deltas share that act on linear maps, by roles, and those that train a product of two thin matrices there."""

from __future__ import annotations

import torch
from torch import Tensor

from tuning.architectures import ROLES
from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Delta, Shapes, check_positive, zeros
from tuning.deltas.maps import maps_of


class OnMaps(Delta):
    """A delta of linear maps with a rank; `targets` names their roles: q, k, v, o, up, gate, down, qkv, gate_up.

    The target mlp stands for up and down, and qkv and gate_up are fused maps as wholes.
    """

    rank: int
    targets: tuple[str, ...]
    blocks: tuple[int, ...] | None

    def __post_init__(self) -> None:
        kind = type(self).__name__
        check_positive(kind, "rank", self.rank)
        if not self.targets or not set(self.targets) <= {*ROLES, "mlp"}:
            raise ValueError(f"expected {kind} targets among {', '.join(ROLES)}, mlp, got {self.targets}")

    @property
    def name(self) -> str:
        """Return a short name with the rank."""
        return f"{type(self).__name__.lower()}-{self.rank}"

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the targets as roles of linear maps, in forward order."""
        wanted = [role for t in self.targets for role in (("up", "down") if t == "mlp" else (t,))]
        return tuple(role for role in ROLES if role in wanted)

    def maps(self, backbone: Backbone) -> list[tuple[str, WeightMap]]:
        """Return ("block.site.role", linear map) of the targets."""
        return maps_of(backbone, self.roles, self.blocks)


class LowRank(OnMaps):
    """A delta of linear maps that trains A (rank, d_in) and B (d_out, rank) of each; their product is (alpha / rank) B A."""

    alpha: float | None

    @property
    def scale(self) -> float:
        """Return alpha / rank; alpha is the rank where none is given."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shapes A (rank, d_in) and B (d_out, rank) of every target."""
        made: dict[str, tuple[int, ...]] = {}
        for key, linear in self.maps(backbone):
            made |= {f"{key}.A": (self.rank, linear.d_in), f"{key}.B": (linear.d_out, self.rank)}
        return made

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return A gaussian with the seed, of variance 1/d_in, and B zero."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: _gaussian(shape, generator, backbone) if name.endswith(".A") else zeros(shape, backbone)
            for name, shape in self.shapes(backbone).items()
        }


def _gaussian(shape: tuple[int, ...], generator: torch.Generator, like: Backbone) -> Tensor:
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * shape[1] ** -0.5).to(like.device, like.dtype)
