"""How much of what tuning learns in practice the linearised optimum foretells: the direction, and the gain."""

from functools import partial

import numpy as np

from ...statistics import Columns
from ...verdict import Criterion, Least
from ..shared.claim import Cell, Claim, Comparison, Headline, Row, mean
from ..shared.plants import own
from .experiment import EXPERIMENT, RIVALS
from .plants import fixed_features, learnt_features, varied
from .runs import INSIDE_THE_GRID, LEARNS, chosen, extrapolated, nats, others, place, points

CHEAP = (*RIVALS, "early")


def _direction_rows(cell: Cell) -> list[Row]:
    cosines, r2 = cell.measured.values["cosines"], cell.measured.values["r2"]
    others = [*RIVALS, "permuted", *(name for name in ("shuffled",) if name in cosines)]
    return [
        place(cell)
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
            mean("margin"),
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
    forecasts, start = cell.predicted.values["forecasts"], cell.predicted.values["start"]["loss"]
    run, last = chosen(cell), cell.measured.values["step"]
    gains = {name: nats(cell, forecasts[name]) for name in ("optimum", *RIVALS)}
    gains["early"] = extrapolated(run["looks"], start, last, run["looks"][-1]["step"])
    measured = nats(cell, cell.measured.values)
    return [
        place(cell)
        | {"measured": measured, "predicted": gains["optimum"]}
        | {f"gain_{name}": gains[name] for name in CHEAP}
        | {"off": abs(gains["optimum"] - measured), **{f"off_{name}": abs(gains[name] - measured) for name in CHEAP}}
        | {"points": points(cell, cell.measured.values), "points_predicted": points(cell, forecasts["optimum"])}
        | {f"points_{name}": points(cell, forecasts[name]) for name in (*RIVALS, "path")}
        | {"surprise": points(cell, cell.measured.values) - points(cell, forecasts["optimum"])}
    ]


def _forecasts(cell: Cell) -> list[Row]:
    """Return every forecast of the cell: how its held-out shift meets that by tuning, what it gains, and what it costs.

    cost: passes of a text through the network over those of the sweep of rates, a forward one counting one, a gradient three.
    """
    told, met = cell.predicted.values, cell.measured.values
    scored, passes = dict(told["forecasts"]), dict.fromkeys(told["forecasts"], told["passes"]["optimum"])
    forward = told["passes"]["optimum"] / (2 * cell.predicted.arrays["y0"].shape[1] - 1)
    passes |= {"constant": forward, "head": forward, "gradient": 3 * forward}
    spent = told["passes"]["optimum"]
    for k, one in enumerate(told["relinearised"], 1):
        spent += one["passes"]
        scored[f"relinearised_{k}"], passes[f"relinearised_{k}"] = one, spent
    return [
        place(cell)
        | {"forecast": name, "cosine": met["cosines"][name], "r2": met["r2"][name]}
        | {"measured": points(cell, met), "predicted": points(cell, one)}
        | {"cost": passes[name] / told["passes"]["training"]}
        for name, one in scored.items()
    ]


def _path(cell: Cell) -> list[Row]:
    """Return the gain at every look at the chosen run."""
    return [
        place(cell)
        | {"step": look["step"], "gain": nats(cell, look), "points": points(cell, look)}
        | {"chosen": look["step"] == cell.measured.values["step"]}
        for look in chosen(cell)["looks"]
    ]


def share(columns: Columns) -> float:
    """Return the forecast gain over the measured gain, both summed over the rows."""
    return float(np.sum(columns["predicted"]) / np.sum(columns["measured"]))


def _nearer(rival: str) -> partial:
    """Return the statistic "how much further off a rival's forecast of the gain is, over the measured gain"."""
    return partial(_excess, f"off_{rival}")


def _excess(column: str, columns: Columns) -> float:
    return float(np.mean(columns[column] - columns["off"]) / abs(np.mean(columns["measured"])))


def _others_excess(columns: Columns) -> float:
    """Return the same of the mean gain of the same delta on the other tasks."""
    off = np.abs(others("measured")(columns) - columns["measured"])
    return float(np.mean(off - columns["off"]) / abs(np.mean(columns["measured"])))


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
    parts={"path": _path, "forecasts": _forecasts},
    headline=Headline(
        "Points of held-out accuracy over the frozen head, mean over tasks with its interval: by AdamW as in practice, and as forecast "
        "before training",
        "Tuning as in practice gained {} points of held-out accuracy over the frozen head",
        "the linearised network had forecast {} before training",
        (
            Comparison("gained by tuning", mean("points")),
            Comparison("forecast: linearised optimum", mean("points_predicted")),
            Comparison("forecast: AdamW on the tangent model", mean("points_path")),
            Comparison("forecast: head refitted alone", mean("points_head")),
        ),
    ),
    statistic=Comparison("share of the measured fall of the held-out loss that was forecast", share),
    criteria=(
        Criterion("share", "forecast over measured fall of the held-out loss", share, (0.5, 1.5), (1 / 3, 2.0)),
        Criterion(
            "nearer",
            "how much further off the best rival's forecast is, over the measured fall",
            Least((*map(_nearer, CHEAP), _others_excess)),
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
            "first twentieth of the run, extrapolated": "gain_early",
        }.items()
    ),
    assumptions=(LEARNS, INSIDE_THE_GRID),
    rule="Supported when the forecast is between a half and one and a half of the measured fall, nearer to it than every rival's "
    "by a tenth of it, and within 5 points of accuracy on average; refuted when it is below a third or above twice, no nearer "
    "than a rival's, or more than 10 points off.",
    reason="Half of a gain is the least by which one would decide to tune or not to; five points are the least gain that counts "
    "as learning in practice, and an error of twice that would change the decision.",
    change="Tuning that learns features, whose gain the response at the start cannot hold.",
    good=partial(own, EXPERIMENT, varied),
    bad=partial(own, EXPERIMENT, learnt_features),
    good_is="layers whose logits are linear in what is tuned, with little or much to learn",
    bad_is="a layer whose one row must turn by a right angle before anything is learnt",
)
