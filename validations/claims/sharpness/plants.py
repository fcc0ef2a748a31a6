"""Plants of sharpness: it goes with the generalisation gap, and the same with their numbers rescaled so that it does not."""

from dataclasses import replace

import numpy as np

from ..shared.network import WIDTH, States, plant_setting, still_plant
from ..shared.setting import Setting

NOISY = (2, 4, 7, 11, 16)  # how many of a delta's components move examples at random


def memory_setting(system: int, seed: int, *, rescaled: bool) -> Setting:
    """Return five additive controls of one port that can memorise more and more of the training labels.

    Component 0 moves every example towards its label on average; the others move each by a gate that says nothing about it.
    A delta with more of these fits the training text better for the wrong reason and is the sharper for it. Rescaled, the
    numbers of a delta are in units that grow with that count: the same functions, but the sharper the less they memorise.
    """
    subjects = {}
    for count in NOISY:
        strength = np.zeros((1, WIDTH))
        strength[0, 0], strength[0, 1 : 1 + count] = 0.5, 1.0 + 0.05 * count
        units = 0.4**count if rescaled else 1.0
        subjects[f"delta {count}"] = still_plant(units * strength, np.outer([0.5, -0.5], np.ones(WIDTH)))
    setting = plant_setting(0, seed, subjects, 0.03, {}, tolerance=1e-3)
    return replace(setting, train=_draw(system, seed, 0, 48), test=_draw(system, seed, 1, 384))


def _draw(system: int, seed: int, split: int, size: int) -> States:
    rng = np.random.default_rng([43, system, seed, split])
    labels = np.arange(size) % 2
    side = (1.0 - 2.0 * labels)[:, None]
    gate = np.concatenate([side * (rng.random((size, 1)) < 0.8), rng.standard_normal((size, WIDTH - 1))], axis=1)
    states = 0.1 * rng.standard_normal((size, WIDTH))
    return States.of(states, gate, labels)
