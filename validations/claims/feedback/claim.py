"""Whether a trained adapter is the one feedback law that is best for its whole ensemble, gain and strength."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, Cell, Claim, Comparison, Row, error, lead, mean, octaves
from ..shared.plants import apart, dealt, own
from .experiment import EXPERIMENT, gain_of
from .plants import feedback_setting

LEADING = 6  # state directions in which gains are drawn
LEAD = 0.25  # over nulls and over the regulator of each example by itself
AHEAD = 0.05  # of the cheaper laws of the same kind


def _rows(cell: Cell) -> list[Row]:
    predicted, measured = cell.predicted.values, cell.measured.values
    cosines = measured["cosines"]
    log2 = octaves(predicted["sensitivity"] / measured["sensitivity"])
    return [
        cell.place
        | {
            "cosine": cosines["law"],
            "cosine_energy": measured["cosine_energy"],
            "cosine_lq": cosines["lq"],
            "cosine_first": cosines["first"],
            "cosine_raw": cosines["raw"],
            "cosine_principal": cosines["principal"],
            "cosine_permuted": measured["cosine_permuted"],
            "cosine_rotated": measured["cosine_rotated"],
            "predicted": predicted["sensitivity"],
            "measured": measured["sensitivity"],
            "log_ratio": log2,
            "error": abs(log2),
            "departure": predicted["departure"],
            "value_shared": predicted["value_shared"],
            "value_feedback": predicted["value_feedback"],
            "value_full": predicted["value_full"],
            "value": measured["value"],
        }
    ]


def _gain_rows(cell: Cell) -> list[Row]:
    """Return the entries of predicted and trained gains among the leading directions of each port, per deviation of the state."""
    return [row for port in cell.predicted.values["ports"] for row in _entries(cell, port)]


def _entries(cell: Cell, port: str) -> Iterator[Row]:
    arrays = cell.predicted.arrays
    basis = arrays[f"basis.{port}"][:, :LEADING]
    deviation = np.sqrt(np.diag(arrays[f"price.{port}"]))[:LEADING]
    law, trained = (
        basis.T @ K[:, :LEADING] * deviation for K in (gain_of(arrays, "law", port), cell.measured.arrays[f"trained.{port}"])
    )
    for written, read in np.ndindex(*law.shape):
        place = {"task": cell.task, "delta": cell.delta, "seed": cell.seed, "port": port, "written": written, "read": read}
        yield place | {"predicted": float(law[written, read]), "trained": float(trained[written, read])}


SHARED_GAIN = Claim(
    id="shared-gain",
    nature="prediction",
    view="control",
    title="A trained adapter is the feedback law that its ensemble shares",
    statement="The Jacobian of a trained adapter has the direction of the one gain that is best for all training examples at once, and "
    "closing its loop makes the logits as sensitive to disturbances as that law says, both known before training.",
    equation=r"K_t = -frac(1, r N) sum_i chevron.l G_(i t tau)^top lambda_i phi_(i t tau)^top chevron.r_tau Sigma_t^(-1), quad "
    r'lambda_i = p_i - upright("onehot")(y_i), quad frac(partial pi_t, partial h) approx K_t',
    equation_alt="the gain is minus one over r times the mean over examples of the response transposed times the costate times the state "
    "transposed, summed over tokens, times the inverse of the states' second moment; the costate is the softmax less the label at "
    "the outputs under the law itself",
    derived="the frozen network's response to a signal at every token of the attention ports, its states there in the directions in which "
    "training examples differ, their labels and the price of signal energy; cut to the adapter's rank in that price, nothing fitted",
    sources=("ding2023", "houlsby2019"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"gains": _gain_rows},
    statistic=Comparison("cosine of the adapter's Jacobian with the shared gain", mean("cosine")),
    criteria=(
        Criterion(
            "margin",
            "cosine above nulls and the per-example regulator",
            lead("cosine", "cosine_lq", "cosine_permuted", "cosine_rotated"),
            (LEAD, np.inf),
            (AHEAD, np.inf),
        ),
        Criterion(
            "ahead",
            "cosine above cheaper laws of the ensemble",
            lead("cosine", "cosine_first", "cosine_raw", "cosine_principal"),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
        Criterion("error", "octaves between predicted and trained sensitivity", error("error"), (-np.inf, 1.0), (-np.inf, 1.0)),
    ),
    rivals=(
        Comparison("regulators of single examples, averaged", mean("cosine_lq")),
        Comparison("first-order law, whitened", mean("cosine_first")),
        Comparison("first-order law, raw", mean("cosine_raw")),
        Comparison("shared gain on four principal directions", mean("cosine_principal")),
        Comparison("octaves if the loop changed nothing", lambda c: float(np.mean(np.abs(np.log2(c["measured"]))))),
    ),
    nulls=(
        Comparison("laws of permuted labels, 97.5 % quantile", mean("cosine_permuted")),
        Comparison("the law read in turned directions, 97.5 % quantile", mean("cosine_rotated")),
    ),
    also=(
        Comparison("cosine weighted by the states' second moment", mean("cosine_energy")),
        Comparison("octaves from trained to predicted sensitivity", mean("log_ratio")),
    ),
    assumptions=(CONVERGED,),
    rule="Supported when the cosine exceeds those of permuted labels, of turned directions and of averaged single regulators by 0.25 and "
    "those of both first-order laws and of four principal directions by 0.05, and predicted and trained sensitivity lie within "
    "one octave on average; refuted when the first lead is below 0.05, the second negative, or the octaves more than one.",
    reason="The regulator of each example damps that example's own deviations, which training never shows; a gain that all examples share "
    "carries their feed-forward instead. Bars were set from a pilot on other cells; a lead of 0.05 asks that solving the problem "
    "says more than its first step.",
    change="Training under noise at the ports, which replaces the second moment by that of what is then read; larger ensembles.",
    good=partial(own, EXPERIMENT, feedback_setting),
    bad=partial(apart, EXPERIMENT, feedback_setting, dealt(feedback_setting, 71)),
    good_is="linear networks whose linear adapters are trained on the law's own labels",
    bad_is="the same adapters trained on labels dealt out at random",
)
