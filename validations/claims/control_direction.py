"""C-direction: the trained open-loop signal points where the ensemble linear-quadratic optimum points."""

from functools import partial

import numpy as np

from ..controls import bias_setting
from ..verdict import Criterion
from .claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean, mean_excess
from .plants import own, swapped


def _rows(cell: Cell) -> list[dict]:
    m = cell.measured.record
    margin = m["cosine"] - max(m["cosine_gradient"], m["cosine_permuted"])
    names = ("cosine", "cosine_gradient", "cosine_permuted", "cosine_random")
    return [cell.place | {name: m[name] for name in names} | {"margin": margin}]


CLAIM = Claim(
    id="control-direction",
    nature="consistency",
    view="control",
    title="The trained control has the direction of the LQ optimum",
    statement="One open-loop control drives the whole ensemble of examples; the trained one points along the optimum of the "
    "linear-quadratic problem about the frozen trajectory, better than the gradient does.",
    equation=r'hat(z) = - R^(-1) G^top hat(nu), quad S = frac(chevron.l z_"trained"\, hat(z) chevron.r, norm(z_"trained") norm(hat(z)))',
    equation_alt="the predicted control is minus R inverse G transpose times the ensemble's dual variable; S is its cosine with "
    "the trained control",
    derived="the response of the frozen model at zero control (bias) or at the initial prefix, the labels, the penalty",
    sources=("ding2023", "li2018msa"),
    kind="tuned",
    deltas=("port-bias", "prefix"),
    rows=_rows,
    statistic=Comparison("cosine of trained and predicted control", mean("cosine")),
    criteria=(
        Criterion(
            "margin",
            "cosine above gradient and permuted-label optimum",
            mean_excess("cosine", "cosine_gradient", "cosine_permuted"),
            (0.10, np.inf),
            (0.02, np.inf),
        ),
        Criterion("cosine", "cosine", mean("cosine"), (0.5, np.inf), (0.25, np.inf)),
    ),
    rivals=(Comparison("gradient at the reference point", mean("cosine_gradient")),),
    nulls=(
        Comparison("optimum for permuted labels, 97.5 % quantile", mean("cosine_permuted")),
        Comparison("random control in the row space of G, 97.5 % quantile", mean("cosine_random")),
    ),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the cosine exceeds the better of gradient and permuted-label optimum by 0.10 and is above 0.5; "
    "refuted when the excess is below 0.02 or the cosine below 0.25.",
    reason="Isotropic nulls always lose because the response has an effective rank of a few, so the bar is the best structured "
    "rival; the cosine is not divided by a seed ceiling, which makes 0.5 the stricter form.",
    change="A rival direction that needs no second-order information and does as well, or a failure at larger controls.",
    good=partial(own, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    bad=partial(swapped, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    good_is="gated linear plants, on which the linearisation is exact",
    bad_is="the prediction made for another plant",
)
