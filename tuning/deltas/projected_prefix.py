"""A prefix whose keys and values a small network makes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes, check_positive
from tuning.deltas.prefix import Prefix, attentions_of
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class ProjectedPrefix(Delta):
    """A prefix whose keys and values are W_up tanh(W_down e + b_down) + b_up of trained rows e (Li and Liang 2021, section 4.3).

    The rows and the hidden layer serve every attention, each of which has a W_up of its own; all start as PEFT's layers do. Once
    trained, the network can be dropped: `plain` gives the prefix it makes. `hidden` units are as many as a key has numbers,
    heads together, where none are given; `shift_positions` is that of a prefix.
    """

    taxon = Taxon(
        family="addition",
        does="gated signals, made by a network",
        numbers="l d + d (d + 1) (2 L + 1)",
        peft="PrefixTuningConfig, prefix_projection",
    )

    length: int
    hidden: int | None = None
    shift_positions: bool = False

    def __post_init__(self) -> None:
        check_positive("a projected prefix", "length", self.length)
        if self.hidden is not None:
            check_positive("a projected prefix", "number of hidden units", self.hidden)

    @property
    def name(self) -> str:
        """Return a short name with the length."""
        return f"projected-prefix-{self.length}"

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return rows (length, w), down (h, w), down_bias (h,), and of every attention up (2 w, h) and up_bias (2 w,)."""
        w = backbone.key_value_heads * backbone.head_width
        h = self.hidden or w
        made: Shapes = {"embedding.rows": (self.length, w), "embedding.down": (h, w), "embedding.down_bias": (h,)}
        for name in attentions_of(backbone, None):
            made |= {f"{name}.up": (2 * w, h), f"{name}.up_bias": (2 * w,)}
        return made

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return the rows standard normal and the layers uniform in +-1/sqrt(inputs), with the seed."""
        generator, made = torch.Generator().manual_seed(seed), {}
        shapes = self.shapes(backbone)
        for name, shape in shapes.items():
            if name == "embedding.rows":
                drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            else:
                bound = shapes[name.removesuffix("_bias")][1] ** -0.5
                drawn = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * bound
            made[name] = drawn.to(backbone.device, backbone.dtype)
        return made

    def plain(self, backbone: Backbone, params: dict[str, Tensor]) -> tuple[Prefix, dict[str, Tensor]]:
        """Return the prefix that the network makes, without the network."""
        rows, down, bias = (params[f"embedding.{what}"] for what in ("rows", "down", "down_bias"))
        inner = torch.tanh(F.linear(rows, down, bias))
        made = {}
        for name in attentions_of(backbone, None):
            both = F.linear(inner, params[f"{name}.up"], params[f"{name}.up_bias"])
            both = both.view(self.length, 2, backbone.key_value_heads, backbone.head_width)
            made |= {f"{name}.keys": both[:, 0], f"{name}.values": both[:, 1]}
        return Prefix(self.length, self.shift_positions), made

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the keys and values of every block."""
        prefix, made = self.plain(backbone, params)
        return prefix.edits(backbone, made)
