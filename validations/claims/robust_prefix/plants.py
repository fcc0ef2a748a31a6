"""Plants of prefixes under attack: one head whose gates read a disturbed state, trained under attack or out of its reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..shared.among import Among, among
from ..shared.network import CLASSES, States, tensor
from ..shared.plants import apart, own
from ..shared.setting import Experiment, Params, Setting

PORT, WIDTH, SLOTS, TRAINING, TEST = "0.attention", 12, 8, 64, 128
STEEPNESS, READOUT, OPENING = 1.0, 1.0, 1.5  # how plainly states tell labels, how far they reach logits, and open gates
CHEAP, DEAR = 0.05, 0.3  # a system's price over the largest curvature, in turn


@dataclass(frozen=True, eq=False)
class Head:
    """A subject of one head, h = x + w + sum_j g_j v_j with gates g = sigmoid(A (x + w) + b) and logits C h, v its numbers."""

    A: Tensor
    b: Tensor
    C: Tensor
    initial: Params
    width: int = WIDTH
    dtype: torch.dtype = torch.float64
    ports: tuple[str, ...] = (PORT,)

    def _through(self, values: Tensor | None, pushes: Mapping[str, Tensor], batch: States) -> Tensor:
        x = batch.tokens[:, 0] + pushes.get(PORT, torch.zeros(()))
        added = 0.0 if values is None else torch.sigmoid(x @ self.A.T + self.b) @ values
        return (x + added) @ self.C.T

    def outputs(self, params: Mapping[str, Tensor], batch: States) -> Tensor:
        return self._through(params["values"], {}, batch)

    def loss(self, params: Mapping[str, Tensor], batch: States) -> Tensor:
        return torch.nn.functional.cross_entropy(self.outputs(params, batch), batch.labels)

    def disturbed(self, disturbance: Mapping[str, Tensor], params: Mapping[str, Tensor], batch: States) -> Tensor:
        return self._through(params["values"], disturbance, batch)

    def steered(self, signals: Mapping[str, Tensor], batch: States) -> Tensor:
        return self._through(None, signals, batch)


class ShelteredHead(Head):
    """A head whose training text no disturbance reaches."""

    def disturbed(self, disturbance: Mapping[str, Tensor], params: Mapping[str, Tensor], batch: States) -> Tensor:
        reached = float(len(batch.labels) != TRAINING)
        return super().disturbed({port: reached * w for port, w in disturbance.items()}, params, batch)


def head_setting(system: int, seed: int, kind: type[Head]) -> Setting:
    """Return a system's head, and texts whose labels are told by directions of the state that are read out, and by others."""
    rng = np.random.default_rng([149, system])
    Q = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    C, told = Q[:CLASSES], Q[CLASSES : 2 * CLASSES]  # what the readout sees, and what besides tells labels
    A = OPENING * Q[:SLOTS]
    head = kind(
        tensor(A),
        torch.zeros(SLOTS, dtype=torch.float64),
        tensor(READOUT * C),
        {"values": torch.zeros(SLOTS, WIDTH, dtype=torch.float64)},
    )

    def drawn(part: int, count: int) -> States:
        own = np.random.default_rng([151, system, seed, part])
        x = own.standard_normal((count, WIDTH))
        score = x @ (READOUT * C + STEEPNESS * told).T + own.gumbel(size=(count, CLASSES))
        return States.of(x, np.ones((count, WIDTH)), score.argmax(1))

    return Setting(
        subjects={"prefix": head},
        train=drawn(0, TRAINING),
        test=drawn(1, TEST),
        seed=seed,
        penalty=DEAR if system % 2 else CHEAP,
        tolerance=3e-2,
        evaluations=250,
        options={"price": 1.0},
    )


def under_attack(experiment: Experiment) -> list[Among]:
    """Return the cells of every system, its values trained under the attacks that were foretold."""
    return among(own(experiment, partial(head_setting, kind=Head)))


def sheltered(experiment: Experiment) -> list[Among]:
    """Return the cells of every system whose values meet none of the attacks that were foretold before they are measured."""
    return among(apart(experiment, partial(head_setting, kind=Head), partial(head_setting, kind=ShelteredHead)))
