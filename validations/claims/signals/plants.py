"""Plants of the foretold subspace: those of one subspace with one delta, whose labels need prominent signals or faint ones."""

from collections.abc import Callable
from dataclasses import replace

from ..shared.setting import Setting
from ..subspace.plants import NEEDED, apart, faint


def prominent(system: int, seed: int) -> Setting:
    """Return a task whose labels need the two signals that move its outputs most."""
    return _alone(apart, system, seed)


def hidden(system: int, seed: int) -> Setting:
    """Return a task whose labels need two signals that move its outputs less than others do."""
    return _alone(faint, system, seed)


def _alone(make: Callable[[int, int], Setting], system: int, seed: int) -> Setting:
    made = make(system, seed)

    def lone(given: Setting) -> Setting:
        options = {**given.options, "dimension": NEEDED, "texts": len(given.train.labels)}
        return replace(given, subjects={"delta": given.subjects["lora"]}, options=options)

    return replace(lone(made), other_tasks=tuple(map(lone, made.other_tasks)))
