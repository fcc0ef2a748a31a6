"""Low-rank changes of linear maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tuning.architectures import ROLES
from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Delta, Shapes, zeros
from tuning.deltas.maps import add_low_rank, grouped, maps_of, weight_change
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class LoRA(Delta):
    """W + (alpha / rank) B A on the target linear maps (Hu et al. 2022).

    A is gaussian with variance 1/d_in at the start, B zero. Targets are a subset of q, k, v, o, up, gate, down,
    the fused maps qkv and gate_up as wholes, and mlp, which stands for up and down; `blocks` restricts it to some blocks.
    """

    taxon = Taxon(
        family="reparameterisation",
        does="weight change of low rank",
        numbers="4 L r d",
        peft="LoraConfig",
    )

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"expected LoRA with a positive rank, got {self.rank}")
        if not self.targets or not set(self.targets) <= {*ROLES, "mlp"}:
            raise ValueError(f"expected LoRA targets among {', '.join(ROLES)}, mlp, got {self.targets}")

    @property
    def name(self) -> str:
        """Return a short name with the rank."""
        return f"lora-{self.rank}"

    @property
    def scale(self) -> float:
        """Return alpha / rank; alpha is the rank where none is given."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the targets as roles of linear maps, in forward order."""
        wanted = [role for t in self.targets for role in (("up", "down") if t == "mlp" else (t,))]
        return tuple(role for role in ROLES if role in wanted)

    def _maps(self, backbone: Backbone) -> list[tuple[str, WeightMap]]:
        return maps_of(backbone, self.roles, self.blocks)

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shapes A (rank, d_in) and B (d_out, rank) of every target."""
        made: dict[str, tuple[int, ...]] = {}
        for key, linear in self._maps(backbone):
            made |= {f"{key}.A": (self.rank, linear.d_in), f"{key}.B": (linear.d_out, self.rank)}
        return made

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return A gaussian with the seed, B zero."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: _gaussian(shape, generator, backbone) if name[-1] == "A" else zeros(shape, backbone)
            for name, shape in self.shapes(backbone).items()
        }

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the low-rank product, added to what each target computes; the full matrix is never formed."""

        def at(key: str, rows: Tensor | None) -> Callable:
            a, b = params[f"{key}.A"], params[f"{key}.B"]
            return lambda x, y: add_low_rank(y, rows, x, a, b, self.scale)

        return Edits(outputs=grouped((linear.path, at(key, linear.rows)) for key, linear in self._maps(backbone)))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: (alpha / rank) B A}, the same function written as a change of the weights."""
        made: dict[str, Tensor] = {}
        for key, linear in self._maps(backbone):
            product = self.scale * params[f"{key}.B"] @ params[f"{key}.A"]
            name, change = weight_change(backbone, linear, product)
            made[name] = made[name] + change if name in made else change
        return made


def _gaussian(shape: tuple[int, ...], generator: torch.Generator, like: Backbone) -> Tensor:
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * shape[1] ** -0.5).to(like.device, like.dtype)
