"""Changes of every bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Delta, Shapes
from tuning.deltas.maps import maps_of
from tuning.deltas.places import chosen_blocks
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class BitFit(Delta):
    """Every bias of the backbone, normalisations included, moved by a trained vector (Ben Zaken et al. 2022).

    A backbone that has no bias anywhere (Llama) gets one on the output of each linear map of its blocks
    instead. `blocks` leaves only the biases inside these blocks.
    """

    taxon = Taxon(
        family="specification",
        does="weight change of biases: constants",
        numbers="d + L (7 d + m)",
    )

    blocks: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Return a short name."""
        return "bitfit"

    def _biases(self, backbone: Backbone) -> dict[str, str]:
        names = [name for name, _ in backbone.model.named_parameters() if name.endswith(".bias")]
        found = {backbone.key_of(name): name for name in names}
        if self.blocks is None or not found:
            return found
        inside = {str(block) for block in chosen_blocks(backbone, self.blocks)}
        return {key: name for key, name in found.items() if key.partition(".")[0] in inside}

    def _added(self, backbone: Backbone) -> dict[str, WeightMap]:
        maps = maps_of(backbone, backbone.layout.roles, self.blocks)
        return {f"{key}.bias": linear for key, linear in maps}

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape of every bias."""
        biases = self._biases(backbone)
        if biases:
            return {key: tuple(backbone.model.get_parameter(name).shape) for key, name in biases.items()}
        return {key: (linear.d_out,) for key, linear in self._added(backbone).items()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the vectors, added to the biases or to the outputs of the linear maps."""
        biases = self._biases(backbone)
        if biases:
            return Edits(weights={name: params[key] for key, name in biases.items()})

        def at(key: str) -> Callable:
            return lambda x, y: y + params[key]

        return Edits(outputs={linear.path: (at(key),) for key, linear in self._added(backbone).items()})

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: change}; raises ValueError for a backbone without biases."""
        changes = self.edits(backbone, params).weights
        if not changes:
            raise ValueError(f"expected a backbone with biases to write BitFit as weight changes, {backbone.name} has none")
        return dict(changes)
