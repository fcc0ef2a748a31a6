"""Deltas that lengthen the context: prompt tokens at the input, keys and values in every attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuning.backbones import Backbone, Batch, frame, hidden
from tuning.deltas.places import chosen_blocks
from tuning.edits import Edits


def _positive(kind: str, what: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"expected {kind} with a positive {what}, got {value}; give at least 1")


def _pieces(backbone: Backbone, count: int, seed: int) -> Tensor:
    """`count` vocabulary pieces drawn with a seed, special tokens left out."""
    special = set(getattr(backbone.tokenizer, "all_special_ids", ()))
    ordinary = torch.tensor([i for i in range(backbone.model.config.vocab_size) if i not in special])
    chosen = torch.randint(len(ordinary), (count,), generator=torch.Generator().manual_seed(seed))
    return ordinary[chosen].to(backbone.device)


@dataclass(frozen=True)
class Prompt:
    """`length` trained rows in front of the token embeddings (Lester, Al-Rfou, Constant 2021).

    The rows start as the embeddings of seeded vocabulary pieces (section 3.2 there). With `shift_positions`
    the text moves behind the prompt, as in PEFT; without, the text keeps its positions, so that a prompt
    which receives no attention changes nothing.
    """

    length: int
    shift_positions: bool = False

    def __post_init__(self) -> None:
        _positive("a prompt", "length", self.length)

    @property
    def name(self) -> str:
        """A short name with the size."""
        return f"prompt-{self.length}"

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """One matrix (length, width)."""
        return {"embedding.prompt": (self.length, backbone.width)}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Embeddings of vocabulary pieces drawn with the seed."""
        table = backbone.model.get_submodule(backbone.layout.word).weight
        return {"embedding.prompt": table[_pieces(backbone, self.length, seed)].detach().clone()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """The rows in front of the text."""
        return Edits(prompt=params["embedding.prompt"], shift=self.length if self.shift_positions else 0)

    def size(self, backbone: Backbone) -> int:
        """length * width."""
        return self.length * backbone.width


@dataclass(frozen=True)
class Prefix:
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
        _positive("a prefix", "length", self.length)

    @property
    def name(self) -> str:
        """A short name with the size."""
        return f"prefix-{self.length}"

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """Keys and values (length, key-value heads, head width) per block."""
        shape = (self.length, backbone.key_value_heads, backbone.head_width)
        return {
            f"{block}.attention.{what}": shape for block in chosen_blocks(backbone, self.blocks) for what in ("keys", "values")
        }

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Keys and values of seeded vocabulary pieces, taken from one pass of the frozen model."""
        tokens = _pieces(backbone, self.length, seed)[None]
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
        """The keys and values per block."""
        pairs = {
            block: (params[f"{block}.attention.keys"], params[f"{block}.attention.values"])
            for block in chosen_blocks(backbone, self.blocks)
        }
        return Edits(prefix=pairs, shift=self.length if self.shift_positions else 0)

    def size(self, backbone: Backbone) -> int:
        """2 * length * key-value heads * head width per block."""
        return 2 * self.length * backbone.key_value_heads * backbone.head_width * len(chosen_blocks(backbone, self.blocks))
