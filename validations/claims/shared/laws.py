"""Affine feedback laws at ports: u = up down y + bias of the sublayer's output y, run through the real network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from theory.healing import healing
from tuning.deltas import Adapter

from .setting import Params

ROUNDS = 12


@dataclass(frozen=True, eq=False)
class Affine:
    """One port's law: down (q, d), up (d, q), bias (d,)."""

    down: np.ndarray
    up: np.ndarray
    bias: np.ndarray

    def scaled(self, factor: float) -> "Affine":
        """Return the law whose signal is `factor` times this one's."""
        return replace(self, up=factor * self.up, bias=factor * self.bias)


Law = Mapping[str, Affine]


def around(centre: np.ndarray, up: np.ndarray, down: np.ndarray, constant: np.ndarray | float = 0.0) -> Affine:
    """Return the law u = constant + up down (y - centre)."""
    return Affine(down, up, constant - up @ (down @ centre))


def with_law(subject: Any, ports: Sequence[str]) -> Any:
    """Return the subject whose delta is an affine law at some ports: an adapter without its nonlinearity."""
    return replace(subject, delta=Adapter(1, ports=tuple(ports), activation="identity"))


def installed(law: Law, subject: Any) -> Params:
    """Return a law as the parameters of an adapter; its bottleneck is the law's own."""
    parts = {}
    for port, own in law.items():
        zero = np.zeros(len(own.down))
        for what, value in (("down", own.down), ("down_bias", zero), ("up", own.up), ("up_bias", own.bias)):
            parts[f"{port}.{what}"] = torch.as_tensor(value, dtype=subject.dtype)
    return parts


def scaled(law: Law, factor: float) -> dict[str, Affine]:
    """Return the law with every signal times `factor`."""
    return {port: own.scaled(factor) for port, own in law.items()}


def spent(subject: Any, law: Law, batch: Any) -> float:
    """Return the law's signal energy in the closed loop: the mean over examples of its sum over ports of |u|^2."""
    with torch.no_grad():
        return float(subject.energy(installed(law, subject), batch))


def at_energy(subject: Any, law: Law, batch: Any, energy: float) -> dict[str, Affine]:
    """Return the law scaled so that its closed loop spends `energy`, to 0.1 %; a law of no signal is returned as it is.

    The energy is quadratic in the scale but for what the loop feeds back, so s <- s sqrt(energy / spent(s)) contracts.
    """
    factor = 1.0
    for _ in range(ROUNDS):
        now = spent(subject, scaled(law, factor), batch)
        if now == 0.0 or abs(now / energy - 1.0) < 1e-3:
            break
        factor *= float(np.sqrt(energy / now))
    return scaled(law, factor)


def packed(name: str, law: Law) -> dict[str, np.ndarray]:
    """Return a law as named arrays for the store."""
    return {f"{name}/{port}/{what}": getattr(own, what) for port, own in law.items() for what in ("down", "up", "bias")}


def unpacked(name: str, arrays: Mapping[str, np.ndarray], ports: Sequence[str]) -> dict[str, Affine]:
    """Return the law that `packed` stored under a name."""
    return {port: Affine(*(arrays[f"{name}/{port}/{what}"] for what in ("down", "up", "bias"))) for port in ports}


@dataclass(frozen=True, eq=False)
class Manifold:
    """The states seen at a port: their mean (d,) and their principal directions (d, n) with singular values, largest first."""

    mean: np.ndarray
    directions: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, states: np.ndarray) -> "Manifold":
        """Return the manifold of states (n, d)."""
        mean = states.mean(0)
        _, s, vt = np.linalg.svd(states - mean, full_matrices=False)
        return cls(mean, vt.T, s)

    def rank(self, share: float) -> int:
        """Return the least number of directions that hold a share of the squared singular values."""
        held = np.cumsum(self.values**2) / np.sum(self.values**2)
        return int(min(np.searchsorted(held, share) + 1, len(held)))


def leading(manifolds: Mapping[str, Manifold], share: float) -> dict[str, np.ndarray]:
    """Return at each place the directions (d, rank) that hold a share of the states' variance."""
    return {place: own.directions[:, : own.rank(share)] for place, own in manifolds.items()}


def turned(bases: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random subspaces of the same ranks."""
    return {place: np.linalg.qr(rng.standard_normal(own.shape))[0] for place, own in bases.items()}


def shrinkage(manifolds: Mapping[str, Manifold], amounts: Mapping[str, float]) -> dict[str, Affine]:
    """Return u = -s (y - mean) at each place, with its own s of `amounts`."""
    return {place: around(own.mean, -amounts[place] * (one := np.eye(len(own.mean))), one) for place, own in manifolds.items()}


def healing_law(manifolds: Mapping[str, Manifold], bases: Mapping[str, np.ndarray], cost: float) -> dict[str, Affine]:
    """Return u_t = -(1 - keep_t)(I - V_t V_t')(y - mean_t), keep_t of the optimal self-healing schedule over the ports."""
    plan = healing(cost, len(manifolds))
    law = {}
    for t, (port, found) in enumerate(manifolds.items()):
        identity = np.eye(len(found.mean))
        law[port] = around(found.mean, plan.control(t, identity, bases[port]), identity)
    return law


def means(states: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Return each example's mean state (B, d) over its real tokens, in float64."""
    weight = mask.to(states.dtype)[..., None]
    return ((states * weight).sum(1) / weight.sum(1)).double().cpu().numpy()


def tokens(states: torch.Tensor, mask: torch.Tensor, examples: np.ndarray | None = None) -> np.ndarray:
    """Return the states (n, d) of the real tokens of some examples, in float64."""
    real = mask.bool().clone()
    if examples is not None:
        real &= torch.as_tensor(examples, device=real.device)[:, None]
    return states.detach()[real].double().cpu().numpy()
