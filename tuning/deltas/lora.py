"""Low-rank changes of linear maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.maps import add_low_rank, grouped, weight_change
from tuning.deltas.on_maps import LowRank
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class LoRA(LowRank):
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

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the low-rank product, added to what each target computes; the full matrix is never formed."""

        def at(key: str, rows: Tensor | None) -> Callable:
            a, b = params[f"{key}.A"], params[f"{key}.B"]
            return lambda x, y: add_low_rank(y, rows, x, a, b, self.scale)

        return Edits(outputs=grouped((linear.path, at(key, linear.rows)) for key, linear in self.maps(backbone)))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: (alpha / rank) B A}, the same function written as a change of the weights."""
        made: dict[str, Tensor] = {}
        for key, linear in self.maps(backbone):
            product = self.scale * params[f"{key}.B"] @ params[f"{key}.A"]
            name, change = weight_change(backbone, linear, product)
            made[name] = made[name] + change if name in made else change
        return made
