"""Whether an adapter trained against the worst disturbances is the robust shared gain, and better than a shrunk adapter or none."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.among import Among
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, error, lead, mean, octaves
from .experiment import EXPERIMENT
from .plants import sheltered, under_attack

NEAR = 0.15  # nats between what the law saves and what the adapter does
OCTAVES = 0.5  # between the law's sensitivity and the adapter's
AHEAD = 0.02  # nats, over rules that know no attacked law
LABELS = 0.02  # nats by which laws of labels dealt out may be nearer

SHORT = 0.05  # nats by which a training may end above the law's own objective

NOT_BEHIND = Criterion(
    "labels",
    "nats nearer than laws of dealt labels",
    lead("error", "error_dealt", less=True),
    (-LABELS, np.inf),
    (-LABELS, np.inf),
)


def _short(cell: Cell) -> float:
    """How far the training under attack ended above what the law says can be reached."""
    return cell.measured.values["objective"] - cell.predicted.values["objective"]


REACHED = Assumption(
    "training got as far as the law",
    f"on training text, the loss and price of the training under attack ended at most {SHORT} nats above the law's",
    lambda cell: _short(cell) <= SHORT,
    lambda cells: f"median of training less law {np.median([_short(c) for c in cells]):.2f} nats",
    needed=0.75,
)


def _saved(arms: Mapping[str, Mapping], arm: str) -> float:
    """The nats that an arm saves under the attacker who sees it, over none."""
    return arms["removed"]["adaptive"] - arms[arm]["adaptive"]


def _usual(cell: Among) -> float:
    """What attacked training saves on the other tasks, in the mean; nothing where there are none."""
    elsewhere = [_saved(group[cell.delta].measured.values["arms"], "robust") for group in cell.others if cell.delta in group]
    return float(np.mean(elsewhere)) if elsewhere else 0.0


def _rows(cell: Among) -> list[Row]:
    told, arms = cell.predicted.values, cell.measured.values["arms"]
    laws, robust = told["laws"], arms["robust"]
    law, found = _saved(laws, "robust"), _saved(arms, "robust")
    dealt = [laws["removed"]["adaptive"] - one["adaptive"] for one in told["dealt"]]
    fell, foretold = (octaves(kind["robust"]["sensitivity"] / kind["plain"]["sensitivity"]) for kind in (arms, laws))
    return [
        cell.place
        | {
            "predicted": law,
            "measured": found,
            "error": abs(law - found),
            "error_removed": abs(found),
            "error_shrunk": abs(_saved(laws, "shrunk") - found),
            "error_others": abs(_usual(cell) - found),
            "error_dealt": float(np.mean(np.abs(np.subtract(dealt, found)))),
            "octaves": abs(octaves(laws["robust"]["sensitivity"] / robust["sensitivity"])),
            "octaves_none": abs(octaves(robust["sensitivity"])),
            "fell": fell,
            "fell_predicted": foretold,
            **{f"loss_{name}": arm["adaptive"] for name, arm in arms.items()},
            "clean_robust": robust["clean"],
            "clean_removed": arms["removed"]["clean"],
            "oblivious": robust["oblivious"],
            "borrowed": robust["borrowed"],
            "oblivious_plain": arms["plain"]["oblivious"],
            "factor": cell.measured.values["factor"],
        }
    ]


ARMS = ("removed", "plain", "shrunk", "robust")


def _arm_rows(cell: Cell) -> list[Row]:
    """Return the loss of every arm on held-out text, clean and under every attacker."""
    place = {"task": cell.task, "delta": cell.delta, "seed": cell.seed}
    arms = cell.measured.values["arms"]
    return [
        place | {"arm": arm, "attacker": attacker, "loss": arms[arm][attacker]}
        for arm in ARMS
        for attacker in ("clean", "oblivious", "borrowed", "adaptive")
    ]


ROBUST_SHARED_GAIN = Claim(
    id="robust-shared-gain",
    nature="prediction",
    view="control",
    title="An adapter trained under attack saves what the robust shared gain says, more than a shrunk adapter or none",
    statement="Training an adapter against the worst disturbances of its ports saves, under an attacker who sees it, as many nats as the "
    "robust shared gain says before training, leaves the logits as sensitive as that gain does, and loses less than the plainly "
    "trained adapter shrunk as is best, or than none.",
    equation=r"min_(k, K) frac(1, N) sum_i max_(norm(w_i) <= epsilon) ell_i (y_i + D_i w_i) + frac(r, 2) sum_t (norm(k_t)^2 + "
    r"tr K_t Sigma_t K_t^top), quad D_(i t) = sum_tau G_(i t tau) (I + K_t B_t^top)",
    equation_alt="the law minimises the mean over examples of the loss under the worst disturbance of a size, plus r over two times the "
    "energy of its signals; a disturbance passes on through the frozen response and is read by the law",
    derived="the frozen network's response to a signal at every token of the attention ports, its states there in every direction in "
    "which tokens vary, the labels and the price of signal energy; gains of the adapter's rank, nothing fitted. The size of a "
    "disturbance costs the frozen network's linear response half a nat on training text",
    sources=("ding2023", "houlsby2019", "yang2022"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"arms": _arm_rows},
    statistic=Comparison("nats between what the robust gain and the attacked adapter save", mean("error")),
    criteria=(
        Criterion("error", "nats between predicted and trained saving", error("error"), (-np.inf, NEAR), (-np.inf, NEAR)),
        Criterion("octaves", "octaves between both sensitivities", error("octaves"), (-np.inf, OCTAVES), (-np.inf, OCTAVES)),
        Criterion(
            "ahead",
            "nats nearer than rules without the law",
            lead("error", "error_removed", "error_shrunk", "error_others", less=True),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
        NOT_BEHIND,
        Criterion(
            "defence",
            "nats below the shrunk adapter and none, adaptive attacker",
            lead("loss_robust", "loss_removed", "loss_shrunk", less=True),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("nats off if training saved nothing, as removing the adapter does", mean("error_removed")),
        Comparison("nats off by what the plain law saves, shrunk as is best", mean("error_shrunk")),
        Comparison("nats off by the other tasks' mean saving", mean("error_others")),
        Comparison("octaves off if the sensitivity were the frozen network's", mean("octaves_none")),
        Comparison("loss under the adaptive attacker, adapter removed", mean("loss_removed")),
        Comparison("loss under the adaptive attacker, plain adapter shrunk", mean("loss_shrunk")),
        Comparison("loss under the adaptive attacker, plain adapter", mean("loss_plain")),
    ),
    nulls=(Comparison("nats off by laws of dealt labels", mean("error_dealt")),),
    also=(
        Comparison("loss under the adaptive attacker, trained under attack", mean("loss_robust")),
        Comparison("the same under attacks made against the frozen network", mean("oblivious")),
        Comparison("the same under attacks made against the plain adapter", mean("borrowed")),
        Comparison("loss of the plain adapter under attacks made against the frozen network", mean("oblivious_plain")),
        Comparison("clean loss, trained under attack", mean("clean_robust")),
        Comparison("clean loss, adapter removed", mean("clean_removed")),
        Comparison("octaves from plain to attacked sensitivity, trained", mean("fell")),
        Comparison("octaves from plain to attacked sensitivity, laws", mean("fell_predicted")),
    ),
    assumptions=(REACHED,),
    rule="Supported when the predicted saving is off by less than 0.15 nats on average and the sensitivity by less than half an octave, the "
    "saving is nearer by 0.02 nats than no saving, the shrunk plain law's and the other tasks' mean, laws of dealt labels are not "
    "nearer by as much, and the adapter trained under attack loses less, to the attacker who sees it, than the plain one shrunk by the factor "
    "that is best on training text and than none; refuted when one of the first two is beyond its bar, a rule is nearer, laws of dealt "
    "labels are by 0.02, or the shrunk adapter or none loses less.",
    reason="The attacker finds half a nat in the frozen network, so that 0.15 nats are a third of what is at stake. Plainly trained adapters "
    "amplify disturbances, and any weaker adapter then suffers less: only what beats the best shrunk one and none is a defence. Much of the law "
    "damps what any label would have it damp, so laws of other labels are only required not to do better.",
    change="Signals so cheap, or disturbances so large, that laws leave the linear response; attacks on single tokens, which a law that is the "
    "same for all tokens reads no better.",
    good=partial(under_attack, EXPERIMENT),
    bad=partial(sheltered, EXPERIMENT),
    good_is="linear networks whose linear adapters are trained under the attacks that the law was made for",
    bad_is="the same networks, on whose training text no attack ever lies",
)
