"""Subjects of which a part moves, or nothing: a prefix whose keys stay, and the network without its delta."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..shared.setting import Params

MOVES = ("all", "values")  # numbers of a prefix that a study may let move


@dataclass(frozen=True, eq=False)
class _Around:
    """A subject around another one, of its width, places and precision."""

    subject: Any

    @property
    def ports(self) -> tuple[str, ...]:
        return self.subject.ports

    @property
    def width(self) -> int:
        return self.subject.width

    @property
    def dtype(self) -> torch.dtype:
        return self.subject.dtype

    def steered(self, signals: Mapping[str, Tensor], batch: Any) -> Tensor:
        return self.subject.steered(signals, batch)


class Bare(_Around):
    """A subject whose delta has been taken away: all that is added to it are disturbances."""

    def outputs(self, params: Mapping[str, Tensor], batch: Any) -> Tensor:
        return self.steered({}, batch)

    def disturbed(self, disturbance: Mapping[str, Tensor], params: Mapping[str, Tensor], batch: Any) -> Tensor:
        return self.steered(disturbance, batch)


class Values(_Around):
    """A prefix whose values move while its keys stay: each head adds its gates' weights of the values' changes, exactly."""

    @property
    def initial(self) -> Params:
        return {name: p for name, p in self.subject.initial.items() if name.endswith(".values")}

    def _whole(self, params: Mapping[str, Tensor]) -> Params:
        return dict(self.subject.initial) | dict(params)

    def outputs(self, params: Mapping[str, Tensor], batch: Any) -> Tensor:
        return self.subject.outputs(self._whole(params), batch)

    def loss(self, params: Mapping[str, Tensor], batch: Any) -> Tensor:
        return self.subject.loss(self._whole(params), batch)

    def disturbed(self, disturbance: Mapping[str, Tensor], params: Mapping[str, Tensor], batch: Any) -> Tensor:
        return self.subject.disturbed(disturbance, self._whole(params), batch)


def moving(subject: Any, moves: str) -> Any:
    """Return the subject of which all numbers move, or its values alone; raises ValueError for another word."""
    if moves not in MOVES:
        raise ValueError(f"expected the option moves to be {' or '.join(MOVES)}, got {moves!r}: correct the study")
    return subject if moves == MOVES[0] else Values(subject)
