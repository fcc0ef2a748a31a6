"""What an experiment is given: subjects on one frozen backbone, their data, and the full-batch arm's settings."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ...store import Record

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """One cell's inputs.

    `subjects` are named by their role in the experiment. The penalty r is `penalty` times the largest curvature, or, with a
    `regime`, the smallest on a grid whose predicted control stays linear (see `penalty`). `options` are the part's own.
    `dev` are texts to choose on, where the part has an option `dev`, their number. `perturbed` holds the task's perturbed test
    sets by name, `other_tasks` the settings of the study's other tasks, for an
    experiment that asks for them.
    """

    subjects: Mapping[str, Any]
    train: Any
    test: Any
    seed: int
    penalty: float
    tolerance: float
    evaluations: int
    regime: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    dev: Any = None
    perturbed: Mapping[str, Any] = field(default_factory=dict)
    other_tasks: tuple["Setting", ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One kind of cell, called as its story's folder and in studies; `predict` is written down before `measure` trains anything.

    roles: the names that the part's deltas take in `Setting.subjects`, in order; with `per_delta`, every delta is a cell of its
    own in the one role; with `further`, more deltas than roles may come and keep their own names. needs_other_tasks: give the
    settings of the other tasks too. by_token: it reads states or signals token by token, which the two stacks of an
    encoder-decoder do not share. weight: its expected cost relative to other kinds, which only orders and paces a run. An
    experiment with models and data of its own has `protocols` in the place of tasks, and `make(protocol, seed)`.
    """

    name: str
    label: str
    roles: tuple[str, ...]
    predict: Callable[["Setting"], Record]
    measure: Callable[["Setting", Record], Record]
    weight: float = 1.0
    per_delta: bool = False
    further: bool = False
    needs_other_tasks: bool = False
    by_token: bool = False
    protocols: tuple[str, ...] = ()
    make: Callable[[str, int], "Setting"] | None = None

    @property
    def module(self) -> str:
        """Return the module that makes the cells."""
        return self.predict.__module__

    def named(self, deltas: Sequence[str]) -> tuple[str, ...]:
        """Return the role of each delta of a cell; raises ValueError when their number does not fit."""
        if len(deltas) < len(self.roles) or (len(deltas) > len(self.roles) and not self.further):
            expected, found = ", ".join(self.roles), ", ".join(deltas)
            raise ValueError(f'expected deltas in the roles {expected} for cells of the kind "{self.label}", got {found}')
        return (*self.roles, *deltas[len(self.roles) :])


def own_rng(setting: Setting, *numbers: int) -> np.random.Generator:
    """Return random numbers of the cell's own text: tasks of one seed would otherwise share their draws, and err together."""
    text = zlib.crc32(np.ascontiguousarray(setting.train.tokens.cpu().numpy()).tobytes())
    return np.random.default_rng([setting.seed, text, *numbers])


def own_seed(setting: Setting, *numbers: int) -> int:
    """Return a seed of the cell's own text (see `own_rng`)."""
    return int(own_rng(setting, *numbers).integers(2**31))
