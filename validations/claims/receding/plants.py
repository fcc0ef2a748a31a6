"""Plants of re-solves: linear adapters whose signals change what later ports read, and networks whose response is dear."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ..feedback.plants import TokenPlant, feedback_setting
from ..shared.network import tensor
from ..shared.setting import Setting

IDLE = 5  # classes that no example has
OPTIONS = {"shares": (1.0,), "budget": 48, "rates": (3e-3, 1e-2, 3e-2)}


@dataclass(frozen=True)
class LoopPlant(TokenPlant):
    """A plant of feedback whose further vectors may be given token by token."""

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor:
        return super()._signal({name: v[:, 0] if v.ndim == 3 else v for name, v in params.items()}, port, base)


def loop_setting(system: int, seed: int, readout: float = 0.2) -> Setting:
    """Return an adapter at the attention ports of a system; the smaller the readout, the larger the signals beside the states."""
    made = feedback_setting(system, seed)
    plant = made.subjects["adapter"]
    plant = LoopPlant(**{f.name: getattr(plant, f.name) for f in fields(plant)})
    return replace(made, subjects={"adapter": replace(plant, C=readout * plant.C)}, options=OPTIONS)


def weak_setting(system: int, seed: int) -> Setting:
    """Return the same with signals small beside the states."""
    return loop_setting(system, seed, readout=4.0)


def many_classes(system: int, seed: int) -> Setting:
    """Return the same with classes that no example has: a response takes a backward pass for each."""
    made = loop_setting(system, seed, readout=1.0)
    plant = made.subjects["adapter"]
    idle = np.random.default_rng([79, system]).standard_normal((IDLE, plant.C.shape[1]))
    rows = tensor(idle) * plant.C.norm() / idle.size**0.5 / 10
    return replace(made, subjects={"adapter": replace(plant, C=torch.cat([plant.C, rows]))})
