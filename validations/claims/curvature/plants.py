"""Plants of curvature: outliers planted by class, by logit or by feature, and plants whose Hessian leaves Gauss-Newton."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..shared.network import LATENT, WIDTH, Plant, States, still_plant, tensor
from ..shared.setting import Setting

CLASSES = (3, 4, 4, 5, 6, 6, 7, 8)
FEATURES = (8, 12, 12, 14, 15, 15, 15, 15)
PRICES = (0.3, 0.35, 0.4, 0.4, 0.35, 0.35, 0.5, 0.45)
EXAMPLES, HALF, PORT = 96, WIDTH // 2, "0.attention"
COMMON = 0.3  # what all classes share, in units of what differs from class to class
NOISE = 0.1


@dataclass(frozen=True)
class Bent(Plant):
    """A plant whose control enters as u + a u^2 + b u^3: its second derivative 2 a + 6 b u grows with the control."""

    bend: tuple[float, float] = (0.0, 0.0)

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor:
        u = params[f"{port}.bias"]
        return u + self.bend[0] * u**2 + self.bend[1] * u**3


def planted_setting(system: int, seed: int, *, by: str, noise: float = NOISE) -> Setting:
    """Return one port that the readout sees through a gate of each example's own, with 3 to 8 classes by system.

    by "class": one half of the gate differs from class to class with no mean over them, the other is common and weaker, so
    that C - 1 directions stand out which no mean over all classes shows. "logit": the gate is common to all examples, so that
    C - 1 directions stand out whatever the labels. "feature": every example has random gates on 8 to 15 components and
    nothing else, so that as many directions stand out and neither classes nor logits have a mean. noise: the standard
    deviation of every example's own gates beside the first two.
    """
    rng = np.random.default_rng([41, system])
    readout = np.concatenate([np.linalg.qr(rng.standard_normal((HALF, CLASSES[system])))[0].T for _ in range(2)], axis=1)
    strength = np.ones((1, WIDTH))
    if by == "feature":
        columns = rng.standard_normal((CLASSES[system], WIDTH))
        columns -= columns.mean(0)
        readout = columns / np.linalg.norm(columns, axis=0)
        strength[:, FEATURES[system] :] = 0.02
    plant = still_plant(strength, readout)

    def batch(split: int) -> States:
        own = np.random.default_rng([43, system, seed, split])
        labels = own.permutation(np.arange(EXAMPLES) % CLASSES[system])
        if by == "feature":
            gate = own.standard_normal((EXAMPLES, WIDTH))
        else:
            level = np.linspace(-1.0, 1.0, CLASSES[system])
            level = level / np.sqrt(np.mean(level**2)) if by == "class" else np.ones(CLASSES[system])
            gate = np.repeat(np.stack([level[labels], np.full(EXAMPLES, COMMON)], axis=1), HALF, axis=1)
            gate += noise * own.standard_normal(gate.shape)
        return States.of(0.3 * own.standard_normal((EXAMPLES, WIDTH)), gate, labels)

    return _setting(plant, batch, seed, 1.0)


def bilinear_setting(system: int, seed: int, *, regime: float | None) -> Setting:
    """Return an adapter that starts at zero, on states that are nearly the same for all examples, and uneven classes.

    Its Hessian is Gauss-Newton, with C - 1 directions that stand out, plus the block between the two factors, which fades as
    training meets the classes' shares: nearly to nothing without a `regime`, in the linear regime with one.
    """
    plant = _orthonormal(system, {"down": (LATENT, WIDTH), "up": (WIDTH, LATENT), "bias": (WIDTH,)})
    return replace(_setting(plant, lambda split: _tilted(system, seed, split), seed, PRICES[system]), regime=regime)


def bent_setting(system: int, seed: int) -> Setting:
    """Return a control whose second derivative grows from nearly nothing while the loss's slope fades."""
    plant = _orthonormal(system, {"bias": (WIDTH,)})
    bent = Bent(plant.A, plant.C, plant.strength, plant.initial, bend=(0.01, 0.6))
    return _setting(bent, lambda split: _tilted(system, seed, split), seed, PRICES[system])


def _orthonormal(system: int, shapes: Mapping[str, tuple[int, ...]]) -> Plant:
    """Return one port on an identity network with an orthonormal readout; down-projections start at seeded noise."""
    rng = np.random.default_rng([61, system])
    readout = _readout(system)
    initial = {
        f"{PORT}.{name}": tensor(rng.standard_normal(shape) / np.sqrt(WIDTH)) if name == "down" else tensor(np.zeros(shape))
        for name, shape in shapes.items()
    }
    return Plant(tensor(np.eye(WIDTH)[None]), tensor(readout), tensor(np.ones((1, WIDTH))), initial)


def _readout(system: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng([47, system]).standard_normal((WIDTH, CLASSES[system])))[0].T


def _tilted(system: int, seed: int, split: int) -> States:
    """Return examples in nearly one state, to which all logits are nearly equal, with class shares of 1 : 2 : ... : C."""
    rng = np.random.default_rng([53, system, seed, split])
    weight = np.arange(1.0, CLASSES[system] + 1)
    labels = rng.choice(CLASSES[system], size=EXAMPLES, p=weight / weight.sum())
    centre, readout = np.random.default_rng([59, system]).standard_normal(WIDTH), _readout(system)
    centre -= readout.T @ (readout @ centre)
    centre *= np.sqrt(WIDTH) / np.linalg.norm(centre)
    states = centre + NOISE * rng.standard_normal((EXAMPLES, WIDTH))
    return States.of(states, 1.0 + NOISE * rng.standard_normal((EXAMPLES, WIDTH)), labels)


def _setting(plant: Plant, batch: Callable[[int], States], seed: int, penalty: float) -> Setting:
    return Setting({"delta": plant}, batch(0), batch(1), seed, penalty, tolerance=1e-4, evaluations=200)
