"""How much of what tuning learns in practice the linearised optimum foretells: the direction, and the gain."""

from functools import partial

import numpy as np

from ...statistics import Columns
from ...verdict import Criterion, Least
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, mean, mean_excess
from ..shared.plants import own
from .experiment import EXPERIMENT, RIVALS
from .plants import fixed_features, learnt_features

LEARNT = 0.02  # of held-out accuracy over the frozen head, from which on a run has learnt something
POINTS = 100.0

LEARNS = Assumption(
    "tuning learns",
    f"the tuned delta is at least {LEARNT:.0%} of the held-out texts above the frozen head",
    lambda cell: cell.measured.values["accuracy"] - cell.predicted.values["start"]["accuracy"] >= LEARNT,
    lambda cells: f"median gain {np.median([_points(c, c.measured.values) for c in cells]):.1f} points",
    needed=0.6,
)
INSIDE_THE_GRID = Assumption(
    "rates suffice",
    "the rate that dev text chose is neither the lowest nor the highest of those tried",
    lambda cell: not cell.measured.values["at_edge"],
    lambda cells: f"median rate {np.median([c.measured.values['rate'] for c in cells]):.2g}",
    needed=0.5,
)


def _points(cell: Cell, scored: Row) -> float:
    """Return the points of held-out accuracy that something scores above the frozen head."""
    return POINTS * (scored["accuracy"] - cell.predicted.values["start"]["accuracy"])


def _nats(cell: Cell, scored: Row) -> float:
    """Return the held-out loss that something takes off that of the frozen head."""
    return cell.predicted.values["start"]["loss"] - scored["loss"]


def _place(cell: Cell) -> Row:
    """Return the columns that every row begins with; eta gates nothing here, it is what the claims are read against."""
    return cell.at(None) | {"eta": cell.predicted.values["eta"]}


def _direction_rows(cell: Cell) -> list[Row]:
    cosines, r2 = cell.measured.values["cosines"], cell.measured.values["r2"]
    others = [*RIVALS, "permuted"]
    return [
        _place(cell)
        | {"cosine": cosines["optimum"], **{f"cosine_{name}": cosines[name] for name in others}}
        | {"margin": cosines["optimum"] - max(cosines[name] for name in others)}
        | {"r2": r2["optimum"], **{f"r2_{name}": r2[name] for name in others}}
    ]


PRACTICE_DIRECTION = Claim(
    id="practice-direction",
    nature="prediction",
    view="optimization",
    title="Tuning as in practice moves the logits where the linearised optimum says",
    statement="AdamW on minibatches, with the rate and the step chosen on dev text and no penalty, moves the held-out logits in "
    "the direction of the linearised optimum computed before training, and no cheap forecast comes as near.",
    equation=r'S = frac(chevron.l y_"tuned" - y_0\, G hat(z) chevron.r, norm(y_"tuned" - y_0) norm(G hat(z))), quad '
    r"hat(z) = arg min_z 1/N sum_i ell_i (y_(0,i) + G_i z) + r/2 norm(z)_R^2",
    equation_alt="S is the cosine over held-out texts and classes of the logits' shift by tuning with the response times the "
    "optimum of the linearised penalised loss; its penalty r, and in the metric R the weight of the head's numbers over the delta's, "
    "are those of the lowest dev loss",
    derived="the response of the frozen model to the delta's numbers, and the head's where it is trained too, on training, dev and "
    "held-out text; the labels of training and dev text",
    sources=("jacot2018", "malladi2023"),
    experiment=EXPERIMENT,
    rows=_direction_rows,
    statistic=Comparison("cosine of the held-out logit shift, tuned and predicted", mean("cosine")),
    criteria=(
        Criterion(
            "margin",
            "cosine above the best rival's",
            mean_excess("cosine", "cosine_gradient", "cosine_head", "cosine_constant", "cosine_permuted"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
        Criterion("cosine", "cosine", mean("cosine"), (0.5, np.inf), (0.25, np.inf)),
    ),
    rivals=(
        Comparison("first gradient", mean("cosine_gradient")),
        Comparison("refit of the head alone", mean("cosine_head")),
        Comparison("one constant shift", mean("cosine_constant")),
    ),
    nulls=(Comparison("optimum for permuted labels, 97.5 % quantile", mean("cosine_permuted")),),
    assumptions=(LEARNS, INSIDE_THE_GRID),
    rule="Supported when the cosine is above one half and exceeds that of the best rival, chosen anew in every cell, by 0.1; "
    "refuted when it is below one quarter, or no better than the best rival's.",
    reason="At a cosine of one half the prediction explains a quarter of the shift once its size is known, the least that could "
    "replace a run; a quarter leaves a sixteenth. 0.1 is the resolution of a dozen clusters, and the best rival is chosen after "
    "the fact, which favours the rivals.",
    change="A delta whose features move so far during tuning that its response at the start says nothing of where it ends.",
    good=partial(own, EXPERIMENT, fixed_features),
    bad=partial(own, EXPERIMENT, learnt_features),
    good_is="a layer whose logits are linear in what is tuned",
    bad_is="a layer whose one row must turn by a right angle before anything is learnt",
)


def _gain_rows(cell: Cell) -> list[Row]:
    forecasts = cell.predicted.values["forecasts"]
    gains = {name: _nats(cell, forecasts[name]) for name in ("optimum", *RIVALS)}
    measured = _nats(cell, cell.measured.values)
    return [
        _place(cell)
        | {"measured": measured, "predicted": gains["optimum"]}
        | {f"gain_{name}": gains[name] for name in RIVALS}
        | {"off": abs(gains["optimum"] - measured), **{f"off_{name}": abs(gains[name] - measured) for name in RIVALS}}
        | {"points": _points(cell, cell.measured.values), "points_predicted": _points(cell, forecasts["optimum"])}
        | {f"points_{name}": _points(cell, forecasts[name]) for name in RIVALS}
        | {"surprise": _points(cell, cell.measured.values) - _points(cell, forecasts["optimum"])}
    ]


def _path(cell: Cell) -> list[Row]:
    """Return the gain at every look at the run, as a share of its gain at the chosen step, beside what was forecast."""
    return [
        _place(cell)
        | {"step": point["step"], "gain": _nats(cell, point), "points": _points(cell, point)}
        | {"chosen": point["step"] == cell.measured.values["step"]}
        for point in cell.measured.values["path"]
    ]


def _share(columns: Columns) -> float:
    """Return the forecast gain over the measured gain, both summed over the rows."""
    return float(np.sum(columns["predicted"]) / np.sum(columns["measured"]))


def _nearer(rival: str) -> partial:
    """Return the statistic "how much further off a rival's forecast of the gain is, over the measured gain"."""
    return partial(_excess, f"off_{rival}")


def _excess(column: str, columns: Columns) -> float:
    return float(np.mean(columns[column] - columns["off"]) / abs(np.mean(columns["measured"])))


PRACTICE_GAIN = Claim(
    id="practice-gain",
    nature="prediction",
    view="optimization",
    title="The linearised optimum says how much tuning gains in practice",
    statement="The fall of the held-out loss that the linearised optimum forecasts, with a penalty chosen on dev text, is that "
    "which AdamW reaches with rate and step chosen there, and so are the points of accuracy.",
    equation=r'rho = frac(sum_"cells" L(y_0) - L(y_0 + G hat(z)), sum_"cells" L(y_0) - L(y_"tuned"))',
    equation_alt="rho is the fall of the held-out loss under the linearised optimum over the fall under tuning, both summed over "
    "the cells",
    derived="the response of the frozen model to the delta's numbers, and the head's where it is trained too, on training, dev and "
    "held-out text; the labels of training and dev text",
    sources=("jacot2018", "malladi2023"),
    experiment=EXPERIMENT,
    rows=_gain_rows,
    parts={"path": _path},
    statistic=Comparison("share of the measured fall of the held-out loss that was forecast", _share),
    criteria=(
        Criterion("share", "forecast over measured fall of the held-out loss", _share, (0.5, 1.5), (1 / 3, 2.0)),
        Criterion(
            "nearer",
            "how much further off the best rival's forecast is, over the measured fall",
            Least(tuple(map(_nearer, RIVALS))),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "points",
            "measured less forecast gain of accuracy, in points",
            mean("surprise"),
            (-5.0, 5.0),
            (-10.0, 10.0),
            "points",
        ),
    ),
    rivals=tuple(
        Comparison(f"fall of the held-out loss in nats: {words}", mean(column))
        for words, column in {
            "tuned": "measured",
            "linearised optimum": "predicted",
            "first gradient": "gain_gradient",
            "refit of the head alone": "gain_head",
            "one constant shift": "gain_constant",
        }.items()
    ),
    assumptions=(LEARNS, INSIDE_THE_GRID),
    rule="Supported when the forecast is between a half and one and a half of the measured fall, nearer to it than every rival's "
    "by a tenth of it, and within 5 points of accuracy on average; refuted when it is below a third or above twice, no nearer "
    "than a rival's, or more than 10 points off.",
    reason="Half of a gain is the least by which one would decide to tune or not to; five points are the least gain that counts "
    "as learning in practice, and an error of twice that would change the decision.",
    change="Tuning that learns features, whose gain the response at the start cannot hold.",
    good=partial(own, EXPERIMENT, fixed_features),
    bad=partial(own, EXPERIMENT, learnt_features),
    good_is="a layer whose logits are linear in what is tuned",
    bad_is="a layer whose one row must turn by a right angle before anything is learnt",
)
