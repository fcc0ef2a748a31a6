"""The pairs of eigenvalues that a low-rank update's Hessian has, from the gradient in the frozen weights."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, Cell, Claim, Comparison, lead, mean, median
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import low_rank_setting

CAP = float(np.log(10.0))  # an eigenvalue of the wrong sign, or one tenth of what was predicted, is wrong: no more, no less
RIVALS = ("once", "gauss_newton")
SHOWN = ("predicted", "start", "multiplets", "permuted", *RIVALS)


def _error(predicted: dict, measured: dict) -> dict[str, float]:
    """Return the median |log(measured / predicted)| at either end, capped, and the mean of the two."""
    found = {}
    for end, sign in (("smallest", -1.0), ("largest", 1.0)):
        x, y = (np.maximum(sign * np.asarray(values[end]), 1e-300) for values in (predicted, measured))
        found[end] = float(np.median(np.minimum(np.abs(np.log(y / x)), CAP)))
    return found | {"both": (found["smallest"] + found["largest"]) / 2}


def _rows(cell: Cell) -> list[dict]:
    p, m = cell.predicted.values, cell.measured.values
    rows = []
    for before, after in zip(p["levels"], m["levels"], strict=True):
        errors = {name: _error(before[name], after["all"]) for name in SHOWN}
        alone = [_error(x, y)["both"] for x, y in zip(before["modules"], after["modules"], strict=True)]
        rows.append(
            cell.place
            | {"share": before["share"], "lost": 1.0 - after["loss"] / p["loss"], "rank": p["rank"]}
            | {"error": errors["predicted"]["both"], "error_low": errors["predicted"]["smallest"]}
            | {"error_high": errors["predicted"]["largest"]}
            | {f"error_{name}": errors[name]["both"] for name in SHOWN[1:]}
            | {"error_modules": float(np.median(alone))}
        )
    return rows


def _spectra(cell: Cell) -> list[dict]:
    """Return every compared eigenvalue, predicted and measured, by penalty and by its place from the outside."""
    return [
        cell.place
        | {"share": before["share"], "end": end, "place": k + 1}
        | {"predicted": before["predicted"][end][k] / before["r"], "measured": after["all"][end][k] / before["r"]}
        | {"start": before["start"][end][k] / before["r"]}
        for before, after in zip(cell.predicted.values["levels"], cell.measured.values["levels"], strict=True)
        for end in ("smallest", "largest")
        for k in range(len(after["all"][end]))
    ]


LORA_MULTIPLETS = Claim(
    id="lora-multiplets",
    nature="prediction",
    view="optimization",
    title="The gradient in the frozen weights gives both ends of a LoRA's Hessian",
    statement="The outermost eigenvalues of a tuned LoRA's Hessian, positive and negative, all modules together, are those of a matrix "
    "known before tuning: every singular value of dL/dW with both signs and as often as the rank, cut at the penalty, beside the "
    "Gauss-Newton part in B.",
    equation="H = mat(0, s hat(G)^top times.o I_r; s hat(G) times.o I_r, H_(B B)), quad hat(G) = U min(Sigma, r \\/ s) V^top, quad "
    "(partial L) / (partial W) = U Sigma V^top",
    equation_alt="H has zero in the A A block, s times G hat tensor the identity of size rank in the off-diagonal blocks, and the "
    "Gauss-Newton matrix in the B B block; G hat is the gradient in the weight with singular values cut at r over s",
    derived="the gradient of the training loss in the frozen weights, the response of the training logits in B, the labels; the cut "
    "follows from weight decay on both factors being a nuclear norm on their product",
    sources=("hu2022", "srebro2005"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"spectra": _spectra},
    statistic=Comparison("median of |log of measured over predicted eigenvalue|", median("error")),
    criteria=(
        Criterion(
            "error",
            "median |log ratio| of eigenvalues",
            median("error"),
            (-np.inf, float(np.log(1.25))),
            (-np.inf, float(np.log(1.5))),
        ),
        Criterion(
            "lead",
            "mean |log ratio| below the best rival's",
            lead("error", *(f"error_{name}" for name in RIVALS), less=True),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("the negative end alone", mean("error_low")),
        Comparison("the positive end alone", mean("error_high")),
        Comparison("the last modules alone", mean("error_modules")),
        Comparison("singular values not cut at the penalty", mean("error_start")),
        Comparison("the multiplets without the Gauss-Newton part", mean("error_multiplets")),
        Comparison("each singular value once", mean("error_once")),
        Comparison("the Gauss-Newton part alone, which has no negative end", mean("error_gauss_newton")),
    ),
    nulls=(Comparison("the gradient for permuted labels", mean("error_permuted")),),
    assumptions=(CONVERGED,),
    rule="Supported when the eigenvalues at both ends are within 25 % of the prediction (median over places, ends averaged) at penalties "
    "down to seven tenths of the lowest eigenvalue, and the mean error is a tenth of an e-fold below that of every rival; refuted when "
    "the median is off by more than a half or a rival is no worse.",
    reason="At B = 0 the off-diagonal block is an identity and counts for nothing; the claim is that it outlives tuning. Within 25 % a "
    "step size or a damping chosen from the prediction is safe. Each singular value once is what is left without the multiplicity.",
    change="Tuning with little weight decay, which takes the gradient and with it the multiplets away while the positive end grows with "
    "B, as in the known-bad plants.",
    good=partial(own, EXPERIMENT, partial(low_rank_setting, readout=0.01, shares=(2.0, 1.3))),
    bad=partial(own, EXPERIMENT, partial(low_rank_setting, readout=0.1, shares=(0.2, 0.1))),
    good_is="gated plants with small logits, tuned with penalties under which the start stays an optimum",
    bad_is="the same plants with larger logits, tuned with less than a sixth of that penalty",
)
