"""Plants of transfer: a linear layer for every task of four groups, of which three share what their labels need, or none do.

The layer is that of `practice.plants`; a task's labels are drawn from the log odds of a teacher that reads a base h and a few of the
numbers x. Tasks that share the teacher's x find it in a layer tuned on one another; on others that layer adds noise.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tuning.backbones import Batch
from tuning.subjects import Readout

from ..practice.plants import SEEN, WIDTH, Layer
from ..shared.among import among
from ..shared.claim import Cell
from ..shared.network import tensor
from ..shared.setting import Setting
from .experiment import EXPERIMENT

GROUPS, MEMBERS = 4, 3
TASKS = GROUPS * MEMBERS
USED = SEEN // TASKS  # of the numbers x, that one task's labels need
STRENGTH = 3.0  # standard deviation of what x adds to the log odds
SIZES = (512, 256, 1024)  # texts to train on, of dev, and held out
RECIPE = {"steps": 160, "batch_size": 32, "rates": (0.02,), "looks": 8}
NAMES = [f"system {k}" for k in range(TASKS)]
OPTIONS = RECIPE | {
    "groups": {f"group {k}": NAMES[MEMBERS * k : MEMBERS * (k + 1)] for k in range(GROUPS)},
    "senses": {"all": NAMES},
}


def _setting(system: int, place: Callable[[int], int]) -> Setting:
    """Return a task whose labels need the few numbers x of a place, drawn with signs of the place."""
    teacher = np.zeros(SEEN)
    own = slice(USED * place(system), USED * (place(system) + 1))
    teacher[own] = np.random.default_rng([79, place(system)]).choice([-1.0, 1.0], USED) * STRENGTH / np.sqrt(USED)

    def drawn(part: int) -> Batch:
        rng, size = np.random.default_rng([83, system, part]), SIZES[part]
        h, x = rng.standard_normal((size, WIDTH)) / np.sqrt(WIDTH), rng.standard_normal((size, SEEN))
        odds = h.sum(1) + x @ teacher
        labels = torch.as_tensor((odds + rng.logistic(size=size) > 0).astype(int))
        return Batch(tensor(np.concatenate([h, x], axis=1))[:, None], torch.ones(size, 1, dtype=torch.bool), labels)

    head = Readout(tensor(np.outer([-0.5, 0.5], np.ones(WIDTH))), torch.zeros(2, dtype=torch.float64))
    layer = Layer(head, {"up": torch.zeros(WIDTH, SEEN, dtype=torch.float64)})
    train, dev, test = (drawn(part) for part in range(len(SIZES)))
    return Setting({"delta": layer}, train, test, 0, 1.0, 1.0, 1, options=OPTIONS, dev=dev)


def _cells(place: Callable[[int], int]) -> list[Cell]:
    """Return the cells of all tasks, each among the others."""
    made = [_setting(system, place) for system in range(TASKS)]
    cells = []
    for k, own in enumerate(made):
        setting = replace(own, other_tasks=tuple(made[:k] + made[k + 1 :]))
        predicted = EXPERIMENT.predict(setting)
        cells.append(Cell(NAMES[k], "lora", 0, predicted, EXPERIMENT.measure(setting, predicted)))
    return among(cells)


shared = partial(_cells, lambda system: system // MEMBERS)
alone = partial(_cells, lambda system: system)
