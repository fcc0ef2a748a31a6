"""Plants of noise at ports: linear adapters that train on networks of one block, whose labels answer to plain or to faint directions."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial

import numpy as np
from torch import Tensor

from ..feedback.plants import BOTTLENECK, TokenPlant
from ..shared.among import Among, among
from ..shared.law_plants import law_plant
from ..shared.network import CLASSES, WIDTH, States, port_keys
from ..shared.plants import own
from ..shared.setting import Experiment, Setting
from ..shared.training import l2
from .hearing import Heard

LATENTS, FAINT = 12, 0.1  # directions of the states, and the deviation of the last over that of the first
TELLING, STEEPNESS = 4, 4.0  # how many of them tell the label, and how plainly
READOUT = 3.0  # of the plant's own
PORTS = 2  # of one block: with one adapter the law knows all that its signal does


class HearingPlant(TokenPlant):
    """A plant whose law reads through the noise of its delta."""

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor:
        noise = self.delta.noise if isinstance(self.delta, Heard) else {}
        return super()._signal(params, port, base + noise[port][:, 0] if port in noise else base)


class DecayedPlant(TokenPlant):
    """A plant that pays for its parameters in the place of its signals."""

    def priced_loss(
        self, params: Mapping[str, Tensor], batch: States, price: float, disturbance: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        unpriced = super().priced_loss(params, batch, 0.0, disturbance)
        return unpriced + price / 2 * l2(params, {name: 0.0 for name in params})


def _draw(system: int, seed: int, split: int, size: int) -> States:
    """Return states in a latent subspace; plain directions tell the label in one system, faint ones in the next."""
    fixed, own = np.random.default_rng([73, system]), np.random.default_rng([79, system, seed, split])
    basis = np.linalg.qr(fixed.standard_normal((WIDTH, LATENTS)))[0].T * FAINT ** np.linspace(0.0, 1.0, LATENTS)[:, None]
    latent, first = own.standard_normal((size, LATENTS)), (LATENTS - TELLING) * (system % 2)
    told = latent[:, first : first + TELLING] @ fixed.standard_normal((TELLING, CLASSES))
    score = STEEPNESS * told / np.sqrt(TELLING) + own.gumbel(size=(size, CLASSES))
    return States.of(latent @ basis, np.ones((size, WIDTH)), score.argmax(1))


def hearing_setting(system: int, seed: int, kind: type[TokenPlant] = HearingPlant) -> Setting:
    """Return an adapter of some kind of plant at the attention port of a system of one block."""
    (port,) = port_keys("attention")[: PORTS // 2]
    shapes = {"down": (BOTTLENECK, WIDTH), "down_bias": (BOTTLENECK,), "up": (WIDTH, BOTTLENECK), "up_bias": (WIDTH,)}
    made = law_plant(system, {f"{port}.{what}": shape for what, shape in shapes.items()}, seed)
    whole = kind(**{f.name: getattr(made, f.name) for f in fields(made)})
    adapter = replace(whole, A=whole.A[:PORTS], strength=whole.strength[:PORTS], C=READOUT * whole.C)
    return Setting(
        subjects={"adapter": adapter},
        train=_draw(system, seed, 0, 64),
        test=_draw(system, seed, 1, 128),
        seed=seed,
        penalty=0.015,
        tolerance=1e-3,
        evaluations=400,
        options={"pairs": 6},
    )


def through_noise(experiment: Experiment) -> list[Among]:
    """Return the cells of every system, its adapter trained under the price of its signals and through the noise that was foretold."""
    return _cells(experiment, HearingPlant)


def deaf_to_noise(experiment: Experiment) -> list[Among]:
    """Return the cells of every system whose adapter never meets the noise that its law was told of."""
    return _cells(experiment, TokenPlant)


def parameters_price(experiment: Experiment) -> list[Among]:
    """Return the cells of every system whose adapter pays for its parameters: faint directions are as dear as plain ones."""
    return _cells(experiment, DecayedPlant)


def _cells(experiment: Experiment, kind: type[TokenPlant]) -> list[Among]:
    return among(own(experiment, partial(hearing_setting, kind=kind)))
