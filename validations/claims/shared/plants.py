"""Runs an experiment on plants: against the predictions made for them, for another system, or for other labels."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from .claim import Cell
from .network import SEEDS, SYSTEMS, partner
from .setting import Experiment, Setting

Make = Callable[[int, int], Setting]  # of a system and a seed


def own(experiment: Experiment, make: Make, seeds: int = SEEDS) -> list[Cell]:
    """Return the cells of every system measured against the prediction made for it."""
    return apart(experiment, make, make, seeds)


def swapped(experiment: Experiment, make: Make, seeds: int = SEEDS) -> list[Cell]:
    """Return the cells of every system measured against the prediction made for its partner."""
    return apart(experiment, lambda system, seed: make(partner(system), seed), make, seeds)


def apart(experiment: Experiment, told: Make, met: Make, seeds: int = SEEDS) -> list[Cell]:
    """Return the cells of every system, predicted from one setting and measured on another."""
    cells = []
    for system in range(SYSTEMS):
        for seed in range(seeds):
            predicted = experiment.predict(told(system, seed))
            measured = experiment.measure(met(system, seed), predicted)
            cells.append(Cell(f"system {system}", experiment.name, seed, predicted, measured))
    return cells


def dealt(make: Make, number: int) -> Make:
    """Return the same settings with the training labels dealt out at random; number: of the random numbers."""

    def made(system: int, seed: int) -> Setting:
        setting = make(system, seed)
        order = np.random.default_rng([number, system]).permutation(len(setting.train.labels))
        return replace(setting, train=setting.train._replace(labels=setting.train.labels[torch.as_tensor(order)]))

    return made
