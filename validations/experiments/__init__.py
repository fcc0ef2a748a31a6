"""The measured cells that claims share: each kind predicts from the frozen model, writes that down, then trains and measures."""

from . import bounds, dimension, loop, sites, tuned
from .setting import Setting

KINDS = {"tuned": tuned, "loop": loop, "sites": sites, "dimension": dimension, "bounds": bounds}

__all__ = ["KINDS", "Setting"]
