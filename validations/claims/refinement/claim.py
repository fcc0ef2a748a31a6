"""Whether linearising anew follows tuning where the tangent model ends, and whether it says beforehand what that one misses."""

from functools import partial

import numpy as np
from scipy.stats import spearmanr

from ...statistics import Columns
from ...verdict import Criterion
from ..practice.claim import share
from ..practice.experiment import EXPERIMENT
from ..practice.plants import fixed_features, hidden_features, reversed_features, slanted
from ..practice.runs import LEARNS, nats, place, points
from ..shared.claim import Cell, Claim, Comparison, Row, mean
from ..shared.plants import own

DERIVED = (
    "the response of the network to the delta's numbers on training text, at the start and anew at every optimum; the labels of "
    "training and dev text; forward passes of dev text"
)


def _refined_rows(cell: Cell) -> list[Row]:
    steps, measured = cell.predicted.values["relinearised"], nats(cell, cell.measured.values)
    last = steps[-1] if steps else cell.predicted.values["start"]
    cosines, r2 = cell.measured.values["cosines"], cell.measured.values["r2"]
    name, passes = f"relinearised_{len(steps)}", cell.predicted.values["passes"]
    return [
        place(cell)
        | {
            "measured": measured,
            "predicted": nats(cell, last),
            "single": nats(cell, cell.predicted.values["forecasts"]["optimum"]),
        }
        | {"cosine": cosines[name] if steps else 0.0, "r2": r2[name] if steps else 0.0}
        | {"cosine_optimum": cosines["optimum"], "r2_optimum": r2["optimum"], "count": len(steps)}
        | {"gain_cosine": (cosines[name] if steps else 0.0) - cosines["optimum"]}
        | {"points": points(cell, cell.measured.values), "points_predicted": points(cell, last)}
        | {"surprise": points(cell, cell.measured.values) - points(cell, last)}
        | {"cost": (passes["optimum"] + passes["relinearised"]) / passes["training"]}
    ]


PRACTICE_REFINED = Claim(
    id="practice-refined",
    nature="prediction",
    view="optimization",
    title="Three linearisations reach what tuning reaches",
    statement="Gauss-Newton on the network, linearised anew at most three times with a ridge that dev text chooses, takes off the "
    "held-out loss what AdamW takes off, at a fraction of its passes: what the first linearisation misses is not out of reach.",
    equation=r'rho = frac(sum_"cells" L(y_0) - L(y(theta_3)), sum_"cells" L(y_0) - L(y_"tuned")), quad theta_(k+1) = theta_k + '
    r"arg min_z 1/N sum_i ell_i (y_i (theta_k) + G_i (theta_k) z) + r_k/2 norm(z)_R^2",
    equation_alt="rho is the fall of the held-out loss after at most three Gauss-Newton steps over the fall under tuning, both summed "
    "over the cells; every step minimises the training loss of the network linearised where the last one ended, plus a ridge",
    derived=DERIVED,
    sources=("malladi2023",),
    experiment=EXPERIMENT,
    rows=_refined_rows,
    statistic=Comparison("share of the measured fall of the held-out loss that was reached", share),
    criteria=(
        Criterion("share", "reached over measured fall of the held-out loss", share, (2 / 3, 1.5), (0.5, 2.0)),
        Criterion(
            "points", "measured less reached gain of accuracy, in points", mean("surprise"), (-5.0, 5.0), (-10.0, 10.0), "points"
        ),
        Criterion("cosine", "cosine with the tuned shift", mean("cosine"), (0.7, np.inf), (0.4, np.inf)),
    ),
    rivals=(
        Comparison("cosine of the first linearisation alone", mean("cosine_optimum")),
        Comparison("passes of a text through the network over those of the sweep", mean("cost")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when three linearisations reach two thirds to one and a half of the measured fall, within 5 points of accuracy, "
    "at a cosine above .7; refuted when they reach less than half or more than twice, are more than 10 points off, or end below .4.",
    reason="Two thirds of the gain at a tenth of the passes is where one would rather solve than train; at a half one would not.",
    change="Features that must be searched for, along which no step of the linearised problem points.",
    good=partial(own, EXPERIMENT, fixed_features),
    bad=partial(own, EXPERIMENT, hidden_features, 2),
    good_is="a layer whose logits are linear in what is tuned, where the first step arrives",
    bad_is="a layer whose one row starts at a right angle to the one that is needed, so that nothing points there",
)


def _feature_rows(cell: Cell) -> list[Row]:
    """Return no row where no linearisation lowered the dev loss: there is then no second kernel to compare."""
    told = cell.predicted.values
    if not told["features"]:
        return []
    features, start = told["features"], told["start"]
    further = told["relinearised"][-1]["dev_loss"]
    measured, predicted = nats(cell, cell.measured.values), nats(cell, told["forecasts"]["optimum"])
    return [
        place(cell)
        | {"shortfall": measured - predicted, "further": told["dev_loss"] - further}
        | {"fresh": features["fresh"], "growth": float(np.log2(max(features["growth"], 1e-9)))}
        | {"aligned": float(np.log2(max(features["alignment_after"], 1e-9) / max(features["alignment"], 1e-9)))}
        | {"headroom": start["loss"], "measured": measured, "predicted": predicted}
    ]


def _rank(column: str, columns: Columns) -> float:
    """Return Spearman's correlation of a column with the shortfall, 0 where one of them does not vary."""
    if len(set(columns[column])) < 2 or len(set(columns["shortfall"])) < 2:
        return 0.0
    return float(spearmanr(columns[column], columns["shortfall"]).statistic)


PRACTICE_FEATURES = Claim(
    id="practice-features",
    nature="prediction",
    view="optimization",
    title="What linearising anew adds on dev text foretells what the tangent model misses",
    statement="Tasks on which further linearisations lower the dev loss most below that of the first are those on which tuning gains "
    "most beyond what the first foretold: the kernel's movement under Gauss-Newton is that under AdamW.",
    equation=r'S = "Spearman"(L_"dev" (y_0 + G hat(z)) - L_"dev" (y(theta_3)), quad L(y_0 + G hat(z)) - L(y_"tuned"))',
    equation_alt="S is Spearman's correlation over tasks of the fall of the dev loss from the tangent optimum to the third linearisation "
    "with the fall of the held-out loss from the tangent optimum to the tuned network",
    derived=DERIVED,
    sources=("malladi2023",),
    experiment=EXPERIMENT,
    rows=_feature_rows,
    statistic=Comparison("Spearman's correlation of the predictor with the shortfall", partial(_rank, "further")),
    criteria=(
        Criterion("rank", "Spearman's correlation with the shortfall", partial(_rank, "further"), (0.5, np.inf), (0.2, np.inf)),
    ),
    rivals=tuple(
        Comparison(f"correlation of {words}", partial(_rank, column))
        for words, column in {
            "the share of the gradient outside the first features": "fresh",
            "the growth of the gradient's power": "growth",
            "the change of the kernel's alignment with the labels": "aligned",
            "eta at the tangent optimum": "eta",
            "the frozen head's loss": "headroom",
        }.items()
    ),
    assumptions=(LEARNS,),
    rule="Supported when the correlation over tasks is above one half; refuted when it is below one fifth. What correlates besides is "
    "shown beside it: a dozen tasks cannot tell two correlations apart.",
    reason="At a correlation of one half the predictor sorts two tasks of three rightly, the least that is worth three linearisations.",
    change="Features that AdamW finds and Gauss-Newton does not, or the other way round.",
    good=partial(own, EXPERIMENT, slanted, 2),
    bad=partial(own, EXPERIMENT, reversed_features, 2),
    good_is="layers whose one row must turn, in every system by another angle",
    bad_is="the same layers with held-out text on which the row that must be found points the other way",
    across=True,
)
