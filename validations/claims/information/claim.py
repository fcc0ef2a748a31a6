"""Whether the linear response says, before training, what it is worth that a signal may read gates and states."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from ...statistics import Statistic
from ...verdict import Criterion, Least
from ..shared.claim import CONVERGED, Cell, Claim, Comparison, Row, error, mean, octaves
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT
from .plants import reading

STEPS = {"gate": ("shared", "gate"), "state": ("gate", "state")}  # what a step of information is worth: the first less the second
LEAST = 1e-6  # nats; a step worth less counts as that
LADDER = {
    "shared": ("predicted_shared", "measured_shared"),
    "gate": ("predicted_gate", "measured_gate"),
    "state": ("predicted_state", "measured_state"),
}
COLUMNS = {  # by step: its worth, measured and predicted, on held-out text, and octaves off by prediction
    "gate": ("worth_gate", "worth_gate_predicted", "held_out_gate", "error_gate", "first_gate", "permuted_gate"),
    "state": ("worth_state", "worth_state_predicted", "held_out_state", "error_state", "first_state", "permuted_state"),
}


def _worth(values: dict, step: str) -> float:
    before, after = STEPS[step]
    return max(values[before] - values[after], LEAST)


def _rows(cell: Cell) -> list[Row]:
    """Return what each step of information is worth at every price, predicted and measured, and how far off predictions are."""
    levels = zip(cell.predicted.values["levels"], cell.measured.values["levels"], strict=True)
    return [cell.at(None) | _row(told, met) for told, met in levels]


def _row(told: Mapping, met: Mapping) -> Row:
    row = {name: told[name] for name in ("level", "eta")}
    for pattern, columns in LADDER.items():
        row |= dict(zip(columns, (told["values"][pattern], met["values"][pattern]), strict=True))
    for step, columns in COLUMNS.items():
        before, after = STEPS[step]
        worth = _worth(met["values"], step)
        off = (abs(octaves(_worth(told[name], step) / worth, LEAST)) for name in ("values", "first", "permuted"))
        held_out = met["held_out"][before] - met["held_out"][after]
        row |= dict(zip(columns, (worth, _worth(told["values"], step), held_out, *off), strict=True))
    return row


def _error(step: str) -> Statistic:
    return mean(f"error_{step}")


def _nearer(rival: str, step: str) -> Statistic:
    return lambda c: float(np.mean(c[f"{rival}_{step}"] - c[f"error_{step}"]))


INFORMATION_VALUE = Claim(
    id="information-value",
    nature="prediction",
    view="control",
    title="The linear response says what it is worth to read gates and states",
    statement="At the heads of a frozen network, under one price, training lowers the objective further with signals that read the gates "
    "of a prefix than with shared vectors, and further with signals that read states too, by as much as the laws of the linear "
    "response do, computed before training, at a price that keeps these laws linear and at three tenths of it.",
    equation=r"J_P = limits(min)_V 1/N sum_i ell_i (y_(0,i) + sum_t chevron.l G_(i t tau) V_t f^P_(i t tau) chevron.r_tau) + r/2 EE norm(V f^P)^2, quad "
    r"f^P in {(1), (1, g), (1, g, phi)}",
    equation_alt="J of a pattern is the least mean loss of the linear response to V times its features plus half r times the signal's mean "
    "energy; the features are a constant, a constant and gates, or a constant, gates and states",
    derived="the response at every head and token with a prefix in place, its gates and the states there, training labels; the "
    "price r is the smallest on a grid whose law of states moves the network as its linear response says",
    sources=("li2021", "houlsby2019", "ding2023"),
    experiment=EXPERIMENT,
    rows=_rows,
    statistic=Comparison("octaves between predicted and measured worth of states", _error("state")),
    criteria=(
        *(
            Criterion(
                f"error of {step}s",
                f"octaves between predicted and measured worth of {step}s",
                error(f"error_{step}"),
                (-np.inf, 1.0),
                (-np.inf, 1.0),
            )
            for step in STEPS
        ),
        Criterion(
            "nearer",
            "octaves by which the best rival is further off",
            Least(tuple(_nearer(rival, step) for rival in ("first", "permuted") for step in STEPS)),
            (0.25, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("octaves off: worth of gates", _error("gate")),
        Comparison("octaves off: worth of gates to first order", mean("first_gate")),
        Comparison("octaves off: worth of states to first order", mean("first_state")),
    ),
    nulls=(
        Comparison("octaves off: worth of gates for permuted labels", mean("permuted_gate")),
        Comparison("octaves off: worth of states for permuted labels", mean("permuted_state")),
    ),
    also=tuple(
        Comparison(f"nats that {what}", mean(column))
        for column, what in {
            "worth_gate": "gates are worth on training text",
            "worth_state": "states are worth on training text",
            "held_out_gate": "gates are worth on held-out text",
            "held_out_state": "states are worth on held-out text",
        }.items()
    ),
    assumptions=(CONVERGED,),
    rule="Supported when both worths are predicted within one octave on average, and nearer by a quarter of an octave than to first order "
    "and than for permuted labels; refuted when one is more than an octave off, or a rival is nearer.",
    reason="An octave is the usual standard for a prediction without a fitted constant; values nest whatever the theory says, so that only "
    "their sizes can tell it right from wrong.",
    change="A smaller price, under which later heads read what earlier ones move: in a pilot on another task, at a tenth, training made "
    "gates worth five times what was predicted.",
    good=partial(own, EXPERIMENT, reading),
    bad=partial(swapped, EXPERIMENT, reading),
    good_is="linear maps side by side whose labels depend on gates and states",
    bad_is="the worths predicted for another system",
)
