"""Bottleneck networks at the ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes, zeros
from tuning.deltas.places import chosen_ports
from tuning.edits import Edits
from tuning.taxonomy import Taxon

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class Adapter(Delta):
    """A bottleneck network at the ports: y + s W_up act(W_down x + b_down) + b_up.

    "sequential": x = y, the sublayer's own output (Houlsby et al. 2019). "parallel": x = h, the sublayer's
    input (He et al. 2022, section 4.1). W_up and b_up start at zero, W_down as in a linear layer, so the
    identity is exact. `ports` holds sites or keys, `blocks` restricts them further; None means all.
    """

    taxon = Taxon(
        family="addition",
        does="additive signal, read from the state",
        numbers="2 L (2 r d + r + d)",
    )

    bottleneck: int
    placement: str = "sequential"
    ports: tuple[str, ...] | None = None
    activation: str = "gelu"
    scale: float = 1.0
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"expected an adapter with a positive bottleneck, got {self.bottleneck}")
        if self.placement not in ("sequential", "parallel"):
            raise ValueError(f"expected placement 'sequential' or 'parallel', got {self.placement!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {self.activation!r}")

    @property
    def name(self) -> str:
        """Return a short name with the placement and the size."""
        return f"{'adapter' if self.placement == 'sequential' else 'parallel-adapter'}-{self.bottleneck}"

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shapes down (r, d), down_bias (r,), up (d, r), up_bias (d,) of every port."""
        r, d = self.bottleneck, backbone.width
        parts = {"down": (r, d), "down_bias": (r,), "up": (d, r), "up_bias": (d,)}
        return {
            f"{key}.{what}": shape for key in chosen_ports(backbone, self.ports, self.blocks) for what, shape in parts.items()
        }

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return W_down uniform in +-1/sqrt(d) with the seed, everything else zero."""
        generator, bound = torch.Generator().manual_seed(seed), backbone.width**-0.5
        made = {}
        for name, shape in self.shapes(backbone).items():
            made[name] = zeros(shape, backbone)
            if name.endswith(".down"):
                drawn = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 * bound - bound
                made[name] = drawn.to(made[name])
        return made

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return one function per port."""
        act = ACTIVATIONS[self.activation]

        def at(key: str) -> Callable:
            down, down_bias, up, up_bias = (params[f"{key}.{w}"] for w in ("down", "down_bias", "up", "up_bias"))

            def edit(h: Tensor, y: Tensor) -> Tensor:
                x = y if self.placement == "sequential" else h
                return y + self.scale * F.linear(act(F.linear(x, down, down_bias)), up, up_bias)

            return edit

        return Edits(ports={key: (at(key),) for key in chosen_ports(backbone, self.ports, self.blocks)})
