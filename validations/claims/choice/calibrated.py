"""A forecast of points gained: the option's mean on other tasks, moved by how far what was told of it differs from the usual."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .options import Options

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # of the ridge, against sums over rows of features of unit variance


@dataclass(frozen=True, eq=False)
class Calibrated:
    """gain_o = table_o + weights (told_o - usual_o), fitted on tasks of known outcome.

    table, usual: means over these tasks of the gain (O,) and of what was told (O, F).
    """

    table: np.ndarray
    usual: np.ndarray
    weights: np.ndarray

    def __call__(self, told: np.ndarray) -> np.ndarray:
        """Return the points foretold of every option (O,) from what was told of each (O, F)."""
        return self.table + (told - self.usual) @ self.weights


def fitted(tasks: Sequence[Options], strength: float) -> Calibrated:
    """Return the forecast with ridge weights of some tasks (Hoerl and Kennard 1970).

    weights = S^-1 (X'X + strength I)^-1 X'y, X what was told of each option less its mean over the tasks, in units S of its root
    mean square, y the gains less theirs.
    """
    told, gained = (np.stack([getattr(task, name) for task in tasks]) for name in ("told", "gained"))
    usual, table = told.mean(0), gained.mean(0)
    X, y = (told - usual).reshape(-1, told.shape[-1]), (gained - table).ravel()
    scale = np.maximum(np.sqrt(np.mean(X**2, axis=0)), 1e-12)
    X = X / scale
    return Calibrated(table, usual, np.linalg.solve(X.T @ X + strength * np.eye(len(scale)), X.T @ y) / scale)


def calibrated(tasks: Sequence[Options]) -> Calibrated:
    """Return the forecast whose ridge has the least squared error on tasks left out one at a time."""
    errors = [np.sum(residuals(tasks, strength) ** 2) for strength in STRENGTHS]
    return fitted(tasks, STRENGTHS[int(np.argmin(errors))])


def residuals(tasks: Sequence[Options], strength: float | None = None) -> np.ndarray:
    """Return gained less foretold (T, O), each foretold from those of other tasks; without a strength, they choose it too."""
    found = []
    for left, task in enumerate(tasks):
        rest = [other for place, other in enumerate(tasks) if place != left and not (task.task and other.task == task.task)]
        model = calibrated(rest) if strength is None else fitted(rest, strength)
        found.append(task.gained - model(task.told))
    return np.array(found)


def radius(tasks: Sequence[Options], level: float = 0.9) -> float:
    """Return the half-width, in points, of intervals that hold a new task's gains at a level.

    The quantile of |gained - foretold| on tasks left out, every task and one at infinity of equal weight (Dunn, Wasserman and
    Ramdas 2023, section 3.2, pooled). Below 1 / (1 - level) - 1 tasks it is at infinity: the largest one is returned, which
    then holds a share T / (T + 1) of tasks. Raises ValueError for fewer than 3 tasks.
    """
    if len(tasks) < 3:
        raise ValueError(f"expected at least 3 tasks of known outcome for an interval, got {len(tasks)}: add tasks")
    sizes = np.sort(np.abs(residuals(tasks)).ravel())
    held = np.arange(1, len(sizes) + 1) / len(sizes) * len(tasks) / (len(tasks) + 1)
    return float(sizes[min(int(np.searchsorted(held, level - 1e-12)), len(sizes) - 1)])
