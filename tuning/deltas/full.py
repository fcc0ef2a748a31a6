"""Changes of all weights, or of those that match."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class Full(Delta):
    """An additive change, zero at the start, of every weight whose name matches one of the patterns.

    A pattern is matched with the short name ("2.mlp.up.weight", "embedding.…") and with the model's own name.
    """

    taxon = Taxon(
        family="specification",
        does="weight change of any weight",
        numbers="P",
    )

    patterns: tuple[str, ...] = ("*",)

    @property
    def name(self) -> str:
        """Return a short name."""
        return "full" if self.patterns == ("*",) else "weights"

    def _names(self, backbone: Backbone) -> dict[str, str]:
        pairs = ((backbone.key_of(name), name) for name, _ in backbone.model.named_parameters())
        found = {
            key: name
            for key, name in pairs
            if any(fnmatchcase(key, pattern) or fnmatchcase(name, pattern) for pattern in self.patterns)
        }
        if not found:
            raise ValueError(f"expected patterns that match weights of {backbone.name}, {self.patterns} match none")
        return found

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape of every matching weight."""
        return {key: tuple(backbone.model.get_parameter(name).shape) for key, name in self._names(backbone).items()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the changes, added to the weights inside the forward pass."""
        return Edits(weights=self.weight_changes(backbone, params))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: change}."""
        return {name: params[key] for key, name in self._names(backbone).items()}
