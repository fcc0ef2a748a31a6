"""Plants of open and closed loop: bias, prefix and adapter on the attention ports of gated networks."""

from dataclasses import replace

import numpy as np
import torch

from ..shared.linearisation import linearise
from ..shared.network import (
    LATENT,
    READOUTS,
    SYSTEMS,
    WIDTH,
    Plant,
    bias_and_adapter,
    draw,
    plant_setting,
    port_keys,
    tensor,
)
from ..shared.setting import Setting
from ..shared.training import at_rest
from .experiment import gains


def loop_setting(system: int, seed: int, gates: float = 0.3, network: int | None = None) -> Setting:
    """Return bias, prefix and adapter on the attention ports of a system; here a prefix is a bias.

    Without `network` every system is the first one's network, on the last one's kind of states and labels, with a readout of
    another size, so that the losses, and with them the price of open loop, grow with the system's number; 512 are held out.
    """
    own = network is not None
    size, network = (1.0, network) if own else (READOUTS[system], 0)
    drawn = (system, seed) if own else (SYSTEMS - 1, SYSTEMS * seed + system)
    bias, adapter = bias_and_adapter(network, seed, size)
    subjects = {"bias": bias, "prefix": bias, "adapter": adapter}
    setting = plant_setting(*drawn, subjects, 0.03, {"bottleneck": LATENT}, gates, tolerance=1e-3)
    return setting if own else replace(setting, test=draw(*drawn, 1, 512, gates))


def law_setting(system: int, seed: int, *, turned: bool = False) -> Setting:
    """Return the loop's setting with an adapter that is the LQ feedback law of its plant, and stays so in training.

    turned: the law reads and writes in directions turned at random, as strongly as before.
    """
    setting = loop_setting(system, seed, gates=0.1, network=system)
    ports, rank = tuple(port_keys("attention")), 6
    bias = setting.subjects["bias"]
    lin = linearise(bias.steered, at_rest(bias, ports), setting.train)
    found = gains(lin, ports, setting.penalty * float(lin.curvatures(lin.y0)[0]), lin.y0, rank)
    law, rng = {}, np.random.default_rng([29, system, seed])
    for port in ports:
        basis, gain = found[f"basis.{port}"], found[f"gain.{port}"]
        if turned:
            basis = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] @ basis
        law |= {
            f"{port}.down": tensor(basis.T),
            f"{port}.up": tensor(-basis @ gain),
            f"{port}.bias": torch.zeros(WIDTH, dtype=bias.dtype),
        }
    adapter = Plant(bias.A, bias.C, bias.strength, law, fixed=True)
    return replace(setting, subjects={**setting.subjects, "adapter": adapter}, options={"bottleneck": LATENT, "rank": rank})
