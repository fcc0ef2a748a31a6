"""One vector per port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes
from tuning.deltas.places import chosen_ports
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class PortBias(Delta):
    """One trained vector per port, added to the sublayer's output: the plainest open-loop control."""

    taxon = Taxon(
        family="addition",
        does="additive signal, a constant",
        numbers="2 L d",
    )

    ports: tuple[str, ...] | None = None
    blocks: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Return a short name."""
        return "port-bias"

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape (d,) of every port."""
        return {f"{key}.bias": (backbone.width,) for key in chosen_ports(backbone, self.ports, self.blocks)}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the vectors, added at the ports."""

        def at(key: str) -> Callable:
            return lambda h, y: y + params[f"{key}.bias"]

        return Edits(ports={key: (at(key),) for key in chosen_ports(backbone, self.ports, self.blocks)})
