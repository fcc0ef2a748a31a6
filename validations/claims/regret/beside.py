"""What the claims of LoRA without regret read of cells that stand beside each other: gains, curves and chosen rates."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...statistics import Columns, Statistic
from ..practice.rates import best_rate
from ..shared.claim import Assumption, Cell

FULL = "full"
RANKS = {1: "lora-1", 4: "lora-4", 16: "lora-16"}
ATTENTION, MLP = "lora-attention", "lora-mlp"
SMALL_BATCH, LARGE_BATCH, FULL_LARGE_BATCH = RANKS[4], "lora-large-batch", "full-large-batch"
POINTS = 100.0


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
