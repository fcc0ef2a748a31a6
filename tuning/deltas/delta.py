"""What every delta is: a frozen record that says what it adds to a forward pass, where it enters and how large it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from tuning.backbones import Backbone
from tuning.edits import Edits
from tuning.taxonomy import Taxon

Shapes = dict[str, tuple[int, ...]]


class Delta(ABC):
    """A way to tune; parameters are named "block.site.what", with "label/" in front inside a combination.

    taxon: the place of its kind in the taxonomy.
    """

    taxon: ClassVar[Taxon]

    @property
    @abstractmethod
    def name(self) -> str:
        """Return a short name, with the size where there is one to choose."""

    @abstractmethod
    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shape of every parameter."""

    @abstractmethod
    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return what the delta does to a forward pass."""

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return the parameters at their start: zero, whatever the seed, unless the delta says otherwise."""
        return {name: zeros(shape, backbone) for name, shape in self.shapes(backbone).items()}

    @property
    def exact(self) -> Delta:
        """Return the delta of the same function whose backward passes give the loss's derivative: itself, unless it says so."""
        return self

    def size(self, backbone: Backbone) -> int:
        """Return how many numbers are trained."""
        return sum(math.prod(shape) for shape in self.shapes(backbone).values())


def zeros(shape: tuple[int, ...], like: Backbone) -> Tensor:
    """Return zeros in a backbone's precision and place."""
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def check_positive(kind: str, what: str, value: int) -> None:
    """Raise ValueError unless a size is at least 1."""
    if value < 1:
        raise ValueError(f"expected {kind} with a positive {what}, got {value}; give at least 1")
