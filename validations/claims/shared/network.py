"""Known-good and known-bad plants: small networks on which a claim must come out supported, and refuted.

A plant is affine in additive controls, so the linearised theory is exact on it: h <- d_i o (h + A_t h + b_t o u_t), y = C h, with
a gate d_i of each example's own so that one control moves different examples differently. Eight systems differ in their
weights, penalty and in how much of the label their states carry. Known-bad plants are mostly the same, each against
the prediction made for another one: whatever a claim says about *this* network must then fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .setting import Setting

SYSTEMS, SEEDS = 8, 1
PENALTIES = (0.1, 0.08, 0.06, 0.05, 0.02, 0.015, 0.012, 0.01)
READOUTS = (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0)
DEPENDENCE = 2.4  # of the labels on the states, in the last system; none in the first
WIDTH, BLOCKS, CLASSES, LATENT = 24, 4, 3, 4


class States(NamedTuple):
    """A batch of a plant: initial states and gates (B, 2, n), a mask of ones (B, 1), labels (B,)."""

    tokens: Tensor
    mask: Tensor
    labels: Tensor

    @classmethod
    def of(cls, states: np.ndarray, gates: np.ndarray, labels: np.ndarray) -> "States":
        """Return the batch of some states (B, n), gates (B, n) and labels (B,)."""
        tokens = tensor(np.stack([states, gates], axis=1))
        return cls(tokens, torch.ones(len(labels), 1), torch.as_tensor(labels))


@dataclass(frozen=True)
class Rolled:
    """The states, sublayer outputs and signals met on the way, one (B, 1, n) tensor per port, and the outputs (B, C)."""

    inputs: dict[str, Tensor]
    base: dict[str, Tensor]
    signals: dict[str, Tensor]
    outputs: Tensor


@dataclass(frozen=True)
class Plant:
    """A subject on a gated linear network; parameters of a port are a bias, an adapter (down, up, bias) or a change of its weight."""

    A: Tensor
    C: Tensor
    strength: Tensor
    initial: dict[str, Tensor]
    fixed: bool = False
    width: int = WIDTH
    dtype: torch.dtype = torch.float64

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(f"{t // 2}.{'mlp' if t % 2 else 'attention'}" for t in range(len(self.A)))

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor:
        if f"{port}.up" in params:
            return base @ params[f"{port}.down"].T @ params[f"{port}.up"].T + params[f"{port}.bias"]
        return params.get(f"{port}.bias", torch.zeros(()))

    def _run(
        self,
        params: Mapping[str, Tensor],
        batch: States,
        signals: Mapping[str, Tensor] | None = None,
        disturbance: Mapping[str, Tensor] | None = None,
    ):
        h, gate = batch.tokens[:, 0], batch.tokens[:, 1]
        inputs, base, used = {}, {}, {}
        for port, A, strength in zip(self.ports, self.A, self.strength, strict=True):
            A = A + params.get(f"{port}.weight", 0.0)
            inputs[port], push = h, (disturbance or {}).get(port, torch.zeros(()))
            base[port] = h @ A.T + (push[:, 0] if push.ndim == 3 else push)
            used[port] = self._signal(params, port, base[port])
            h = gate * (h + base[port] + strength * (used[port] + (signals or {}).get(port, 0.0)))
        return h @ self.C.T, inputs, base, used

    def outputs(self, params: Mapping[str, Tensor], batch: States) -> Tensor:
        return self._run(params, batch)[0]

    def loss(self, params: Mapping[str, Tensor], batch: States) -> Tensor:
        if self.fixed:
            return sum(p.sum() for p in params.values()) * 0.0
        return torch.nn.functional.cross_entropy(self.outputs(params, batch), batch.labels)

    def steered(self, signals: Mapping[str, Tensor], batch: States) -> Tensor:
        return self._run({}, batch, signals)[0]

    def disturbed(self, disturbance: Mapping[str, Tensor], params: Mapping[str, Tensor], batch: States) -> Tensor:
        return self._run(params, batch, disturbance=disturbance)[0]

    def energy(self, params: Mapping[str, Tensor], batch: States) -> Tensor:
        if self.fixed:
            return sum((p**2).sum() for p in params.values()) * 0.0
        return self._energy(self.rollout(params, batch))

    @staticmethod
    def _energy(rolled: Rolled) -> Tensor:
        return sum(u.square().sum((1, 2)).mean() for u in rolled.signals.values())

    def priced_loss(
        self, params: Mapping[str, Tensor], batch: States, price: float, disturbance: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        if self.fixed:
            return self.loss(params, batch)
        rolled = self.rollout(params, batch, disturbance)
        return torch.nn.functional.cross_entropy(rolled.outputs, batch.labels) + price / 2 * self._energy(rolled)

    def rollout(self, params: Mapping[str, Tensor], batch: States, disturbance: Mapping[str, Tensor] | None = None) -> Rolled:
        outputs, *met = self._run(params, batch, disturbance=disturbance)
        return Rolled(*({port: x.expand_as(met[0][port])[:, None] for port, x in kind.items()} for kind in met), outputs)

    def weight_changes(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(params)

    def gain(self, params: Mapping[str, Tensor], port: str, base: Tensor, mask: Tensor) -> Tensor:
        return params[f"{port}.up"] @ params[f"{port}.down"]


def tensor(values: np.ndarray) -> Tensor:
    """Return an array as a float64 tensor."""
    return torch.as_tensor(values, dtype=torch.float64)


def partner(system: int) -> int:
    """Return the system for whose prediction another is the known-bad plant: 0 and 7, 1 and 6, 2 and 5, 3 and 4."""
    return SYSTEMS - 1 - system


def levels(system: int, number: int = 0) -> np.ndarray:
    """Return numbers from -1 to 1 by port, in an order that a system and its partner have in reverse.

    The first such order is the logarithm of the strength of a port's controls, the second says how unlike they are.
    """
    found = np.random.default_rng([5, min(system, partner(system)), number]).permutation(np.linspace(-1.0, 1.0, 2 * BLOCKS))
    return found if system < partner(system) else -found


def network(system: int, *, uneven: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return a system's A (2 BLOCKS, n, n), readout C and the strength of each control component; uneven over ports if asked."""
    rng = np.random.default_rng([7, system])
    A = 0.4 * rng.standard_normal((2 * BLOCKS, WIDTH, WIDTH)) / np.sqrt(WIDTH)
    C = rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    level = np.exp(levels(system) * uneven)[:, None]
    spread = np.exp(rng.standard_normal((2 * BLOCKS, WIDTH)) * (1.0 + levels(system, 1))[:, None] * uneven)
    strength = level * spread / np.sqrt(np.mean(spread**2, axis=1, keepdims=True))
    return tensor(A), tensor(C), tensor(strength)


def draw(system: int, seed: int, split: int, size: int, gates: float, latents: int = LATENT, answers: bool = True) -> States:
    """Return states in a latent subspace with labels that depend on it the more, the higher the system's number.

    Without `answers` they do not depend on it. Classes that are frequent in a system are rare in its partner.
    """
    basis = np.random.default_rng([11, system]).standard_normal((latents, WIDTH)) / np.sqrt(latents)
    map_ = np.random.default_rng([12, system]).standard_normal((latents, CLASSES)) * np.sqrt(LATENT / latents)
    prior = np.random.default_rng([13, min(system, partner(system))]).standard_normal(CLASSES)
    prior = prior if system < partner(system) else -prior
    rng = np.random.default_rng([17, system, seed, split])
    latent = rng.standard_normal((size, latents))
    score = answers * DEPENDENCE * system / (SYSTEMS - 1) * latent @ map_ + prior + rng.gumbel(size=(size, CLASSES))
    gate = 1.0 + gates * rng.standard_normal((size, WIDTH))
    return States.of(latent @ basis, gate, score.argmax(1))


def make_plant(system: int, parameters: Mapping[str, tuple[int, ...]], seed: int = 0, *, uneven: bool = False) -> Plant:
    """Return the plant of a system with parameters that start at zero (down-projections at seeded noise).

    uneven: the ports' controls differ in strength (see `network`).
    """
    rng = np.random.default_rng([19, system, seed])
    initial = {
        name: tensor(rng.standard_normal(shape) / np.sqrt(WIDTH))
        if name.endswith("down")
        else torch.zeros(shape, dtype=torch.float64)
        for name, shape in parameters.items()
    }
    return Plant(*network(system, uneven=uneven), initial)


def still_plant(strength: np.ndarray, readout: np.ndarray) -> Plant:
    """Return a plant in which nothing passes between components: biases at the ports of strengths (P, n), a readout (C, n)."""
    ports, width = strength.shape
    still = torch.zeros(ports, width, width, dtype=torch.float64)
    plant = Plant(still, tensor(readout), tensor(strength), {}, width=width)
    return replace(plant, initial={f"{port}.bias": torch.zeros(width, dtype=torch.float64) for port in plant.ports})


def bias_and_adapter(system: int, seed: int, size: float) -> tuple[Plant, Plant]:
    """Return a bias and an adapter at the attention ports of a system, all controls of strength one, with a readout of a size."""
    ports, shapes = port_keys("attention"), {"down": (LATENT, WIDTH), "up": (WIDTH, LATENT), "bias": (WIDTH,)}
    bias = make_plant(system, {f"{port}.bias": (WIDTH,) for port in ports}, uneven=True)
    adapter = make_plant(system, {f"{port}.{name}": shape for port in ports for name, shape in shapes.items()}, seed)
    return tuple(replace(p, C=size * p.C, strength=torch.ones_like(p.strength)) for p in (bias, adapter))


def port_keys(site: str = "") -> list[str]:
    """Return the keys of the ports, of one site if given."""
    return [f"{b}.{s}" for b in range(BLOCKS) for s in ("attention", "mlp") if s.startswith(site)]


def plant_setting(
    system: int,
    seed: int,
    subjects: Mapping[str, Plant],
    penalty: float,
    options: Mapping[str, Any],
    gates: float = 0.4,
    tolerance: float = 1e-4,
) -> Setting:
    """Return the inputs of an experiment on a system: 64 examples to train on and 128 held out."""
    return Setting(
        subjects=subjects,
        train=draw(system, seed, 0, 64, gates),
        test=draw(system, seed, 1, 128, gates),
        seed=seed,
        penalty=penalty,
        tolerance=tolerance,
        evaluations=200,
        options=options,
    )


def bias_setting(system: int, seed: int, *, contrast: float = 1.0, readout: float = 1.0, gates: float = 0.4) -> Setting:
    """Return one additive control per port on a system: the theory of `tuned`, `sites` and `dimension` is exact on it.

    contrast: the exponent of how unlike the ports are in strength. readout: the readout's size; where it is small, training moves
    the logits by more than they were. gates: how far examples differ.
    """
    plant = make_plant(system, {f"{port}.bias": (WIDTH,) for port in port_keys()}, uneven=True)
    strength = plant.strength * tensor(np.exp((contrast - 1) * levels(system)))[:, None]
    plant = replace(plant, C=readout * plant.C, strength=strength)
    return plant_setting(system, seed, {"delta": plant, "bias": plant}, PENALTIES[system], {}, gates)
