"""Changes of the last blocks."""

from __future__ import annotations

from dataclasses import dataclass

from tuning.backbones import Backbone
from tuning.deltas.delta import check_positive
from tuning.deltas.weights import Weights
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class LastLayers(Weights):
    """Every weight of the last `count` blocks, and of a normalisation behind them, moved (Lee, Tang, Lin 2019, arXiv 1911.03090).

    The embeddings and the blocks before them stay as they are. An encoder-decoder's last blocks are those of its decoder first.
    """

    taxon = Taxon(
        family="specification",
        does="weight change of the last blocks",
        numbers="k (4 d^2 + 2 d m + 9 d + m)",
    )

    count: int

    def __post_init__(self) -> None:
        check_positive("last layers", "count", self.count)

    @property
    def name(self) -> str:
        """Return a short name with the number of blocks."""
        return f"last-layers-{self.count}"

    def parameters(self, backbone: Backbone) -> dict[str, str]:
        """Return the weights of the last blocks; raises ValueError for more blocks than there are."""
        if self.count > backbone.blocks:
            raise ValueError(f"expected at most the {backbone.blocks} blocks of {backbone.name}, got {self.count}; give fewer")
        inside = {"final", *map(str, range(backbone.blocks - self.count, backbone.blocks))}
        pairs = ((backbone.key_of(name), name) for name, _ in backbone.model.named_parameters())
        return {key: name for key, name in pairs if key.partition(".")[0] in inside}
