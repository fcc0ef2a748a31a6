"""What a family of backbones says of the published facts of scale: gap, convergence, dimension and linearity along two axes."""

from collections.abc import Callable

import numpy as np

from ...statistics import Columns, Statistic
from ...verdict import Criterion
from ..facts.claim import FINAL, MOSTLY_LEARNS
from ..practice.runs import POINTS, nats, steps_to
from ..practice.runs import points as gained
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, octaves
from .experiment import EXPERIMENT
from .members import AXES, COMMON, MEMBERS, PRETRAINING, SIZE, Axis, called
from .plants import (
    DELTAS,
    FULL,
    arrives,
    arrives_later,
    fewer,
    more,
    saturates,
    saturates_sooner,
    sees_less,
    sees_more,
)
from .trends import dealt, falls, together, within

SHARE = 0.9  # of full tuning's gain, whose dimension is asked for
BEYOND = 1.0  # octaves above the largest dimension at which what is not reached there is counted
# Ding et al. (2023) on prompts, T5-base and T5-large, over full tuning of T5-base, as recalled; Aghajanyan et al. (2021) on MRPC.
PUBLISHED_GAP = (65.92 - 48.81) / 67.96 / float(np.log2(770 / 220))
PUBLISHED_D90 = float(np.log2(896 / 207) / np.log2(355 / 125))


def _members(cell: Cell, delta: str) -> dict[str, Cell]:
    """Return the cells of a delta beside a cell by member, and none where one is missing."""
    found = {member: cell.beside.get(called(delta, member)) for member in MEMBERS}
    return {} if None in found.values() else found


def _at(cell: Cell, delta: str, member: str) -> Row:
    """Return the columns that every row begins with."""
    along = {axis.unit: axis.members.get(member, axis.members[COMMON]) for axis in AXES}
    return cell.at(None) | {"option": delta, "member": member} | along


def _both(name: str, label: str, trend: Callable[[Axis], Statistic], bar: float) -> tuple[Criterion, ...]:
    """Return the criteria that a trend is above a bar along either axis, refuted where it is not above 0."""
    return tuple(
        Criterion(axis.name, f"{label} {name} of {axis.unit}", trend(axis), (bar, np.inf), (0.0, np.inf)) for axis in AXES
    )


def _beside(label: str, trend: Callable[[Axis], Statistic]) -> tuple[Comparison, ...]:
    """Return what a trend comes to along either axis."""
    return tuple(Comparison(f"{label} per octave of {axis.unit}", trend(axis)) for axis in AXES)


def _gap_rows(cell: Cell) -> list[Row]:
    own, full = _members(cell, cell.delta), _members(cell, FULL)
    if not (own and full):
        return []
    rows = []
    for member in MEMBERS:
        start = full[member]  # the frozen head, without the prompt's random start
        gain, whole = (gained(start, one.measured.values) for one in (own[member], full[member]))
        levels = {"frozen": POINTS * start.predicted.values["start"]["accuracy"], "gain": gain, "full": whole}
        rows.append(_at(cell, cell.delta, member) | levels | {"behind": whole - gain})
    return rows


def share_of_gain(columns: Columns) -> float:
    """Return the delta's gain over the frozen head as a share of full tuning's, both summed over tasks."""
    return float(np.sum(columns["gain"]) / np.sum(columns["full"]))


def _share(axis: Axis) -> Statistic:
    return together(axis, share_of_gain, "full")


SCALE_GAP = Claim(
    id="scale-gap",
    nature="prediction",
    view="optimization",
    title="The gap of a delta to full tuning falls with size and with pretraining",
    statement="The share of full tuning's gain over the frozen head that a delta makes rises with every octave of the backbone's "
    "parameters, and of its steps of pretraining.",
    equation=r"rho_m = frac(sum_t (a_(m t) - b_(m t)), sum_t (f_(m t) - b_(m t))), quad S = frac(partial rho, partial log_2 n)",
    equation_alt="a is the held-out accuracy of the delta on task t and backbone m, f that of full tuning, b that of the frozen head; "
    "S is the slope of their share over backbones, each counted by full tuning's gain, in the logarithm of their number n of "
    "parameters, or of their steps of pretraining and a hundred",
    derived="the averages over more than a hundred tasks as recalled: a prompt's rise from 0.718 of full tuning's on T5-base to 0.970 "
    "of the same on T5-large; for other deltas, curves",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_gap_rows,
    deltas=DELTAS,
    statistic=Comparison("share of full tuning's gain per octave of parameters", _share(SIZE)),
    criteria=_both("per octave", "share of full tuning's gain", _share, 0.02),
    rivals=(
        *_beside("points that full tuning gains", lambda axis: within(axis, "full")),
        *_beside("points of the frozen head", lambda axis: within(axis, "frozen")),
        Comparison("published share of a prompt per octave of parameters, T5-base to T5-large", lambda columns: PUBLISHED_GAP),
    ),
    nulls=(
        Comparison("share per octave of parameters, members dealt out, 97.5 % quantile", dealt(SIZE, _share(SIZE))),
        Comparison("share per octave of steps, members dealt out, 97.5 % quantile", dealt(PRETRAINING, _share(PRETRAINING))),
    ),
    also=(
        Comparison("share of full tuning's gain per octave of steps", _share(PRETRAINING)),
        *_beside("points by which the gap falls", lambda axis: falls(within(axis, "behind"))),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the share rises by more than 0.02 an octave along both axes; refuted when it does not rise along one of them.",
    reason="Over the four octaves of a family 0.02 an octave is eight points of a hundred. Points of gap alone would fall "
    "where a larger model leaves less to gain, so that they stand beside; a backbone on which full tuning gains nothing has no share.",
    change="Rates of every task's own, which close the gap where a rate is too low, or more steps.",
    good=sees_more,
    bad=sees_less,
    good_is="linear layers under the delta that see the more of what labels need the larger and the longer pretrained the member is",
    bad_is="layers that see the less",
)


def _falls(cell: Cell) -> bool:
    return nats(cell, cell.measured.values) > 0


def _steps(cell: Cell) -> float:
    """Return the step by which a run made 95 % of its own final fall of the held-out loss."""
    told = cell.measured.values
    return steps_to(told["looks"], cell.predicted.values["start"]["loss"], told["step"], share=FINAL)


def _convergence_rows(cell: Cell) -> list[Row]:
    """Return a row for every delta and member whose held-out loss falls: of one that does not there is no step."""
    return [
        _at(cell, delta, member)
        | {"later": octaves(_steps(one)), "steps_taken": _steps(one), "fall": nats(one, one.measured.values)}
        for delta in (FULL, *DELTAS)
        for member, one in _members(cell, delta).items()
        if _falls(one)
    ]


def _sooner(axis: Axis) -> Statistic:
    return falls(within(axis, "later"))


SCALE_CONVERGENCE = Claim(
    id="scale-convergence",
    nature="prediction",
    view="optimization",
    title="Tuning converges in fewer steps on a larger and on a longer pretrained backbone",
    statement="Within a task and delta, the step by which a run has made 95 % of its own final fall of the held-out loss falls with "
    "every octave of the backbone's parameters, and of its steps of pretraining.",
    equation=r"S = - frac(partial log_2 n_(o t m), partial log_2 m), quad L(n_(o t m)) = L_0 - 0.95 (L_0 - L_(o t m))",
    equation_alt="n is the step of delta o on task t and backbone m, between looks in its logarithm, by which 95 % of the fall of the "
    "held-out loss L are made; the slope in the logarithm of the backbone's parameters, or of its steps of pretraining and a hundred, "
    "has a level of its own for every task and delta",
    derived="the published curves on T5-small, T5-base and T5-XXL, as they are told",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_convergence_rows,
    deltas=(FULL,),
    statistic=Comparison("octaves of steps saved per octave of parameters", _sooner(SIZE)),
    criteria=_both("per octave", "octaves of steps saved", _sooner, 0.05),
    rivals=_beside("nats by which the loss falls,", lambda axis: within(axis, "fall")),
    nulls=(
        Comparison("steps saved per octave of parameters, members dealt out, 97.5 % quantile", dealt(SIZE, _sooner(SIZE))),
        Comparison(
            "steps saved per octave of steps, members dealt out, 97.5 % quantile", dealt(PRETRAINING, _sooner(PRETRAINING))
        ),
    ),
    also=(
        Comparison("octaves of steps saved per octave of steps", _sooner(PRETRAINING)),
        *_beside("octaves of steps saved at an equal fall", lambda axis: falls(within(axis, "later", "fall"))),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when steps fall by more than a twentieth of an octave an octave along both axes; refuted when they do not fall "
    "along one of them.",
    reason="Over four octaves a twentieth an octave is 13 % fewer steps, the least that one would notice. Each run is counted by its own "
    "end, so that one which learns little may arrive soon: the fall stands beside.",
    change="Rates: the study has one for every delta and width, which dev text of other tasks chose, and the same for all stages.",
    good=arrives,
    bad=arrives_later,
    good_is="linear layers whose numbers are in the larger units the larger and the longer pretrained the member is",
    bad_is="layers whose numbers are in the smaller units",
)


def _dimension_rows(cell: Cell) -> list[Row]:
    """Return a row for every member and number of random directions."""
    return [
        _at(cell, FULL, member)
        | {"dimension": one["dimension"], "gain": gained(full, one), "full": gained(full, full.measured.values)}
        for member, full in _members(cell, FULL).items()
        for one in full.measured.values["random"]
    ]


def threshold(columns: Columns) -> float:
    """Return log2 of the least dimension at which nine tenths of full tuning's gain are made, both summed over tasks.

    Between dimensions it lies on a line in their logarithm. What the least dimension makes already is counted there, and what the
    largest does not make an octave above it.
    """
    dimensions = np.unique(columns["dimension"])
    shares = [share_of_gain({name: columns[name][columns["dimension"] == d] for name in ("gain", "full")}) for d in dimensions]
    x, before = np.log2(dimensions), None
    for place, share in zip(x, shares, strict=True):
        if share >= SHARE:
            return float(place if before is None else before[0] + (SHARE - before[1]) / (share - before[1]) * (place - before[0]))
        before = (place, share)
    return float(x[-1] + BEYOND)


def _fewer(axis: Axis) -> Statistic:
    return falls(together(axis, threshold, "full"))


def _at_largest(axis: Axis) -> Statistic:
    """Return the slope of the share that the largest number of random directions makes."""

    def share(columns: Columns) -> float:
        most = columns["dimension"] == columns["dimension"].max()
        return share_of_gain({name: columns[name][most] for name in ("gain", "full")})

    return together(axis, share, "full")


def _outside(columns: Columns) -> float:
    """Return the share of members whose threshold lies outside the dimensions that were tried."""
    ends = [np.log2(columns["dimension"].min()), np.log2(columns["dimension"].max())]
    met = [
        threshold({name: columns[name][columns["member"] == member] for name in ("dimension", "gain", "full")})
        for member in np.unique(columns["member"])
    ]
    return float(np.mean([one <= ends[0] or one > ends[1] for one in met]))


def _spanned(cell: Cell) -> bool:
    """Return whether the largest number of random directions makes nine tenths of full tuning's gain on some member."""
    return any(
        gained(full, max(full.measured.values["random"], key=lambda one: one["dimension"])) >= SHARE * whole > 0
        for full in _members(cell, FULL).values()
        for whole in (gained(full, full.measured.values),)
    )


SPANNED = Assumption(
    "the dimensions reach far enough",
    "on the task the largest number of random directions makes nine tenths of full tuning's gain on some member",
    _spanned,
    lambda cells: f"largest number {max(one['dimension'] for cell in cells for one in cell.measured.values['random'])}",
    needed=0.5,
)

SCALE_D90 = Claim(
    id="scale-d90",
    nature="prediction",
    view="optimization",
    title="A larger and a longer pretrained backbone needs fewer random directions",
    statement="The least number of random directions of the blocks' weights and the head's in which training makes nine tenths of full "
    "tuning's gain over the frozen head falls with every octave of the backbone's parameters, and of its steps of pretraining.",
    equation=r"d_(90)(m) = min {d : sum_t (a_(d m t) - b_(m t)) >= 0.9 sum_t (f_(m t) - b_(m t))}, quad S = - frac(partial log_2 d_(90), partial log_2 m)",
    equation_alt="a is the held-out accuracy on task t and backbone m with all numbers moved in a random subspace of dimension d, f that of "
    "full tuning, b that of the frozen head; the slope in the logarithm of the backbone's parameters, or of its steps of pretraining and a "
    "hundred, counts every backbone by full tuning's gain",
    derived="the published thresholds on MRPC: 896 for RoBERTa-base and 207 for RoBERTa-large, and their fall along pretraining",
    sources=("aghajanyan2021", "li2018"),
    experiment=EXPERIMENT,
    rows=_dimension_rows,
    deltas=(FULL,),
    statistic=Comparison("octaves by which d90 falls per octave of parameters", _fewer(SIZE)),
    criteria=_both("per octave", "octaves by which d90 falls", _fewer, 0.1),
    rivals=(
        *_beside("points that full tuning gains", lambda axis: within(axis, "full")),
        Comparison("published fall of d90 per octave of parameters, RoBERTa on MRPC", lambda columns: PUBLISHED_D90),
    ),
    nulls=(
        Comparison("fall of d90 per octave of parameters, members dealt out, 97.5 % quantile", dealt(SIZE, _fewer(SIZE))),
        Comparison(
            "fall of d90 per octave of steps, members dealt out, 97.5 % quantile", dealt(PRETRAINING, _fewer(PRETRAINING))
        ),
    ),
    also=(
        Comparison("octaves by which d90 falls per octave of steps", _fewer(PRETRAINING)),
        Comparison("share of members whose d90 lies outside the dimensions tried", _outside),
        *_beside("share made by the largest number of directions,", _at_largest),
    ),
    assumptions=(MOSTLY_LEARNS, SPANNED),
    rule="Supported when d90 falls by more than a tenth of an octave an octave along both axes; refuted when it does not fall along one.",
    reason="A number of directions that is constant while the weights double is the fact of a low dimension already; a tenth of an octave "
    "is a quarter fewer over four octaves, where the published fall is more than an octave. What is not reached is counted "
    "an octave above the largest dimension, so that a steeper slope is never made of it.",
    change="More texts and steps, from which full tuning gains more, or scales of the layers that are trained beside the directions.",
    good=fewer,
    bad=more,
    good_is="linear layers that see the fewer numbers, of which labels need the same, the larger and longer pretrained the member is",
    bad_is="layers that see the more numbers",
)


def _linearity_rows(cell: Cell) -> list[Row]:
    return [
        _at(cell, delta, member)
        | {"explained": float(np.clip(one.measured.values["first_order"], -1.0, 1.0)), "cosine": one.measured.values["cosine"]}
        | {"shift": octaves(max(one.measured.values["shift"], 1e-9)), "fall": nats(one, one.measured.values)}
        for delta in (FULL, *DELTAS)
        for member, one in _members(cell, delta).items()
    ]


def _straighter(axis: Axis) -> Statistic:
    return within(axis, "explained")


SCALE_LINEARITY = Claim(
    id="scale-linearity",
    nature="prediction",
    view="optimization",
    title="Tuning is nearer to linear on a larger and on a longer pretrained backbone",
    statement="Within a task and delta, the share of a run's held-out shift of the logits that the derivative at the start along the "
    "trained numbers explains rises with every octave of the backbone's parameters, and of its steps of pretraining.",
    equation=r"R^2 = 1 - frac(norm(y(z) - y_0 - G z)^2, norm(y(z) - y_0)^2), quad S = frac(partial R^2, partial log_2 m)",
    equation_alt="z is how far the delta's numbers and the head's were trained, G the derivative of the held-out logits y in them at the "
    "start; the slope in the logarithm of the parameters of backbone m, or of its steps of pretraining and a hundred, has a level of its "
    "own for every task and delta",
    derived="the reading of tuning as a small step of a wide model, whose features hardly move",
    sources=("ding2023", "jacot2018", "malladi2023"),
    experiment=EXPERIMENT,
    rows=_linearity_rows,
    deltas=(FULL,),
    statistic=Comparison("share of the shift explained per octave of parameters", _straighter(SIZE)),
    criteria=_both("per octave", "share of the shift explained", _straighter, 0.02),
    rivals=(
        *_beside("octaves of the size of the shift", lambda axis: within(axis, "shift")),
        *_beside("nats by which the loss falls,", lambda axis: within(axis, "fall")),
    ),
    nulls=(
        Comparison(
            "share explained per octave of parameters, members dealt out, 97.5 % quantile", dealt(SIZE, _straighter(SIZE))
        ),
        Comparison(
            "share explained per octave of steps, members dealt out, 97.5 % quantile",
            dealt(PRETRAINING, _straighter(PRETRAINING)),
        ),
    ),
    also=(
        Comparison("share of the shift explained per octave of steps", _straighter(PRETRAINING)),
        *_beside("share explained at an equal size of the shift", lambda axis: within(axis, "explained", "shift")),
        *_beside("cosine of the shift and its first order", lambda axis: within(axis, "cosine")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the share rises by more than 0.02 an octave along both axes; refuted when it does not rise along one of them.",
    reason="Over four octaves 0.02 an octave is eight points of a hundred. A smaller shift is nearer to linear on any model, so that the "
    "share at an equal size stands beside. Shares below -1 count as -1, so that one run does not decide.",
    change="Backbones of widths at which a step of tuning is small beside the weights, in another parameterisation.",
    good=saturates,
    bad=saturates_sooner,
    good_is="layers whose signal saturates the later the larger and the longer pretrained the member is",
    bad_is="layers whose signal saturates the sooner",
)
