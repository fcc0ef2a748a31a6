"""What a control loses when ports are switched off, with the rest kept or trained anew, and where a few controls should go."""

from functools import partial

import numpy as np

from ...statistics import Columns, partial_rank_correlation
from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, Row, error, lead, mean
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT
from .plants import ablation_setting

ABLATION_RIVALS = ("norm", "norm_trained", "diagonal", "gradient")


def _ablation_columns(cell: Cell, rest: str) -> dict[str, np.ndarray]:
    """Return the sets' increases and everything that is to order them; increases below rounding count as that."""
    predicted, measured = cell.predicted.values["sets"], cell.measured.values["sets"]
    least = cell.measured.values["resolution"]
    columns = {name: [row[name] for row in predicted] for name in ("norm", "diagonal", "gradient")}
    columns |= {
        "predicted": [row[rest] for row in predicted],
        "permuted": [row[f"permuted_{rest}"] for row in predicted],
        "measured": [max(row[rest], least) for row in measured],
        "held_out": [row[f"held_out_{rest}"] for row in measured],
        "norm_trained": [row["norm"] for row in measured],
        "trained": [row[f"trained_{rest}"] for row in measured],
    }
    return {name: np.array(values) for name, values in columns.items()}


def _ablation_rows(cell: Cell, rest: str) -> list[Row]:
    """Return a cell's rank correlations over its sets, and the two sums of which the pooled slope is the quotient."""
    columns = _ablation_columns(cell, rest)
    x, y = (np.log(columns[name]) - np.mean(np.log(columns[name])) for name in ("predicted", "measured"))
    one = np.zeros(len(x))

    def rank(name: str, outcome: str = "measured") -> float:
        return partial_rank_correlation(columns[name], columns[outcome], [], one)

    return [
        cell.place
        | {name: rank(name) for name in ("predicted", *ABLATION_RIVALS, "permuted", "trained")}
        | {"held_out": rank("predicted", "held_out"), "product": float(x @ y), "square": float(x @ x)}
        | {"ratio": float(np.mean(np.log(columns["measured"] / columns["predicted"])))}
    ]


def _sets(cell: Cell, rest: str) -> list[Row]:
    """Return each set's predicted and measured increase."""
    columns = _ablation_columns(cell, rest)
    return [
        cell.place
        | {"ports": " and ".join(row["ports"]), "count": len(row["ports"])}
        | {name: float(columns[name][k]) for name in ("predicted", "measured", "held_out")}
        for k, row in enumerate(cell.predicted.values["sets"])
    ]


def _slope(columns: Columns) -> float:
    """Return the least-squares slope of log measured on log predicted, each about its own mean in the cell, over all cells."""
    return float(np.sum(columns["product"]) / max(np.sum(columns["square"]), 1e-30))


_COMMON = {
    "view": "control",
    "sources": ("ding2023",),
    "experiment": EXPERIMENT,
    "statistic": Comparison("rank correlation of predicted and measured increase", mean("predicted")),
    "criteria": (
        Criterion("slope", "slope of log measured on log predicted", _slope, (0.7, 1.3), (0.5, 1.5)),
        Criterion(
            "margin", "rank correlation above the best rival's", lead("predicted", *ABLATION_RIVALS), (0.1, np.inf), (0.0, np.inf)
        ),
    ),
    "rivals": (
        Comparison("rank correlation of the predicted control's size", mean("norm")),
        Comparison("rank correlation of the trained control's size", mean("norm_trained")),
        Comparison("rank correlation of the curvature's diagonal", mean("diagonal")),
        Comparison("rank correlation of gradient times control", mean("gradient")),
        Comparison("rank correlation with the trained control in the formula", mean("trained")),
        Comparison("rank correlation of the prediction with the held-out increase", mean("held_out")),
        Comparison("mean log of measured over predicted increase", mean("ratio")),
    ),
    "nulls": (Comparison("rank correlation for permuted labels", mean("permuted")),),
    "assumptions": (CONVERGED, LINEAR),
    "rule": "Supported when the slope within task and seed lies between 0.7 and 1.3 and the rank correlation exceeds the best rival's by "
    "0.1; refuted when the slope lies outside 0.5 to 1.5 or a rival orders the sets better.",
    "reason": "No constant is fitted, so the slope must be near one. The size of a control is a strong rival, since two ports cost more than "
    "one whatever the theory; the trained control's size is known only after training and is let in all the same.",
    "good": partial(own, EXPERIMENT, ablation_setting),
    "bad": partial(swapped, EXPERIMENT, partial(ablation_setting, pull=0.8)),
    "good_is": "affine plants in which half of the ports can stand in for each other",
    "bad_is": "the increases predicted for another plant",
}

FROZEN = Claim(
    id="ablation-frozen",
    nature="consistency",
    title="The LQ model prices a port that is switched off",
    statement="Zeroing the trained control at a port, or at a pair of ports, raises the training objective by the quadratic form of the "
    "linearised optimum in the curvature's own block, while the other controls stay as they are.",
    equation="Delta J_S = 1/2 hat(z)_S^top M_(S S) hat(z)_S, quad M = 1/N sum_i G_i^top H_i G_i + r I",
    equation_alt="the increase is half of z hat S transpose M S S z hat S, with M the mean of G transpose H G plus r times the identity",
    derived="the linear-quadratic optimum of the frozen model and the softmax curvature at its linear outputs, before training",
    rows=partial(_ablation_rows, rest="kept"),
    parts={"sets": partial(_sets, rest="kept")},
    change="A smaller penalty, under which the optimum leaves the quadratic model; ports that differ more in what they can do.",
    **_COMMON,
)
RETRAINED = Claim(
    id="ablation-retrained",
    nature="consistency",
    title="The LQ model prices a port that the others replace",
    statement="When the controls at a port or a pair are zeroed and the others are trained anew, the training objective stays above its "
    "optimum by the Schur complement's form: less, the better the remaining ports can do the same.",
    equation="Delta J_S = 1/2 hat(z)_S^top [(M^(-1))_(S S)]^(-1) hat(z)_S, quad M = 1/N sum_i G_i^top H_i G_i + r I",
    equation_alt="the increase is half of z hat S transpose times the inverse of the S S block of M inverse times z hat S",
    derived="the linear-quadratic optimum of the frozen model and the softmax curvature at its linear outputs, before training",
    rows=partial(_ablation_rows, rest="reoptimised"),
    parts={"sets": partial(_sets, rest="reoptimised")},
    change="A smaller penalty, under which the ports replace each other further from the linear regime; a running cost on the states, without "
    "which the optimum has no turnpike and an ablation no place along depth where it should cost the least.",
    **_COMMON,
)


PREDICTORS = ("value", "sparse", "gramian", "gradient", "fisher")
PLACEMENT_RIVALS = ("gradient", "fisher")


def _placement_rows(cell: Cell) -> list[Row]:
    """Return for one and for two ports the regret of every predictor's choice and its rank correlation over the sets."""
    start, found = cell.predicted.values["reference_loss"], []
    for count, picks in enumerate(cell.predicted.values["picks"], start=1):
        places = [row for row in cell.predicted.values["places"] if len(row["ports"]) == count]
        trained = [row for row in cell.measured.values["places"] if len(row["ports"]) == count]
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


def _placement_map(cell: Cell) -> list[Row]:
    """Return each port's share of the best single port's gain: predicted, trained and, beside them, where it enters the path."""
    record = cell.predicted.values
    start, ports = record["reference_loss"], [row["ports"][0] for row in record["places"] if len(row["ports"]) == 1]
    gains = {
        name: np.array([start - row[key] for row in rows if len(row["ports"]) == 1])
        for name, rows, key in (
            ("predicted", record["places"], "value"),
            ("trained", cell.measured.values["places"], "loss"),
        )
    }
    return [
        cell.place
        | {"port": port, "entry": record["entry"][k]}
        | {name: float(gain[k] / max(gain.max(), 1e-12)) for name, gain in gains.items()}
        for k, port in enumerate(ports)
    ]


PLACEMENT = Claim(
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
    experiment=EXPERIMENT,
    rows=_placement_rows,
    parts={"map": _placement_map},
    statistic=Comparison("mean rank correlation of predicted value and trained objective", mean("rank_value")),
    criteria=(
        Criterion("regret", "mean regret of the predicted set", error("value"), (-np.inf, 0.1), (-np.inf, 0.3)),
        Criterion(
            "margin",
            "mean regret of the best rival less its own",
            lead("value", *PLACEMENT_RIVALS, less=True),
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
    good=partial(own, EXPERIMENT, ablation_setting),
    bad=partial(swapped, EXPERIMENT, ablation_setting),
    good_is="affine plants in which the ports of the largest gradient serve a small part of the task",
    bad_is="the sets predicted for another plant",
)
