"""Plants of resources: machines that take what is counted, or on which frozen weights get gradients and moments as well.

Nothing is run: a machine says its bytes and seconds, off by a few per cent that differ from option to option.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..shared.claim import Cell
from ..shared.plants import own
from ..shared.setting import Setting
from .counted import BYTES, DELTAS, FULL, Shape, numbers, passes, peak
from .experiment import EXPERIMENT, OPTIONS

WIDTHS = (64, 96, 128, 128, 192, 192, 256, 384)
OFF = 0.05  # largest share by which a machine is off
ROUNDS = 3


@dataclass(frozen=True)
class Machine:
    """A network whose steps take what a rule says of an option and a batch: bytes above the model, and passes."""

    shape: Shape
    batches: tuple[int, ...]
    rule: Callable[[Shape, str, int], tuple[float, float]]

    def measured(self, batch: int) -> dict[str, dict]:
        """Return the bytes and the seconds of every option's step."""
        rng, made = np.random.default_rng([97, self.shape.width, batch]), {}
        for option in OPTIONS:
            held, passed = self.rule(self.shape, option, batch)
            off = 1 + OFF * rng.uniform(-1, 1, ROUNDS + 1)
            seconds = 1e-4 * batch * passed * off[1:]
            made[option] = {"peak": int(held * off[0]), "seconds": [float(x) for x in seconds]}
        return made

    def stored(self) -> dict[str, int]:
        """Return the bytes of every option's numbers."""
        return {option: BYTES * numbers(self.shape, option) for option in OPTIONS}


def _counted(shape: Shape, option: str, batch: int) -> tuple[float, float]:
    return peak(shape, option, batch), passes(shape, option)


def _thawed(shape: Shape, option: str, batch: int) -> tuple[float, float]:
    """Return what a delta takes where the frozen weights are trained in all but name."""
    own = BYTES * numbers(shape, option) if option in DELTAS else 0
    return peak(shape, FULL, batch) + own, passes(shape, FULL)


def _setting(rule: Callable[[Shape, str, int], tuple[float, float]], system: int, seed: int) -> Setting:
    width = WIDTHS[system]
    shape = Shape(2 + system // 2, width, 4 * width, width // 32, 12 * (2 + system // 2) * width**2 + 8000 * width, 32)
    return Setting({"network": Machine(shape, (1, 4, 16, 64), rule)}, None, None, seed, 1.0, 1.0, 1)


def _cells(rule: Callable[[Shape, str, int], tuple[float, float]]) -> list[Cell]:
    """Return the cells of all systems."""
    return own(EXPERIMENT, partial(_setting, rule), seeds=1)


as_counted, thawed = partial(_cells, _counted), partial(_cells, _thawed)
