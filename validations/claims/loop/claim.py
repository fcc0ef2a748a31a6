"""C-openloop: what a prefix loses against an adapter because it cannot see the state."""

from functools import partial

import numpy as np

from ...statistics import RankOverTasks
from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean, slope
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT
from .plants import law_setting, loop_setting


def _open_loop_price_rows(cell: Cell) -> list[dict]:
    m, p = cell.measured.values, cell.predicted.values
    return [
        cell.place
        | {
            "predicted": p["gap"],
            "measured": m["prefix"]["value"] - m["adapter"]["value"],
            "measured_bias": m["bias"]["value"] - m["adapter"]["value"],
            "energy_prefix": m["prefix"]["energy"],
            "energy_adapter": m["adapter"]["energy"],
        }
    ]


def _bias_slope(columns) -> float:
    return slope({"predicted": columns["predicted"], "measured": columns["measured_bias"]})


OPEN_LOOP_PRICE = Claim(
    id="open-loop-price",
    across=True,
    nature="prediction",
    view="control",
    title="The adapter's lead over the prefix is the price of open loop",
    statement="At the same ports, parameter count and running cost, a prefix is worse than an adapter by the difference between "
    "the best shared control and the best state feedback of the linearised network.",
    equation='Delta = J^*_"shared" - J^*_"feedback", quad u_t^"shared" = k_t, quad u_t^"feedback" = k_t + K_t phi(h_t)',
    equation_alt="the predicted price is the optimal value with one shared control less the optimal value with state feedback",
    derived="the response at the attention ports, the frozen states there, the labels and the running cost; the feedback acts on "
    "as many whitened principal directions of the state as the adapter's bottleneck has units",
    sources=("ding2023", "li2021", "houlsby2019"),
    experiment=EXPERIMENT,
    rows=_open_loop_price_rows,
    statistic=Comparison("slope of the measured on the predicted price", slope),
    criteria=(
        Criterion("slope", "slope of measured on predicted", slope, (0.5, 2.0), (0.5, 2.0)),
        Criterion(
            "rank correlation",
            "Spearman's correlation over tasks",
            RankOverTasks("predicted", "measured"),
            (0.5, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(Comparison("slope when a bias stands in for the prefix", _bias_slope),),
    nulls=(Comparison("mean measured price, nats", mean("measured")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the slope lies between 1/2 and 2 and the rank correlation exceeds 0.5; refuted when the slope lies "
    "outside or the correlation is negative.",
    reason="A slope of 1 with a factor-of-two band is the usual standard for a prediction without a fitted constant; the band "
    "replaces the weaker wish that the interval contain 1.",
    change="More tasks with different prices; a prefix that acts as feedback through its gate, which would lower the price.",
    good=partial(own, EXPERIMENT, loop_setting),
    bad=partial(swapped, EXPERIMENT, loop_setting),
    good_is="gated linear plants with linear adapters, whose readouts differ in size",
    bad_is="the price predicted for another plant",
)


DAMPS = float(np.log(0.95))


def _lq_feedback_rows(cell: Cell) -> list[dict]:
    m = cell.measured.values
    margin = m["cosine"] - max(m["cosine_gradient"], m["cosine_rotated"])
    names = ("cosine", "cosine_gradient", "cosine_rotated", "sensitivity")
    place = cell.at(cell.predicted.values["eta_feedback"])
    return [place | {name: m[name] for name in names} | {"margin": margin, "log_sensitivity": float(np.log(m["sensitivity"]))}]


LQ_FEEDBACK = Claim(
    id="lq-feedback",
    nature="prediction",
    view="control",
    title="A trained adapter is an LQ feedback law",
    statement="The Jacobian of a trained adapter in the state it reads is the gain of the linear-quadratic regulator of the "
    "logits, and closing the loop damps disturbances that do not matter for the task.",
    equation="K_t = R^(-1) G_t^top (I + M W_t)^(-1) M G_t, quad W_t = sum_(s >= t) G_s R^(-1) G_s^top, quad frac(partial pi_t, partial h) approx - K_t",
    equation_alt="the gain is R inverse G transpose times I plus M W inverse times M G, with W the remaining output Gramian; the "
    "adapter's Jacobian is compared with minus the gain",
    derived="the frozen model's response and softmax curvature, averaged over examples in the leading observable directions",
    sources=("ding2023", "houlsby2019"),
    experiment=EXPERIMENT,
    rows=_lq_feedback_rows,
    statistic=Comparison("cosine of the adapter's Jacobian with the LQ gain", mean("cosine")),
    criteria=(
        Criterion("margin", "cosine above the best rival", mean("margin"), (0.1, np.inf), (0.02, np.inf)),
        Criterion(
            "damping", "log of closed-loop over open-loop sensitivity", mean("log_sensitivity"), (-np.inf, DAMPS), (-np.inf, 0.0)
        ),
    ),
    rivals=(Comparison("static gradient feedback", mean("cosine_gradient")),),
    nulls=(
        Comparison("the adapter in a rotated basis, 97.5 % quantile", mean("cosine_rotated")),
        Comparison("closed-loop over open-loop sensitivity", mean("sensitivity")),
    ),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the cosine exceeds that of static gradient feedback and of the rotated adapter by 0.1 and disturbances "
    "are damped by 5 % on average; refuted when the excess is below 0.02 or disturbances are amplified.",
    reason="Nothing in the training loss asks an adapter to reject disturbances, so the claim may well fail; rotating the "
    "adapter's basis keeps its eigenvalues and its sign and loses only the directions.",
    change="Adapters trained under noise, or a comparison at the level of the whole ensemble's optimal feedback.",
    good=partial(own, EXPERIMENT, law_setting),
    bad=partial(own, EXPERIMENT, partial(law_setting, turned=True)),
    good_is="adapters that are the LQ law of their plant",
    bad_is="the law in directions turned at random",
)
