"""What a claim is: a statement with an equation, assumptions that are checked, rivals, nulls, a rule, and two plants."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from ...statistics import Columns, Positive, Statistic, within
from ...store import Record
from ...verdict import Criterion, Least
from .regime import ETA_LIMIT
from .setting import Experiment

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A finished cell: where it comes from, what was predicted before training, what was measured after.

    beside: the cells of the same task and seed by delta, itself among them, for a claim that compares deltas.
    """

    task: str
    delta: str
    seed: int
    predicted: Record
    measured: Record
    beside: Mapping[str, "Cell"] = field(default_factory=dict, repr=False, compare=False)

    @property
    def place(self) -> Row:
        """Return the columns that every row begins with; `inside` says whether the cell is in the linear regime."""
        return self.at(self.predicted.values.get("eta"))

    def at(self, eta: float | None) -> Row:
        """Return the same columns gated by another eta, which must be predicted too: what training did never drops a row."""
        where = {"task": self.task, "delta": self.delta, "seed": self.seed}
        return where if eta is None else where | {"eta": eta, "inside": eta <= ETA_LIMIT}


@dataclass(frozen=True)
class Assumption:
    """A condition of the claim with its own check, asked of every cell; it holds when at least `needed` of them pass."""

    name: str
    statement: str
    passes: Callable[[Cell], bool]
    evidence: Callable[[Sequence[Cell]], str]
    needed: float = 0.8


@dataclass(frozen=True)
class Comparison:
    """A statistic shown beside the claim's own: a cheap rival or a null distribution's bound."""

    label: str
    statistic: Statistic


@dataclass(frozen=True)
class Headline:
    """What the first page says of every delta in a user's words: a number measured after training, then those foretold before.

    measured and foretold: clauses in which "{}" stands for the range over deltas of the first number and of the second.
    """

    title: str
    measured: str
    foretold: str
    numbers: tuple[Comparison, ...]


@dataclass(frozen=True)
class Claim:
    """One falsifiable statement. `rows` turns a cell into tested rows, `parts` into what the figure needs besides.

    `nature` is "consistency" where linear theory must agree with itself, as in training the problem that was solved, and
    "prediction" where it could have been otherwise. `across` says that the statistic compares tasks with each other.
    `also` decides nothing and is shown beside, `headline` is shown delta by delta on the first page.
    `good` and `bad` run the claim's own experiment on plants where it must come out supported, and refuted; they return
    cells. Thresholds are in `criteria` and were fixed before the first measurement.
    """

    id: str
    view: str
    nature: Literal["consistency", "prediction"]
    title: str
    statement: str
    equation: str
    equation_alt: str
    derived: str
    sources: tuple[str, ...]
    experiment: Experiment
    rows: Callable[[Cell], list[Row]]
    criteria: tuple[Criterion, ...]
    statistic: Comparison
    rule: str
    reason: str
    change: str
    good: Callable[[], list[Cell]]
    bad: Callable[[], list[Cell]]
    good_is: str
    bad_is: str
    assumptions: tuple[Assumption, ...] = ()
    rivals: tuple[Comparison, ...] = ()
    nulls: tuple[Comparison, ...] = ()
    also: tuple[Comparison, ...] = ()
    headline: Headline | None = None
    parts: Mapping[str, Callable[[Cell], list[Row]]] = field(default_factory=dict)
    deltas: tuple[str, ...] = ()
    across: bool = False

    @property
    def module(self) -> str:
        """Return the claim's own file, which makes its rows."""
        return (self.rows.func if isinstance(self.rows, partial) else self.rows).__module__


def side_by_side(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells, each knowing those of its task and seed."""
    groups: dict[tuple, dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.seed), {})[cell.delta] = cell
    return [replace(cell, beside=groups[cell.task, cell.seed]) for cell in cells]


def error(column: str) -> Positive:
    """Return the statistic "mean of a column that is never negative" (see `Positive`)."""
    return Positive(mean(column))


def mean(column: str) -> Statistic:
    """Return the statistic "mean of a column"."""
    return lambda columns: float(np.mean(columns[column]))


def relative(column: str, to: str) -> Positive:
    """Return the statistic "mean of an error over the mean of another" (see `Positive`)."""
    return Positive(lambda c: float(np.mean(c[column]) / max(np.mean(c[to]), 1e-9)))


def mean_excess(column: str, *rivals: str, less: bool = False) -> Statistic:
    """Return the statistic "mean of a column less the row's best rival"; with `less`, of the rival less the column."""
    if less:
        return lambda c: float(np.mean(np.min([c[r] for r in rivals], axis=0) - c[column]))
    return lambda c: float(np.mean(c[column] - np.max([c[r] for r in rivals], axis=0)))


def median(column: str) -> Positive:
    """Return the statistic "mean over cells of the median over the cell's rows" of an error (see `Positive`)."""
    return Positive(lambda columns: float(np.mean(within(columns, lambda c: float(np.median(c[column]))))))


def lead(column: str, *rivals: str, less: bool = False, either: bool = False) -> Least:
    """Return the statistic "mean of a column above that of every rival", or below with `less`; the least of these leads.

    With `either`, a rival counts by its size whatever its sign.
    """
    sign = -1.0 if less else 1.0

    def over(rival: str, turn: float) -> Statistic:
        return lambda columns: float(sign * (np.mean(columns[column]) - turn * np.mean(columns[rival])))

    return Least(tuple(over(rival, turn) for rival in rivals for turn in ((1.0, -1.0) if either else (1.0,))))


def slope(columns: Columns) -> float:
    """Return the least-squares slope, with intercept, of `measured` on `predicted`."""
    x = columns["predicted"] - np.mean(columns["predicted"])
    return float(x @ columns["measured"] / max(x @ x, 1e-30))


def octaves(ratio: float, least: float = 1e-9) -> float:
    """Return log2 of a ratio; one below `least` counts as that, so that its logarithm exists."""
    return float(np.log2(max(ratio, least)))


def mostly_converged(what: str) -> Assumption:
    """Return the assumption that most trainings of a cell converged, those of the records under `what` in its measurement."""

    def share(cell: Cell) -> float:
        return float(np.mean([row["converged"] for row in cell.measured.values[what]]))

    return Assumption(
        "training converged",
        f"in a cell, at least three quarters of the {what} met the stated fraction of the initial gradient norm",
        lambda cell: share(cell) >= 0.75,
        lambda cells: f"median share of {what} {np.median([share(c) for c in cells]):.2f}",
        needed=0.75,
    )


CONVERGED = Assumption(
    "training converged",
    "the gradient norm fell to the stated fraction of its initial value",
    lambda cell: bool(_costs_converged(cell.measured.values)),
    lambda cells: f"median evaluations {np.median([_evaluations(c.measured.values) for c in cells]):.0f}",
    needed=0.9,
)
LINEAR = Assumption(
    "linear regime",
    f"the predicted control moves the real network as the linear model says: median eta at most {ETA_LIMIT}",
    lambda cell: cell.predicted.values["eta"] <= ETA_LIMIT,
    lambda cells: f"median eta {np.median([c.predicted.values['eta'] for c in cells]):.2f}",
    needed=0.0,
)


def _costs(record: Mapping) -> list[Mapping]:
    if "converged" in record:
        return [record]
    nested = [v for v in record.values() if isinstance(v, Mapping)] + [
        v for values in record.values() if isinstance(values, list) for v in values if isinstance(v, Mapping)
    ]
    return [v for v in nested if "converged" in v]


def _costs_converged(record: Mapping) -> bool:
    return all(c["converged"] for c in _costs(record))


def _evaluations(record: Mapping) -> float:
    return float(sum(c["evaluations"] for c in _costs(record)))
