"""Trained keys and values in front of every attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuning.backbones import SITES, Backbone, Batch, frame, hidden
from tuning.deltas.delta import Delta, Shapes, check_positive
from tuning.deltas.pieces import pieces
from tuning.deltas.places import chosen_blocks
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class Prefix(Delta):
    """`length` trained keys and values in front of every attention (Li and Liang 2021).

    Attention becomes (1 - lambda(x)) Attn(x) + lambda(x) softmax(x W_q P_k') P_v (He et al. 2022, eq. 5); in an
    encoder-decoder, that of both stacks and that of the decoder to the encoder's states. A relative position bias is zero there.
    Keys and values start as those of seeded vocabulary pieces run through the frozen model ("real words", Li
    and Liang, section 7.4), without a reparametrising network. With `shift_positions` the text moves behind
    the prefix, as in PEFT; without, it keeps its positions and, in rotary models, the pieces stand just
    before it. `blocks` restricts the prefix to some blocks.
    """

    taxon = Taxon(
        family="addition",
        does="gated signals: trained keys and values",
        numbers="2 L l d",
        peft="PrefixTuningConfig",
    )

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
        return {f"{name}.{what}": shape for name in attentions_of(backbone, self.blocks) for what in ("keys", "values")}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return the keys and values of seeded vocabulary pieces, taken from one pass of the frozen model."""
        tokens = pieces(backbone, self.length, seed)[None]
        before = backbone.layout.first_position is None and not self.shift_positions
        run = frame(backbone, Edits(shift=-self.length if before else 0), record_keys=True, spoken=tokens)
        with torch.no_grad():
            hidden(backbone, Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens[:, 0]), run)
        made = {}
        for name, key in attentions_of(backbone, self.blocks).items():
            for what, kept in zip(("keys", "values"), run.keys[key], strict=True):
                made[f"{name}.{what}"] = kept[0].transpose(0, 1).contiguous()
        return made

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the keys and values of every block."""
        places = attentions_of(backbone, self.blocks).items()
        pairs = {key: (params[f"{name}.keys"], params[f"{name}.values"]) for name, key in places}
        return Edits(prefix=pairs, shift=self.length if self.shift_positions else 0)


def attentions_of(backbone: Backbone, blocks: tuple[int, ...] | None) -> dict[str, int | str]:
    """Return {name of an attention of these blocks: its key in the edits}."""
    inside = set(chosen_blocks(backbone, blocks))
    return {
        port.key: port.block if port.site == SITES[0] else port.key
        for port in backbone.ports
        if port.block in inside and port.site in (SITES[0], "cross")
    }
