"""Plants of transfer: tasks that read the same features of one network, and tasks that read different ones, where layers keep features apart."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..shared.network import CLASSES, SYSTEMS, WIDTH, Plant, States, draw, network, plant_setting, tensor
from ..shared.setting import Setting

GATES = 0.02  # how far examples differ in what a control does to them: what no other task shows
SHARES = (0.7, 0.2, 0.1)  # of the classes, in an order of the task's own, so that every task has something to gain


@dataclass(frozen=True)
class Shuffling(Plant):
    """A plant that can lose what its weights say: the entries of every A_t permuted."""

    def shuffled(self, seed: int) -> "Shuffling":
        rng = np.random.default_rng([29, seed])
        return replace(self, A=tensor(np.stack([rng.permuted(A.ravel()).reshape(A.shape) for A in self.A.numpy()])))


def together(system: int, seed: int) -> Setting:
    """Return a task that mixes the same three features of the network as the other tasks, into classes of its own."""
    return _among(system, seed, lambda task: 0)


def apart(system: int, seed: int) -> Setting:
    """Return a task that reads three features of the network which no other task reads."""
    return _among(system, seed, lambda task: task)


def _among(system: int, seed: int, features: Callable[[int], int]) -> Setting:
    tasks = [_setting(task, seed, features(task)) for task in range(SYSTEMS)]
    return replace(tasks[system], other_tasks=tuple(tasks[:system] + tasks[system + 1 :]))


def _setting(task: int, seed: int, first: int) -> Setting:
    A, _, _ = network(0, uneven=False)
    features = np.linalg.qr(np.random.default_rng(31).standard_normal((WIDTH, WIDTH)))[0].T
    own = np.kron(np.eye(WIDTH // CLASSES), np.ones((CLASSES, CLASSES)))
    A = tensor(features.T @ (A.numpy() * own) @ features)
    mixed = np.linalg.qr(np.random.default_rng([37, task]).standard_normal((CLASSES, CLASSES)))[0]
    C = mixed @ features[CLASSES * first : CLASSES * (first + 1)]
    plant = Shuffling(A, tensor(C), tensor(np.ones((len(A), WIDTH))), {})
    setting = plant_setting(task, seed, {"bias": plant}, 0.1, {}, tolerance=1e-3)
    return replace(setting, train=_drawn(task, seed, 0, 32), test=_drawn(task, seed, 1, 64))


def _drawn(task: int, seed: int, split: int, size: int) -> States:
    shares = np.random.default_rng([41, task]).permutation(SHARES)
    labels = np.random.default_rng([43, task, seed, split]).choice(CLASSES, p=shares, size=size)
    return draw(task, seed, split, size, GATES)._replace(labels=torch.as_tensor(labels))
