"""The measured cells that claims share: each kind predicts from the frozen model, writes that down, then trains and measures."""

from . import bounds, dimension, loop, sites, tuned
from .setting import Experiment, Setting

KINDS: dict[str, Experiment] = {
    "tuned": tuned.EXPERIMENT,
    "loop": loop.EXPERIMENT,
    "sites": sites.EXPERIMENT,
    "dimension": dimension.EXPERIMENT,
    "bounds": bounds.EXPERIMENT,
}

__all__ = ["KINDS", "Experiment", "Setting"]
