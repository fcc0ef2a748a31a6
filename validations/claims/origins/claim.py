"""What permuted labels and a network without pretraining do to the threshold dimension."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, error, lead, mean, octaves
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import origins_setting

ARMS = ("true", "permuted", "again", "shuffled", "fresh")
LEARNT = 0.5  # share of the initial loss that every arm's full training must take away
KERNEL = ("participation", "trace_rank", "effective")


def _row(cell: Cell, arm: str, base: str = "true") -> Row:
    """Return log2 of an arm's threshold dimension over the base's: measured, predicted, by measures of the kernel; and errors.

    Errors are in octaves from the measured rise; a count of anything that the arms share says that there is none.
    """
    p, m = cell.predicted.values, cell.measured.values
    rise = octaves(m[arm]["d90"] / m[base]["d90"])
    said = {"predicted": octaves(p[arm]["d90"] / p[base]["d90"])} | {
        name: octaves(p[arm][name] / p[base][name]) for name in KERNEL
    }
    errors = {f"error_{name}": abs(rise - value) for name, value in (said | {"none": 0.0}).items()}
    return cell.place | {"arm": arm, "rise": rise, "censored": m[arm]["censored"] or m[base]["censored"]} | said | errors


def _labels(cell: Cell) -> list[Row]:
    return [_row(cell, "permuted") | {"null": _row(cell, "again", "permuted")["rise"]}]


def _networks(cell: Cell) -> list[Row]:
    """Return the network with shuffled weights; a freshly drawn one, which may not learn at all, is shown beside it."""
    return [_row(cell, "shuffled")]


def _taken(cell: Cell, *names: str) -> float:
    """Return the least share of the initial training loss that full training takes away among some arms."""
    m = cell.measured.values
    return min(m[arm]["fall"] / m[arm]["start"] for arm in names)


def _arms(cell: Cell) -> list[Row]:
    """Return every arm with its dimensions, what its full training takes away, and how far from linear it is."""
    p, m = cell.predicted.values, cell.measured.values
    kept = ("d90", "logistic", "low", "high", "censored")
    return [
        cell.place
        | {name: m[arm][name] for name in kept}
        | {"arm": arm, "base": m["true"]["d90"], "predicted": p[arm]["d90"], "departure": p[arm]["departure"]}
        | {"taken": _taken(cell, arm), "learnt": _taken(cell, arm) >= LEARNT}
        for arm in ARMS
    ]


def _converged(*names: str) -> Assumption:
    return Assumption(
        "training converged",
        "in nine of ten runs of every arm compared the gradient norm fell to the stated fraction of its initial value",
        lambda cell: all(cell.measured.values[arm]["converged"] for arm in names),
        lambda cells: (
            f"median evaluations {np.median([c.measured.values[a]['evaluations'] for c in cells for a in names]):.0f} an arm"
        ),
        needed=0.75,
    )


def _learnt(*names: str) -> Assumption:
    return Assumption(
        "every arm learns",
        f"full training takes away at least {LEARNT:.0%} of the initial training loss in every arm compared",
        lambda cell: _taken(cell, *names) >= LEARNT,
        lambda cells: f"median share in the arm that learns least {np.median([_taken(c, *names) for c in cells]):.2f}",
    )


_RIVALS = (
    Comparison("no rise (number of parameters, of texts), octaves off", mean("error_none")),
    Comparison("participation ratio of the kernel, octaves off", mean("error_participation")),
    Comparison("trace over largest eigenvalue, octaves off", mean("error_trace_rank")),
    Comparison("effective dimension, octaves off", mean("error_effective")),
)
_LEAD = lead("error_predicted", *(f"error_{name}" for name in (*KERNEL, "none")), less=True)
_CRITERIA = (
    Criterion("rise", "rise of the dimension", mean("rise"), (0.25, np.inf), (0.1, np.inf), "octaves"),
    Criterion(
        "prediction", "octaves between measured and predicted rise", error("error_predicted"), (-np.inf, 0.5), (-np.inf, 1.0)
    ),
    Criterion("rivals", "octaves closer than the best rival", _LEAD, (0.0, np.inf), (0.0, np.inf)),
)
_COMMON = {
    "view": "optimization",
    "experiment": EXPERIMENT,
    "derived": "the linearised problem of every arm, solved before training in the very subspaces that are trained in later",
    "criteria": _CRITERIA,
    "rivals": _RIVALS,
    "parts": {"arms": _arms},
    "good": partial(own, EXPERIMENT, partial(origins_setting, informed=True)),
    "bad": partial(own, EXPERIMENT, partial(origins_setting, informed=False)),
    "good_is": "plants whose labels lie along their strong directions, which other networks have elsewhere",
    "bad_is": "plants whose strong directions cannot tell the labels apart, so that permuted labels and other networks need fewer",
}

LABELS = Claim(
    id="shuffled-labels",
    nature="prediction",
    title="Permuted labels raise the threshold dimension",
    statement="Fitting permuted labels to 90 % of full tuning's fall in training loss takes more random directions than fitting the true "
    "ones, and the linearised problem says how many more.",
    equation='log_2 frac(d_90 ("permuted"), d_90 ("true")) > 0',
    equation_alt="the threshold dimension for permuted labels over that for the true ones is above one",
    sources=("li2018", "larsen2022"),
    rows=_labels,
    statistic=Comparison("rise by permuted labels, octaves", mean("rise")),
    nulls=(Comparison("a second permutation over the first, octaves", mean("null")),),
    assumptions=(_converged("true", "permuted"), _learnt("true", "permuted")),
    rule="Supported when permuted labels raise the dimension by more than a quarter of an octave and the predicted rise is within half an "
    "octave and closer than every rival's; refuted when the rise is below a tenth of an octave, the prediction more than an octave off or a "
    "rival closer.",
    reason="Below a tenth of an octave, seven percent, a rise would not matter; a quarter is the least that a mean over cells can show where "
    "dimensions are more than an octave apart. Half an octave is how finely such a grid resolves one dimension.",
    change="Labels that the frozen features do not carry, for which the true labels are as hard as permuted ones.",
    **_COMMON,
)

PRETRAINING = Claim(
    id="pretraining-lowers",
    nature="prediction",
    title="Pretraining lowers the threshold dimension",
    statement="On a network with shuffled weights more random directions are needed for 90 % of full "
    "tuning's fall in training loss than on the pretrained one, and the linearised problem says how many more.",
    equation='log_2 frac(d_90 ("shuffled"), d_90 ("pretrained")) > 0',
    equation_alt="the threshold dimension of a shuffled network over that of the pretrained one is above one",
    sources=("aghajanyan2021", "larsen2022"),
    rows=_networks,
    statistic=Comparison("rise without pretraining, octaves", mean("rise")),
    assumptions=(_converged("true", "shuffled"), _learnt("true", "shuffled")),
    rule="Supported when shuffled weights raise the dimension by more than a quarter of an octave and the predicted rise is "
    "within half an octave and closer than every rival's; refuted when the rise is below a tenth of an octave, the prediction more than an "
    "octave off or a rival closer.",
    reason="The same bars as for permuted labels: below a tenth of an octave a rise would not matter, and half an octave is how finely the "
    "dimensions tried resolve one.",
    change="Tasks that follow from single words, which a random network keeps apart as well as a pretrained one.",
    **_COMMON,
)
