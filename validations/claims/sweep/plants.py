"""Plants of sweeps of random subspaces: a head at zero on the states of a small network, and spare numbers that shift these."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tuning.subjects import READOUT_PARAMETERS

from ..shared.network import CLASSES, WIDTH, Plant, States, make_plant, tensor
from ..shared.setting import Setting

HEAD = CLASSES * (WIDTH + 1)
SHARES = (0.06, 0.15, 0.35, 0.6, 0.9)  # of all numbers: the dimensions of a sweep
LARGE = (0.15, 0.3, 0.45, 0.65, 0.9)  # the same where a curve is read: small subspaces differ from draw to draw
SPARE = 0.002  # how far a spare number of 1 shifts the states
SIGNAL = 4.0  # of the labels' scores, over their noise
OCTAVES = (3.0, 2.75, 2.5, 2.0, 1.0, 0.5, 0.25, 0.0)  # of all numbers over the head's, by system
LATENTS = (2, 3, 5, 7, 10, 14, 19, WIDTH)  # directions of the states, by system
SIZES = (96, 1024)  # texts to train on and held out


@dataclass(frozen=True)
class Headed:
    """A subject whose logits are a trained head, zero at the start, on states that spare numbers shift."""

    shifts: Tensor
    initial: Mapping[str, Tensor]

    def outputs(self, params: Mapping[str, Tensor], batch: States) -> Tensor:
        states = batch.tokens[:, 0] + self.shifts @ params["spare"]
        weight, bias = (params[name] for name in READOUT_PARAMETERS)
        return states @ weight.T + bias

    def loss(self, params: Mapping[str, Tensor], batch: States) -> Tensor:
        return torch.nn.functional.cross_entropy(self.outputs(params, batch), batch.labels)


def _draw(plant: Plant, system: int, seed: int, split: int, latents: int) -> States:
    """Return what a network makes of states in so many latent directions, and labels that depend on all of them."""
    fixed, rng = np.random.default_rng(31), np.random.default_rng([31, system, seed, split])
    basis, map_ = (fixed.standard_normal((WIDTH, size))[:latents] for size in (WIDTH, CLASSES))
    basis = basis / np.sqrt(latents)
    latent = rng.standard_normal((SIZES[split], latents))
    score = SIGNAL * latent @ map_ / np.sqrt(latents) + rng.gumbel(size=(len(latent), CLASSES))
    drawn = States.of(latent @ basis, np.ones((len(latent), WIDTH)), score.argmax(1))
    return drawn._replace(tokens=plant.outputs({}, drawn)[:, None])


def _headed(
    system: int, seed: int, *, octaves: float, latents: int = 8, penalty: float = 0.003, shares: tuple[float, ...] = SHARES
) -> Setting:
    """Return a head with as many spare numbers as make D its own number times 2^octaves, and a small sweep."""
    plant = make_plant(system, {}, uneven=True)
    plant = Plant(plant.A, torch.eye(WIDTH, dtype=plant.dtype), plant.strength, {})
    spare, generator = round(HEAD * (2**octaves - 1)), torch.Generator().manual_seed(system)
    shifts = SPARE * torch.randn(WIDTH, spare, generator=generator, dtype=plant.dtype)
    head = dict(zip(READOUT_PARAMETERS, (tensor([[0.0] * WIDTH] * CLASSES), tensor([0.0] * CLASSES)), strict=True))
    train, test = (_draw(plant, system, seed, split, latents) for split in range(2))
    dimensions = sorted({max(1, round(share * HEAD * 2**octaves)) for share in shares})
    return Setting(
        subjects={"delta": Headed(shifts, head | {"spare": shifts.new_zeros(spare)})},
        train=train,
        test=test,
        seed=seed,
        penalty=penalty,
        tolerance=1e-3,
        evaluations=200,
        options={"dimensions": dimensions, "rates": [0.1, 0.3], "seeds": 3, "steps": 50, "batch": SIZES[0], "part": SIZES[0]},
    )


def sweep_setting(system: int, seed: int) -> Setting:
    """Return a head whose numbers are an eighth to all of what is trained, by system."""
    return _headed(system, seed, octaves=OCTAVES[system], shares=LARGE)


def wide_setting(system: int, seed: int) -> Setting:
    """Return a head among sixteen times as many numbers, hardly penalised: few directions are needed, whatever D is."""
    return _headed(system, seed, octaves=4, penalty=3e-5)


def narrow_setting(system: int, seed: int) -> Setting:
    """Return a head alone on states of every direction."""
    return _headed(system, seed, octaves=0, latents=WIDTH)


def latent_setting(system: int, seed: int) -> Setting:
    """Return states in 2 to 24 directions, by system, so that every notion of dimension must tell the systems apart."""
    return _headed(system, seed, octaves=1, latents=LATENTS[system])
