"""Plants of multiplets: gated networks with a low-rank update of a port's map."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..shared.network import WIDTH, Plant, make_plant, plant_setting, port_keys, tensor
from ..shared.setting import Setting

RANK = 3


@dataclass(frozen=True)
class LowRank(Plant):
    """A plant whose ports add B A y to what their sublayer y puts out."""

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor:
        if f"{port}.A" not in params:
            return torch.zeros(())
        return base @ params[f"{port}.A"].T @ params[f"{port}.B"].T


def low_rank_setting(system: int, seed: int, *, readout: float, shares: tuple[float, ...]) -> Setting:
    """Return updates of rank 3, A drawn and B zero, at two ports of a system whose readout has the size `readout`.

    shares: the penalties, over the size of the lowest eigenvalue at the start.
    """
    rng = np.random.default_rng([31, system, seed])
    ports = port_keys()[-2:]
    initial: dict[str, Tensor] = {}
    for port in ports:
        initial[f"{port}.A"] = tensor(rng.standard_normal((RANK, WIDTH)) / np.sqrt(WIDTH))
        initial[f"{port}.B"] = torch.zeros(WIDTH, RANK, dtype=torch.float64)
    base = make_plant(system, {})
    plant = LowRank(base.A, readout * base.C, torch.ones_like(base.strength), initial)
    return plant_setting(system, seed, {"lora": plant}, 0.03, {"shares": shares})
