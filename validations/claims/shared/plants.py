"""Runs an experiment on plants: against the predictions made for them, or against another system's."""

from collections.abc import Callable

from .claim import Cell
from .network import SEEDS, SYSTEMS, partner
from .setting import Experiment, Setting


def own(experiment: Experiment, make: Callable[[int, int], Setting], seeds: int = SEEDS) -> list[Cell]:
    """Return the cells of every system measured against the prediction made for it."""
    return _cells(experiment, make, lambda system: system, seeds)


def swapped(experiment: Experiment, make: Callable[[int, int], Setting], seeds: int = SEEDS) -> list[Cell]:
    """Return the cells of every system measured against the prediction made for its partner."""
    return _cells(experiment, make, partner, seeds)


def _cells(experiment: Experiment, make: Callable[[int, int], Setting], other: Callable[[int], int], seeds: int) -> list[Cell]:
    cells = []
    for system in range(SYSTEMS):
        for seed in range(seeds):
            predicted = experiment.predict(make(other(system), seed))
            measured = experiment.measure(make(system, seed), predicted)
            cells.append(Cell(f"system {system}", experiment.name, seed, predicted, measured))
    return cells
