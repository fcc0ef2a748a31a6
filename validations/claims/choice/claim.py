"""Which delta to tune: whether a forecast made before training ranks the options, and what a race of short runs loses."""

from collections.abc import Mapping

import numpy as np
from scipy.stats import spearmanr

from ...verdict import Criterion, Least
from ..practice.experiment import EXPERIMENT
from ..practice.runs import LEARNS
from ..shared.among import Among
from ..shared.claim import Cell, Claim, Comparison, Row, mean
from . import plants
from .calibrated import calibrated, radius
from .options import FORECASTS, FULL, Options, Runs, by_rate, complete
from .race import Price, finishes

NEEDED = 3  # other tasks, without which nothing is calibrated
LEVEL = 0.9  # of the intervals
SHARE = 0.1  # of the grid's price that a race may take
SHARES = (0.05, 0.1, 0.2, 0.4)
ORDERS = (
    "order_forecast", "order_optimum", "order_path", "order_refined", "order_table", "order_numbers", "order_gradient", "order_curvature",
)  # fmt: skip
LOST = tuple(name.replace("order", "lost") for name in ORDERS)
TEXT = {"step": 96.0, "look": 150.0}  # passes, where a step takes 32 texts and a look 150 of dev


def _known(cell: Among) -> list[Mapping[str, Cell]]:
    """Return the cells beside a cell and those of enough other tasks, or nothing where one of them is missing."""
    groups = complete(cell)
    return groups if len(groups) > NEEDED and len(groups[0]) > 2 else []


def _rank(said: np.ndarray, gained: np.ndarray) -> float:
    """Return Spearman's correlation over options, 0 where either is constant."""
    return float(spearmanr(said, gained).statistic) if np.ptp(said) and np.ptp(gained) else 0.0


def _rivals(group: Mapping[str, Cell], table: np.ndarray) -> dict[str, np.ndarray]:
    """Return what needs no theory of a network's response says of every option: the larger the better."""
    said = [cell.predicted.values for cell in group.values()]
    return {
        "table": table,
        "numbers": np.array([one["numbers"] for one in said]),
        "gradient": np.array([-one["forecasts"]["gradient"]["loss"] for one in said]),
        "curvature": np.array([one["curvature"] for one in said]),
    }


RIVALS = ("table", "numbers", "gradient", "curvature")


def _order_rows(cell: Among) -> list[Row]:
    if not (groups := _known(cell)):
        return []
    own, *others = map(Options.of, groups)
    model = calibrated(others)
    said = [model(own.told), *own.told.T, *_rivals(groups[0], model.table).values()]
    order = {name: _rank(values, own.gained) for name, values in zip(ORDERS, said, strict=True)}
    lost = {name: float(own.gained.max() - own.gained[np.argmax(values)]) for name, values in zip(LOST, said, strict=True)}
    return [cell.at(None) | order | lost | {"spread": float(np.ptp(own.gained)), "options": len(own.names)}]


def _options(cell: Among) -> list[Row]:
    """Return, of every option, what was told of it, the points foretold and gained, and the rate that dev text chose."""
    if not (groups := _known(cell)):
        return []
    own, *others = map(Options.of, groups)
    model, reach = calibrated(others), radius(others, LEVEL)
    foretold = model(own.told)
    return [
        {"task": cell.task, "seed": cell.seed, "option": name, "gained": float(own.gained[o]), "foretold": float(foretold[o])}
        | {"usual": float(model.table[o]), "reach": reach, "rate": one.measured.values["rate"]}
        | dict(zip(FORECASTS, map(float, own.told[o]), strict=True))
        | {"numbers": one.predicted.values["numbers"]}
        for o, (name, one) in enumerate(groups[0].items())
    ]


def _over(rival: str):
    return lambda columns: float(np.mean(columns["order_forecast"] - columns[f"order_{rival}"]))


CHOICE_FORECAST = Claim(
    id="choice-forecast",
    nature="prediction",
    view="optimization",
    title="What is known before training ranks the deltas by what they gain",
    statement="The points of held-out accuracy that every option gains in practice are ranked, task by task, by the option's mean gain "
    "on other tasks moved by how far the tangent model's forecasts for it differ from the usual ones.",
    equation=r'hat(g)_(o t) = macron(g)_o + chevron.l w, x_(o t) - macron(x)_o chevron.r, quad S = 1/T sum_t "Spearman"_o (hat(g)_(o t), g_(o t))',
    equation_alt="g is the gain of option o on task t in points, x the falls of the dev loss told by the tangent optimum, by AdamW on the "
    "tangent model and after linearising anew, bars are means over the other tasks, and the ridge weights w are fitted on them",
    derived="the response of the frozen model to each option's numbers on training and dev text, their labels, and what the options "
    "gained on other tasks",
    sources=("ding2023", "jacot2018"),
    experiment=EXPERIMENT,
    rows=_order_rows,
    parts={"options": _options},
    deltas=(FULL,),
    statistic=Comparison("rank correlation of gain foretold and measured over options, mean over tasks", mean("order_forecast")),
    criteria=(
        Criterion("order", "rank correlation over options", mean("order_forecast"), (0.5, np.inf), (0.2, np.inf)),
        Criterion(
            "lead", "rank correlation above the best rival's", Least(tuple(map(_over, RIVALS))), (0.1, np.inf), (0.0, np.inf)
        ),
    ),
    rivals=tuple(
        Comparison(f"rank correlation: {words}", mean(f"order_{name}"))
        for name, words in {
            "table": "mean gain on the other tasks",
            "numbers": "number of parameters",
            "gradient": "held-out loss after the best step along the first gradient",
            "curvature": "largest curvature of the kernel",
        }.items()
    ),
    nulls=(Comparison("options in random order", lambda columns: 0.0),),
    also=(
        *(
            Comparison(f"rank correlation without other tasks: {words}", mean(f"order_{name}"))
            for name, words in zip(FORECASTS, ("tangent optimum", "AdamW on the tangent model", "linearised anew"), strict=True)
        ),
        *(
            Comparison(f"points lost against the best option in hindsight: {words}", mean(f"lost_{name}"))
            for name, words in {
                "forecast": "forecast",
                "table": "mean gain on the other tasks",
                "numbers": "most parameters",
            }.items()
        ),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the rank correlation exceeds 0.5 and that of the best rival by 0.1; refuted when it is below 0.2, or no "
    "better than the best rival's.",
    reason="At a correlation of one half two options of three are sorted rightly. The mean on other tasks costs nothing once it is "
    "known, so that a forecast that orders no better would not be worth its passes.",
    change="Options that rank alike on every task, where the mean on the others says all there is to say.",
    good=plants.told_apart,
    bad=plants.half_reversed,
    good_is="linear options of which each sees a part of what the labels need, by another order in every system",
    bad_is="the same options, in half of the systems with the forecasts of another one, whose order is the reverse",
)


def _gain_rows(cell: Among) -> list[Row]:
    if not (rows := _options(cell)):
        return []
    gained, foretold, usual = (np.array([row[name] for row in rows]) for name in ("gained", "foretold", "usual"))
    off, reach = np.abs(gained - foretold), rows[0]["reach"]
    return [
        cell.at(None)
        | {"covered": float(np.mean(off <= reach)), "reach": reach, "off": float(off.mean())}
        | {"nearer": float(np.mean(np.abs(gained - usual) - off)), "off_usual": float(np.mean(np.abs(gained - usual)))}
        | {"gained": float(gained.mean()), "best": float(gained.max()), "spread": float(np.ptp(gained))}
    ]


CHOICE_GAIN = Claim(
    id="choice-gain",
    nature="prediction",
    view="optimization",
    title="The points that an option gains are foretold, with an interval that holds",
    statement="Intervals of nine tenths around the points foretold of every option, as wide as forecasts for other tasks were off, hold the "
    "gains measured on a task that was not seen, and the forecast is nearer to them than the option's mean on other tasks.",
    equation=r'C = 1/T sum_t 1/O sum_o bb(1) (abs(g_(o t) - hat(g)_(o t)) <= q_(0.9)), quad q_(0.9) = "quantile"_(s != t, o) '
    r"abs(g_(o s) - hat(g)_(o s))",
    equation_alt="q is the quantile of the distances, on other tasks that were left out one at a time, of the gain from that foretold",
    derived="as of the ranking of options",
    sources=("vovk2005",),
    experiment=EXPERIMENT,
    rows=_gain_rows,
    parts={"options": _options},
    deltas=(FULL,),
    statistic=Comparison("share of options whose gain lies in its interval, mean over tasks", mean("covered")),
    criteria=(
        Criterion("covered", "share of options in their intervals", mean("covered"), (0.8, np.inf), (0.6, np.inf)),
        Criterion(
            "nearer",
            "points by which the forecast is nearer than the mean on other tasks",
            mean("nearer"),
            (1.0, np.inf),
            (0.25, np.inf),
            "points",
        ),
    ),
    rivals=(
        Comparison("points by which forecasts are off", mean("off")),
        Comparison("points by which the mean on the other tasks is off", mean("off_usual")),
        Comparison("half-width of the intervals, in points", mean("reach")),
    ),
    nulls=(Comparison("range of the options' gains, in points", mean("spread")),),
    assumptions=(LEARNS,),
    rule="Supported when the intervals hold more than four fifths of the gains, and forecasts are a point nearer than the mean on other "
    "tasks; refuted when they hold less than three fifths, or forecasts are less than a quarter of a point nearer.",
    reason="Intervals of nine tenths on a dozen tasks are told from such of eight tenths only where tasks agree; wide ones hold everything, "
    "so that their half-width stands beside them, and a forecast must be nearer than what is known without it.",
    change="Tasks unlike those on which the forecast was calibrated.",
    good=plants.told_apart,
    bad=plants.half_reversed,
    good_is="linear options of which each sees a part of what the labels need, by another order in every system",
    bad_is="the same options, in half of the systems with the forecasts of another one, whose order is the reverse",
)


def _priors(groups: list[Mapping[str, Cell]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points foretold of every run (R,), and its mean on other tasks (R,).

    The former are the latter, moved as the forecast of the run's option is.
    """
    own, *others = map(Options.of, groups)
    model = calibrated(others)
    usual = np.mean([Runs.of(group).reached for group in groups[1:]], axis=0)
    return usual + (model(own.told) - model.table)[Runs.of(groups[0]).option], usual


def _price(cell: Among) -> tuple[Price, float]:
    """Return what a step and a look take, and what the forecasts of every option take, in passes of a text."""
    passes = [one.predicted.values["passes"] for one in cell.beside.values()]
    return Price(**TEXT), float(sum(one["optimum"] + one["relinearised"] for one in passes))


def _finishes(cell: Among, shares: tuple[float, ...]) -> list[Row]:
    """Return, for each share of the grid's price, the points that every way of searching loses against the whole grid."""
    if not (groups := _known(cell)):
        return []
    price, told = _price(cell)
    return finishes(Runs.of(groups[0]), *_priors(groups), price, told, shares)


def _race_rows(cell: Among) -> list[Row]:
    return [cell.at(None) | row for row in _finishes(cell, (SHARE,))]


def _rates(cell: Among) -> list[Row]:
    """Return the points that every option gained at each of its rates."""
    runs, names = Runs.of(cell.beside), list(cell.beside)
    rates = [run["rate"] for one in cell.beside.values() for run in by_rate(one)]
    place = {"task": cell.task, "seed": cell.seed}
    found = zip(runs.option, rates, runs.reached, strict=True)
    return [place | {"option": names[o], "rate": rate, "gained": float(reached)} for o, rate, reached in found]


def _budgets(cell: Among) -> list[Row]:
    """Return the same at several budgets."""
    return [{"task": cell.task, "seed": cell.seed} | row for row in _finishes(cell, SHARES)]


def _above(rival: str):
    return lambda columns: float(np.mean(columns[f"lost_{rival}"] - columns["lost"]))


CHOICE_RACE = Claim(
    id="choice-race",
    nature="prediction",
    view="optimization",
    title="A race led by the forecast finds the grid's choice at a tenth of its price",
    statement="A race on dev loss of the options and rates of which most is foretold, as many as a tenth of the whole grid's passes takes "
    "through two rounds, ends within a point of held-out accuracy of what the whole grid chooses.",
    equation=r'R = 1/T sum_t (a_t ("grid") - a_t ("race")), quad "passes"("race") + "passes"("forecast") <= 1/10 "passes"("grid")',
    equation_alt="a is the held-out accuracy of the run and step of the least dev loss, among all runs or in the race; passes count a text "
    "through the network once forwards and twice backwards",
    derived="the forecasts of every option, and what its rates gained on other tasks; in the race, dev losses of the runs so far",
    sources=("jamieson2016",),
    experiment=EXPERIMENT,
    rows=_race_rows,
    parts={"budgets": _budgets, "rates": _rates},
    deltas=(FULL,),
    statistic=Comparison("points of held-out accuracy lost against the whole grid's choice", mean("lost")),
    criteria=(
        Criterion("lost", "points lost against the grid's choice", mean("lost"), (-np.inf, 1.0), (-np.inf, 3.0), "points"),
        Criterion("cost", "passes over the grid's", mean("cost"), (-np.inf, 0.1001), (-np.inf, 0.15)),
        Criterion(
            "lead",
            "points lost by the better of two searches of the same price, less those of the race",
            Least(tuple(map(_above, ("random", "shortened")))),
            (0.0, np.inf),
            (-1.0, np.inf),
            "points",
        ),
    ),
    rivals=tuple(
        Comparison(f"points lost against the whole grid's choice: {words}", mean(f"lost_{name}"))
        for name, words in {
            "table": "a race led by the means on other tasks",
            "plain": "successive halving of all runs",
            "random": "whole runs drawn at random",
            "shortened": "the grid with shortened runs",
            "forecast": "the forecast's choice, trained once",
        }.items()
    ),
    nulls=(Comparison("points of the best run in hindsight above the grid's choice", mean("hindsight")),),
    assumptions=(LEARNS,),
    rule="Supported when the race loses less than a point at no more than a tenth of the grid's passes, the forecast's own among them, and "
    "less than random search and a shortened grid of the same price; refuted when it loses more than 3 points, takes more than "
    "0.15 of the passes, or loses a point more than either.",
    reason="A point is what one gives up without regret for a tenth of the price. The grid's own choice, and not the best run in hindsight, "
    "is what patience would have bought: the best of many held-out accuracies is best partly by chance.",
    change="Options that learn late and then most, which a race drops early, or forecasts that keep the best from entering.",
    good=plants.told_apart,
    bad=plants.half_reversed,
    good_is="linear options of which each sees a part of what the labels need, by another order in every system",
    bad_is="the same options, in half of the systems with the forecasts of another one: what is foretold keeps the best from entering",
)
