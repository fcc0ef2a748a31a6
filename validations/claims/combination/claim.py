"""Whether deltas together do better than the best of them alone: at once, and one after another."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from ...statistics import Columns
from ...verdict import Criterion
from ..facts.claim import MOSTLY_LEARNS
from ..shared.among import Among, among
from ..shared.claim import Cell, Claim, Comparison, Row, mean
from .experiment import EXPERIMENT
from .plants import AT_ONCE, IN_SEQUENCE, SINGLES, joined, spoilt

POINTS = 100.0
ADAPTER = "adapter"


def _reached(group: Mapping[str, Cell], names: Sequence[str]) -> np.ndarray:
    return np.array([POINTS * group[name].measured.values["accuracy"] for name in names])


def _elsewhere(cell: Among, names: Sequence[str]) -> int:
    """Return the place of the option with the highest mean accuracy on the other tasks."""
    return int(np.mean([_reached(group, names) for group in cell.others], axis=0).argmax())


def _rows(combined: Sequence[str], cell: Among) -> list[Row]:
    """Return by how many points a combination that was chosen on other tasks leads the single delta that was chosen there."""
    every = {*SINGLES, *combined}
    groups = tuple(group for group in cell.others if every <= set(group))
    if not groups or not every <= set(cell.beside):
        return []
    known = Among(cell.task, cell.delta, cell.seed, cell.predicted, cell.measured, cell.beside, groups)
    alone, together = _reached(cell.beside, SINGLES), _reached(cell.beside, combined)
    single, joint = alone[_elsewhere(known, SINGLES)], together[_elsewhere(known, combined)]
    return [
        cell.at(None)
        | {"lead": float(joint - single), "lead_hindsight": float(together.max() - alone.max())}
        | {"lead_mean": float(together.mean() - alone.mean()), "single": float(single), "joint": float(joint)}
    ]


def _options(cell: Among) -> list[Row]:
    """Return what every option reached on a task."""
    return [
        {"task": cell.task, "seed": cell.seed, "option": name, "accuracy": POINTS * one.measured.values["accuracy"]}
        for name, one in cell.beside.items()
    ]


def _planted(made: partial) -> list[Among]:
    """Return a plant's cells among all of its systems'."""
    every = {id(one): one for cell in made() for one in cell.beside.values()}
    return [cell for cell in among(list(every.values())) if cell.delta == ADAPTER]


EQUATION = r"Delta = 1/T sum_t (a_(hat(c) t) - a_(hat(s) t)), quad hat(c) = arg max_c sum_(u != t) a_(c u)"
EQUATION_ALT = (
    "a is the held-out accuracy of an option on a task t, in points; the combination c and the single delta s are those of the highest "
    "mean on the other tasks u, so that the best of several is not the luckiest"
)
LEAD = (
    Criterion(
        "lead", "points by which the combination leads the best single", mean("lead"), (0.5, np.inf), (0.0, np.inf), "points"
    ),
)
HINDSIGHT = Comparison("points by which the best in hindsight leads the best single in hindsight", mean("lead_hindsight"))
AVERAGE = Comparison("points by which the mean combination leads the mean single delta", mean("lead_mean"))
STATISTIC = Comparison("points of held-out accuracy by which the combination leads the best single delta", mean("lead"))
NULLS = (Comparison("no lead", lambda columns: 0.0),)
RULE = (
    "Supported when the combination that is best on other tasks leads the single delta that is best there by half a point; refuted when "
    "it does not lead."
)
REASON = (
    "Half a point is the standard deviation over seeds of the published averages. Several combinations stand against three single deltas, "
    "so that the best in hindsight leads by luck: it decides nothing and is shown beside."
)
CHANGE = "Rates and steps of its own for every part, or a backbone on which a prompt does as well as an adapter."
GOOD, BAD = partial(_planted, joined), partial(_planted, spoilt)
GOOD_IS = "linear layers that see little of what labels need alone, and all of it together"
BAD_IS = "layers that see less of it together than alone"

# Of averages over GLUE on RoBERTa-large; of 16 texts of a class only two rows of the table were read, SST-2 and CoLA's correlation.
PUBLISHED_LEADS = {"all data": -0.3, "all data in a template": -0.1, "16 texts of a class, mean of CoLA and SST-2": 1.15}


def _published(lead: float, columns: Columns) -> float:
    """Return what was published, whatever the rows say."""
    return lead


FACTS_COMBINATION = Claim(
    id="facts-combination",
    nature="prediction",
    view="optimization",
    title="Deltas tuned at once do better than the best of them alone",
    statement="A combination of prompt, BitFit and adapter that are tuned at once reaches a higher held-out accuracy than the best of the "
    "three alone, in as many steps.",
    equation=EQUATION,
    equation_alt=EQUATION_ALT,
    derived="the published summary; the published averages on RoBERTa-large with all data say the contrary: the adapter alone 87.4, with "
    "BitFit 87.1, with a prompt 86.6, all three 87.0; in a template 87.4, 87.3, 86.9 and 86.8",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=partial(_rows, AT_ONCE),
    parts={"options": _options},
    deltas=(ADAPTER,),
    statistic=STATISTIC,
    criteria=LEAD,
    rivals=tuple(
        Comparison(f"published lead of the best combination over the adapter alone, {where}", partial(_published, lead))
        for where, lead in PUBLISHED_LEADS.items()
    ),
    nulls=NULLS,
    also=(HINDSIGHT, AVERAGE),
    assumptions=(MOSTLY_LEARNS,),
    rule=RULE,
    reason=REASON,
    change=CHANGE,
    good=GOOD,
    bad=BAD,
    good_is=GOOD_IS,
    bad_is=BAD_IS,
)

FACTS_SEQUENCE = Claim(
    id="facts-sequence",
    nature="prediction",
    view="optimization",
    title="Deltas tuned one after another do better than the best of them alone",
    statement="Prompt, BitFit and adapter that are tuned one after another, each frozen before the next in some order, reach a higher "
    "held-out accuracy than the best of the three alone, in as many steps.",
    equation=EQUATION,
    equation_alt=EQUATION_ALT,
    derived="the published summary of the orders, as it is recalled",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=partial(_rows, IN_SEQUENCE),
    parts={"options": _options},
    deltas=(ADAPTER,),
    statistic=STATISTIC,
    criteria=LEAD,
    rivals=(HINDSIGHT,),
    nulls=NULLS,
    also=(AVERAGE,),
    assumptions=(MOSTLY_LEARNS,),
    rule=RULE,
    reason=REASON,
    change=CHANGE,
    good=GOOD,
    bad=BAD,
    good_is=GOOD_IS,
    bad_is=BAD_IS,
)
