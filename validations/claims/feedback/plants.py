"""Plants of shared feedback: linear adapters that train on gated linear networks whose states tell what to do."""

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from ..shared.law_plants import LawPlant, law_plant
from ..shared.network import CLASSES, WIDTH, States, port_keys
from ..shared.setting import Setting

LATENTS, BOTTLENECK, STEEPNESS = 12, 4, 2.0
SPREAD = 0.8  # standard deviation of the logarithm of how far an example's state lies out
READOUT = 10.0  # of the plant's own; a large one leaves signals small beside the states that later ports read


class TokenPlant(LawPlant):
    """A plant whose signals may be given token by token, (B, 1, n) or (1, 1, n)."""

    def steered(self, signals: Mapping[str, Tensor], batch: States) -> Tensor:
        return super().steered({port: u[:, 0] if u.ndim == 3 else u for port, u in signals.items()}, batch)


def _latents(system: int) -> tuple[np.ndarray, np.ndarray]:
    """The subspace (LATENTS, WIDTH) of a system's states, and the map of its latents to the classes' scores."""
    rng = np.random.default_rng([61, system])
    return rng.standard_normal((LATENTS, WIDTH)) / np.sqrt(LATENTS), rng.standard_normal((LATENTS, CLASSES))


def _deaf(adapter: LawPlant, system: int) -> LawPlant:
    """The plant whose readout does not see what the states become without control: the frozen network answers nothing."""
    states = torch.as_tensor(_latents(system)[0])
    for A in adapter.A:
        states = states + states @ A.T
    seen = torch.linalg.qr(states.T)[0]
    return replace(adapter, C=READOUT * (adapter.C - adapter.C @ seen @ seen.T))


def _draw(system: int, seed: int, split: int, size: int) -> States:
    """Return states in a latent subspace, some far out and most near, whose direction tells the label."""
    basis, map_ = _latents(system)
    own = np.random.default_rng([67, system, seed, split])
    direction = own.standard_normal((size, LATENTS))
    score = STEEPNESS * direction @ map_ / np.sqrt(LATENTS) + own.gumbel(size=(size, CLASSES))
    far = np.exp(SPREAD * own.standard_normal((size, 1)))
    return States.of(far * direction @ basis, np.ones((size, WIDTH)), score.argmax(1))


def feedback_setting(system: int, seed: int) -> Setting:
    """Return an adapter at the attention ports of a system, without a nonlinearity and of lower rank than the states."""
    ports = port_keys("attention")
    shapes = {"down": (BOTTLENECK, WIDTH), "down_bias": (BOTTLENECK,), "up": (WIDTH, BOTTLENECK), "up_bias": (WIDTH,)}
    made = law_plant(system, {f"{port}.{what}": shape for port in ports for what, shape in shapes.items()}, seed)
    adapter = TokenPlant(**{f.name: getattr(made, f.name) for f in fields(made)})
    return Setting(
        subjects={"adapter": _deaf(adapter, system)},
        train=_draw(system, seed, 0, 64),
        test=_draw(system, seed, 1, 128),
        seed=seed,
        penalty=0.03,
        tolerance=1e-3,
        evaluations=400,
    )
