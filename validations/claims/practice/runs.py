"""What is read off runs and off the paths that were forecast for them: gains, steps, and where a forecast ends."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..shared.claim import Assumption, Cell, Row

LEARNT = 5.0  # points of held-out accuracy over the frozen head, from which on a task has something to learn
POINTS = 100.0
SHARE = 0.9  # of a run's own gain, whose step is asked for
EARLY = 0.05  # of the steps, from which a curve is extrapolated
HALF = 0.5  # of the shift's variance, which a forecast must explain to be called valid

Look = Mapping[str, Any]


def points(cell: Cell, scored: Look) -> float:
    """Return the points of held-out accuracy that something scores above the frozen head."""
    return POINTS * (scored["accuracy"] - cell.predicted.values["start"]["accuracy"])


def nats(cell: Cell, scored: Look) -> float:
    """Return the held-out loss that something takes off that of the frozen head."""
    return cell.predicted.values["start"]["loss"] - scored["loss"]


def place(cell: Cell) -> Row:
    """Return the columns that every row begins with; eta gates nothing here, it is what the claims are read against."""
    return cell.at(None) | {"eta": cell.predicted.values["eta"]}


def chosen(cell: Cell) -> Mapping[str, Any]:
    """Return the run whose rate dev text chose."""
    return next(run for run in cell.measured.values["runs"] if run["rate"] == cell.measured.values["rate"])


def at_choice(cell: Cell) -> Look:
    """Return the look at the chosen step of the chosen run."""
    return next(look for look in chosen(cell)["looks"] if look["step"] == cell.measured.values["step"])


def foretold(cell: Cell, rate: float) -> Sequence[Look]:
    """Return the looks at AdamW's path on the tangent model at a rate."""
    return next(run["looks"] for run in cell.predicted.values["path"]["runs"] if run["rate"] == rate)


def learns(cell: Cell) -> bool:
    """Return whether some delta gains at least 5 points on the cell's task: the task has something to learn."""
    return max(points(other, other.measured.values) for other in (cell.beside or {cell.delta: cell}).values()) >= LEARNT


LEARNS = Assumption(
    "there is something to learn",
    f"on the task some delta of the study ends at least {LEARNT:.0f} points of held-out accuracy above the frozen head",
    learns,
    lambda cells: f"median gain {np.median([points(c, c.measured.values) for c in cells]):.1f} points",
    needed=0.8,
)
INSIDE_THE_GRID = Assumption(
    "rates suffice",
    "the rate that dev text chose is neither the lowest nor the highest of those tried",
    lambda cell: not cell.measured.values["at_edge"],
    lambda cells: f"median rate {np.median([c.measured.values['rate'] for c in cells]):.2g}",
    needed=0.5,
)


def steps_to(looks: Sequence[Look], start: float, last: int, loss: str = "loss", share: float = SHARE) -> float:
    """Return the step, between looks in its logarithm, by which a share of the fall of a loss at step `last` is made."""
    taken = [look for look in looks if 0 < look["step"] <= last]
    goal, before = share * (start - taken[-1][loss]), None
    for look in taken:
        fall = start - look[loss]
        if fall >= goal:
            if before is None or before[1] >= fall:
                return float(look["step"])
            part = (goal - before[1]) / (fall - before[1])
            return float(np.exp((1 - part) * np.log(before[0]) + part * np.log(look["step"])))
        before = (look["step"], fall)
    return float(last)


def extrapolated(looks: Sequence[Look], start: float, last: int, steps: int) -> float:
    """Return the fall of the held-out loss at step `last` on the power law through the first twentieth of the run."""
    early = [(look["step"], start - look["loss"]) for look in looks if 0 < look["step"] <= EARLY * steps]
    rising = [(step, fall) for step, fall in early if fall > 0]
    if len(rising) < 2:
        return float(np.mean([fall for _, fall in early])) if early else 0.0
    power, scale = np.polyfit(*np.log(np.array(rising).T), 1)
    return float(min(np.exp(scale + np.clip(power, 0.0, 2.0) * np.log(last)), start))


def ends(doses: Sequence[float], valid: Sequence[bool]) -> float | None:
    """Return the dose, between looks in its logarithm, at which a forecast first ceases to be valid; None when it never does."""
    for k, good in enumerate(valid):
        if not good:
            return float(np.sqrt(doses[k] * doses[max(k - 1, 0)]))
    return None


def holds(look: Look) -> bool:
    """Return whether the tangent path explains half of a look's shift, and as much as the same run of the head alone does."""
    return look["r2_shift"] >= max(HALF, look.get("r2_head", 0.0))


def others(column: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Return what a column's mean on the other tasks foretells of it, row by row: the rival that needs no theory."""

    def guess(columns: Mapping[str, np.ndarray]) -> np.ndarray:
        tasks, values = columns["task"], columns[column]
        return np.array([np.mean(values[tasks != task]) if (tasks != task).any() else np.nan for task in tasks])

    return guess
