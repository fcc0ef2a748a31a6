"""Trained rows in front of the text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes, check_positive
from tuning.deltas.pieces import pieces
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class Prompt(Delta):
    """`length` trained rows in front of the token embeddings (Lester, Al-Rfou, Constant 2021).

    The rows start as the embeddings of seeded vocabulary pieces (section 3.2 there). With `shift_positions`
    the text moves behind the prompt, as in PEFT; without, the text keeps its positions, so that a prompt
    which receives no attention changes nothing.
    """

    taxon = Taxon(
        family="addition",
        does="rows in front of the text",
        numbers="l d",
        peft="PromptTuningConfig",
    )

    length: int
    shift_positions: bool = False

    def __post_init__(self) -> None:
        check_positive("a prompt", "length", self.length)

    @property
    def name(self) -> str:
        """Return a short name with the length."""
        return f"prompt-{self.length}"

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape (length, width) of the rows."""
        return {"embedding.prompt": (self.length, backbone.width)}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return the embeddings of vocabulary pieces drawn with the seed."""
        word = backbone.model.get_submodule(backbone.layout.word)
        return {"embedding.prompt": word(pieces(backbone, self.length, seed)).detach().clone()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the rows in front of the text."""
        return Edits(prompt=params["embedding.prompt"], shift=self.length if self.shift_positions else 0)
