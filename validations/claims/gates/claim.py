"""Whether the tangent model says, before training, which tokens a prefix lets which heads attend to it for."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..practice.runs import INSIDE_THE_GRID
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, lead, mean
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import told, untold

RIVALS = ("gradient", "start", "permuted")
WORST = -1.0  # of a share explained: how much worse than no forecast at all does not matter


def _rows(cell: Cell) -> list[Row]:
    met, scores = cell.measured.values, cell.measured.values["scores"]
    return [
        cell.at(None)
        | {"whole": scores["path"]["whole"], "within": scores["path"]["within"], "r2": max(scores["path"]["r2"], WORST)}
        | {f"whole_{name}": scores[name]["whole"] for name in ("optimum", *RIVALS)}
        | {f"within_{name}": scores[name]["within"] for name in ("optimum", *RIVALS)}
        | {"size": met["size"], "size_predicted": cell.predicted.values["size"], "inner": met["inner"], "points": met["gained"]}
    ]


def _heads(cell: Cell) -> list[Row]:
    """Return by head the mean change of the log-odds, as trained and as foretold."""
    trained, path = (cell.measured.values["by_head"][name] for name in ("trained", "path"))
    return [cell.at(None) | {"head": i, "trained": a, "path": b} for i, (a, b) in enumerate(zip(trained, path, strict=True))]


LEARNT = Assumption(
    "the prefix learns",
    "tuning gains at least 2 points of held-out accuracy over the frozen head",
    lambda cell: cell.measured.values["gained"] >= 2.0,
    lambda cells: f"median gain {np.median([c.measured.values['gained'] for c in cells]):.1f} points",
)
PREFIX_GATE = Claim(
    id="prefix-gate",
    nature="prediction",
    view="control",
    title="The tangent path says which gates a prefix opens",
    statement="A prefix acts through gates, the attention that each head pays it at each token, which training changes. On held-out "
    "text their log-odds move as they do in the network at the keys and values where AdamW's path on the tangent model ends, "
    "over heads and, within a head, over tokens.",
    equation=r"log lambda/(1 - lambda) = log sum_i e^(q^top p_i \/ sqrt(d)) - log sum_j e^(q^top k_j \/ sqrt(d)), quad "
    r'C = frac(chevron.l Delta_"tuned"\, Delta_"path" chevron.r, norm(Delta_"tuned") norm(Delta_"path"))',
    equation_alt="lambda is a head's attention on the prefix's keys p at a token with query q, k the keys of the text; C is the cosine "
    "between the changes of the log-odds over all heads and tokens, by tuning and on the tangent path",
    derived="the response of the logits to the prefix's keys and values on training and dev text, their labels, the order of training; "
    "one pass of held-out text at the numbers that the path ends at",
    sources=("li2021", "he2022"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"heads": _heads},
    statistic=Comparison("cosine of the gates' changes, tuned and foretold", mean("whole")),
    criteria=(
        Criterion("gates", "cosine of the changes of log-odds", mean("whole"), (0.5, np.inf), (0.25, np.inf)),
        Criterion("tokens", "the same within heads", mean("within"), (0.4, np.inf), (0.2, np.inf)),
        Criterion("share", "share of the changes that is explained", mean("r2"), (0.2, np.inf), (0.0, np.inf)),
        Criterion(
            "lead",
            "lead in cosine over the best rival",
            lead("whole", *(f"whole_{rival}" for rival in RIVALS), either=True),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("first gradient in the path's length", mean("whole_gradient")),
        Comparison("gates that were shut open (either sign counts)", mean("whole_start")),
        Comparison("linearised optimum", mean("whole_optimum")),
    ),
    nulls=(Comparison("path for permuted labels, 97.5 % quantile", mean("whole_permuted")),),
    also=(
        Comparison("share of the change that is within heads", mean("inner")),
        Comparison("root mean square change of the log-odds, tuned", mean("size")),
        Comparison("root mean square change of the log-odds, foretold", mean("size_predicted")),
    ),
    assumptions=(LEARNT, INSIDE_THE_GRID),
    rule="Supported when the cosine is above .5 in all and above .4 within heads, a fifth of the change is explained and every rival is "
    "behind by .1; refuted when a cosine is below .25 or .2, nothing is explained or a rival is ahead.",
    reason="At a cosine of a half a forecast explains a quarter of the change once its size is known; that within heads is asked apart "
    "since a common opening of all gates needs no theory.",
    change="Values that start at next to nothing: the keys then turn towards what random values need.",
    good=partial(own, EXPERIMENT, told),
    bad=partial(own, EXPERIMENT, untold),
    good_is="heads whose values are those that the labels need, so that keys turn a little and alone",
    bad_is="heads whose values start at next to nothing, at random, so that keys turn the wrong way first",
)
