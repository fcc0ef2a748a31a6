"""Deltas over everything: all weights (or those that match), and combinations of other deltas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from tuning.backbones import Backbone
from tuning.edits import Edits, merge


@dataclass(frozen=True)
class Full:
    """An additive change, zero at the start, of every weight whose name matches one of the patterns.

    A pattern is matched with the short name ("2.mlp.up.weight", "embedding.…") and with the model's own name.
    """

    patterns: tuple[str, ...] = ("*",)

    @property
    def name(self) -> str:
        """A short name."""
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

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """The shape of each matching weight."""
        return {key: tuple(backbone.model.get_parameter(name).shape) for key, name in self._names(backbone).items()}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Zero for every seed."""
        return {
            key: torch.zeros(shape, dtype=backbone.dtype, device=backbone.device) for key, shape in self.shapes(backbone).items()
        }

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """The changes, added to the weights inside the forward pass."""
        return Edits(weights=self.weight_changes(backbone, params))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """{model parameter: change}."""
        return {name: params[key] for key, name in self._names(backbone).items()}

    def size(self, backbone: Backbone) -> int:
        """The number of matching weights."""
        return sum(math.prod(shape) for shape in self.shapes(backbone).values())


@dataclass(frozen=True)
class Combined:
    """Several deltas at once; parameter names get the part's label and a slash in front.

    Parts are (label, delta) pairs, for example a prefix on the attention with a parallel adapter on the mlp
    (the mix-and-match adapter of He et al. 2022, section 4.6).
    """

    parts: tuple[tuple[str, object], ...]

    def __post_init__(self) -> None:
        labels = [label for label, _ in self.parts]
        if not labels or len(set(labels)) < len(labels) or any("/" in label or not label for label in labels):
            raise ValueError(f"expected parts with distinct labels free of '/', got {labels}")

    @property
    def name(self) -> str:
        """The names of the parts."""
        return "+".join(part.name for _, part in self.parts)

    def _own(self, label: str, params: dict[str, Tensor]) -> dict[str, Tensor]:
        start = label + "/"
        return {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """The shapes of the parts."""
        return {f"{label}/{key}": shape for label, part in self.parts for key, shape in part.shapes(backbone).items()}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """The parts' initial values; part i draws with seed + i so that equal parts differ."""
        return {
            f"{label}/{key}": value
            for i, (label, part) in enumerate(self.parts)
            for key, value in part.initial(backbone, seed + i).items()
        }

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """The parts' edits in order."""
        return merge(part.edits(backbone, self._own(label, params)) for label, part in self.parts)

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of the parts' weight changes; ValueError when a part is not a change of weights."""
        for _, part in self.parts:
            if not hasattr(part, "weight_changes"):
                raise ValueError(f"expected parts that change weights, {part.name} does not")
        changes = (Edits(weights=part.weight_changes(backbone, self._own(label, params))) for label, part in self.parts)
        return dict(merge(changes).weights)

    def size(self, backbone: Backbone) -> int:
        """The sum of the parts' sizes."""
        return sum(part.size(backbone) for _, part in self.parts)
