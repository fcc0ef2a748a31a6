"""Plants of forecasts: one option per port, with control over a few directions or many."""

from dataclasses import replace

import numpy as np
import torch

from ..shared.network import (
    WIDTH,
    States,
    draw,
    make_plant,
    partner,
    plant_setting,
    port_keys,
    tensor,
)
from ..shared.setting import Setting


def palette_setting(system: int, seed: int) -> Setting:
    """Return one option per port of a system with five classes, each port with control over a few directions or many.

    How many directions each port has is a permutation that a system and its partner (0 and 7, 1 and 6 ...) have in reverse, so
    that the partner's forecast orders the ports the other way round.
    """
    rng = np.random.default_rng([23, min(system, partner(system))])
    counts = np.array([1, 1, 2, 2, 4, 6, 12, 24])
    reached = (counts if system < partner(system) else counts[::-1])[rng.permutation(len(counts))]
    network = make_plant(system, {}, uneven=True)
    strength = torch.zeros_like(network.strength)
    for t, count in enumerate(reached):
        strength[t, rng.permutation(WIDTH)[:count]] = 1.0
    base = replace(network, C=tensor(rng.standard_normal((5, WIDTH)) / np.sqrt(WIDTH)), strength=strength)
    options = {port: replace(base, initial={f"{port}.bias": torch.zeros(WIDTH, dtype=base.dtype)}) for port in port_keys()}
    prior = 1.5 * rng.standard_normal(5)

    def batch(split: int, size: int) -> States:
        drawn = draw(system, seed, split, size, 0.25)
        own = np.random.default_rng([29, system, seed, split])
        return drawn._replace(labels=torch.as_tensor((prior + own.gumbel(size=(size, 5))).argmax(1)))

    subjects = {"palette" if k == 0 else port: plant for k, (port, plant) in enumerate(options.items())}
    setting = plant_setting(system, seed, subjects, 0.03, {}, tolerance=1e-3)
    return replace(setting, train=batch(0, 128), test=batch(1, 512))
