"""What each option of a task was foretold to gain on dev text, what it gained on held-out text, and what its runs came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..shared.among import Among
from ..shared.claim import Cell

FULL = "full"  # starts at the frozen head, from which every option's gain is counted
POINTS = 100.0
# Falls of the dev loss below the frozen head's, all told before training, from training and dev text alone.
FORECASTS = ("optimum", "path", "refined")


@dataclass(frozen=True, eq=False)
class Options:
    """The options of one task and seed.

    told: F numbers of each, known before training (O, F). gained: points of held-out accuracy above the frozen head (O,).
    task: its name, by which seeds of one task are known; empty where every record is a task of its own.
    """

    names: tuple[str, ...]
    told: np.ndarray
    gained: np.ndarray
    task: str = ""

    @classmethod
    def of(cls, cells: Mapping[str, Cell]) -> "Options":
        """Return the options of the cells of one task and seed, by delta."""
        start = cells[FULL].predicted.values["start"]
        told = [foretold(cell.predicted.values, start["dev_loss"]) for cell in cells.values()]
        gained = [POINTS * (cell.measured.values["accuracy"] - start["accuracy"]) for cell in cells.values()]
        told_of_each = np.array([[one[name] for name in FORECASTS] for one in told])
        return cls(tuple(cells), told_of_each, np.array(gained), cells[FULL].task)


def foretold(said: Mapping[str, Any], start: float) -> dict[str, float]:
    """Return by how many nats a practice cell's forecasts lower the dev loss below `start`.

    The forecasts: the tangent optimum, the best look at AdamW's path on the tangent model, the last network linearised anew.
    """
    best = min(look["dev_loss"] for run in said["path"]["runs"] for look in run["looks"])
    further = said["relinearised"][-1]["dev_loss"] if said["relinearised"] else said["dev_loss"]
    return {"optimum": start - said["dev_loss"], "path": start - best, "refined": start - min(further, said["dev_loss"])}


@dataclass(frozen=True, eq=False)
class Runs:
    """All runs of one task and seed, an option's rates after each other.

    option: the place of each run's option (R,). steps: of the looks (L,). losses: dev losses at them, infinite once a run ceased
    to be finite (R, L). gained: points of held-out accuracy above the frozen head (R, L).
    """

    option: np.ndarray
    steps: np.ndarray
    losses: np.ndarray
    gained: np.ndarray

    @classmethod
    def of(cls, cells: Mapping[str, Cell]) -> "Runs":
        """Return the runs of the cells of one task and seed, by delta."""
        start = cells[FULL].predicted.values["start"]["accuracy"]
        runs = [(place, run) for place, cell in enumerate(cells.values()) for run in by_rate(cell)]
        steps = max(([look["step"] for look in run["looks"][1:]] for _, run in runs), key=len)
        losses, gained = np.full((len(runs), len(steps)), np.inf), np.zeros((len(runs), len(steps)))
        for row, (_, run) in enumerate(runs):
            looks = run["looks"][1:] if run["finite"] else []
            losses[row, : len(looks)] = [look["dev_loss"] for look in looks]
            gained[row, : len(looks)] = [POINTS * (look["accuracy"] - start) for look in looks]
        return cls(np.array([place for place, _ in runs]), np.array(steps), losses, gained)

    @property
    def best(self) -> np.ndarray:
        """Return the look of the least dev loss of every run (R,)."""
        return self.losses.argmin(1)

    @property
    def reached(self) -> np.ndarray:
        """Return the points gained at the look of the least dev loss of every run (R,)."""
        return self.gained[np.arange(len(self.best)), self.best]


def by_rate(cell: Cell) -> Sequence[Mapping]:
    """Return the runs of a cell from the lowest rate on."""
    return sorted(cell.measured.values["runs"], key=lambda run: run["rate"])


def complete(cell: Among) -> list[Mapping[str, Cell]]:
    """Return the cells beside a cell, then those of every other task that has all its options, in one order of options."""
    names = sorted(cell.beside)
    groups = [cell.beside, *cell.others]
    return [{name: group[name] for name in names} for group in groups if set(names) <= set(group)]
