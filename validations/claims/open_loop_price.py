"""C-openloop: what a prefix loses against an adapter because it cannot see the state."""

from functools import partial

import numpy as np

from ..controls import loop_setting
from ..statistics import RankOverTasks
from ..verdict import Criterion
from .claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean, slope
from .plants import own, swapped


def _rows(cell: Cell) -> list[dict]:
    m, p = cell.measured.record, cell.predicted.record
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


CLAIM = Claim(
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
    kind="loop",
    rows=_rows,
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
    good=partial(own, "loop", loop_setting),
    bad=partial(swapped, "loop", loop_setting),
    good_is="gated linear plants with linear adapters, whose readouts differ in size",
    bad_is="the price predicted for another plant",
)
