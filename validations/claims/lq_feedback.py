"""C-feedback: is a trained adapter a linear-quadratic feedback law?"""

from functools import partial

import numpy as np

from ..controls import law_setting
from ..verdict import Criterion
from .claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean
from .plants import own

DAMPS = float(np.log(0.95))


def _rows(cell: Cell) -> list[dict]:
    m = cell.measured.record
    margin = m["cosine"] - max(m["cosine_gradient"], m["cosine_rotated"])
    names = ("cosine", "cosine_gradient", "cosine_rotated", "sensitivity")
    place = cell.at(cell.predicted.record["eta_feedback"])
    return [place | {name: m[name] for name in names} | {"margin": margin, "log_sensitivity": float(np.log(m["sensitivity"]))}]


CLAIM = Claim(
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
    kind="loop",
    rows=_rows,
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
    good=partial(own, "loop", law_setting),
    bad=partial(own, "loop", partial(law_setting, turned=True)),
    good_is="adapters that are the LQ law of their plant",
    bad_is="the law in directions turned at random",
)
