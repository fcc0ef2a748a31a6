"""Whether a prefix trained against the worst disturbances saves what its gates' response says, and more than shrinkage or none."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from ...verdict import Criterion
from ..robust.claim import AHEAD, NOT_BEHIND, OCTAVES, REACHED
from ..shared.among import Among
from ..shared.claim import Cell, Claim, Comparison, Row, error, lead, mean, octaves
from .experiment import EXPERIMENT
from .plants import sheltered, under_attack

NEAR = 0.1  # nats between what the law saves and what the prefix does
ARMS = ("start", "removed", "plain", "shrunk", "robust")


def _saved(arms: Mapping[str, Mapping], arm: str) -> float:
    """The nats that an arm saves under the attacker who sees it, over the prefix as it starts."""
    return arms["start"]["adaptive"] - arms[arm]["adaptive"]


def _usual(cell: Among) -> float:
    """What attacked training saves on the other tasks, in the mean; nothing where there are none."""
    elsewhere = [_saved(group[cell.delta].measured.values["arms"], "robust") for group in cell.others if cell.delta in group]
    return float(np.mean(elsewhere)) if elsewhere else 0.0


def _rows(cell: Among) -> list[Row]:
    told, arms = cell.predicted.values, cell.measured.values["arms"]
    laws, robust = told["laws"], arms["robust"]
    law, found = _saved(laws, "robust"), _saved(arms, "robust")
    dealt = [laws["start"]["adaptive"] - one["adaptive"] for one in told["dealt"]]
    return [
        cell.place
        | {
            "predicted": law,
            "measured": found,
            "error": abs(law - found),
            "error_none": abs(found),
            **{f"error_{rule}": abs(_saved(laws, rule) - found) for rule in ("still", "shrunk", "removed")},
            "error_others": abs(_usual(cell) - found),
            "error_dealt": float(np.mean(np.abs(np.subtract(dealt, found)))),
            "sensitivity": robust["sensitivity"],
            "sensitivity_predicted": laws["robust"]["sensitivity"],
            "octaves": abs(octaves(laws["robust"]["sensitivity"] / robust["sensitivity"])),
            "octaves_none": abs(octaves(robust["sensitivity"])),
            "octaves_still": abs(octaves(laws["still"]["sensitivity"] / robust["sensitivity"])),
            **{f"loss_{name}": arms[name]["adaptive"] for name in ARMS},
            **{f"clean_{name}": arms[name]["clean"] for name in ("start", "robust")},
            "oblivious": robust["oblivious"],
            "borrowed": robust["borrowed"],
            "factor": cell.measured.values["factor"],
        }
    ]


def _arm_rows(cell: Cell) -> list[Row]:
    """Return the loss of every arm on held-out text, clean and under every attacker."""
    place = {"task": cell.task, "delta": cell.delta, "seed": cell.seed}
    arms = cell.measured.values["arms"]
    return [
        place | {"arm": arm, "attacker": attacker, "loss": arms[arm][attacker]}
        for arm in ARMS
        for attacker in ("clean", "oblivious", "borrowed", "adaptive")
    ]


ROBUST_PREFIX = Claim(
    id="robust-prefix",
    nature="prediction",
    view="control",
    title="A prefix trained under attack saves what its gates' response to attacks says, more than a shrunk prefix or none",
    statement="A prefix adds at each head its values, weighed by gates that a disturbance moves. Training it against the worst "
    "disturbances of the attention ports saves, under an attacker who sees it, as many nats as the game says that is posed in this "
    "response before training, leaves the logits as sensitive, and loses less than the plainly trained prefix shrunk as is best, or none.",
    equation=r"min_z frac(1, N) sum_i max_(norm(w_i) <= epsilon) ell_i (y_i + G_i z + D_i (z) w_i) + frac(r, 2) norm(z)^2, quad "
    r"G_i z = sum_(t tau) G_(i t tau) V_t^top g_(i t tau), quad D_i (z) w = D_i w + (G_i (w) - G_i) z",
    equation_alt="the numbers z of the prefix minimise the mean over examples of the loss under the worst disturbance w of a size, plus "
    "r over two times their squared length; values V enter by the gates g of their head, and a disturbance passes on through a response "
    "D, to which z adds what its own response G changes by under the disturbance, in gates and in the network behind them",
    derived="the response of the logits to the prefix's numbers on training text, at rest and under the disturbances that harm the network "
    "with the untrained prefix most, the labels and the price; nothing fitted. The size of a disturbance costs that network's linear "
    "response half a nat on training text",
    sources=("li2021", "he2022", "yang2022"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"arms": _arm_rows},
    statistic=Comparison("nats between what the law and the attacked prefix save", mean("error")),
    criteria=(
        Criterion("error", "nats between predicted and trained saving", error("error"), (-np.inf, NEAR), (-np.inf, NEAR)),
        Criterion("octaves", "octaves between both sensitivities", error("octaves"), (-np.inf, OCTAVES), (-np.inf, OCTAVES)),
        Criterion(
            "ahead",
            "nats nearer than rules without the gates' response",
            lead("error", "error_none", "error_still", "error_shrunk", "error_removed", "error_others", less=True),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
        NOT_BEHIND,
        Criterion(
            "defence",
            "nats below the shrunk prefix, the untrained one and none, adaptive attacker",
            lead("loss_robust", "loss_start", "loss_removed", "loss_shrunk", less=True),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("nats off if training saved nothing", mean("error_none")),
        Comparison("nats off by a law for which the response to disturbances stands still", mean("error_still")),
        Comparison("nats off by what the plain law saves, shrunk as is best", mean("error_shrunk")),
        Comparison("nats off by what removing the prefix saves", mean("error_removed")),
        Comparison("nats off by the other tasks' mean saving", mean("error_others")),
        Comparison("octaves off if the sensitivity were the untrained prefix's", mean("octaves_none")),
        Comparison("octaves off by the law for which the response stands still", mean("octaves_still")),
        Comparison("loss under the adaptive attacker, prefix removed", mean("loss_removed")),
        Comparison("loss under the adaptive attacker, prefix untrained", mean("loss_start")),
        Comparison("loss under the adaptive attacker, plain prefix", mean("loss_plain")),
        Comparison("loss under the adaptive attacker, plain prefix shrunk", mean("loss_shrunk")),
    ),
    nulls=(Comparison("nats off by laws of dealt labels", mean("error_dealt")),),
    also=(
        Comparison("nats saved, trained under attack", mean("measured")),
        Comparison("nats saved by the law", mean("predicted")),
        Comparison("sensitivity, trained under attack", mean("sensitivity")),
        Comparison("sensitivity with the law", mean("sensitivity_predicted")),
        Comparison("loss under the adaptive attacker, trained under attack", mean("loss_robust")),
        Comparison("the same under attacks made against the untrained prefix", mean("oblivious")),
        Comparison("the same under attacks made against the plain prefix", mean("borrowed")),
        Comparison("clean loss, trained under attack", mean("clean_robust")),
        Comparison("clean loss, prefix untrained", mean("clean_start")),
    ),
    assumptions=(REACHED,),
    rule="Supported when the predicted saving is off by less than 0.1 nats on average and the sensitivity by less than half an octave, the "
    "saving is nearer by 0.02 nats than no saving, a law for which the response to disturbances stands still, the shrunk plain law's, that "
    "of removing the prefix and the other tasks' mean, laws of dealt labels are not nearer by as much, and the prefix trained under attack "
    "loses less, to the attacker who sees it, than the plain one shrunk by the factor that is best on training text, the untrained one and "
    "none; refuted when one of the first two is beyond its bar, a rule is nearer, laws of dealt labels are by 0.02, or a shrunk, untrained "
    "or removed prefix loses less. Each delta has its own verdict.",
    reason="The attacker finds half a nat in the network with the untrained prefix, so that 0.1 nats are a fifth of what is at stake. Any "
    "prefix draws attention off what a disturbance reaches, and what labels ask for lowers the loss too: the law must know more than either, "
    "and a defence must beat the best shrunk prefix. Much of the law damps what any label would have it damp, so laws of other labels are "
    "only required not to do better.",
    change="Prefixes so free that gates move far from where their tangent holds, which then save more than is foretold; disturbances so large "
    "that the response along them turns.",
    good=partial(under_attack, EXPERIMENT),
    bad=partial(sheltered, EXPERIMENT),
    good_is="heads of sigmoid gates whose values are trained under the attacks that the law was made for",
    bad_is="the same heads, on whose training text no attack ever lies",
)
