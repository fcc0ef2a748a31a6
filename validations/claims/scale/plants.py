"""Plants of scale: linear layers under a delta on every member of the family, which change along both axes (see `facts.plants`).

Good plants change as the claim says from the smallest and the least pretrained member to the largest and the longest pretrained,
bad ones the other way. A gap is what a delta's layer does not see of what labels need; a layer in larger units arrives sooner; one
that sees more numbers, of which labels need as many, needs more random directions; and one that saturates later is nearer to linear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ..facts.plants import USED, Kind, compared
from ..practice.plants import SEEN
from ..shared.setting import Setting
from .experiment import EXPERIMENT
from .members import COMMON, MEMBERS, PRETRAINING, SIZE, called

FULL = "full"
DELTAS = ("lora", "adapter", "prompt")
STEPS = {"steps": 120, "looks": 8}
SHORT = {"steps": 100, "looks": 6}  # where random directions are trained too
NEEDED = 3  # numbers that labels need where a member sees few


def _along(sizes: Sequence[float], stages: Sequence[float]) -> dict[str, float]:
    """Return a value for every member, from both axes' in their order; both say the same of the member that they share."""
    along = dict(zip(PRETRAINING.members, stages, strict=True)) | dict(zip(SIZE.members, sizes, strict=True))
    return {member: along[member] for member in MEMBERS}


def _named(values: Mapping[str, float], delta: str = FULL) -> dict[str, float]:
    return {called(delta, member): value for member, value in values.items()}


def _seen(sizes: Sequence[int], stages: Sequence[int]) -> Kind:
    """Return a plant of full tuning, which sees all that labels need, and of a delta that sees a part of it."""
    return Kind(_named(dict.fromkeys(MEMBERS, USED)) | _named(_along(sizes, stages), DELTAS[0]))


def _units(sizes: Sequence[float], stages: Sequence[float]) -> Kind:
    """Return a plant of full tuning in units."""
    return Kind(_named(dict.fromkeys(MEMBERS, USED)), _named(_along(sizes, stages)))


def _wide(sizes: Sequence[int], stages: Sequence[int]) -> Kind:
    """Return a plant of full tuning that sees so many numbers, of which labels need a few."""
    return Kind(_named(_along(sizes, stages)), used=NEEDED)


def _saturating(levels: Mapping[str, float]):
    """Return how a member's layer is given the level at which its signal saturates."""

    def given(name: str, setting: Setting) -> Setting:
        level = levels[name.partition("-")[2] or COMMON]
        return replace(setting, subjects={"delta": replace(setting.subjects["delta"], level=level)})

    return given


def _plain(name: str, setting: Setting) -> Setting:
    return setting


sees_more, sees_less = (
    partial(compared, EXPERIMENT, kind, (DELTAS[0],), _plain, **STEPS)
    for kind in (_seen((4, 8, 12, 16), (0, 2, 4, 6, 8)), _seen((13, 9, 6, 3), (16, 15, 13, 11, 9)))
)
arrives, arrives_later = (
    partial(compared, EXPERIMENT, kind, (FULL,), _plain, **STEPS)
    for kind in (
        _units((0.2, 0.4, 0.8, 1.6), (0.05, 0.1, 0.15, 0.25, 0.4)),
        _units((1.6, 0.8, 0.4, 0.2), (4.0, 3.0, 2.0, 1.2, 0.8)),
    )
)
fewer, more = (
    partial(compared, EXPERIMENT, kind, (FULL,), _plain, **SHORT, dimensions=(8, 32, 128), code_rates=(0.1,))
    for kind in (_wide((SEEN, 10, 5, NEEDED), (SEEN, 40, 30, 20, 10)), _wide((NEEDED, 10, 24, SEEN), (NEEDED, NEEDED, 4, 6, 10)))
)
saturates, saturates_sooner = (
    partial(compared, EXPERIMENT, Kind(_named(dict.fromkeys(MEMBERS, USED))), (FULL,), _saturating(levels), **STEPS)
    for levels in (
        _along((0.25, 0.5, 1.0, 3.0), (0.1, 0.15, 0.2, 0.3, 0.5)),
        _along((3.0, 1.0, 0.5, 0.25), (6.0, 4.0, 2.5, 1.5, 1.0)),
    )
)
