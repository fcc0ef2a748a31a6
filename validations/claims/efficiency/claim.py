"""C-energy: does training spend the least energy that its displacement needs?"""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean
from ..shared.network import bias_setting
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import nuisance_setting


def _slope(decays: list[float], values: list[float]) -> float:
    """Return the least-squares slope of an efficiency on the natural logarithm of the weight decay."""
    return float(np.polyfit(np.log(decays), values, 1)[0])


def _rows(cell: Cell) -> list[dict]:
    p, m = cell.predicted.values, cell.measured.values
    measured = [level["efficiency"] for level in m["levels"]]
    arms = {f"efficiency_{name}": m[name] for name in ("gradient", "random", "early", "free")}
    return [
        cell.place
        | {"efficiency": measured[0], "efficiency_predicted": p["efficiency"][0], **arms}
        | {"lead": measured[0] - m["gradient"], "lead_predicted": p["efficiency"][0] - p["efficiency_gradient"]}
        | {"miss": float(np.mean(np.abs(np.subtract(measured, p["efficiency"]))))}
        | {"slope": _slope(p["decays"], measured), "slope_predicted": _slope(p["decays"], p["efficiency"])}
    ]


def _decays(cell: Cell) -> list[dict]:
    """Return the efficiency at each weight decay, measured and predicted, beside the gradient's."""
    p, m = cell.predicted.values, cell.measured.values
    return [
        cell.place | {"decay": level["decay"], "measured": level["efficiency"], "predicted": predicted, "gradient": m["gradient"]}
        for level, predicted in zip(m["levels"], p["efficiency"], strict=True)
    ]


MINIMUM_ENERGY = Claim(
    id="minimum-energy",
    nature="prediction",
    view="control",
    title="Training with weight decay approaches the least energy",
    statement="Of the energy that a trained control spends, the share that its displacement of the class margins needs grows with "
    "the weight decay and exceeds the gradient's.",
    equation='"eff" = frac(d^top (G G^top + epsilon I)^(-1) d, norm(z)^2), quad d = y(z) - y(0)',
    equation_alt="the efficiency is d transpose times the inverse of the regularised output Gramian times d, over the squared norm "
    "of the control, with d the displacement of the outputs that the control causes",
    derived="the frozen model's response of the class-conditional mean margins on held-out text",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"decays": _decays},
    statistic=Comparison("efficiency of the trained control", mean("efficiency")),
    criteria=(
        Criterion("slope", "slope of the efficiency on log weight decay", mean("slope"), (0.0, np.inf), (0.0, np.inf)),
        Criterion("lead", "efficiency above the gradient's", mean("lead"), (0.1, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("gradient, as far", mean("efficiency_gradient")),
        Comparison("stopped early", mean("efficiency_early")),
        Comparison("without weight decay", mean("efficiency_free")),
        Comparison("linearised optimum, predicted", mean("efficiency_predicted")),
        Comparison("distance of the predicted from the trained efficiency, over all decays", mean("miss")),
        Comparison("slope of the linearised optimum's, predicted", mean("slope_predicted")),
        Comparison("lead of the linearised optimum, predicted", mean("lead_predicted")),
    ),
    nulls=(Comparison("random controls in the row space, as far", mean("efficiency_random")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the efficiency grows with the logarithm of the weight decay and that of the control trained at the "
    "smallest decay exceeds the gradient's by 0.1; refuted when it falls with the decay or the gradient is no less efficient.",
    reason="A handful of mean margins leaves the control underdetermined, so nothing forces the efficiency towards 1. As the decay "
    "grows the optimum turns into the gradient, so both criteria hold together only where training first sheds what the "
    "gradient wastes.",
    change="Tasks on which the first gradient is spent on a few examples, or outputs as many as controls, where the efficiency is 1 "
    "by construction.",
    good=partial(own, EXPERIMENT, nuisance_setting, seeds=3),
    bad=partial(own, EXPERIMENT, bias_setting),
    good_is="plants whose first gradient chases a nuisance that training cancels at once",
    bad_is="gated linear plants without such a nuisance",
)
