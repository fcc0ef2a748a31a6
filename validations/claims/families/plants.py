"""Plants of subspaces of a delta's numbers: few or many of them that matter, in one layer alone or alike in every one."""

from dataclasses import fields, replace

import numpy as np

from ..curvature.plants import Bent
from ..shared.network import BLOCKS, CLASSES, WIDTH, States, draw, make_plant, plant_setting, port_keys, still_plant, tensor
from ..shared.setting import Setting

DECAY = (0.7, 0.75, 0.8, 0.9, 6.0, 7.0, 7.5, 8.0)  # components over which a control's strength falls by a factor e, by system
BENDS = (7e-5, 0.002, 0.0012, 0.022, 0.004, 0.021, 0.003, 0.021)  # of the control's cube, which departs from linear theory alike
WIDE = 64  # enough components that the layers of a random subspace come out alike


def spread_setting(system: int, seed: int) -> Setting:
    """Return one control per port whose components weaken fast or slowly, by system: of as many numbers fewer or more matter.

    Controls enter with a slight bend, by which linear theory is off by a tenth of an octave, and not by rounding alone.
    """
    strength = np.exp(-np.arange(WIDTH) / DECAY[system])
    plant = make_plant(system, {f"{port}.bias": (WIDTH,) for port in port_keys()}, uneven=True)
    plant = replace(plant, strength=tensor(np.tile(strength, (2 * BLOCKS, 1))))
    subjects = {"delta": Bent(**{f.name: getattr(plant, f.name) for f in fields(plant)}, bend=(0.0, BENDS[system]))}
    subspaces = {"dimensions": [2, 8, 20, 48], "near": [8, 20], "shares": [0.3, 0.6, 0.9], "draws": 1}
    setting = plant_setting(system, seed, subjects, 0.03, {"arms": ["random", "turned"], **subspaces}, tolerance=1e-2)
    return replace(setting, train=draw(system, seed, 0, 64, 0.4), test=draw(system, seed, 1, 32, 0.4))


def layer_setting(system: int, seed: int, *, blocks: int) -> Setting:
    """Return one control per port of as many blocks, of which one is five times as strong as the others, another by system.

    Every block moves components of its own, all of one readout length, and nothing passes between components, so that no block
    can stand in for another; the classes are drawn with unequal chances. With one block there is nothing for layer scales to
    tell apart: theirs is a subspace of one dimension less.
    """
    rng = np.random.default_rng([47, system])
    strength = np.zeros((2 * blocks, WIDE))
    for port in range(2 * blocks):
        block = port // 2
        strength[port, block::blocks] = 1.0 if block == system % blocks else 0.2
    readout = rng.standard_normal((CLASSES, WIDE))
    readout -= readout.mean(0)
    plant = still_plant(strength, readout / np.linalg.norm(readout, axis=0))
    subspaces = {"dimensions": [1], "near": [], "shares": [0.15, 0.3, 0.6, 0.9], "draws": 1 if blocks > 1 else 3}
    setting = plant_setting(system, seed, {"delta": plant}, 1.0, {"arms": ["random", "said"], **subspaces}, tolerance=1e-2)
    return replace(setting, train=_drawn(system, seed, 0, 32), test=_drawn(system, seed, 1, 32))


def _drawn(system: int, seed: int, split: int, size: int) -> States:
    rng = np.random.default_rng([53, system, seed, split])
    labels = rng.choice(CLASSES, p=[0.6, 0.3, 0.1], size=size)
    states, gates = 0.1 * rng.standard_normal((size, WIDE)), 1.0 + 0.1 * rng.standard_normal((size, WIDE))
    return States.of(states, gates, labels)
