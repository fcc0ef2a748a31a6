"""What deltas share that name weights of the backbone and train a change of each."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes
from tuning.edits import Edits


class Weights(Delta):
    """An additive change, zero at the start, of every weight that the kind names."""

    @abstractmethod
    def parameters(self, backbone: Backbone) -> dict[str, str]:
        """Return {short name: model parameter} of the weights that are trained."""

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape of every weight."""
        return {key: tuple(backbone.model.get_parameter(name).shape) for key, name in self.parameters(backbone).items()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the changes, added to the weights inside the forward pass."""
        return Edits(weights=self.weight_changes(backbone, params))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: change}."""
        return {name: params[key] for key, name in self.parameters(backbone).items()}
