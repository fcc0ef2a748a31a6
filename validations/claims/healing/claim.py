"""Whether control of the whole residual state takes off an attack what its schedule says, and whether the classifier is then safer."""

from functools import partial

import numpy as np

from ...statistics import Columns, Statistic
from ...verdict import Criterion, Least
from ..shared.among import Among
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, error, lead, mean
from .experiment import EXPERIMENT
from .plants import ALL, SOME, VARIED, chained

NEAR = 0.15  # of the displacement, between what the schedule leaves and what is left
AHEAD = 0.02  # of the displacement, over rules without the schedule's subspace
QUARTER = 0.25  # of the points that an attack takes
GIVEN_UP = 0.01  # of clean accuracy
ABOVE, TAKEN = 0.1, 0.1  # accuracy over the majority's, and what the attack takes of it, where there is something to heal

CONTROLLERS = ("none", "healing", "random", "shrinkage")
ATTACKERS = ("adaptive", "oblivious")


def _usual(cell: Among) -> np.ndarray:
    """What healing leaves on the other tasks, in the mean; all of it where there are none."""
    elsewhere = [group[cell.delta].measured.values["left"]["healing"] for group in cell.others if cell.delta in group]
    return np.mean(elsewhere, axis=0) if elsewhere else np.ones(len(cell.measured.values["left"]["healing"]))


def _displacements(cell: Among) -> list[Row]:
    told, left = cell.predicted.values, cell.measured.values["left"]
    rules = dict(told["left"], none=np.ones(len(left["healing"])), others=_usual(cell))

    def off(rule: str) -> float:
        """The distance from what is left behind the blocks, in their mean; at the embedding itself nothing has been passed on."""
        return float(np.mean(np.abs(np.subtract(rules[rule], left["healing"])[1:])))

    return [
        cell.place
        | {
            "predicted": told["left"]["orthogonal"][-1],
            "measured": left["healing"][-1],
            "error": off("orthogonal"),
            **{f"error_{rule}": off(rule) for rule in ("none", "random", "others", "linear")},
            "longer": float(np.mean(np.abs(told["gains"]))),
            "off": told["off"][0],
            "off_last": told["off"][-1],
            "left_random": left["random"][-1],
            "left_shrinkage": left["shrinkage"][-1],
        }
    ]


def _layers(cell: Cell) -> list[Row]:
    """Return what is left of an attack at every state, foretold and measured."""
    told, found = cell.predicted.values["left"], cell.measured.values["left"]["healing"]
    return [
        {"task": cell.task, "delta": cell.delta, "seed": cell.seed, "layer": t}
        | {"orthogonal": told["orthogonal"][t], "linear": told["linear"][t], "left": found[t]}
        for t in range(len(found))
    ]


def _met(cell: Cell, what: str = "accuracy") -> dict[tuple[str, str], float]:
    return {(arm["controller"], arm["attacker"]): arm[what] for arm in cell.measured.values["arms"]}


def _accuracies(cell: Cell) -> list[Row]:
    right, lost = _met(cell), _met(cell, "loss")
    return [
        cell.place
        | {f"{name}_{attacker}": right[name, attacker] for name in CONTROLLERS for attacker in ("clean", *ATTACKERS)}
        | {
            "nats": lost["none", "oblivious"] - lost["none", "clean"],
            "nats_clean": lost["healing", "clean"] - lost["none", "clean"],
        }
        | {f"nats_{attacker}": lost["none", "oblivious"] - lost["healing", attacker] for attacker in ATTACKERS}
    ]


def _arms(cell: Cell) -> list[Row]:
    """Return loss and accuracy of every control under every attacker."""
    return [{"task": cell.task, "delta": cell.delta, "seed": cell.seed} | arm for arm in cell.measured.values["arms"]]


def recovered(controller: str, attacker: str) -> Statistic:
    """Return the statistic "points that a control recovers over the points that the attack takes without it", of means over cells."""

    def share(c: Columns) -> float:
        taken = np.mean(c["none_clean"] - c["none_oblivious"])
        return float(np.mean(c[f"{controller}_{attacker}"] - c["none_oblivious"]) / max(taken, 1e-9))

    return share


def _ahead(rival: str, attacker: str) -> Statistic:
    """The statistic "healing's accuracy less a rival's, in the mean of clean and attacked text"."""
    return lambda c: float(np.mean([c[f"healing_{x}"] - c[f"{rival}_{x}"] for x in ("clean", attacker)]))


def _given_up(c: Columns) -> float:
    return float(np.mean(c["none_clean"] - c["healing_clean"]))


def _stakes(cell: Cell) -> tuple[float, float]:
    right = _met(cell)
    return right["none", "clean"] - cell.measured.values["majority"], right["none", "clean"] - right["none", "oblivious"]


STAKES = Assumption(
    "there is something to heal",
    f"uncontrolled, the tuned model is at least {100 * ABOVE:.0f} points above the majority's accuracy on clean held-out text, and the "
    f"attack takes at least {100 * TAKEN:.0f} of its points",
    lambda cell: bool(np.all(np.array(_stakes(cell)) >= (ABOVE, TAKEN))),
    lambda cells: "median points above the majority {:.0f}, taken {:.0f}".format(
        *100 * np.median([_stakes(c) for c in cells], axis=0)
    ),
    needed=0.75,
)

_EQUATION = (
    r"x_(t + 1) = F_t (x_t + u_t), quad u_t = - (1 - kappa_t) (I - V_t V_t^top) (x_t - macron(x)_t), quad "
    r"kappa_t = frac(c, 1 + lambda_(t + 1) + c), quad lambda_t = frac(c (1 + lambda_(t + 1)), 1 + lambda_(t + 1) + c)"
)
_DERIVED = (
    "the frozen network's states between blocks on training text, of the examples that it classifies correctly; an attack at the embedding "
    "that costs it half a nat there; the share of variance and the price of control that lose least there. Nothing is tuned before"
)

HEALING_DISPLACEMENT = Claim(
    id="healing-displacement",
    nature="prediction",
    view="control",
    title="Healing the whole state takes off an attack what its schedule says",
    statement="When the residual states of a tuned model are healed between its blocks, what is left of an attack at the embedding, behind "
    "every block, is what the schedule leaves in orthogonal layers: the part on the subspace.",
    equation=_EQUATION + r", quad frac(norm(delta x_t), norm(delta x_t^0)) = sqrt(omega product_(s <= t) kappa_s^2 + 1 - omega)",
    equation_alt="the control at state t takes off all but a share kappa of the centred state's part off the subspace; what is left of a "
    "displacement, over the same without control, is the root of its share off the subspace times the product of the squared kappas plus "
    "its share on it",
    derived=_DERIVED,
    sources=("chen2022", "yang2022"),
    experiment=EXPERIMENT,
    rows=_displacements,
    parts={"layers": _layers},
    statistic=Comparison("share of the displacement between foretold and left", mean("error")),
    criteria=(
        Criterion(
            "error", "share of the displacement between foretold and left", error("error"), (-np.inf, NEAR), (-np.inf, NEAR)
        ),
        Criterion(
            "ahead",
            "share nearer than rules without the subspace",
            lead("error", "error_none", "error_random", "error_others", less=True),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("off if all were left, as without control", mean("error_none")),
        Comparison("off by a random subspace of the same rank", mean("error_random")),
        Comparison("off by the mean left on the other tasks", mean("error_others")),
        Comparison("off by the frozen layers themselves, linearised", mean("error_linear")),
    ),
    also=(
        Comparison("share of the displacement left behind the last block", mean("measured")),
        Comparison("the same as foretold", mean("predicted")),
        Comparison("share left under control on random subspaces", mean("left_random")),
        Comparison("share left under shrinkage", mean("left_shrinkage")),
        Comparison("octaves by which a frozen block changes the attack's length", mean("longer")),
        Comparison("share of the attack's energy off the subspace, at the embedding", mean("off")),
        Comparison("the same before the last block, passed on by the linearised ones", mean("off_last")),
    ),
    assumptions=(STAKES,),
    rule="Supported when what is foretold to be left of the displacement is off by less than 0.15 of it, in the mean over blocks, and nearer "
    "by 0.02 than that all were left, than what a random subspace of the same rank would leave and than the mean of the other tasks; "
    "refuted when it is off by more, or one of these is nearer.",
    reason="An attack at random would leave the square root of the rank over the width; only where it lies towards the subspace says more. "
    "Blocks are not orthogonal, and tuning moves them: 0.15 is what a user could still plan with.",
    change="Blocks that lengthen or turn displacements, which the linearised layers show; tuning that moves the states' subspaces; attacks "
    "so large that layers are no longer linear.",
    good=partial(chained, EXPERIMENT, on=VARIED),
    bad=partial(chained, EXPERIMENT, on=SOME, stretch=2.0),
    good_is="chains of rotations, clean states on a subspace that turns with them, attacks that leave it by more or less",
    bad_is="the same chains, whose layers stretch the subspace and shrink what is off it",
)

HEALING_STATE = Claim(
    id="healing-state",
    nature="prediction",
    view="control",
    title="Healing the whole state keeps a tuned model right under attack",
    statement="Control of the residual states between blocks, towards the subspace of correctly classified training states, recovers part "
    "of the accuracy that an attack at the embedding takes, whether or not the attacker knows of it, more than shrinkage of the same energy "
    "and random subspaces of the same rank do, at no price on clean text.",
    equation=_EQUATION,
    equation_alt="the control at state t takes off all but a share kappa of the centred state's part off the subspace, by the optimal "
    "schedule",
    derived=_DERIVED,
    sources=("chen2022", "yang2022"),
    experiment=EXPERIMENT,
    rows=_accuracies,
    parts={"arms": _arms},
    statistic=Comparison("share of the points recovered, adaptive attacker", recovered("healing", "adaptive")),
    criteria=(
        *(
            Criterion(
                attacker,
                f"share of the points recovered, {attacker} attacker",
                recovered("healing", attacker),
                (QUARTER, np.inf),
                (QUARTER, np.inf),
            )
            for attacker in ATTACKERS
        ),
        Criterion(
            "lead",
            "accuracy on clean and attacked text above none, shrinkage and random subspaces",
            Least(tuple(_ahead(rival, attacker) for rival in ("none", "random", "shrinkage") for attacker in ATTACKERS)),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
        Criterion("clean", "clean accuracy given up", _given_up, (-np.inf, GIVEN_UP), (-np.inf, GIVEN_UP)),
    ),
    rivals=tuple(
        Comparison(f"share of the points recovered by {words}, {attacker} attacker", recovered(name, attacker))
        for name, words in (("random", "random subspaces"), ("shrinkage", "shrinkage"))
        for attacker in ATTACKERS
    ),
    also=(
        Comparison("share of the points recovered, oblivious attacker", recovered("healing", "oblivious")),
        Comparison("clean accuracy without control", mean("none_clean")),
        Comparison("accuracy without control under attack", mean("none_adaptive")),
        Comparison("clean accuracy healed", mean("healing_clean")),
        Comparison("clean accuracy on random subspaces", mean("random_clean")),
        Comparison("clean accuracy shrunk", mean("shrinkage_clean")),
        Comparison("nats that the attack costs without control", mean("nats")),
        Comparison("nats that healing recovers, oblivious attacker", mean("nats_oblivious")),
        Comparison("nats that healing recovers, adaptive attacker", mean("nats_adaptive")),
        Comparison("nats that healing costs on clean text", mean("nats_clean")),
    ),
    assumptions=(STAKES,),
    rule="Supported when healing recovers at least a quarter of the points that the attack takes, from an attacker who does not know of it and "
    "from one who does, has a higher mean accuracy over clean and attacked text than no control, than random subspaces and than shrinkage under "
    "either, and gives up no more than one point of clean accuracy; refuted when any of these fails.",
    reason="The bars are those that control at the sublayers' outputs had to meet. Points and not nats, for a control that destroys the "
    "states answers at random, which after a strong attack loses fewer nats than a confident error does.",
    change="Attacks that leave the states' subspace, as in nearly orthogonal layers; more text to estimate it from.",
    good=partial(chained, EXPERIMENT),
    bad=partial(chained, EXPERIMENT, off=0.0, on=ALL),
    good_is="chains of rotations, clean states on a subspace that turns with them, attacks that leave it",
    bad_is="the same chains under attacks that stay on the subspace",
)
