"""C-healing: does projecting the states onto their manifold undo perturbations, also ones that know of it?"""

from functools import partial

import numpy as np

from ...verdict import Criterion, Least
from ..shared.claim import CONVERGED, Assumption, Cell, Claim, Comparison, mean
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import perturbation_setting

CONTROLLERS = {
    "healing": "healing",
    "random": "random",
    "shrinkage": "shrinkage",
    "prefix": "prefix",
    "batch": "healing, batch mean",
    "alone": "prefix, alone",
}


PLACES = ("embedding", "port")
QUARTER = ((0.25, np.inf), (0.25, np.inf))


def _losses(cell: Cell, column: str = "loss") -> dict[tuple[str, str], float]:
    return {(row["controller"], row["perturbation"]): row[column] for row in cell.measured.values["arms"]}


def _rows(cell: Cell) -> list[dict]:
    loss, right = _losses(cell), _losses(cell, "accuracy")
    blind = [case for name, case in loss if name == "none" and case != "clean"]
    row = dict(cell.place)
    for kind, none in (("", "none"), ("_alone", "none, alone")):
        row[f"lost_oblivious{kind}"] = float(np.mean([loss[none, case] for case in blind])) - loss[none, "clean"]
    for place in PLACES:
        row[f"lost_{place}"] = loss["none", f"oblivious, {place}"] - loss["none", "clean"]
    for column, name in CONTROLLERS.items():
        none = "none, alone" if column == "alone" else "none"
        row[f"{column}_oblivious"] = float(np.mean([loss[none, case] - loss[name, case] for case in blind]))
        row[f"{column}_clean"] = loss[name, "clean"] - loss[none, "clean"]
        for place in PLACES:
            if (name, f"adaptive, {place}") in loss:
                row[f"{column}_{place}"] = loss["none", f"oblivious, {place}"] - loss[name, f"adaptive, {place}"]
    return [row | {"points": right["none", "clean"] - right["healing", "clean"]}]


def _arms(cell: Cell) -> list[dict]:
    """Return loss and accuracy of every controller under every perturbation."""
    return [cell.place | row for row in cell.measured.values["arms"]]


def recovered(controller: str, attacker: str, of: str = ""):
    """Return the statistic "mean nats recovered by a controller over the mean nats that the perturbation costs"."""
    return lambda c: float(np.mean(c[f"{controller}_{attacker}"]) / np.mean(c[f"lost_{attacker}{of}"]))


_LEAD = Least(
    tuple(
        lambda c, r=rival, a=attacker: recovered("healing", a)(c) - recovered(r, a)(c)
        for rival in ("random", "shrinkage")
        for attacker in ("oblivious", "embedding")
    )
)


def _harm(cell: Cell) -> float:
    loss = _losses(cell)
    return min(loss["none", f"oblivious, {place}"] for place in PLACES) - loss["none", "clean"]


HARMS = Assumption(
    "the attacks harm",
    "either attack against the uncontrolled model costs it at least 0.1 nats on held-out text: there is something to recover",
    lambda cell: _harm(cell) >= 0.1,
    lambda cells: f"median loss to the weaker attack {np.median([_harm(c) for c in cells]):.2f} nats",
)

HEALING_ROBUST = Claim(
    id="healing-robust",
    nature="prediction",
    view="control",
    title="Self-healing control undoes perturbations",
    statement="Projecting the states at every port towards the subspace of correctly classified training states recovers part of "
    "what a perturbation costs, from an attacker who does not know of it and from one who does, at no price on clean text.",
    equation="u_t = - frac(1 + lambda_(t + 1), 1 + lambda_(t + 1) + c) (I - V_t V_t^top) (y_t - macron(y)_t), quad lambda_t = frac(c (1 + lambda_(t + 1)), 1 + lambda_(t + 1) + c), quad lambda_T = 0",
    equation_alt="the control at layer t is minus a gain times the part of the centred state off the subspace; the gain follows "
    "from the value of the optimal projection schedule",
    derived="the subspaces of the tuned model's correctly classified training states; rank and cost are chosen on training text "
    "against an attack made there",
    sources=("chen2022", "yang2022"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"arms": _arms},
    statistic=Comparison("share of the loss recovered, oblivious attacker", recovered("healing", "oblivious")),
    criteria=(
        Criterion("oblivious", "share recovered, oblivious", recovered("healing", "oblivious"), *QUARTER),
        Criterion("embedding", "share recovered, adaptive at the embedding", recovered("healing", "embedding"), *QUARTER),
        Criterion("port", "share recovered, adaptive at the port", recovered("healing", "port"), *QUARTER),
        Criterion("lead", "share recovered above that of simpler controls", _LEAD, (0.0, np.inf), (-0.1, np.inf)),
        Criterion("clean", "clean accuracy given up", mean("points"), (-np.inf, 0.01), (-np.inf, 0.01)),
    ),
    rivals=(
        Comparison("random subspaces of the same rank, oblivious", recovered("random", "oblivious")),
        Comparison("random subspaces of the same rank, adaptive at the embedding", recovered("random", "embedding")),
        Comparison("shrinkage of the same energy, oblivious", recovered("shrinkage", "oblivious")),
        Comparison("shrinkage of the same energy, adaptive at the embedding", recovered("shrinkage", "embedding")),
        Comparison("test-time tuning of the prefix, oblivious", recovered("prefix", "oblivious")),
        Comparison("test-time tuning of the prefix, adaptive at the embedding", recovered("prefix", "embedding")),
        Comparison("test-time tuning by example, oblivious", recovered("alone", "oblivious", "_alone")),
        Comparison("healing about the batch's own mean, oblivious", recovered("batch", "oblivious")),
    ),
    nulls=(Comparison("clean loss added by healing, nats", mean("healing_clean")),),
    assumptions=(CONVERGED, HARMS),
    rule="Supported when healing recovers at least a quarter of the loss under the oblivious attackers (perturbed text where the "
    "task has it, and attacks on the embedding and on the first port made against the uncontrolled model) and under the attacks "
    "made through it at either place, more than random subspaces and mere shrinkage do, and gives up no more than one point of clean "
    "accuracy; refuted when any of these fails.",
    reason="A quarter of the loss is the least that would justify a controller at every port; an attacker who knows of it is the "
    "test that published evaluations leave out.",
    change="Attacks that leave the states' subspace, as in nearly orthogonal layers; larger training sets to estimate it from.",
    good=partial(own, EXPERIMENT, partial(perturbation_setting, off=True)),
    bad=partial(own, EXPERIMENT, partial(perturbation_setting, off=False)),
    good_is="orthogonal layers, states on a subspace, attacks that leave it",
    bad_is="the same plants under attacks that stay on the subspace",
)
