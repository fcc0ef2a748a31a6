"""Plants for disturbances: what they do to the outputs is linear, and only an adapter can answer them."""

from dataclasses import replace

import torch

from ..experiments import Setting
from .network import LATENT, SYSTEMS, WIDTH, draw, make_plant, plant_setting, port_keys

SIZES = (0.5, 1.5)  # of the readout, for the first half of the systems and for their partners


def disturbance_setting(system: int, seed: int, *, blind: bool = False) -> Setting:
    """Return a prefix (here a bias) and an adapter at the attention ports of a system; a blind adapter is a bias too.

    A system and its partner (0 and 7, 1 and 6 ...) differ by a factor of three in the readout, so that noise costs nine times
    as much on the one as is predicted for the other. States point every way and the labels do not answer to them: an adapter
    pays by cancelling what states do to the logits, and so what disturbances do.
    """
    ports = port_keys("attention")
    shapes = {"down": (LATENT, WIDTH), "up": (WIDTH, LATENT), "bias": (WIDTH,)}
    bias = make_plant(system, "bias", {f"{port}.bias": (WIDTH,) for port in ports})
    adapter = make_plant(system, "adapter", {f"{p}.{n}": s for p in ports for n, s in shapes.items()}, seed)
    size = SIZES[system >= SYSTEMS // 2]
    bias, adapter = (replace(p, C=size * p.C, strength=torch.ones_like(p.strength)) for p in (bias, adapter))
    setting = plant_setting(
        system,
        seed,
        {"prefix": bias, "adapter": bias if blind else adapter},
        1.0,
        {"draws": 12, "players": 8, "attacked": 24, "rounds": 40},
        tolerance=3e-2,
    )
    train, test = (draw(system, seed, split, size, 0.2, WIDTH, answers=False) for split, size in enumerate((64, 128)))
    return replace(setting, train=train, test=test)
