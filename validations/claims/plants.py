"""Runs a claim's experiment on the control plants: against their own predictions, or against another system's."""

from collections.abc import Callable

from ..controls import SEEDS, SYSTEMS
from ..experiments import KINDS, Setting
from .claim import Cell


def own(kind: str, make: Callable[[int, int], Setting], seeds: int = SEEDS) -> list[Cell]:
    """Return the cells of every system measured against the prediction made for it."""
    return _cells(kind, make, lambda system: system, seeds)


def swapped(kind: str, make: Callable[[int, int], Setting], seeds: int = SEEDS) -> list[Cell]:
    """Return the cells of every system measured against the prediction made for its partner: 0 with 7, 1 with 6, 2 with 5, 3 with 4."""
    return _cells(kind, make, lambda system: SYSTEMS - 1 - system, seeds)


def _cells(kind: str, make: Callable[[int, int], Setting], partner: Callable[[int], int], seeds: int) -> list[Cell]:
    experiment = KINDS[kind]
    cells = []
    for system in range(SYSTEMS):
        for seed in range(seeds):
            predicted = experiment.predict(make(partner(system), seed))
            measured = experiment.measure(make(system, seed), predicted)
            cells.append(Cell(f"system {system}", kind, seed, predicted, measured))
    return cells
