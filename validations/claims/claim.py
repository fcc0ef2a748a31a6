"""What a claim is: a statement with an equation, assumptions that are checked, rivals, nulls, a rule, and two controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..statistics import Columns, Statistic
from ..store import Measured
from ..verdict import Criterion

REGIME = 0.3
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A finished cell: where it comes from, what was predicted before training, what was measured after."""

    task: str
    delta: str
    seed: int
    predicted: Measured
    measured: Measured

    @property
    def place(self) -> Row:
        """Return the columns that every row begins with; `inside` says whether the cell is in the linear regime."""
        eta = self.predicted.record.get("eta")
        return {"task": self.task, "delta": self.delta, "seed": self.seed} | (
            {} if eta is None else {"eta": eta, "inside": eta <= REGIME}
        )


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
class Claim:
    """One falsifiable statement. `rows` turns a cell into tested rows, `parts` into what the figure needs besides.

    `good` and `bad` run the claim's own experiment on plants where it must come out supported, and refuted; they return
    cells. Thresholds are in `criteria` and were fixed before the first measurement.
    """

    id: str
    view: str
    title: str
    statement: str
    equation: str
    equation_alt: str
    derived: str
    sources: tuple[str, ...]
    kind: str
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
    parts: Mapping[str, Callable[[Cell], list[Row]]] = field(default_factory=dict)
    deltas: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module that makes the claim's rows and controls."""
        return self.rows.__module__


def mean(column: str) -> Statistic:
    """Return the statistic "mean of a column"."""
    return lambda columns: float(np.mean(columns[column]))


def mean_excess(column: str, *rivals: str) -> Statistic:
    """Return the statistic "mean of a column less the row's best rival"."""
    return lambda c: float(np.mean(c[column] - np.max([c[r] for r in rivals], axis=0)))


def slope(columns: Columns) -> float:
    """Return the least-squares slope, with intercept, of `measured` on `predicted`."""
    x = columns["predicted"] - np.mean(columns["predicted"])
    return float(x @ columns["measured"] / max(x @ x, 1e-30))


CONVERGED = Assumption(
    "training converged",
    "the gradient norm fell to the stated fraction of its initial value",
    lambda cell: bool(_costs_converged(cell.measured.record)),
    lambda cells: f"median evaluations {np.median([_evaluations(c.measured.record) for c in cells]):.0f}",
    needed=0.9,
)
LINEAR = Assumption(
    "linear regime",
    f"the predicted control moves the real network as the linear model says: median eta at most {REGIME}",
    lambda cell: cell.predicted.record["eta"] <= REGIME,
    lambda cells: f"median eta {np.median([c.predicted.record['eta'] for c in cells]):.2f}",
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
