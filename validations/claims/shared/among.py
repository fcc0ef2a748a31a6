"""Cells that know those of other tasks, for a claim that learns from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from .claim import Cell, side_by_side


@dataclass(frozen=True)
class Among(Cell):
    """A finished cell that knows, besides those of its own task and seed, the same of every other task."""

    others: tuple[Mapping[str, Cell], ...] = field(default=(), repr=False, compare=False)


def among(cells: Sequence[Cell]) -> list[Among]:
    """Return the cells, each knowing those of its task and seed, and those of other tasks."""
    made = side_by_side(cells)
    groups = {(cell.task, cell.seed): cell.beside for cell in made}
    others = {task: tuple(group for (of, _), group in groups.items() if of != task) for task, _ in groups}
    return [Among(**{f.name: getattr(cell, f.name) for f in fields(Cell)}, others=others[cell.task]) for cell in made]
