"""C-ablation: what a trained control loses when some ports are switched off, with the rest kept and with the rest trained anew."""

from collections.abc import Callable
from functools import partial

import numpy as np

from ..controls.ablation import ablation_setting
from ..statistics import Columns, partial_rank_correlation
from ..verdict import Criterion
from .claim import CONVERGED, LINEAR, Cell, Claim, Comparison, Row, lead, mean
from .plants import own, swapped

RIVALS = ("norm", "norm_trained", "diagonal", "gradient")


def _columns(cell: Cell, rest: str) -> dict[str, np.ndarray]:
    """Return the sets' increases and everything that is to order them; increases below rounding count as that."""
    predicted, measured = cell.predicted.record["sets"], cell.measured.record["sets"]
    least = cell.measured.record["resolution"]
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


def _rows(cell: Cell, rest: str) -> list[Row]:
    """Return a cell's rank correlations over its sets, and the two sums of which the pooled slope is the quotient."""
    columns = _columns(cell, rest)
    x, y = (np.log(columns[name]) - np.mean(np.log(columns[name])) for name in ("predicted", "measured"))
    one = np.zeros(len(x))

    def rank(name: str, outcome: str = "measured") -> float:
        return partial_rank_correlation(columns[name], columns[outcome], [], one)

    return [
        cell.place
        | {name: rank(name) for name in ("predicted", *RIVALS, "permuted", "trained")}
        | {"held_out": rank("predicted", "held_out"), "product": float(x @ y), "square": float(x @ x)}
        | {"ratio": float(np.mean(np.log(columns["measured"] / columns["predicted"])))}
    ]


def _sets(cell: Cell, rest: str) -> list[Row]:
    """Return each set's predicted and measured increase."""
    columns = _columns(cell, rest)
    return [
        cell.place
        | {"ports": " and ".join(row["ports"]), "count": len(row["ports"])}
        | {name: float(columns[name][k]) for name in ("predicted", "measured", "held_out")}
        for k, row in enumerate(cell.predicted.record["sets"])
    ]


def _slope(columns: Columns) -> float:
    """Return the least-squares slope of log measured on log predicted, each about its own mean in the cell, over all cells."""
    return float(np.sum(columns["product"]) / max(np.sum(columns["square"]), 1e-30))


_claim: Callable[..., Claim] = partial(
    Claim,
    view="control",
    sources=("ding2023",),
    kind="ablation",
    statistic=Comparison("rank correlation of predicted and measured increase", mean("predicted")),
    criteria=(
        Criterion("slope", "slope of log measured on log predicted", _slope, (0.7, 1.3), (0.5, 1.5)),
        Criterion("margin", "rank correlation above the best rival's", lead("predicted", *RIVALS), (0.1, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("rank correlation of the predicted control's size", mean("norm")),
        Comparison("rank correlation of the trained control's size", mean("norm_trained")),
        Comparison("rank correlation of the curvature's diagonal", mean("diagonal")),
        Comparison("rank correlation of gradient times control", mean("gradient")),
        Comparison("rank correlation with the trained control in the formula", mean("trained")),
        Comparison("rank correlation of the prediction with the held-out increase", mean("held_out")),
        Comparison("mean log of measured over predicted increase", mean("ratio")),
    ),
    nulls=(Comparison("rank correlation for permuted labels", mean("permuted")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the slope within task and seed lies between 0.7 and 1.3 and the rank correlation exceeds the best rival's by "
    "0.1; refuted when the slope lies outside 0.5 to 1.5 or a rival orders the sets better.",
    reason="No constant is fitted, so the slope must be near one. The size of a control is a strong rival, since two ports cost more than "
    "one whatever the theory; the trained control's size is known only after training and is let in all the same.",
    good=partial(own, "ablation", ablation_setting),
    bad=partial(swapped, "ablation", partial(ablation_setting, pull=0.8)),
    good_is="affine plants in which half of the ports can stand in for each other",
    bad_is="the increases predicted for another plant",
)

FROZEN = _claim(
    id="ablation-frozen",
    nature="consistency",
    title="The LQ model prices a port that is switched off",
    statement="Zeroing the trained control at a port, or at a pair of ports, raises the training objective by the quadratic form of the "
    "linearised optimum in the curvature's own block, while the other controls stay as they are.",
    equation="Delta J_S = 1/2 hat(z)_S^top M_(S S) hat(z)_S, quad M = 1/N sum_i G_i^top H_i G_i + r I",
    equation_alt="the increase is half of z hat S transpose M S S z hat S, with M the mean of G transpose H G plus r times the identity",
    derived="the linear-quadratic optimum of the frozen model and the softmax curvature at its linear outputs, before training",
    rows=partial(_rows, rest="kept"),
    parts={"sets": partial(_sets, rest="kept")},
    change="A smaller penalty, under which the optimum leaves the quadratic model; ports that differ more in what they can do.",
)
RETRAINED = _claim(
    id="ablation-retrained",
    nature="consistency",
    title="The LQ model prices a port that the others replace",
    statement="When the controls at a port or a pair are zeroed and the others are trained anew, the training objective stays above its "
    "optimum by the Schur complement's form: less, the better the remaining ports can do the same.",
    equation="Delta J_S = 1/2 hat(z)_S^top [(M^(-1))_(S S)]^(-1) hat(z)_S, quad M = 1/N sum_i G_i^top H_i G_i + r I",
    equation_alt="the increase is half of z hat S transpose times the inverse of the S S block of M inverse times z hat S",
    derived="the linear-quadratic optimum of the frozen model and the softmax curvature at its linear outputs, before training",
    rows=partial(_rows, rest="reoptimised"),
    parts={"sets": partial(_sets, rest="reoptimised")},
    change="A smaller penalty, under which the ports replace each other further from the linear regime; a running cost on the states, without "
    "which the optimum has no turnpike and an ablation no place along depth where it should cost the least.",
)
