"""Plants of origins: labels that lie along strong directions, and strong directions that cannot tell the labels apart."""

from dataclasses import replace

import numpy as np
import torch

from ..shared.network import Plant, States, plant_setting, tensor
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
    subjects = {role: _plant(np.roll(strong, shift)) for role, shift in networks.items()}
    setting = plant_setting(0, seed, subjects, 0.03, {"levels": 5, "draws": 1, "share": 3e-4}, tolerance=1e-2)
    return replace(setting, train=_draw(system, seed, 0, informed), test=_draw(system, seed, 1, informed))


def _plant(strength: np.ndarray) -> Plant:
    port = "0.attention"
    return Plant(
        torch.zeros(1, NUMBERS, NUMBERS, dtype=torch.float64),
        tensor(np.outer([0.5, -0.5], np.ones(NUMBERS))),
        tensor(strength[None]),
        {f"{port}.bias": torch.zeros(NUMBERS, dtype=torch.float64)},
        width=NUMBERS,
    )


def _draw(system: int, seed: int, split: int, informed: bool) -> States:
    rng = np.random.default_rng([53, system, seed, split])
    gate, side = rng.standard_normal((TEXTS, NUMBERS)), np.repeat([0, 1], TEXTS // 2)
    if informed:
        score = gate[:, :STRONG] @ rng.standard_normal(STRONG)
        side = (score > np.median(score)).astype(int)
    else:
        gate[TEXTS // 2 :, :STRONG] = gate[: TEXTS // 2, :STRONG]
    states = np.stack([np.zeros_like(gate), gate], axis=1)
    return States(tensor(states), torch.ones(TEXTS, 1), torch.as_tensor(side))
