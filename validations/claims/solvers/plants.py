"""Plants of the solvers: gated linear networks, on which the first linear-quadratic problem is the whole one, and rippled ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..shared.network import Plant, States, bias_setting
from ..shared.setting import Setting

RIPPLE = 4.0
OPTIONS = {"shares": (0.1, 0.02), "lengths": (4, 16, 48), "rates": (0.1, 0.03, 0.02), "batch_size": 16, "stop": 16}


@dataclass(frozen=True)
class Rippled(Plant):
    """A plant whose state runs through sin(ripple h) / ripple after every port: at a distance its response says nothing."""

    ripple: float = 1.0

    def steered(self, signals: Mapping[str, Tensor], batch: States) -> Tensor:
        h, gate = batch.tokens[:, 0], batch.tokens[:, 1]
        for port, A, strength in zip(self.ports, self.A, self.strength, strict=True):
            h = torch.sin(self.ripple * gate * (h + h @ A.T + strength * signals[port])) / self.ripple
        return h @ self.C.T


def linear(system: int, seed: int) -> Setting:
    """Return one additive control per port on a system whose logits are linear in it."""
    return replace(bias_setting(system, seed, readout=0.2), options=OPTIONS, tolerance=1e-3, evaluations=120)


def rippled(system: int, seed: int) -> Setting:
    """Return the same on a system whose states run through a sine."""
    made = linear(system, seed)
    plant = made.subjects["bias"]
    plant = Rippled(plant.A, plant.C, plant.strength, plant.initial, ripple=RIPPLE)
    return replace(made, subjects={"bias": plant})


def rested(system: int, seed: int) -> Setting:
    """Return the linear network with a dear control and AdamW on whole batches until it rests, at an extremal of its own."""
    rest = {"shares": (0.5, 0.2), "lengths": (120,), "rates": (0.05,), "batch_size": 64, "stop": 120}
    return replace(linear(system, seed), options=rest)
