"""Plants of LoRA without regret: two linear maps under a frozen readout, tuned in full and by factors of several ranks.

A text holds a base, what the maps see and a gate for each of them, (b, x, g, h). The readout sums b + g * (U x) + h * (V x), so
that two classes have the log odds sum b + g'U x + h'V x, and a change of either map learns from gradients of every rank. U
stands for attention and V for the MLP. Labels are drawn from the log odds of a teacher that has nearly all its strength in one
of the maps. Factors change a map by scale x B A; B is zero at the start.

One good plant cannot show five claims at once and still be small, so that there are three. That of the large batch needs rates
that end: with rates of any size Adam takes factors as far in a quarter of the steps, and the batch costs LoRA nothing of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.subjects import READOUT_PARAMETERS, Readout

from ..shared.claim import Cell, side_by_side
from ..shared.network import tensor
from ..shared.setting import Experiment, Setting

WIDTH, SYSTEMS = 6, 6
STEPS, TEXTS = 64, 16
MAPS = ("attention", "mlp")
STRENGTH, SHARE = 4.0, 0.95  # standard deviation of the teacher's log odds, and the share of it in one of the maps
RECIPE = {"looks": 9, "head": "frozen", "relinearisations": 0}


@dataclass(frozen=True, eq=False)
class Maps:
    """A subject on two maps: parameters are a change of each map (WIDTH, WIDTH), or its factors B and A.

    factors: A of every map that is tuned by factors, for those whose A is not tuned. scale: of B A.
    """

    readout: Readout
    initial: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]
    scale: float

    @property
    def backbone(self) -> SimpleNamespace:
        """Return the device that it is on."""
        return SimpleNamespace(device=self.readout.weight.device)

    def with_readout(self) -> "Maps":
        own = dict(zip(READOUT_PARAMETERS, (self.readout.weight, self.readout.bias), strict=True))
        return replace(self, initial={**self.initial, **own})

    def outputs(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        seen, x, *gates = batch.tokens[:, 0].split(WIDTH, dim=1)
        for name, gate in zip(MAPS, gates, strict=True):
            if name in params:
                seen = seen + gate * (x @ params[name].T)
            elif f"{name}.B" in params:
                A = params.get(f"{name}.A", self.factors[name])
                seen = seen + self.scale * gate * (x @ A.T @ params[f"{name}.B"].T)
        weight, bias = (params.get(name, own) for name, own in zip(READOUT_PARAMETERS, self._head, strict=True))
        return F.linear(seen, weight, bias)

    @property
    def _head(self) -> tuple[Tensor, Tensor]:
        return self.readout.weight, self.readout.bias

    def loss(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        return F.cross_entropy(self.outputs(params, batch), batch.labels)


@dataclass(frozen=True)
class Tuned:
    """How a delta of the plants tunes: the rank of its factors, 0 for the whole map, which maps, with how many texts a step."""

    rank: int
    maps: tuple[str, ...] = MAPS
    texts: int = TEXTS


DELTAS = {
    "full": Tuned(0),
    "lora-1": Tuned(1),
    "lora-4": Tuned(4),
    "lora-16": Tuned(16),
    "lora-attention": Tuned(4, MAPS[:1]),
    "lora-mlp": Tuned(4, MAPS[1:]),
    "lora-large-batch": Tuned(4, texts=4 * TEXTS),
    "full-large-batch": Tuned(0, texts=4 * TEXTS),
}


@dataclass(frozen=True)
class Kind:
    """What makes a plant: its teacher, its factors, the rates that are tried, and the deltas that are compared.

    strong: the map that the teacher's strength lies in. teacher: draws a map of Frobenius norm 1. factors: draws A (rank, WIDTH)
    for a teacher's map. scale: that of B A at a rank. free: whether A is tuned too. size: texts of each of the three parts.
    """

    strong: str
    teacher: Callable[[np.random.Generator], np.ndarray]
    factors: Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
    scale: Callable[[int], float]
    free: bool
    rates: tuple[float, ...]
    full_rates: tuple[float, ...]
    deltas: tuple[str, ...] = tuple(DELTAS)
    size: int = 256


def _of_rank_one(rng: np.random.Generator) -> np.ndarray:
    u, v = (x / np.linalg.norm(x) for x in rng.standard_normal((2, WIDTH)))
    return np.outer(u, v)


def _of_every_rank(rng: np.random.Generator) -> np.ndarray:
    u, v = (np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] for _ in range(2))
    strengths = 0.7 ** np.arange(WIDTH)
    return u * (strengths / np.linalg.norm(strengths)) @ v


def _drawn(rng: np.random.Generator, teacher: np.ndarray, rank: int) -> np.ndarray:
    return rng.standard_normal((rank, WIDTH)) / np.sqrt(WIDTH)


def _small(rng: np.random.Generator, teacher: np.ndarray, rank: int) -> np.ndarray:
    return 0.1 * _drawn(rng, teacher, rank)


def _told(rng: np.random.Generator, teacher: np.ndarray, rank: int) -> np.ndarray:
    """Return factors that all read the direction which the teacher's map reads most, but for a little."""
    return np.linalg.svd(teacher)[2][0] + 0.1 * rng.standard_normal((rank, WIDTH)) / np.sqrt(WIDTH)


def _rates(least: float, count: int, ratio: float = 2.0) -> tuple[float, ...]:
    return tuple(least * ratio**k for k in range(count))


RANKS = ("full", "lora-1", "lora-4", "lora-16")
ALIKE = Kind("mlp", _of_rank_one, _told, lambda rank: 0.7 / rank, False, _rates(0.05, 5), _rates(0.005, 5), RANKS)
TOO_SMALL = Kind(
    "mlp", _of_every_rank, _drawn, lambda rank: 3.0 / rank, True, _rates(0.01, 4), _rates(0.02, 4),
    (*RANKS, "lora-attention", "lora-mlp"), size=320,
)  # fmt: skip
PRODUCT = Kind(
    "mlp", _of_rank_one, _small, lambda rank: 1.0 / rank, True, _rates(0.01, 4), _rates(0.01, 4),
    ("full", "lora-4", "lora-large-batch", "full-large-batch"),
)  # fmt: skip
GROWING = Kind("attention", _of_rank_one, _told, float, False, _rates(0.0003, 5, 4.0), _rates(0.005, 5))


def _setting(kind: Kind, system: int, delta: str) -> Setting:
    tuned, rng = DELTAS[delta], np.random.default_rng([53, system])
    strength = STRENGTH + system / (SYSTEMS - 1)
    shares = {name: SHARE if name == kind.strong else np.sqrt(1 - SHARE**2) for name in MAPS}
    teacher = {name: strength * shares[name] * kind.teacher(rng) for name in MAPS}

    def drawn(part: int) -> Batch:
        own = np.random.default_rng([59, system, part])
        base, x, *gates = own.standard_normal((4, kind.size, WIDTH))
        base /= np.sqrt(WIDTH)
        odds = base.sum(1) + sum(np.sum(gate * (x @ teacher[name].T), 1) for name, gate in zip(MAPS, gates, strict=True))
        tokens = tensor(np.concatenate([base, x, *gates], axis=1))[:, None]
        labels = torch.as_tensor((odds + own.logistic(size=kind.size) > 0).astype(int))
        return Batch(tokens, torch.ones(kind.size, 1, dtype=torch.bool), labels)

    initial, factors = {}, {}
    for name in tuned.maps:
        if tuned.rank:
            factors[name] = tensor(kind.factors(rng, teacher[name], tuned.rank))
            initial |= {f"{name}.A": factors[name]} if kind.free else {}
            initial[f"{name}.B"] = torch.zeros(WIDTH, tuned.rank, dtype=torch.float64)
        else:
            initial[name] = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    head = Readout(tensor(np.outer([-0.5, 0.5], np.ones(WIDTH))), torch.zeros(2, dtype=torch.float64))
    train, dev, test = map(drawn, range(3))
    return Setting(
        subjects={"delta": Maps(head, initial, factors, kind.scale(max(tuned.rank, 1)))},
        train=train,
        dev=dev,
        test=test,
        seed=0,
        penalty=1.0,
        tolerance=1.0,
        evaluations=1,
        options=RECIPE
        | {"rates": kind.rates if tuned.rank else kind.full_rates}
        | {"batch_size": tuned.texts, "steps": STEPS * TEXTS // tuned.texts},
    )


def compared(experiment: Experiment, kind: Kind) -> list[Cell]:
    """Return the cells of full tuning on every system, each beside those of the other deltas."""
    cells = []
    for system in range(SYSTEMS):
        for delta in kind.deltas:
            setting = _setting(kind, system, delta)
            predicted = experiment.predict(setting)
            cells.append(Cell(f"system {system}", delta, 0, predicted, experiment.measure(setting, predicted)))
    return [cell for cell in side_by_side(cells) if cell.delta == "full"]
