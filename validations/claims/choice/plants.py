"""Plants of choosing: options that each see a part of what the labels need, in every system another one the most.

An option is the layer of `practice.plants` on texts of its own: the same base h and the same labels, and of what the labels need the
numbers x that it sees. Labels are drawn from log odds to which every option's part adds. Some of what an option sees is loud and
carries nothing: the first gradient is lost in it, and it sets the kernel's largest curvature, the same for all.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from tuning.backbones import Batch
from tuning.subjects import Readout

from ..practice.experiment import EXPERIMENT
from ..practice.plants import SEEN, WIDTH, Layer
from ..shared.among import Among, among
from ..shared.claim import Cell
from ..shared.network import tensor
from ..shared.setting import Experiment, Setting
from .options import FULL

OPTIONS = (FULL, "lora", "lora-16", "adapter", "prefix")
SYSTEMS = 8
SIZES = (384, 192, 4096)  # texts to train on, of dev, and held out
STRENGTHS = np.array([3.5, 2.5, 1.8, 1.2, 0.6])  # standard deviations of what the options' parts add to the log odds
LOUD, QUIET = 4, 12  # numbers that an option sees, of standard deviation 16 with nothing to say, and of 1
RATES = (0.0005, 0.0015, 0.005, 0.015)
RECIPE = {"steps": 400, "batch_size": 32, "looks": 11, "rates": RATES, "head": "frozen", "relinearisations": 0}


def _places(system: int) -> np.ndarray:
    """Return the rank of every option's strength in a system; its partner's, from the other end, are the reverse."""
    shift = min(system, SYSTEMS - 1 - system)
    order = np.roll(np.array([0, 3, 1, 4, 2]), shift)
    return order if system < SYSTEMS - 1 - system else len(OPTIONS) - 1 - order


def settings(system: int, unit: float = 1.0, loud: int = LOUD) -> dict[str, Setting]:
    """Return the setting of every option of a system: the unit of its numbers, and how many of what it sees are loud."""
    spread = np.concatenate([np.full(loud, 16.0), np.ones(QUIET), np.zeros(SEEN - loud - QUIET)])
    rng = np.random.default_rng([61, system])
    head = Readout(tensor(np.outer([-0.5, 0.5], np.ones(WIDTH))), torch.zeros(2, dtype=torch.float64))
    rows = np.where(spread == 1.0, rng.choice([-1.0, 1.0], (len(OPTIONS), SEEN)) / np.sqrt(QUIET), 0.0)
    batches: dict[str, list[Batch]] = {name: [] for name in OPTIONS}
    for part, size in enumerate(SIZES):
        own = np.random.default_rng([67, system, part])
        h = own.standard_normal((size, WIDTH)) / np.sqrt(WIDTH)
        seen = spread * own.standard_normal((len(OPTIONS), size, SEEN))
        odds = h.sum(1) + np.einsum("o,ons,os->n", STRENGTHS[_places(system)], seen, rows)
        labels = torch.as_tensor((odds + own.logistic(size=size) > 0).astype(int))
        for name, x in zip(OPTIONS, seen, strict=True):
            tokens = tensor(np.concatenate([h, x], axis=1))[:, None]
            batches[name].append(Batch(tokens, torch.ones(size, 1, dtype=torch.bool), labels))
    made = {}
    for name in OPTIONS:
        train, dev, test = batches[name]
        made[name] = Setting(
            subjects={"delta": Layer(head, {"up": torch.zeros(WIDTH, SEEN, dtype=torch.float64)}, unit=unit)},
            train=train,
            dev=dev,
            test=test,
            seed=0,
            penalty=1.0,
            tolerance=1.0,
            evaluations=1,
            options=RECIPE,
        )
    return made


def cells(
    experiment: Experiment, predicted_on: Sequence[int], made: Callable[[int], dict[str, Setting]] = settings
) -> list[Among]:
    """Return the cells of the first option on every system, beside the other options', against the predictions of some systems."""
    found = []
    for system, other in enumerate(predicted_on):
        said, met = made(other), made(system)
        for name in OPTIONS:
            predicted = experiment.predict(said[name])
            found.append(Cell(f"system {system}", name, 0, predicted, experiment.measure(met[name], predicted)))
    return [cell for cell in among(found) if cell.delta == FULL]


KNOWN, MISTAKEN = tuple(range(SYSTEMS)), (0, 1, 2, 3, 3, 2, 1, 0)
told_apart = functools.partial(cells, EXPERIMENT, KNOWN)
half_reversed = functools.partial(cells, EXPERIMENT, MISTAKEN)
