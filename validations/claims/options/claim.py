"""Which delta at which rate: whether it is told before training, how surely, what a short race finds, and the rate by itself."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...verdict import Criterion, Least
from ..choice.calibrated import calibrated, residuals
from ..choice.claim import CHOICE_GAIN, CHOICE_RACE
from ..choice.options import FULL, Options, Runs, complete
from ..choice.race import Price, finishes
from ..facts.claim import MOSTLY_LEARNS, rank
from ..shared.among import Among
from ..shared.claim import Claim, Comparison, Row, mean
from . import plants
from .experiment import EXPERIMENT
from .known import FEATURES, RIVALS, Group, called, nearest, of_rates, of_runs, scored, swept_ends

NEEDED = 3  # other tasks, without which nothing is calibrated
LEVEL = 0.9  # of the intervals
SHARE = 0.1  # of the grid's price that a race may take
SHARES = (0.05, 0.1, 0.2, 0.4)
TEXT = {"step": 48.0, "look": 80.0}  # passes, where a step takes 16 texts and a look 80 of dev
STABLE = 38.0  # the rate times the adaptive sharpness, at which Adam ceases to be stable on a quadratic (Cohen et al. 2022)
TABLES = ("table", "nearest")
ORDERS = (
    "order_forecast", "order_table", "order_nearest", "order_numbers", "order_gradient", "order_fisher", "order_condition",
    "order_features",
)  # fmt: skip
SCORES = ("rival_numbers", "rival_gradient", "rival_fisher", "rival_condition", "rival_features")
RATES = ("rate_forecast", "rate_usual", "rate_stable", "rate_paths")


def _groups(cell: Among) -> list[Group]:
    """Return the cells beside a cell and those of enough other tasks, or nothing where one of them is missing."""
    groups = complete(cell)
    return groups if len({group[FULL].task for group in groups}) > NEEDED else []


def _foretold(groups: list[Group]) -> tuple[Options, dict[str, np.ndarray], float]:
    """Return the options of the first group, what the forecast and every rival say of them, and the half-width of intervals."""
    own, *others = map(of_runs, groups)
    model, off = calibrated(others), residuals(others)
    said = {"forecast": model(own.told), "table": model.table, "nearest": nearest(groups[0], groups[1:])}
    return own, said | {name: scored(groups[0], name) for name in RIVALS}, float(np.quantile(np.abs(off), LEVEL))


def _chosen(said: np.ndarray, table: np.ndarray) -> int:
    """Return the option of which most is said; where several are said alike, that of them which gains most on other tasks."""
    return max(range(len(said)), key=lambda option: (said[option], table[option]))


def _order_rows(cell: Among) -> list[Row]:
    if not (groups := _groups(cell)):
        return []
    own, said, _ = _foretold(groups)
    best = float(own.gained.max())
    return [
        cell.at(None)
        | {column: rank(values, own.gained) for column, values in zip(ORDERS, said.values(), strict=True)}
        | {f"lost_{name}": best - float(own.gained[_chosen(values, said["table"])]) for name, values in said.items()}
        | {"lost_any": best - float(own.gained.mean()), "spread": float(np.ptp(own.gained)), "options": len(own.names)}
    ]


def _options(cell: Among) -> list[Row]:
    """Return, of every option, what was told of it, the points foretold and gained, and its mean on other tasks."""
    if not (groups := _groups(cell)):
        return []
    own, said, reach = _foretold(groups)
    return [
        {"task": cell.task, "seed": cell.seed, "option": name, "rate": rate, "gained": float(own.gained[o])}
        | {"foretold": float(said["forecast"][o]), "usual": float(said["table"][o]), "reach": reach}
        | dict(zip(FEATURES, map(float, own.told[o]), strict=True))
        | {column: float(said[rival][o]) for column, rival in zip(SCORES, RIVALS, strict=True)}
        for o, (name, rate) in enumerate(called(groups[0]))
    ]


def _over(rival: str):
    return lambda columns: float(np.mean(columns["order_forecast"] - columns[f"order_{rival}"]))


WORDS = {
    "table": "mean gain on the other tasks",
    "nearest": "gain on the nearest other task",
    "numbers": "number of parameters",
    "gradient": "norm of the first gradient",
    "fisher": "trace of the empirical Fisher matrix",
    "condition": "condition number of the tangent kernel, low first",
    "features": "normalised feature norm of the maps beside the delta, low first",
}

GOOD_IS = "linear options of which each sees a part of what the labels need, by another order in every system"
BAD_IS = "the same options, in half of the systems with what was told of another one, whose order is the reverse"

OPTIONS_FORECAST = Claim(
    id="options-forecast",
    nature="prediction",
    view="optimization",
    title="What is known before training ranks deltas and their rates by what they gain",
    statement="The points of held-out accuracy that a delta gains at a rate are ranked, task by task, by the option's mean gain on "
    "other tasks moved by how far what a few texts of the frozen model tell of it differs from the usual.",
    equation=r'hat(g)_(o t) = macron(g)_o + chevron.l w, x_(o t) - macron(x)_o chevron.r, quad S = 1/T sum_t "Spearman"_o (hat(g)_(o t), g_(o t))',
    equation_alt="g is the gain of option o, a delta at a rate, on task t in points, x what was told of it, bars are means over the other "
    "tasks, and the ridge weights w are fitted on them",
    derived="first derivatives of the frozen model in each delta's numbers on a few texts, AdamW's path on its tangent model at every "
    "rate, their labels, and what the options gained on other tasks",
    sources=("ding2023", "jacot2018"),
    experiment=EXPERIMENT,
    rows=_order_rows,
    parts={"options": _options},
    deltas=(FULL,),
    statistic=Comparison("rank correlation of gain foretold and measured over options, mean over tasks", mean("order_forecast")),
    criteria=(
        Criterion("order", "rank correlation over options", mean("order_forecast"), (0.5, np.inf), (0.2, np.inf)),
        Criterion(
            "lead",
            "rank correlation above the best rival's",
            Least(tuple(map(_over, (*TABLES, *RIVALS)))),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=tuple(Comparison(f"rank correlation: {words}", mean(f"order_{name}")) for name, words in WORDS.items()),
    nulls=(Comparison("options in random order", lambda columns: 0.0),),
    also=tuple(
        Comparison(f"points lost against the best option in hindsight: {words}", mean(f"lost_{name}"))
        for name, words in {"forecast": "the forecast's choice", **WORDS, "any": "an option drawn at random"}.items()
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the rank correlation exceeds 0.5 and that of the best rival by 0.1; refuted when it is below 0.2, or no "
    "better than the best rival's.",
    reason="At a correlation of one half two options of three are sorted rightly. The mean on other tasks costs nothing once it is "
    "known, so that a forecast that orders no better would not be worth its passes.",
    change="Options that rank alike on every task, where the mean on the others says all there is to say.",
    good=plants.known,
    bad=plants.mistaken,
    good_is=GOOD_IS,
    bad_is=BAD_IS,
)


def _gain_rows(cell: Among) -> list[Row]:
    if not (groups := _groups(cell)):
        return []
    own, said, reach = _foretold(groups)
    off, off_usual = (np.abs(own.gained - said[name]) for name in ("forecast", "table"))
    return [
        cell.at(None)
        | {"covered": float(np.mean(off <= reach)), "reach": reach, "off": float(off.mean())}
        | {"off_usual": float(off_usual.mean()), "nearer": float(np.mean(off_usual - off))}
        | {"gained": float(own.gained.mean()), "best": float(own.gained.max()), "spread": float(np.ptp(own.gained))}
        | {"surely": surely(float(said["forecast"].max()), reach)}
    ]


def surely(foretold: float, reach: float) -> float:
    """Return the points that an option gains at least at the intervals' level, 0 where its interval holds no gain at all.

    Of a task with nothing to gain it is 0 whatever the option: advice then is to leave the model frozen.
    """
    return max(foretold - reach, 0.0)


OPTIONS_GAIN = replace(
    CHOICE_GAIN,
    id="options-gain",
    nature="prediction",
    view="optimization",
    title="Intervals around the points foretold of deltas and rates hold",
    experiment=EXPERIMENT,
    rows=_gain_rows,
    parts={},
    criteria=(
        CHOICE_GAIN.criteria[0],
        replace(CHOICE_GAIN.criteria[1], supported=(0.25, np.inf), tolerated=(0.0, np.inf)),
    ),
    also=(Comparison("points that the best option foretold gains surely", mean("surely")),),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the intervals hold more than four fifths of the gains, and forecasts are a quarter of a point nearer than the "
    "mean on other tasks; refuted when they hold less than three fifths, or forecasts are no nearer.",
    good=plants.known,
    bad=plants.mistaken,
    bad_is=BAD_IS,
)


def _finishes(cell: Among, shares: tuple[float, ...]) -> list[Row]:
    """Return, for each share of the grid's price, the points that every way of searching loses against the whole grid."""
    if not (groups := _groups(cell)):
        return []
    _, said, _ = _foretold(groups)
    passes = sum(float(other.predicted.values["passes"]) for other in groups[0].values())
    return finishes(Runs.of(groups[0]), said["forecast"], said["table"], Price(**TEXT), passes, shares)


def _race_rows(cell: Among) -> list[Row]:
    return [cell.at(None) | row for row in _finishes(cell, (SHARE,))]


def _budgets(cell: Among) -> list[Row]:
    """Return the same at several budgets."""
    return [{"task": cell.task, "seed": cell.seed} | row for row in _finishes(cell, SHARES)]


OPTIONS_RACE = replace(
    CHOICE_RACE,
    id="options-race",
    nature="prediction",
    view="optimization",
    title="A race among thirty options, led by the forecast, finds the grid's choice at a tenth of its price",
    statement="A race on dev loss of the deltas and rates of which most is foretold, as many as a tenth of the whole grid's passes takes "
    "through two rounds, ends within a point of held-out accuracy of what the whole grid chooses.",
    derived="the points foretold of every option; in the race, dev losses of the runs so far",
    experiment=EXPERIMENT,
    rows=_race_rows,
    parts={"budgets": _budgets},
    assumptions=(MOSTLY_LEARNS,),
    good=plants.known,
    bad=plants.mistaken,
    bad_is=f"{BAD_IS}: what is foretold keeps the best from entering",
)


def _beyond(said: np.ndarray, swept: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return by how many octaves rates are off the best of a sweep (C,); a best rate at an end of it may lie beyond that end."""
    off = np.abs(said - swept)
    off = np.where(swept <= ends[:, 0], np.maximum(said - ends[:, 0], 0.0), off)
    return np.where(swept >= ends[:, 1], np.maximum(ends[:, 1] - said, 0.0), off)


def _rates(cell: Among) -> list[Row]:
    """Return, of every delta, the best rate of its sweep, and those that were said before it."""
    if not (groups := _groups(cell)):
        return []
    own, *others = map(of_rates, groups)
    model, ends = calibrated(others), swept_ends(groups[0])
    said = {
        "forecast": model(own.told),
        "usual": model.table,
        "stable": np.log2(STABLE) + own.told[:, 0],
        "paths": own.told[:, 1],
    }
    off = {name: _beyond(values, own.gained, ends) for name, values in said.items()}
    return [
        {"task": cell.task, "seed": cell.seed, "option": option, "rate": float(2.0 ** own.gained[c])}
        | {column: float(2.0 ** values[c]) for column, values in zip(RATES, said.values(), strict=True)}
        | {f"off_{name}": float(values[c]) for name, values in off.items()}
        | {"censored": float(own.gained[c] in ends[c])}
        for c, option in enumerate(own.names)
    ]


SAID = ("forecast", "usual", "stable", "paths")


def _rate_rows(cell: Among) -> list[Row]:
    if not (rows := _rates(cell)):
        return []
    return [
        cell.at(None)
        | {f"within_{name}": float(np.mean([row[f"off_{name}"] <= 1.0 for row in rows])) for name in SAID}
        | {f"off_{name}": float(np.mean([row[f"off_{name}"] for row in rows])) for name in SAID}
        | {"censored": float(np.mean([row["censored"] for row in rows]))}
    ]


def _nearer(columns: Mapping[str, np.ndarray]) -> float:
    """Return by how many octaves the forecast is nearer to the best rate than the delta's usual one."""
    return float(np.mean(columns["off_usual"] - columns["off_forecast"]))


OPTIONS_RATE = Claim(
    id="options-rate",
    nature="prediction",
    view="optimization",
    title="The rate of a delta is told from curvature, within a factor of two of the best of a sweep",
    statement="The best rate of a delta on a task lies within a factor of two of its usual rate on other tasks, moved by how far its "
    "adaptive sharpness and the best rate along its tangent model's paths differ from the usual.",
    equation=r"hat(eta)_(o t) = macron(eta)_o + chevron.l w, x_(o t) - macron(x)_o chevron.r, quad W = 1/T sum_t 1/O sum_o bb(1) "
    r"(abs(hat(eta)_(o t) - eta_(o t)) <= 1)",
    equation_alt="eta is the best rate of delta o on task t in octaves, at the minimum of a parabola through the dev losses of its sweep, x "
    "what was told of it, bars are means over the other tasks, and the ridge weights w are fitted on them; a best rate at an end of the "
    "sweep counts as met by any rate beyond",
    derived="the largest eigenvalue of the Gauss-Newton matrix under Adam's second moments, AdamW's paths on the tangent model, and the "
    "best rates on other tasks",
    sources=("jacot2018",),
    experiment=EXPERIMENT,
    rows=_rate_rows,
    parts={"rates": _rates},
    deltas=(FULL,),
    statistic=Comparison("share of deltas whose rate is within a factor of two, mean over tasks", mean("within_forecast")),
    criteria=(
        Criterion("within", "share of deltas within a factor of two", mean("within_forecast"), (0.8, np.inf), (0.5, np.inf)),
        Criterion(
            "nearer",
            "octaves by which the forecast is nearer than the usual rate",
            _nearer,
            (0.0, np.inf),
            (-0.25, np.inf),
            "octaves",
        ),
    ),
    rivals=(
        Comparison("share within a factor of two: the delta's usual rate on other tasks", mean("within_usual")),
        Comparison("share within a factor of two: the bound of stability, without a fit", mean("within_stable")),
        Comparison("share within a factor of two: the best rate on the tangent model's paths", mean("within_paths")),
    ),
    nulls=(Comparison("octaves by which the usual rate is off", mean("off_usual")),),
    also=(
        Comparison("octaves by which the forecast is off", mean("off_forecast")),
        Comparison("share of deltas whose best rate is an end of the sweep", mean("censored")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when four fifths of the deltas are within a factor of two, and the forecast is nearer than the usual rate; refuted when "
    "less than half are, or the forecast is a quarter of an octave further than the usual rate.",
    reason="A factor of two is what a sweep in such factors would leave undecided, and who knows the usual rate needs no curvature.",
    change="Sweeps in finer steps, or a best rate that is the same on every task.",
    good=plants.in_units,
    bad=plants.in_others,
    good_is="linear layers whose numbers are in another unit in every system",
    bad_is="the same layers, in half of the systems with what was told of another one, whose unit is eight times as large or small",
)
