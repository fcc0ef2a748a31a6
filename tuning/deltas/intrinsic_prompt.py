"""A prompt that moves in a subspace of few dimensions, learned on other tasks or drawn at random."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.delta import Delta, Shapes, check_positive
from tuning.deltas.prompt import Prompt
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class IntrinsicPrompt(Delta):
    """Rows P = P_0 + W v in front of the text, of which only v (dimension,) is trained, from 0 (Qin et al. 2021, section 3.2).

    subspace: a safetensors file with "basis" W (length, width, dimension) and "centre" P_0 (length, width), as
    `tuning.decomposition.intrinsic_prompt` finds them on prompts of other tasks; the published decoder has a hidden layer, this
    one is linear. Without a file W is drawn from the seed `projection`, its columns of length 1 on average, and P_0 is the
    start of a prompt with that seed: the random subspace that a learned one must beat. `shift_positions` is that of a prompt.
    """

    taxon = Taxon(
        family="reparameterisation",
        does="rows in front of the text, in a subspace",
        numbers="r",
    )

    dimension: int
    length: int
    subspace: str = ""
    projection: int = 0
    shift_positions: bool = False

    def __post_init__(self) -> None:
        check_positive("an intrinsic prompt", "dimension", self.dimension)
        check_positive("an intrinsic prompt", "length", self.length)

    @property
    def name(self) -> str:
        """Return a short name with the dimension and the length."""
        return f"intrinsic-prompt-{self.dimension}-{self.length}"

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape of the code (dimension,)."""
        return {"embedding.code": (self.dimension,)}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return the code zero, whatever the seed."""
        self.frozen(backbone)  # once and here, as no random number may be drawn under torch.func
        return super().initial(backbone, seed)

    def frozen(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Return W (length, width, dimension) and P_0 (length, width); raises ValueError for a file that does not hold them."""
        shapes = ((self.length, backbone.width, self.dimension), (self.length, backbone.width))
        if not self.subspace:
            return _drawn(*shapes[0], self.projection), Prompt(self.length).initial(backbone, self.projection)["embedding.prompt"]
        path = Path(self.subspace).expanduser()
        found = _read(path, path.stat().st_mtime_ns if path.is_file() else 0)
        if (sizes := tuple(tuple(value.shape) for value in found)) != shapes:
            what = f"a basis and a centre of shapes {shapes[0]} and {shapes[1]} in {self.subspace}"
            raise ValueError(f"expected {what}, got {sizes[0]} and {sizes[1]}: give its dimension and length, and its backbone")
        return found

    def plain(self, backbone: Backbone, params: dict[str, Tensor]) -> tuple[Prompt, dict[str, Tensor]]:
        """Return the prompt that the code makes, without the subspace."""
        basis, centre = (value.to(backbone.device, backbone.dtype) for value in self.frozen(backbone))
        return Prompt(self.length, self.shift_positions), {"embedding.prompt": centre + basis @ params["embedding.code"]}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the rows in front of the text."""
        prompt, made = self.plain(backbone, params)
        return prompt.edits(backbone, made)


@functools.lru_cache(maxsize=32)
def _drawn(length: int, width: int, dimension: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(length, width, dimension, generator=generator, dtype=torch.float64) / (length * width) ** 0.5


@functools.lru_cache(maxsize=32)
def _read(path: Path, written: int) -> tuple[Tensor, Tensor]:
    """What a file held when it was last written; it is read once, as every step of a training asks."""
    try:
        held = load_file(path)
        return held["basis"], held["centre"]
    except (OSError, SafetensorError, KeyError) as error:
        what = "a safetensors file with a basis and a centre"
        raise ValueError(
            f"expected {what} at {path}, got none ({error}): make one with tuning.decomposition.intrinsic_prompt"
        ) from error
