"""Whether solving again in its own loop makes the shared gain what training makes an adapter, and for how many passes."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, Assumption, Cell, Claim, Comparison, Row, lead, mean, octaves
from ..shared.plants import apart, dealt, own
from .experiment import ACCURACIES, DEALT, EXPERIMENT
from .plants import loop_setting, many_classes, weak_setting

SOURCES = ("li2018msa", "litodorov2004", "houlsby2019")


def _rows(cell: Cell) -> list[Row]:
    told, found = cell.predicted.values, cell.measured.values
    fall = found["start"] - found["value"]
    shares = {name: (found["start"] - value) / fall for name, value in found["objectives"].items()}
    rivals = {name: max(share, 0.0) for name, share in shares.items()}  # who raises the objective is left out, at no share
    cosines = found["cosines"]
    return [
        cell.place
        | {
            "predicted": told["again"],
            "measured": found["value"],
            "share": shares["again"],
            "share_once": rivals["once"],
            "share_lbfgs": rivals["lbfgs"],
            "share_dealt": max(rivals[f"dealt{draw}"] for draw in range(DEALT)),
            "share_full": (found["start"] - told["full_rank"]) / fall,
            "cost": told["cost"],
            "passes": found["passes"]["again"],
            "lead": octaves(found["passes"]["again"] / told["cost"]),
            "cosine": cosines["again"],
            "cosine_once": cosines["once"],
            "cosine_dealt": max(cosines[f"dealt{draw}"] for draw in range(DEALT)),
        }
    ]


RECEDING_GAIN = Claim(
    id="receding-gain",
    nature="prediction",
    view="control",
    title="Solved again in its own loop, the shared gain does what training makes an adapter do",
    statement="A shared gain that is solved again eight times, each time in the loop that it has closed, makes most of what training an "
    "adapter takes off the training objective, which the gain solved once at rest does not, and for fewer passes than L-BFGS takes "
    "to train the adapter so far.",
    equation=r"(k, K)^(j+1) = limits(arg min)_(k, K) 1/N sum_i l_i (y_i^j + sum_t chevron.l G_(i t)^j delta u_(i t) chevron.r) "
    r"+ sum_t chevron.l h_t^j\, delta u_t chevron.r + r/2 sum_t upright(E) abs(u_t^j + delta u_t)^2",
    equation_alt="the next constant and gain minimise the mean loss at the outputs of the present loop plus its response to the change of "
    "the signals, plus what that change costs later laws, plus the price of the signals' energy",
    derived="forward and backward passes of the frozen network with the laws at work, its training text and labels and the price of "
    "signal energy; the last law is cut to the adapter's rank in that price, nothing fitted, before the adapter is trained",
    sources=SOURCES,
    experiment=EXPERIMENT,
    rows=_rows,
    statistic=Comparison("share of the trained adapter's fall of the objective", mean("share")),
    criteria=(
        Criterion("share", "share of the trained fall", mean("share"), (0.8, np.inf), (0.5, np.inf)),
        Criterion("again", "share above that of the gain solved once", lead("share", "share_once"), (0.1, np.inf), (0.0, np.inf)),
        Criterion("labels", "share above that of dealt labels", lead("share", "share_dealt"), (0.25, np.inf), (0.1, np.inf)),
        Criterion("passes", "octaves fewer passes than training", mean("lead"), (0.5, np.inf), (0.0, np.inf), "octaves"),
    ),
    rivals=(
        Comparison("share of the gain solved once", mean("share_once")),
        Comparison("share of the law that L-BFGS finds for the same passes", mean("share_lbfgs")),
        Comparison("cosine of the gain solved once with the adapter's Jacobian", mean("cosine_once")),
    ),
    nulls=(
        Comparison("largest share of laws of dealt labels", mean("share_dealt")),
        Comparison("largest cosine of laws of dealt labels", mean("cosine_dealt")),
    ),
    also=(
        Comparison("cosine of the gain solved again with the adapter's Jacobian", mean("cosine")),
        Comparison("share before the gain is cut to the adapter's rank", mean("share_full")),
    ),
    assumptions=(CONVERGED,),
    rule="Supported when the law makes more than four fifths of the trained fall, a tenth more than the gain solved once and a quarter more "
    "than laws of dealt labels, for half an octave fewer passes than training takes to come so far; refuted when it makes less than "
    "half, no more than the gain solved once, hardly more than dealt labels, or takes more passes.",
    reason="Four fifths is what a reader would call most. A law that is right only at rest is worth nothing once it moves what other laws "
    "read; eight re-solves were what two other tasks needed.",
    change="Prices so low that many laws serve the training text alike, or adapters whose nonlinearity does the work.",
    good=partial(own, EXPERIMENT, loop_setting),
    bad=partial(apart, EXPERIMENT, loop_setting, dealt(loop_setting, 73)),
    good_is="linear adapters on linear networks in which a law at one port moves what the next one reads",
    bad_is="the same, trained on labels dealt out at random",
)


def _race_rows(cell: Cell) -> list[Row]:
    rows, budget = [], float(cell.measured.values["budget"])
    for race in cell.measured.values["races"]:
        for place, accuracy in enumerate(ACCURACIES):
            paid = {name: budget if c[place] is None else c[place] for name, c in race["costs"].items()}
            rows.append(
                cell.place
                | {"share": race["share"], "accuracy_asked": accuracy, "start": race["start"], "best": race["best"]}
                | {"cost_again": paid["again"], "cost_lbfgs": paid["lbfgs"], "cost_adamw": paid["adamw"]}
                | {"lead": octaves(paid["lbfgs"] / paid["again"])}
                | {"lead_adamw": octaves(paid["adamw"] / paid["again"])}
                | {"reached": race["costs"]["again"][place] is not None}
            )
    return rows


def _path_rows(cell: Cell) -> list[Row]:
    """Return the paths of all solvers: what was paid and the share of the fall still to make."""
    return [
        cell.place | {"option": name, "share": race["share"], "cost": paid, "left": left}
        for race in cell.measured.values["races"]
        for name, path in race["paths"].items()
        for paid, left in path
    ]


def _helps(cell: Cell) -> float:
    return min(1.0 - race["best"] / race["start"] for race in cell.measured.values["races"])


LEARNS = Assumption(
    "feedback helps",
    "the best law at every price takes at least a hundredth off the training objective",
    lambda cell: _helps(cell) >= 1e-2,
    lambda cells: f"median of the least fall {np.median([_helps(c) for c in cells]):.3f}",
)

RECEDING_SOLVER = Claim(
    id="receding-solver",
    nature="consistency",
    view="control",
    title="Re-solving finds a feedback law for fewer passes than gradients do",
    statement="Among affine laws of full rank, re-solves of the shared gain reach an accuracy for fewer passes through the network than "
    "L-BFGS and AdamW, which search in coordinates in which the price of energy is the square.",
    equation=r'"lead" (a) = log_2 (c_"L-BFGS" (a)) / (c_"again" (a)), quad c_"again" = 1/2 + k (C + 1)/2 + "rejected"/2',
    equation_alt="the lead at accuracy a is the binary logarithm of what L-BFGS paid over what re-solves paid, in gradients; one of k "
    "re-solves with C classes costs C plus 1, over 2, gradients",
    derived="nothing: all solvers run on the network; that a control solver should win is the theory's promise",
    sources=SOURCES,
    experiment=EXPERIMENT,
    rows=_race_rows,
    parts={"paths": _path_rows},
    statistic=Comparison("octaves by which re-solving is cheaper than L-BFGS", mean("lead")),
    criteria=(
        Criterion("lead", "octaves cheaper than L-BFGS", mean("lead"), (0.5, np.inf), (0.0, np.inf), "octaves"),
        Criterion("adamw", "octaves cheaper than AdamW", mean("lead_adamw"), (0.5, np.inf), (0.0, np.inf), "octaves"),
        Criterion("reached", "share of accuracies that re-solves reached", mean("reached"), (0.9, 1.1), (0.6, 1.1)),
    ),
    rivals=(
        Comparison("passes of L-BFGS", mean("cost_lbfgs")),
        Comparison("passes of AdamW", mean("cost_adamw")),
    ),
    also=(Comparison("passes of re-solves", mean("cost_again")),),
    assumptions=(LEARNS,),
    rule="Supported when re-solving is cheaper by more than half an octave than L-BFGS and than AdamW, on average over prices and "
    "accuracies, and reaches nine accuracies of ten; refuted when either is as cheap, or it misses four of ten.",
    reason="Half an octave is a third of the passes, about what another solver in the loop must save before anyone changes it.",
    change="Prices so high that the loop hardly reacts, where one solve is the whole answer; many classes, whose response is dear.",
    good=partial(own, EXPERIMENT, weak_setting),
    bad=partial(own, EXPERIMENT, many_classes),
    good_is="linear networks in which signals are small beside the states, so that one solve is nearly the whole answer",
    bad_is="linear networks with five classes that no example has, for each of which a response takes a backward pass",
)
