"""Changes of all weights, or of those that match."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tuning.backbones import Backbone
from tuning.deltas.weights import Weights
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class Full(Weights):
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

    def parameters(self, backbone: Backbone) -> dict[str, str]:
        """Return the matching weights; raises ValueError where there are none."""
        pairs = ((backbone.key_of(name), name) for name, _ in backbone.model.named_parameters())
        found = {
            key: name
            for key, name in pairs
            if any(fnmatchcase(key, pattern) or fnmatchcase(name, pattern) for pattern in self.patterns)
        }
        if not found:
            raise ValueError(f"expected patterns that match weights of {backbone.name}, {self.patterns} match none")
        return found
