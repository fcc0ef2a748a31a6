"""Whether what was known before training explains the facts: who arrives first, who does best and by how much, and what feedback adds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...statistics import Statistic
from ...verdict import Criterion, Least
from ..choice.options import complete
from ..facts.claim import MOSTLY_LEARNS, PUBLISHED, STAGES, arrival, arrived, dealt, rank
from ..facts.plants import FULL, PUBLISHED_ORDER
from ..shared.among import Among
from ..shared.claim import Cell, Claim, Comparison, Row, error, lead, mean
from .experiment import EXPERIMENT
from .plants import READERS, heard, heard_otherwise, paced, paced_otherwise, seen, seen_otherwise

POINTS = 100.0
NEEDED = 3  # other tasks, without which a mean over them says nothing
PREFIX, ADAPTER = READERS
FORECASTS = ("optimum", "path", "network")

Group = Mapping[str, Cell]


def _known(cell: Among) -> list[Group]:
    """Return the cells beside a cell and those of other tasks with the same deltas; none where these, or a published one, lack."""
    groups = complete(cell)
    return groups if len(groups) > NEEDED and set(PUBLISHED_ORDER) <= set(groups[0]) else []


def _each(group: Group, number: Callable[[Cell], float]) -> np.ndarray:
    return np.array([number(cell) for cell in group.values()])


def _usual(groups: Sequence[Group], number: Callable[[Cell], float]) -> np.ndarray:
    """Return every delta's mean on the other tasks."""
    return np.mean([_each(group, number) for group in groups[1:]], axis=0)


def _published_alone(group: Group, values: np.ndarray) -> np.ndarray:
    """Return the values of the deltas that have a published place, in its order."""
    return values[[list(group).index(name) for name in PUBLISHED_ORDER]]


def _numbers(cell: Cell) -> float:
    return float(cell.predicted.values["numbers"])


def _of_kernel(name: str) -> Callable[[Cell], float]:
    return lambda cell: cell.predicted.values["kernel"][name]


# The more of it a delta has, the sooner it should arrive.
SOONER = {
    "order_numbers": _numbers,
    "order_gradient": _of_kernel("gradient"),
    "order_curvature": _of_kernel("curvature"),
}


def _foretold(cell: Cell) -> float:
    """Return the step by which the path on the tangent model made 95 % of its own final fall of the dev loss."""
    path = cell.predicted.values["path"]
    return arrival(path["looks"], path["looks"][0]["dev_loss"], path["step"], "dev_loss")


def _log_arrived(cell: Cell) -> float:
    return float(np.log2(arrived(cell)))


def _convergence_rows(cell: Among) -> list[Row]:
    if not (groups := _known(cell)):
        return []
    group = groups[0]
    measured, told = _each(group, _log_arrived), np.log2(_each(group, _foretold))
    usual = _usual(groups, _log_arrived)
    alone = _published_alone(group, measured)
    return [
        cell.at(None)
        | {"order": rank(told, measured), "order_usual": rank(usual, measured)}
        | {name: rank(-_each(group, number), measured) for name, number in SOONER.items()}
        | {"order_of_five": rank(_published_alone(group, told), alone), "order_published": rank(STAGES, alone)}
        | {"off": float(np.mean(np.abs(told - measured))), "off_usual": float(np.mean(np.abs(usual - measured)))}
        | {"later": float(np.mean(measured - told))}
    ]


def _arrivals(cell: Among) -> list[Row]:
    """Return the step foretold of every delta and that measured."""
    place = {"task": cell.task, "seed": cell.seed}
    return [
        place | {"option": name, "foretold": _foretold(one), "measured": arrived(one)}
        for name, one in cell.beside.items()
        if "path" in one.predicted.values
    ]


def _led(*rivals: str) -> Least:
    """Return the statistic "rank correlation above the best rival's", the published one's over the five that have a place."""
    own = lead("order", *rivals).parts
    return Least((*own, *lead("order_of_five", "order_published").parts))


DERIVED = (
    "the response of the frozen network to each delta's numbers on training and dev text, their labels, the recipe and the order of the "
    "texts; nothing of any training"
)

EXPLAINED_CONVERGENCE = Claim(
    id="explained-convergence",
    nature="prediction",
    view="optimization",
    title="The tangent model's path says which delta arrives first",
    statement="Within a task, deltas reach 95 % of their own final fall of the held-out loss in the order, and by the steps, in which AdamW on "
    "their tangent models, at the same rate and over the same texts, has made 95 % of its own fall of the dev loss.",
    equation=r'S = 1/T sum_t "Spearman"_o (hat(n)_(o t), n_(o t)), quad hat(L)(hat(n)_(o t)) = hat(L)_0 - 0.95 (hat(L)_0 - hat(L)_(o t))',
    equation_alt="n is the step of delta o on task t by which 95 % of the fall of the held-out loss are made that the run has made at the "
    "step which dev text chose, and with a hat the same of the dev loss along AdamW's path on the tangent model",
    derived=DERIVED,
    sources=("ding2023", "jacot2018"),
    experiment=EXPERIMENT,
    rows=_convergence_rows,
    parts={"arrivals": _arrivals},
    deltas=(FULL,),
    statistic=Comparison("rank correlation of the step foretold with the measured one, mean over tasks", mean("order")),
    criteria=(
        Criterion("order", "rank correlation of steps within a task", mean("order"), (0.5, np.inf), (0.2, np.inf)),
        Criterion("lead", "the same above the best rival's", _led("order_usual", *SOONER), (0.1, np.inf), (0.0, np.inf)),
        Criterion("off", "octaves between steps", error("off"), (-np.inf, 1.0), (-np.inf, 2.0), "octaves"),
    ),
    rivals=(
        *(
            Comparison(f"rank correlation: {words}", mean(f"order_{name}"))
            for name, words in {
                "published": "published stages, five deltas",
                "usual": "mean step on the other tasks",
                "numbers": "more parameters are sooner",
                "gradient": "the longer the first gradient the sooner",
                "curvature": "the larger the largest curvature the sooner",
            }.items()
        ),
        Comparison("octaves off: mean step on the other tasks", mean("off_usual")),
    ),
    nulls=(Comparison("orders dealt at random, 97.5 % quantile", dealt),),
    also=(
        Comparison("rank correlation of the five deltas with a published stage", mean("order_of_five")),
        Comparison("octaves by which training is later than foretold", mean("later")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the rank correlation exceeds 0.5 and that of the best rival by 0.1, and steps are foretold within an octave; "
    "refuted when it is below 0.2 or no better than the best rival's, or steps are two octaves off.",
    reason="Looks are about an octave apart. At a correlation of one half two pairs of three are in order, and the mean on other tasks "
    "costs nothing once it is known.",
    change="Deltas whose features move: the path on the tangent model knows those at the start.",
    good=paced,
    bad=paced_otherwise,
    good_is="linear layers that see the same and are trained at rates in another order in every system",
    bad_is="the same layers with the forecasts of a system whose order is the reverse",
)


def _accuracy(cell: Cell) -> float:
    return POINTS * cell.measured.values["accuracy"]


def _low(forecast: str) -> Callable[[Cell], float]:
    """Return how low a forecast says that the dev loss falls, the lower the higher."""
    return lambda cell: -cell.predicted.values["forecasts"][forecast]["dev_loss"]


SAID = {
    "order_path": _low("path"),
    "order_network": _low("network"),
    "order_dimension": _of_kernel("dimension"),
    "order_alignment": _of_kernel("alignment"),
    "order_numbers": _numbers,
}


def _order_rows(cell: Among) -> list[Row]:
    if not (groups := _known(cell)):
        return []
    group = groups[0]
    reached, told, usual = _each(group, _accuracy), _each(group, _low("optimum")), _usual(groups, _accuracy)
    alone = _published_alone(group, reached)
    return [
        cell.at(None)
        | {"order": rank(told, reached), "order_usual": rank(usual, reached)}
        | {name: rank(_each(group, number), reached) for name, number in SAID.items()}
        | {"order_of_five": rank(_published_alone(group, told), alone)}
        | {"order_published": rank(np.array([*PUBLISHED.values()]), alone), "spread": float(np.ptp(reached))}
    ]


EXPLAINED_ORDER = Claim(
    id="explained-order",
    nature="prediction",
    view="optimization",
    title="The tangent optimum says which delta does best",
    statement="Within a task, deltas are in the order of held-out accuracy in which the optima of their tangent models are in dev loss.",
    equation=r'S = 1/T sum_t "Spearman"_o (-hat(L)_(o t), a_(o t)), quad hat(L)_(o t) = L_"dev" (y_0 + G_o hat(z)_o)',
    equation_alt="a is the held-out accuracy of delta o on task t, and the L with a hat the dev loss of its tangent model's optimum, whose "
    "ridge dev text chose",
    derived=DERIVED,
    sources=("ding2023", "jacot2018"),
    experiment=EXPERIMENT,
    rows=_order_rows,
    deltas=(FULL,),
    statistic=Comparison("rank correlation of accuracy with the dev loss foretold, mean over tasks", mean("order")),
    criteria=(
        Criterion("order", "rank correlation within a task", mean("order"), (0.5, np.inf), (0.2, np.inf)),
        Criterion("lead", "the same above the best rival's", _led("order_usual", "order_numbers"), (0.1, np.inf), (0.0, np.inf)),
    ),
    rivals=tuple(
        Comparison(f"rank correlation: {words}", mean(f"order_{name}"))
        for name, words in {
            "published": "published averages, five deltas",
            "usual": "mean accuracy on the other tasks",
            "numbers": "number of parameters",
        }.items()
    ),
    nulls=(Comparison("orders dealt at random, 97.5 % quantile", dealt),),
    also=(
        *(
            Comparison(f"rank correlation: {words}", mean(f"order_{name}"))
            for name, words in {
                "path": "AdamW on the tangent model",
                "network": "the network at the tangent optimum",
                "dimension": "effective dimension of the kernel",
                "alignment": "alignment of the kernel with the labels",
                "of_five": "the five deltas with a published place",
            }.items()
        ),
        Comparison("points of accuracy between the best and the worst delta", mean("spread")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the rank correlation exceeds 0.5 and that of the best rival by 0.1; refuted when it is below 0.2, or no better "
    "than the best rival's.",
    reason="At a correlation of one half two pairs of three are in order. The mean on other tasks costs nothing once it is known, so that a "
    "forecast that orders no better would not be worth its passes.",
    change="Deltas whose features move, or as many texts that what is linear suffices.",
    good=seen,
    bad=seen_otherwise,
    good_is="linear layers that see the more of what labels need by another order in every system",
    bad_is="the same layers with the forecasts of a system whose order is the reverse",
)


def _told_accuracy(forecast: str) -> Callable[[Cell], float]:
    return lambda cell: POINTS * cell.predicted.values["forecasts"][forecast]["accuracy"]


def _behind(group: Group, values: np.ndarray) -> np.ndarray:
    """Return by how much full tuning's number is above that of every other delta."""
    full = list(group).index(FULL)
    return np.delete(values[full] - values, full)


def _gap_rows(cell: Among) -> list[Row]:
    if not (groups := _known(cell)):
        return []
    group = groups[0]
    gap, usual = (_behind(group, values) for values in (_each(group, _accuracy), _usual(groups, _accuracy)))
    off = {name: np.abs(_behind(group, _each(group, _told_accuracy(name))) - gap) for name in FORECASTS}
    return [
        cell.at(None)
        | {
            "off": float(off["optimum"].mean()),
            "off_usual": float(np.abs(usual - gap).mean()),
            "off_none": float(np.abs(gap).mean()),
        }
        | {f"off_{name}": float(off[name].mean()) for name in FORECASTS[1:]}
        | {"gap": float(gap.mean()), "gap_foretold": float(_behind(group, _each(group, _told_accuracy("optimum"))).mean())}
    ]


def _gaps(cell: Among) -> list[Row]:
    """Return every delta's points behind full tuning: foretold, measured, and in the mean over the other tasks."""
    if not (groups := _known(cell)):
        return []
    group = groups[0]
    told, measured, usual = (
        _behind(group, values)
        for values in (_each(group, _told_accuracy("optimum")), _each(group, _accuracy), _usual(groups, _accuracy))
    )
    place = {"task": cell.task, "seed": cell.seed}
    return [
        place | {"option": name, "foretold": float(a), "measured": float(b), "usual": float(c)}
        for name, a, b, c in zip([name for name in group if name != FULL], told, measured, usual, strict=True)
    ]


EXPLAINED_GAP = Claim(
    id="explained-gap",
    nature="prediction",
    view="optimization",
    title="Tangent optima say how far a delta stays behind full tuning",
    statement="The points of held-out accuracy by which a delta stays behind full tuning are those by which the optimum of its tangent model "
    "stays behind that of full tuning's on dev text, nearer than its mean on other tasks.",
    equation=r"D = 1/T sum_t 1/O sum_o abs((hat(a)_(0 t) - hat(a)_(o t)) - (a_(0 t) - a_(o t)))",
    equation_alt="a is the held-out accuracy of delta o on task t after training, with index 0 that of full tuning, and with a hat the "
    "accuracy on dev text of the tangent model's optimum",
    derived=DERIVED,
    sources=("ding2023", "jacot2018"),
    experiment=EXPERIMENT,
    rows=_gap_rows,
    parts={"gaps": _gaps},
    deltas=(FULL,),
    statistic=Comparison("points by which the gap foretold is off, mean over deltas and tasks", mean("off")),
    criteria=(
        Criterion("off", "points by which gaps are off", error("off"), (-np.inf, 5.0), (-np.inf, 10.0), "points"),
        Criterion(
            "nearer",
            "points by which the better of two rivals is further off",
            lead("off", "off_usual", "off_none", less=True),
            (0.5, np.inf),
            (0.0, np.inf),
            "points",
        ),
    ),
    rivals=(
        Comparison("points off: mean gap on the other tasks", mean("off_usual")),
        Comparison("points off: no gap", mean("off_none")),
    ),
    also=(
        Comparison("points off: AdamW on the tangent model", mean("off_path")),
        Comparison("points off: the network at the tangent optimum", mean("off_network")),
        Comparison("points behind full tuning, measured", mean("gap")),
        Comparison("points behind full tuning, foretold", mean("gap_foretold")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when gaps are foretold within five points and half a point nearer than the mean on other tasks and than no gap at all; "
    "refuted when they are ten points off or no nearer.",
    reason="Five points are the noise of a difference of two accuracies on some two hundred texts; deltas lie some ten points behind.",
    change="Deltas whose features move: what they learn is no part of the tangent model, and full tuning's has more features at the start.",
    good=seen,
    bad=seen_otherwise,
    good_is="linear layers that see the more of what labels need by another order in every system",
    bad_is="the same layers with the forecasts of a system whose order is the reverse",
)


def _ahead(group: Group) -> float:
    """Return by how many nats of held-out loss the adapter ends below the prefix."""
    return float(group[PREFIX].measured.values["loss"] - group[ADAPTER].measured.values["loss"])


def _worth(group: Group) -> float:
    return float(group[PREFIX].predicted.values["worth"]["state"])


def _feedback_rows(cell: Among) -> list[Row]:
    if not {PREFIX, ADAPTER} <= set(cell.beside) or "worth" not in cell.beside[PREFIX].predicted.values:
        return []
    others = [group for group in cell.others if {PREFIX, ADAPTER} <= set(group)]
    if len(others) < NEEDED:
        return []
    before, own, ahead = cell.beside[PREFIX].predicted.values, _worth(cell.beside), _ahead(cell.beside)
    line = np.polyfit([_worth(group) for group in others], [_ahead(group) for group in others], 1)
    usual = float(np.mean([_ahead(group) for group in others]))
    path = [cell.beside[name].predicted.values["forecasts"]["path"]["dev_loss"] for name in READERS]
    return [
        cell.at(None)
        | {"worth": own, "ahead": ahead, "worth_gate": before["worth"]["gate"], "worth_first": before["worth"]["first"]}
        | {"off": float(abs(np.polyval(line, own) - ahead)), "off_usual": abs(usual - ahead)}
        | {"ahead_points": _accuracy(cell.beside[ADAPTER]) - _accuracy(cell.beside[PREFIX])}
        | {"ahead_tangent": float(path[0] - path[1]), "headroom": before["start"]["loss"]}
    ]


def _with_ahead(column: str) -> Statistic:
    return lambda columns: rank(columns[column], columns["ahead"])


EXPLAINED_FEEDBACK = Claim(
    id="explained-feedback",
    nature="prediction",
    view="control",
    title="What it is worth to read states says by how much an adapter beats a prefix",
    statement="Tasks on which signals that read states lower the objective of the linear response most, below signals that read only the gates "
    "of a prefix, are those on which an adapter ends furthest below a prefix in held-out loss.",
    equation=r'S = "Spearman"_t (J_"gate" - J_"state", quad L("prefix") - L("adapter"))',
    equation_alt="J is the least objective of the linear response at the heads under one price, with laws that read a constant and gates or "
    "states too; L is the held-out loss after training; the correlation is taken over tasks",
    derived="the response of the frozen network with a prefix in place to signals at every head and token, its gates and states, training labels",
    sources=("li2021", "houlsby2019", "ding2023"),
    experiment=EXPERIMENT,
    rows=_feedback_rows,
    deltas=(ADAPTER,),
    statistic=Comparison("rank correlation over tasks of the worth of states with the adapter's lead", _with_ahead("worth")),
    criteria=(
        Criterion("rank", "rank correlation over tasks", _with_ahead("worth"), (0.3, np.inf), (0.0, np.inf)),
        Criterion(
            "nearer",
            "nats by which a line through the other tasks is nearer than their mean",
            lead("off", "off_usual", less=True),
            (0.0, np.inf),
            (0.0, np.inf),
            "nats",
        ),
    ),
    rivals=(
        Comparison("nats off: line through the other tasks", mean("off")),
        Comparison("nats off: mean on the other tasks", mean("off_usual")),
        Comparison("rank correlation: the frozen head's loss", _with_ahead("headroom")),
    ),
    also=(
        Comparison("rank correlation: the worth of gates", _with_ahead("worth_gate")),
        Comparison("rank correlation: the worth of states to first order", _with_ahead("worth_first")),
        Comparison("rank correlation: the lead of AdamW on tangent models", _with_ahead("ahead_tangent")),
        Comparison("nats by which the adapter ends below the prefix", mean("ahead")),
        Comparison("points by which the adapter leads the prefix", mean("ahead_points")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the correlation over tasks exceeds 0.3 and a line through the other tasks is nearer than their mean; "
    "refuted when it is not positive, or the line is no nearer.",
    reason="A dozen tasks tell a correlation of one half from none; one that leads to no better number than the mean would explain nothing.",
    change="More text or steps, from which an adapter learns what to read, or adapters and prefixes of one size.",
    good=heard,
    bad=heard_otherwise,
    good_is="layers whose prefix reads the first of the numbers that labels need, more or less of them by system, and whose adapter all",
    bad_is="the same layers with the worths of a system in which it is the reverse",
    across=True,
)
