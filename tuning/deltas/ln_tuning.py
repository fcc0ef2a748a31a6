"""Changes of the normalisations."""

from __future__ import annotations

from dataclasses import dataclass

from tuning.backbones import Backbone
from tuning.deltas.places import chosen_blocks
from tuning.deltas.weights import Weights
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class LNTuning(Weights):
    """The gain and bias of every normalisation moved by a trained vector (Zhao et al. 2024, arXiv 2312.11420).

    LayerNorm and RMSNorm alike, also of single heads' queries and keys; an RMSNorm has no bias. `blocks` leaves only those inside
    these blocks.
    """

    taxon = Taxon(
        family="specification",
        does="weight change of the normalisations",
        numbers="2 d (2 L + 1)",
        peft="LNTuningConfig",
    )

    blocks: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Return a short name."""
        return "ln-tuning"

    def parameters(self, backbone: Backbone) -> dict[str, str]:
        """Return the weights of the normalisations."""
        found = {
            backbone.key_of(name): name
            for path in norms_of(backbone)
            for name in (f"{path}.{leaf}" for leaf, _ in backbone.model.get_submodule(path).named_parameters())
        }
        if self.blocks is None:
            return found
        inside = {str(block) for block in chosen_blocks(backbone, self.blocks)}
        return {key: name for key, name in found.items() if key.partition(".")[0] in inside}


def norms_of(backbone: Backbone) -> list[str]:
    """Return the paths of the backbone's normalisations, which all libraries call by that word, in the model's order."""
    return [path for path, module in backbone.model.named_modules() if "norm" in type(module).__name__.lower()]
