"""Known-good and known-bad plants: small networks on which a claim must come out supported, and refuted.

A plant is affine in additive controls, so the linearised theory is exact on it: h <- d_i o (h + A_t h + b_t o u_t), y = C h, with
a gate d_i of each example's own so that one control moves different examples differently. Four systems differ in their
weights, penalty and in how much of the label their states carry. The known-bad control trains on each system against the
prediction made for another one: whatever a claim says about *this* network must then fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .experiments.loop import gains
from .experiments.setting import Setting, linearise

SYSTEMS, SEEDS = 4, 4
PENALTIES = (0.3, 0.1, 0.03, 0.01)
READOUTS = (0.1, 0.3, 0.6, 1.0)
WIDTH, BLOCKS, CLASSES, LATENT = 24, 4, 3, 4


class States(NamedTuple):
    """A batch of a plant: initial states and gates (B, 2, n), a mask of ones (B, 1), labels (B,)."""

    tokens: Tensor
    mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Rolled:
    """The sublayer outputs met on the way, one (B, 1, n) tensor per port."""

    base: dict[str, Tensor]


@dataclass(frozen=True)
class Plant:
    """A subject on a gated linear network; `kind` says what its parameters are: bias, adapter, full."""

    A: Tensor
    C: Tensor
    strength: Tensor
    kind: str
    initial: dict[str, Tensor]
    fixed: bool = False
    width: int = WIDTH
    dtype: torch.dtype = torch.float64

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(f"{t // 2}.{'mlp' if t % 2 else 'attention'}" for t in range(len(self.A)))

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor | float:
        if self.kind == "bias":
            return params.get(f"{port}.bias", torch.zeros(()))
        if self.kind == "adapter" and f"{port}.up" in params:
            return base @ params[f"{port}.down"].T @ params[f"{port}.up"].T + params[f"{port}.bias"]
        return 0.0

    def _run(
        self,
        params: Mapping[str, Tensor],
        batch: States,
        signals: Mapping[str, Tensor] | None = None,
        disturbance: Mapping[str, Tensor] | None = None,
    ):
        h, gate = batch.tokens[:, 0], batch.tokens[:, 1]
        base, used = {}, {}
        for port, A, strength in zip(self.ports, self.A, self.strength, strict=True):
            A = A + params.get(f"{port}.weight", 0.0)
            base[port] = h @ A.T + (disturbance or {}).get(port, 0.0)
            used[port] = self._signal(params, port, base[port])
            h = gate * (h + base[port] + strength * (used[port] + (signals or {}).get(port, 0.0)))
        return h @ self.C.T, base, used

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
        used = self._run(params, batch)[2]
        return sum((u * torch.ones(len(batch.labels), 1, dtype=self.dtype)).pow(2).sum(1).mean() for u in used.values())

    def priced_loss(self, params: Mapping[str, Tensor], batch: States, price: float) -> Tensor:
        return self.loss(params, batch) + price / 2 * self.energy(params, batch)

    def rollout(self, params: Mapping[str, Tensor], batch: States) -> Rolled:
        return Rolled({port: b[:, None] for port, b in self._run(params, batch)[1].items()})

    def weight_changes(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(params)

    def gain(self, params: Mapping[str, Tensor], port: str, base: Tensor, mask: Tensor) -> Tensor:
        return params[f"{port}.up"] @ params[f"{port}.down"]


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _network(system: int, *, uneven: bool) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng([7, system])
    A = 0.4 * rng.standard_normal((2 * BLOCKS, WIDTH, WIDTH)) / np.sqrt(WIDTH)
    C = rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    level = np.exp(rng.permutation(np.linspace(-1.0, 1.0, 2 * BLOCKS)) * uneven)[:, None]
    spread = np.exp(
        rng.standard_normal((2 * BLOCKS, WIDTH)) * rng.permutation(np.linspace(0.0, 2.0, 2 * BLOCKS))[:, None] * uneven
    )
    strength = level * spread / np.sqrt(np.mean(spread**2, axis=1, keepdims=True))
    return _tensor(A), _tensor(C), _tensor(strength)


def _batch(system: int, seed: int, split: int, size: int, gates: float) -> States:
    """Return states in a latent subspace with labels that depend on it the more, the higher the system's number."""
    basis = np.random.default_rng([11, system]).standard_normal((LATENT, WIDTH)) / np.sqrt(LATENT)
    map_ = np.random.default_rng([12, system]).standard_normal((LATENT, CLASSES))
    prior = np.random.default_rng([13, system]).standard_normal(CLASSES)
    rng = np.random.default_rng([17, system, seed, split])
    latent = rng.standard_normal((size, LATENT))
    score = 0.8 * system * latent @ map_ + prior + rng.gumbel(size=(size, CLASSES))
    gate = 1.0 + gates * rng.standard_normal((size, WIDTH))
    states = np.stack([latent @ basis, gate], axis=1)
    return States(_tensor(states), torch.ones(size, 1), torch.as_tensor(score.argmax(1)))


def _plant(system: int, kind: str, parameters: Mapping[str, tuple[int, ...]], seed: int = 0, **options) -> Plant:
    rng = np.random.default_rng([19, system, seed])
    initial = {
        name: _tensor(rng.standard_normal(shape) / np.sqrt(WIDTH))
        if name.endswith("down")
        else torch.zeros(shape, dtype=torch.float64)
        for name, shape in parameters.items()
    }
    return Plant(*_network(system, uneven=kind == "bias"), kind, initial, **options)


def _ports(site: str = "") -> list[str]:
    return [f"{b}.{s}" for b in range(BLOCKS) for s in ("attention", "mlp") if s.startswith(site)]


def _setting(
    system: int,
    seed: int,
    subjects: Mapping[str, Plant],
    penalty: float,
    options: Mapping[str, Any],
    gates: float = 0.4,
    tolerance: float = 1e-4,
) -> Setting:
    return Setting(
        subjects=subjects,
        train=_batch(system, seed, 0, 64, gates),
        test=_batch(system, seed, 1, 128, gates),
        seed=seed,
        penalty=penalty,
        tolerance=tolerance,
        evaluations=200,
        options=options,
    )


def bias_setting(system: int, seed: int) -> Setting:
    """Return one additive control per port on a system: the theory of `tuned`, `sites` and `dimension` is exact on it."""
    plant = _plant(system, "bias", {f"{port}.bias": (WIDTH,) for port in _ports()})
    return _setting(system, seed, {"delta": plant, "bias": plant}, PENALTIES[system], {})


def subspace_setting(system: int, seed: int) -> Setting:
    """Return controls at 8, 4, 2 or 1 ports, by system, so that the dimensions differ by octaves between systems."""
    ports = _ports()[-(8 >> system) :]
    plant = _plant(system, "bias", {f"{port}.bias": (WIDTH,) for port in ports})
    dimensions = [round(len(ports) * WIDTH * share) for share in (0.06, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)]
    return _setting(system, seed, {"delta": plant}, 0.03, {"dimensions": dimensions})


def loop_setting(system: int, seed: int, gates: float = 0.4, network: int | None = None) -> Setting:
    """Return bias, prefix and adapter on the attention ports of a system; here a prefix is a bias.

    Without `network` every system is the first one's network with a readout of another size, so that the losses, and with
    them the price of open loop, differ between systems.
    """
    ports = _ports("attention")
    size, network = (READOUTS[system], 0) if network is None else (1.0, network)
    shapes = {"down": (LATENT, WIDTH), "up": (WIDTH, LATENT), "bias": (WIDTH,)}
    bias = _plant(network, "bias", {f"{port}.bias": (WIDTH,) for port in ports})
    adapter = _plant(network, "adapter", {f"{p}.{n}": s for p in ports for n, s in shapes.items()}, seed)
    bias, adapter = (replace(p, C=size * p.C, strength=torch.ones_like(p.strength)) for p in (bias, adapter))
    return _setting(
        system,
        seed,
        {"bias": bias, "prefix": bias, "adapter": adapter},
        0.03,
        {"bottleneck": LATENT},
        gates,
        tolerance=1e-3,
    )


def law_setting(system: int, seed: int) -> Setting:
    """Return the loop's setting with an adapter that is the LQ feedback law of its plant, and stays so in training."""
    setting = loop_setting(system, seed, gates=0.1, network=system)
    ports, rank = tuple(_ports("attention")), 6
    bias = setting.subjects["bias"]
    lin = linearise(bias.steered, {port: torch.zeros(WIDTH, dtype=bias.dtype) for port in ports}, setting.train)
    found = gains(lin, ports, setting.penalty * float(lin.curvatures(lin.y0)[0]), lin.y0, rank)
    law = {}
    for port in ports:
        basis, gain = found[f"basis.{port}"], found[f"gain.{port}"]
        law |= {
            f"{port}.down": _tensor(basis.T),
            f"{port}.up": _tensor(-basis @ gain),
            f"{port}.bias": torch.zeros(WIDTH, dtype=bias.dtype),
        }
    adapter = Plant(bias.A, bias.C, bias.strength, "adapter", law, fixed=True)
    return replace(setting, subjects={**setting.subjects, "adapter": adapter}, options={"bottleneck": LATENT, "rank": rank})


def bounds_setting(system: int, seed: int, *, penalty: float) -> Setting:
    """Return full tuning of a system's weights beside a delta that tunes the last two blocks only."""
    names = {f"{port}.weight": (WIDTH, WIDTH) for port in _ports()}
    full = _plant(system, "full", names)
    tuned = tuple(list(names)[-4:])
    delta = Plant(full.A, full.C, full.strength, "full", {name: full.initial[name] for name in tuned})
    return _setting(system, seed, {"full": full, "delta": delta}, penalty, {"deltas": ("delta",)})
