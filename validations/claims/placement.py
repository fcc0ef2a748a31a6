"""C-placement: which one or two ports to control."""

from functools import partial

import numpy as np

from ..controls.ablation import ablation_setting
from ..statistics import partial_rank_correlation
from ..verdict import Criterion
from .claim import CONVERGED, LINEAR, Cell, Claim, Comparison, Row, error, lead, mean
from .plants import own, swapped

PREDICTORS = ("value", "sparse", "gramian", "gradient", "fisher")
RIVALS = ("gradient", "fisher")


def _rows(cell: Cell) -> list[Row]:
    """Return for one and for two ports the regret of every predictor's choice and its rank correlation over the sets."""
    start, found = cell.predicted.record["reference_loss"], []
    for count, picks in enumerate(cell.predicted.record["picks"], start=1):
        places = [row for row in cell.predicted.record["places"] if len(row["ports"]) == count]
        trained = [row for row in cell.measured.record["places"] if len(row["ports"]) == count]
        loss = {tuple(row["ports"]): row["loss"] for row in trained}
        losses = np.array([loss[tuple(row["ports"])] for row in places])
        best = losses.min()
        gain = max(start - best, 1e-12)
        one = np.zeros(len(losses))
        found.append(
            cell.place
            | {"count": count, "random": float((losses.mean() - best) / gain)}
            | {name: float((loss[tuple(picks[name])] - best) / gain) for name in PREDICTORS}
            | {
                f"rank_{name}": partial_rank_correlation(np.array([row[name] for row in places]), losses, [], one)
                for name in PREDICTORS
            }
        )
    return found


def _map(cell: Cell) -> list[Row]:
    """Return each port's share of the best single port's gain: predicted, trained and, beside them, where it enters the path."""
    record = cell.predicted.record
    start, ports = record["reference_loss"], [row["ports"][0] for row in record["places"] if len(row["ports"]) == 1]
    gains = {
        name: np.array([start - row[key] for row in rows if len(row["ports"]) == 1])
        for name, rows, key in (
            ("predicted", record["places"], "value"),
            ("trained", cell.measured.record["places"], "loss"),
        )
    }
    return [
        cell.place
        | {"port": port, "entry": record["entry"][k]}
        | {name: float(gain[k] / max(gain.max(), 1e-12)) for name, gain in gains.items()}
        for k, port in enumerate(ports)
    ]


CLAIM = Claim(
    id="placement",
    nature="consistency",
    view="control",
    title="The LQ value says where to put a control",
    statement="Among single ports, and among pairs, the set whose linear-quadratic problem has the least value before training is, or "
    "nearly is, the set at which a trained control reaches the least objective.",
    equation='hat(S) = op("arg min")_(abs(S) = k) min_(z_S) 1/N sum_i ell_i (y_i (0) + G_(i S) z_S) + r/2 norm(z_S)^2',
    equation_alt="S hat minimises, over sets of k ports, the least mean loss of the linearised outputs plus r over two times the squared norm",
    derived="the response at each port, the labels and the penalty; the value is computed for every candidate, the group-sparse path is "
    "its convex relaxation",
    sources=("ding2023",),
    kind="ablation",
    rows=_rows,
    parts={"map": _map},
    statistic=Comparison("mean rank correlation of predicted value and trained objective", mean("rank_value")),
    criteria=(
        Criterion("regret", "mean regret of the predicted set", error("value"), (-np.inf, 0.1), (-np.inf, 0.3)),
        Criterion(
            "margin",
            "mean regret of the best rival less its own",
            lead("value", *RIVALS, less=True),
            (0.02, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("regret of the largest gradient", mean("gradient")),
        Comparison("regret of the largest Fisher trace", mean("fisher")),
        Comparison("regret of the first ports on the sparse path", mean("sparse")),
        Comparison("regret of the largest log det of the Gramian", mean("gramian")),
        Comparison("rank correlation of the gradient", mean("rank_gradient")),
        Comparison("rank correlation of the Fisher trace", mean("rank_fisher")),
        Comparison("rank correlation of the sparse path's order", mean("rank_sparse")),
        Comparison("rank correlation of the Gramian's log det", mean("rank_gramian")),
    ),
    nulls=(Comparison("mean regret of a random set", mean("random")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the predicted sets give away less than 0.1 of the gain that the best set brings, and less than the best rival's "
    "choice by at least 0.02 of it; refuted when they give away more than 0.3, or more than a rival's choice.",
    reason="The regret is in units of what is to be gained, so that tasks count alike. The gradient is cheap and often right, and the first "
    "port on the sparse path has the largest gradient by its optimality conditions: for one port they are the same prediction, so "
    "the value of the set is tested and the path stands beside it.",
    change="Ports among which the gradient misleads, as where strong ports serve a small part of the task; more ports at once. With a cost on "
    "the logits alone there is no turnpike, and thus no depth that a plan must favour.",
    good=partial(own, "ablation", ablation_setting),
    bad=partial(swapped, "ablation", ablation_setting),
    good_is="affine plants in which the ports of the largest gradient serve a small part of the task",
    bad_is="the sets predicted for another plant",
)
