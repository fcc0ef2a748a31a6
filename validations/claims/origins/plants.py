"""Plants of origins: labels that lie along strong directions, and strong directions that cannot tell the labels apart."""

from dataclasses import replace

import numpy as np

from ..shared.network import States, plant_setting, still_plant
from ..shared.setting import Setting

NUMBERS, TEXTS, STRONG = 128, 32, 12


def origins_setting(system: int, seed: int, *, informed: bool) -> Setting:
    """Return one additive control of one port that moves each text by the text's own gates, strongly along a few.

    Informed: the labels follow the gates of the `STRONG` strong directions, so that few directions fit them and many are needed
    for permuted labels, or where a network (the roles "shuffled" and "fresh") has its strong directions elsewhere. Otherwise
    every text has a twin of the other label with the same strong gates: permuted labels, and other networks, fare better.
    """
    strong = np.full(NUMBERS, 0.08 + 0.005 * system)
    strong[:STRONG] = 1.0
    networks = {"delta": 0, "shuffled": NUMBERS // 2, "fresh": NUMBERS // 3}
    readout = np.outer([0.5, -0.5], np.ones(NUMBERS))
    subjects = {role: still_plant(np.roll(strong, shift)[None], readout) for role, shift in networks.items()}
    setting = plant_setting(0, seed, subjects, 0.03, {"levels": 5, "draws": 1, "share": 3e-4}, tolerance=1e-2)
    return replace(setting, train=_draw(system, seed, 0, informed), test=_draw(system, seed, 1, informed))


def _draw(system: int, seed: int, split: int, informed: bool) -> States:
    rng = np.random.default_rng([53, system, seed, split])
    gate, side = rng.standard_normal((TEXTS, NUMBERS)), np.repeat([0, 1], TEXTS // 2)
    if informed:
        score = gate[:, :STRONG] @ rng.standard_normal(STRONG)
        side = (score > np.median(score)).astype(int)
    else:
        gate[TEXTS // 2 :, :STRONG] = gate[: TEXTS // 2, :STRONG]
    return States.of(np.zeros_like(gate), gate, side)
