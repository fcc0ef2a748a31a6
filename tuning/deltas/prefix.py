"""Trained keys and values in front of every attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuning.backbones import Backbone, Batch, frame, hidden
from tuning.deltas.delta import Delta, Shapes, check_positive
from tuning.deltas.pieces import pieces
from tuning.deltas.places import chosen_blocks
from tuning.edits import Edits


@dataclass(frozen=True)
class Prefix(Delta):
    """`length` trained keys and values in front of every attention (Li and Liang 2021).

    Attention becomes (1 - lambda(x)) Attn(x) + lambda(x) softmax(x W_q P_k') P_v (He et al. 2022, eq. 5).
    Keys and values start as those of seeded vocabulary pieces run through the frozen model ("real words", Li
    and Liang, section 7.4), without a reparametrising network. With `shift_positions` the text moves behind
    the prefix, as in PEFT; without, it keeps its positions and, in rotary models, the pieces stand just
    before it. `blocks` restricts the prefix to some blocks.
    """

    length: int
    shift_positions: bool = False
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_positive("a prefix", "length", self.length)

    @property
    def name(self) -> str:
        """Return a short name with the length."""
        return f"prefix-{self.length}"

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape (length, key-value heads, head width) of the keys and of the values of every block."""
        shape = (self.length, backbone.key_value_heads, backbone.head_width)
        return {
            f"{block}.attention.{what}": shape for block in chosen_blocks(backbone, self.blocks) for what in ("keys", "values")
        }

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return the keys and values of seeded vocabulary pieces, taken from one pass of the frozen model."""
        tokens = pieces(backbone, self.length, seed)[None]
        before = backbone.layout.first_position is None and not self.shift_positions
        run = frame(backbone, Edits(shift=-self.length if before else 0), record_keys=True)
        with torch.no_grad():
            hidden(backbone, Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens[:, 0]), run)
        made = {}
        for block in chosen_blocks(backbone, self.blocks):
            for what, kept in zip(("keys", "values"), run.keys[block], strict=True):
                made[f"{block}.attention.{what}"] = kept[0].transpose(0, 1).contiguous()
        return made

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the keys and values of every block."""
        pairs = {
            block: (params[f"{block}.attention.keys"], params[f"{block}.attention.values"])
            for block in chosen_blocks(backbone, self.blocks)
        }
        return Edits(prefix=pairs, shift=self.length if self.shift_positions else 0)
