"""Several deltas at once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes
from tuning.edits import Edits, merge
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class Combined(Delta):
    """Several deltas at once; parameter names get the part's label and a slash in front.

    Parts are (label, delta) pairs, for example a prefix on the attention with a parallel adapter on the mlp
    (the mix-and-match adapter of He et al. 2022, section 4.6).
    """

    taxon = Taxon(
        family="combination",
        does="what its parts do",
        numbers="",
    )

    parts: tuple[tuple[str, Delta], ...]

    def __post_init__(self) -> None:
        labels = [label for label, _ in self.parts]
        if not labels or len(set(labels)) < len(labels) or any("/" in label or not label for label in labels):
            raise ValueError(f"expected parts with distinct labels free of '/', got {labels}")

    @property
    def name(self) -> str:
        """Return the names of the parts."""
        return "+".join(part.name for _, part in self.parts)

    @property
    def exact(self) -> Combined:
        """Return the parts in their exact forms."""
        return Combined(tuple((label, part.exact) for label, part in self.parts))

    def _own(self, label: str, params: dict[str, Tensor]) -> dict[str, Tensor]:
        start = label + "/"
        return {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shapes of the parts."""
        return {f"{label}/{key}": shape for label, part in self.parts for key, shape in part.shapes(backbone).items()}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return the parts at their start; part i draws with seed + i, so that equal parts differ."""
        return {
            f"{label}/{key}": value
            for i, (label, part) in enumerate(self.parts)
            for key, value in part.initial(backbone, seed + i).items()
        }

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the edits of the parts, in order."""
        return merge(part.edits(backbone, self._own(label, params)) for label, part in self.parts)

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the sum of the parts' weight changes; raises ValueError for a part that is not a change of weights."""
        for _, part in self.parts:
            if not hasattr(part, "weight_changes"):
                raise ValueError(f"expected parts that change weights, {part.name} does not")
        changes = (Edits(weights=part.weight_changes(backbone, self._own(label, params))) for label, part in self.parts)
        return dict(merge(changes).weights)
