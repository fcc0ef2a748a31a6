"""The nano family as two axes: four sizes of one recipe, and five stages of the pretraining of one of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

COMMON = "2x64"  # stands on both axes; a study calls its deltas by their bare names
FIRST = 100  # steps in which pretraining is counted, so that none are a place on a logarithmic axis too


@dataclass(frozen=True)
class Axis:
    """One way along the family: its members in order, with their numbers of parameters or their steps of pretraining.

    unit: what a member's own number is measured in. origin: what is added to it before its logarithm is taken.
    """

    name: str
    unit: str
    members: Mapping[str, int]
    origin: int = 0

    def octaves(self, names: np.ndarray) -> np.ndarray:
        """Return where members stand, log2 of their number over the unit's, NaN for those that are not on the axis."""
        at = {name: np.log2(number + self.origin) for name, number in self.members.items()}
        return np.array([at.get(str(name), np.nan) for name in names])


SIZE = Axis("size", "parameters", {"2x32": 285_632, COMMON: 620_416, "4x128": 1_833_984, "4x192": 3_340_800})
PRETRAINING = Axis(
    "pretraining",
    "steps",
    {"step-0": 0, "step-100": 100, "step-320": 320, "step-1000": 1000, COMMON: 3200},
    origin=FIRST,
)
AXES = (SIZE, PRETRAINING)
MEMBERS = tuple(dict.fromkeys([*SIZE.members, *PRETRAINING.members]))


def called(delta: str, member: str) -> str:
    """Return what a study calls a delta on a member."""
    return delta if member == COMMON else f"{delta}-{member}"
