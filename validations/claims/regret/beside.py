"""What the claims of LoRA without regret read of cells that stand beside each other: gains, curves and chosen rates."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from ...statistics import Columns, Statistic
from ..practice.rates import best_rate
from ..shared.claim import Assumption, Cell

FULL = "full"
RANKS = {1: "lora-1", 4: "lora-4", 16: "lora-16"}
ATTENTION, MLP = "lora-attention", "lora-mlp"
SMALL_BATCH, LARGE_BATCH, FULL_LARGE_BATCH = RANKS[4], "lora-large-batch", "full-large-batch"
POINTS = 100.0
LEFT = 0.1  # of full tuning's gain, from which on a curve has left full tuning's


def named(cell: Cell, names: Sequence[str]) -> list[Cell]:
    """Return the cells of some deltas beside a cell, and none where one of them is missing."""
    return [cell.beside[name] for name in names] if set(names) <= set(cell.beside) else []


def place(cell: Cell) -> dict:
    """Return the columns that every tested row begins with; no eta gates these claims."""
    return cell.at(None)


def fall(cell: Cell, scored: Mapping) -> float:
    """Return the held-out loss that something takes off that at the cell's start."""
    return cell.predicted.values["start"]["loss"] - scored["loss"]


def gain(cell: Cell) -> float:
    """Return the fall of the held-out loss at the rate and step that dev text chose."""
    return fall(cell, cell.measured.values)


def forecast(cell: Cell, by: str) -> float:
    """Return the fall of the held-out loss foretold by the tangent "optimum", or by AdamW's "path" on the tangent model."""
    return fall(cell, cell.predicted.values["forecasts"][by])


def chosen_run(told: Mapping) -> Mapping:
    """Return the run of the chosen rate, of a measurement or of a path that was foretold."""
    return next(run for run in told["runs"] if run["rate"] == told["rate"])


def _curve(told: Mapping, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps, falls of the held-out loss) along a chosen run, at every look those of the lowest dev loss so far."""
    looks = [look for look in chosen_run(told)["looks"] if look["step"] > 0]
    best = np.array([min(range(k + 1), key=lambda i: looks[i]["dev_loss"]) for k in range(len(looks))])
    falls = np.array([start - look["loss"] for look in looks])
    return np.array([look["step"] for look in looks]), falls[best]


def curves(cells: Sequence[Cell], foretold: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the steps and the curve of every cell, that of its own chosen rate."""
    said = [(one.predicted.values["path"] if foretold else one.measured.values) for one in cells]
    found = [_curve(told, one.predicted.values["start"]["loss"]) for told, one in zip(said, cells, strict=True)]
    return found[0][0], [falls for _, falls in found]


def leaving(steps: np.ndarray, curve: np.ndarray, full: np.ndarray) -> float:
    """Return the first step from which a curve stays below full tuning's by a tenth of its final gain; the last where none is."""
    below = full - curve > LEFT * max(full[-1], 0.0)
    stays = np.logical_and.accumulate(below[::-1])[::-1]
    return float(steps[np.argmax(stays)] if stays.any() else steps[-1])


def order(left: Sequence[float]) -> float:
    """Return Kendall's tau of leaving steps in the order of ranks: pairs in order less pairs in reverse, over all pairs."""
    return float(np.mean([np.sign(later - sooner) for sooner, later in combinations(left, 2)]))


def of_full(*columns: str) -> Statistic:
    """Return the statistic "sum of a column, less that of a second where one is given, over the sum of full tuning's gain"."""

    def share(found: Columns) -> float:
        top = found[columns[0]] - found[columns[1]] if len(columns) > 1 else found[columns[0]]
        return float(np.sum(top) / np.sum(found["gain_full"]))

    return share


def rates_suffice(*names: str) -> Assumption:
    """Return the assumption that each of some deltas chose a rate inside its grid."""

    def inside(cell: Cell) -> bool:
        cells = named(cell, names)
        return bool(cells) and not any(one.measured.values["at_edge"] for one in cells)

    def evidence(cells: Sequence[Cell]) -> str:
        rates = [best_rate(one.measured.values["runs"]) for cell in cells for one in named(cell, names)]
        return f"median of the best rates {np.median(rates):.2g}" if rates else "the deltas that are compared are not there"

    return Assumption(
        "rates suffice",
        "the rates that dev text chose for the deltas that are compared are neither the lowest nor the highest of those tried",
        inside,
        evidence,
        needed=0.5,
    )
