"""The settings on which the claims' controls run: which plant, which parameters, which penalty."""

from dataclasses import replace

import numpy as np
import torch

from ..experiments import Setting
from ..experiments.loop import gains
from ..experiments.setting import linearise
from .network import (
    LATENT,
    PENALTIES,
    READOUTS,
    SYSTEMS,
    WIDTH,
    Plant,
    States,
    draw,
    levels,
    make_plant,
    plant_setting,
    port_keys,
    tensor,
)

PORTS = (8, 8, 8, 8, 1, 1, 1, 1)  # of a subspace's controls, by system


def bias_setting(system: int, seed: int, *, contrast: float = 1.0, readout: float = 1.0, gates: float = 0.4) -> Setting:
    """Return one additive control per port on a system: the theory of `tuned`, `sites` and `dimension` is exact on it.

    contrast: the exponent of how unlike the ports are in strength. readout: the readout's size; where it is small, training moves
    the logits by more than they were. gates: how far examples differ.
    """
    plant = make_plant(system, "bias", {f"{port}.bias": (WIDTH,) for port in port_keys()})
    strength = plant.strength * tensor(np.exp((contrast - 1) * levels(system)))[:, None]
    plant = replace(plant, C=readout * plant.C, strength=strength)
    return plant_setting(system, seed, {"delta": plant, "bias": plant}, PENALTIES[system], {}, gates)


def subspace_setting(system: int, seed: int) -> Setting:
    """Return controls at 8 ports or at 1, by system, so that dimensions differ by two to three octaves between partners."""
    ports = port_keys()[-PORTS[system] :]
    plant = make_plant(system, "bias", {f"{port}.bias": (WIDTH,) for port in ports})
    dimensions = [round(len(ports) * WIDTH * share) for share in (0.06, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)]
    return plant_setting(system, seed, {"delta": plant}, 0.03, {"dimensions": dimensions})


def loop_setting(system: int, seed: int, gates: float = 0.3, network: int | None = None) -> Setting:
    """Return bias, prefix and adapter on the attention ports of a system; here a prefix is a bias.

    Without `network` every system is the first one's network, on the last one's kind of states and labels, with a readout of
    another size, so that the losses, and with them the price of open loop, grow with the system's number; 512 are held out.
    """
    ports = port_keys("attention")
    own = network is not None
    size, network = (1.0, network) if own else (READOUTS[system], 0)
    drawn = (system, seed) if own else (SYSTEMS - 1, SYSTEMS * seed + system)
    shapes = {"down": (LATENT, WIDTH), "up": (WIDTH, LATENT), "bias": (WIDTH,)}
    bias = make_plant(network, "bias", {f"{port}.bias": (WIDTH,) for port in ports})
    adapter = make_plant(network, "adapter", {f"{p}.{n}": s for p in ports for n, s in shapes.items()}, seed)
    bias, adapter = (replace(p, C=size * p.C, strength=torch.ones_like(p.strength)) for p in (bias, adapter))
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
    lin = linearise(bias.steered, {port: torch.zeros(WIDTH, dtype=bias.dtype) for port in ports}, setting.train)
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
    adapter = Plant(bias.A, bias.C, bias.strength, "adapter", law, fixed=True)
    return replace(setting, subjects={**setting.subjects, "adapter": adapter}, options={"bottleneck": LATENT, "rank": rank})


def bounds_setting(system: int, seed: int, *, penalty: float) -> Setting:
    """Return full tuning of a system's weights beside a delta that tunes the last two blocks only."""
    names = {f"{port}.weight": (WIDTH, WIDTH) for port in port_keys()}
    full = make_plant(system, "full", names)
    tuned = tuple(list(names)[-4:])
    delta = Plant(full.A, full.C, full.strength, "full", {name: full.initial[name] for name in tuned})
    return plant_setting(system, seed, {"full": full, "delta": delta}, penalty, {"deltas": ("delta",)})


def palette_setting(system: int, seed: int) -> Setting:
    """Return one option per port of a system with five classes, each port with control over a few directions or many.

    How many directions each port has is a permutation that a system and its partner (0 and 7, 1 and 6 ...) have in reverse, so
    that the partner's forecast orders the ports the other way round.
    """
    rng = np.random.default_rng([23, min(system, SYSTEMS - 1 - system)])
    counts = np.array([1, 1, 2, 2, 4, 6, 12, 24])
    reached = (counts if system < SYSTEMS // 2 else counts[::-1])[rng.permutation(len(counts))]
    network = make_plant(system, "bias", {})
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
