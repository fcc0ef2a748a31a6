"""C-budget: the loss that a bounded control can reach."""

from functools import partial

import numpy as np

from ...statistics import Columns
from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, median
from ..shared.plants import own, swapped
from ..shared.regime import ETA_LIMIT
from .experiment import EXPERIMENT
from .plants import budget_setting


def power_law(radii: np.ndarray, gains: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return a rho^b at the radii `asked`, with a and b fitted to gains by least squares on logarithmic axes."""
    b, a = np.polyfit(np.log(radii), np.log(np.maximum(gains, 1e-12)), 1)
    return np.exp(a) * asked**b


def _fitted(radii: np.ndarray, gains: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the power law's gain at every radius, fitted on the other half of the radii (every second one).

    It sees only radii inside the linear regime, where it is judged, unless fewer than two of the half lie there.
    """
    law, odd = np.empty_like(gains), np.arange(len(radii)) % 2 == 1
    for half in (odd, ~odd):
        seen = half & inside if np.sum(half & inside) >= 2 else half
        law[~half] = power_law(radii[seen], gains[seen], radii[~half])
    return law


def _rows(cell: Cell) -> list[dict]:
    p, m = cell.predicted.values, cell.measured.values
    before, after = ({k: np.array([v[k] for v in x["levels"]]) for k in x["levels"][0]} for x in (p, m))
    inside = before["eta"] <= ETA_LIMIT
    gain, trained = p["start"] - before["loss"], m["start"] - after["loss"]
    gain_test, trained_test = p["start_test"] - before["test_loss"], m["start_test"] - after["test_loss"]
    downhill, law = p["start"] - before["gradient_loss"], _fitted(before["radius"], trained, inside)
    errors = {
        "error": np.abs(trained - gain) / gain,
        "error_power": np.abs(trained - law) / gain,
        "error_gradient": np.abs(trained - downhill) / gain,
        "error_test": np.abs(trained_test - gain_test) / gain,
    }
    return [
        cell.place
        | {"radius": float(before["radius"][k]), "eta": float(before["eta"][k]), "inside": bool(inside[k])}
        | {"share": float(before["radius"][k] / p["horizon"])}
        | {
            "predicted": float(gain[k] / p["start"]),
            "measured": float(trained[k] / m["start"]),
            "power": float(law[k] / m["start"]),
        }
        | {"predicted_test": float(gain_test[k] / p["start_test"]), "measured_test": float(trained_test[k] / m["start_test"])}
        | {name: float(values[k]) for name, values in errors.items()}
        for k in range(len(gain))
    ]


def _lead(columns: Columns) -> float:
    """Return by how much the median error of the prediction is below that of the fitted power law, mean over cells."""
    return median("error_power")(columns) - median("error")(columns)


BUDGET_LAW = Claim(
    id="budget-law",
    nature="consistency",
    view="control",
    title="A convex program gives the loss that a bounded control reaches",
    statement="The least loss that training reaches with a control of norm at most rho is that of the linear model under the same "
    "bound, at every rho inside the linear regime.",
    equation="J^*(rho) = min_(norm(z) <= rho) 1/N sum_i ell_i (y_(0,i) + G_i z)",
    equation_alt="J star of rho is the minimum over controls of norm at most rho of the mean loss of the linear model",
    derived="the frozen model's response and the training labels; the radii follow from where the linear model ends",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_rows,
    statistic=Comparison("median error of the gain, as a share of it", median("error")),
    criteria=(
        Criterion("error", "median relative error of the gain", median("error"), (-np.inf, 0.15), (-np.inf, 0.3)),
        Criterion("margin", "median error below the fitted power law's", _lead, (0.0, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("power law fitted on half of the trained radii, on the others", median("error_power")),
        Comparison("the gradient's direction, at the best length within the budget", median("error_gradient")),
        Comparison("this prediction on held-out text, error over the training gain", median("error_test")),
    ),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the median error over the radii inside the linear regime is below 15 % of the predicted gain and below "
    "that of a power law with two numbers fitted to half of the trained losses and tested on the other half; refuted above "
    "30 %, or when the power law is no worse.",
    reason="The power law has seen trained losses on either side of every radius it is asked for, and the prediction none; only a "
    "law that knows where the gain bends can be closer.",
    change="Budgets beyond the linear regime, or gains that follow a power of the budget as exactly as the linear model's.",
    good=partial(own, EXPERIMENT, budget_setting),
    bad=partial(swapped, EXPERIMENT, budget_setting),
    good_is="gated linear plants, on which the linearisation is exact",
    bad_is="the law of another plant",
)
