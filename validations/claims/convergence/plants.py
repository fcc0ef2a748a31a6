"""Plants of descent: controls of several kinds on one network, some pulled along strong directions, some along weak ones."""

from dataclasses import replace

import numpy as np

from ..multiplets.plants import low_rank_setting
from ..shared.network import WIDTH, Plant, make_plant, plant_setting, port_keys, tensor
from ..shared.setting import Setting

DELTAS = 8
PENALTY = 0.05


def pace_setting(system: int, seed: int, *, readout: float) -> Setting:
    """Return eight additive controls on a system, each acting along a few directions of one port, of unequal strength.

    The smaller the readout, the nearer is the loss to a quadratic.
    """
    rng = np.random.default_rng([37, system])
    base = make_plant(system, {}, uneven=True)
    subjects: dict[str, Plant] = {}
    for number, port in enumerate(rng.permutation(port_keys())[:DELTAS]):
        strength = np.zeros(base.strength.shape)
        strength[port_keys().index(port)] = np.exp(-rng.permutation(WIDTH) * 0.06 * number)
        name = f"{port}.bias"
        subjects[port] = replace(base, C=readout * base.C, strength=tensor(strength), initial={name: tensor(np.zeros(WIDTH))})
    return plant_setting(system, seed, subjects, PENALTY, {}, tolerance=1e-3)


def saddle_setting(system: int, seed: int) -> Setting:
    """Return low-rank updates at one port each, with a penalty far below the negative curvature at their start."""
    whole = low_rank_setting(system, seed, readout=0.02, shares=())
    plant = whole.subjects["lora"]
    rng = np.random.default_rng([41, system, seed])
    subjects = {}
    for number, port in enumerate(port_keys()[-3:]):
        factors = {"A": rng.standard_normal((1 + number, WIDTH)) / np.sqrt(WIDTH), "B": np.zeros((WIDTH, 1 + number))}
        subjects[port] = replace(plant, initial={f"{port}.{name}": tensor(value) for name, value in factors.items()})
    return replace(whole, subjects=subjects, penalty=PENALTY, tolerance=1e-2, evaluations=150)
