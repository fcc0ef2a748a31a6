"""Whether one law of what a delta reads and moves says what LoRA, IA3 and adapters become, in direction and in size."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, Row, error, lead, mean, octaves
from ..shared.plants import apart, dealt, own
from .experiment import EXPERIMENT
from .plants import network


def _rows(cell: Cell) -> list[Row]:
    measured = cell.measured.values
    cosines, sizes = measured["cosines"], measured["sizes"]
    log2 = octaves(sizes["law"] / measured["size"])
    return [
        cell.place
        | {
            "cosine": cosines["law"],
            "cosine_first": cosines["first"],
            "cosine_raw": cosines["raw"],
            "cosine_permuted": measured["cosine_permuted"],
            "cosine_turned": measured["cosine_turned"],
            "cosine_plain": measured["cosine_plain"],
            "shift": measured["shift"],
            "shift_first": measured["shift_first"],
            "shift_permuted": measured["shift_permuted"],
            "shift_turned": measured["shift_turned"],
            "predicted": sizes["law"],
            "measured": measured["size"],
            "log_ratio": log2,
            "error": abs(log2),
            "error_first": abs(octaves(sizes["first"] / measured["size"])),
            "objective_law": cell.predicted.values["objective"],
            "objective": measured["objective"],
        }
    ]


def _gain_rows(cell: Cell) -> list[Row]:
    """Return every place's gain in each of the law's own directions, predicted and trained, over the size of the whole law."""
    arrays, size = cell.measured.arrays, cell.measured.values["sizes"]["law"]
    law, trained = arrays["gains/law"], arrays["gains/trained"]
    place = {"task": cell.task, "delta": cell.delta, "seed": cell.seed}
    return [
        place | {"map": t, "direction": d, "predicted": float(law[t, d] / size), "trained": float(trained[t, d] / size)}
        for t, d in np.ndindex(*law.shape)
    ]


ONE_LAW = Claim(
    id="one-law",
    nature="prediction",
    view="control",
    title="One law says what LoRA, IA3 and adapters become",
    statement="What a delta adds at each of its places is the one gain that is best for all training examples at once in what the "
    "delta reads and moves there, in direction and in size, and held-out logits move as they do with that gain installed, all of "
    "it known before training: a LoRA's product, an IA3's factors and an affine adapter answer to the same problem.",
    equation=r"(k, K) = limits(arg min)_(k, K) 1/N sum_i ell_i (y_(0,i) + sum_t chevron.l G_(i t tau) (k_t + K_t phi_(i t tau)) "
    r"chevron.r_tau) + r/2 sum_t (|k_t|^2 + upright(tr) K_t S_t K_t^top), quad S_t = Sigma_t + sigma^2 s_t I, quad "
    r'K_t in {B A, upright("diag")(ell_t - 1), "affine" K_t}',
    equation_alt="the constants k and the gains K together minimise the mean loss of the linear response to k t plus K t times what is "
    "read, summed over places and tokens, plus half r times the sum of the squared length of k t and the trace of K t times S t times "
    "K t transposed, where S t is the second moment of what is read plus sigma squared times its mean square s t; K t is a product of "
    "low rank, a diagonal of factors less one, or an adapter's affine gain",
    derived="the frozen network's response to a signal at every token of the delta's own places, what it reads there, the labels of "
    "training text and the price, at the smallest r that the curvature and the linear regime allow; nothing fitted",
    sources=("ding2023", "hu2022", "liu2022", "he2022"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"gains": _gain_rows},
    statistic=Comparison("cosine of what was trained with the law, in the norm of the price", mean("cosine")),
    criteria=(
        Criterion("direction", "cosine with the law", mean("cosine"), (0.9, np.inf), (0.7, np.inf)),
        Criterion(
            "margin",
            "cosine above laws of permuted labels and turned laws",
            lead("cosine", "cosine_permuted", "cosine_turned"),
            (0.25, np.inf),
            (0.05, np.inf),
        ),
        Criterion("ahead", "cosine above the first gradient's", lead("cosine", "cosine_raw"), (0.05, np.inf), (0.0, np.inf)),
        Criterion("error", "octaves between the law's size and the trained one", error("error"), (-np.inf, 0.25), (-np.inf, 0.5)),
        Criterion(
            "closer",
            "octaves by which the first-order law's size is farther off",
            lead("error", "error_first", less=True),
            (0.05, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "heldout",
            "cosine of held-out logit shifts above those of nulls",
            lead("shift", "shift_permuted", "shift_turned"),
            (0.05, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("first-order law, cosine", mean("cosine_first")),
        Comparison("first-order law, octaves of size", mean("error_first")),
        Comparison("first gradient, cosine", mean("cosine_raw")),
    ),
    nulls=(
        Comparison("laws of permuted labels, 97.5 % quantile of the cosine", mean("cosine_permuted")),
        Comparison("the law read in turned coordinates, 97.5 % quantile of the cosine", mean("cosine_turned")),
        Comparison("laws of permuted labels, 97.5 % quantile for held-out logits", mean("shift_permuted")),
    ),
    also=(
        Comparison("cosine of held-out logit shifts", mean("shift")),
        Comparison("cosine of held-out logit shifts, first-order law", mean("shift_first")),
        Comparison("cosine of gains in plain numbers", mean("cosine_plain")),
        Comparison("octaves from the trained size to the law's", mean("log_ratio")),
    ),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the cosine with the law is at least 0.9 and exceeds those of permuted labels and turned laws by 0.25 and the "
    "first gradient's by 0.05, the law's size lies within a quarter of an octave of the trained one and nearer than the first-order "
    "law's by a twentieth of an octave, and held-out logits move along the law more than along nulls by 0.05; refuted below 0.7, 0.05 "
    "and 0, beyond half an octave, or where a rival is ahead. Each delta has its own verdict.",
    reason="A law that holds for one delta alone would be a fit; the same problem must say of each what it becomes from what it reads and "
    "moves. In the linear regime the first-order law has nearly the same direction, so that solving the problem must show in the "
    "size. Bars were set on two tasks that are not tested.",
    change="A smaller price, under which training leaves the frozen network's basin; an adapter with a nonlinearity, whose feedback is "
    "not affine in what it reads and which spends less energy on single tokens.",
    good=partial(own, EXPERIMENT, network),
    bad=partial(apart, EXPERIMENT, network, dealt(network, 139)),
    good_is="networks of linear maps whose LoRA, IA3 or affine adapter is trained on the law's own labels",
    bad_is="the same deltas trained on labels dealt out at random",
)
