"""Plants of efficiency: the first gradient is spent on a nuisance, so that efficiency peaks between weight decays."""

import numpy as np

from ..shared.network import WIDTH, States, still_plant
from ..shared.setting import Setting

LOUD = (4.0, 4.5, 5.0, 5.5, 6.0, 6.0, 5.5, 5.0)
OFFSET = (2.0, 2.0, 2.0, 2.0, 1.5, 1.5, 1.5, 1.5)
HARD = (12.0, 13.0, 14.0, 13.0, 12.0, 11.0, 11.0, 10.0)


def nuisance_setting(system: int, seed: int) -> Setting:
    """Return one port whose loudest component moves one half of each class towards its label and the other half away.

    That component starts off centre, so the first gradient goes there although it displaces no mean margin; one quiet
    component moves every margin, and the others each example at random. One example in sixteen starts on the far side: with
    little decay the control turns to those.
    """
    strength = np.full((1, WIDTH), 0.5)
    strength[0, :2] = 1.0, LOUD[system]
    plant = still_plant(strength, np.outer([0.5, -0.5], np.ones(WIDTH)))
    return Setting(
        subjects={"bias": plant},
        train=_draw(system, seed, 0, 64),
        test=_draw(system, seed, 1, 128),
        seed=seed,
        penalty=0.002,
        tolerance=1e-4,
        evaluations=200,
    )


def _draw(system: int, seed: int, split: int, size: int) -> States:
    rng = np.random.default_rng([23, system, seed, split])
    labels, half = np.arange(size) % 2, 1.0 - 2.0 * (np.arange(size) // 2 % 2)
    side = 1.0 - 2.0 * labels
    gate = np.concatenate([side[:, None], (half * side)[:, None], rng.standard_normal((size, WIDTH - 2))], axis=1)
    states = np.zeros((size, WIDTH))
    states[:, 0] = 0.3 * rng.standard_normal(size) - HARD[system] * (rng.permutation(size) < size // 16)
    states[:, 1] = -OFFSET[system]
    return States.of(states, gate, labels)
