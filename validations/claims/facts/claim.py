"""What a hundred trainings say of the published facts: the order of the deltas, their gap to full tuning, their convergence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.stats import spearmanr

from ...statistics import Columns, Statistic
from ...verdict import Criterion
from ..practice.runs import LEARNS, steps_to
from ..shared.claim import Cell, Claim, Comparison, Row, mean, octaves
from .experiment import EXPERIMENT
from .plants import ALIKE, APART, FULL, PACED, PUBLISHED_ORDER, SHORT, compared

# Averages over the tasks of the main table of Ding et al. (2023), T5-base, as they are recalled.
PUBLISHED = {FULL: 67.96, "lora": 66.06, "adapter": 65.58, "prefix": 64.07, "prompt": 48.81}
STAGES = np.array([0.0, 1.0, 1.0, 2.0, 3.0])  # in which the published order's deltas converge: LoRA and adapter together
FINAL = 0.95  # of a run's own fall of the held-out loss
WORK = {FULL: 3.0}  # passes of a text at a step: forwards, back through the states, and for weights that are trained once more
OTHERS_WORK = 2.0
# Tasks are not chosen by what tuning gains there, so that on some of them nothing is learnt.
MOSTLY_LEARNS = replace(LEARNS, needed=0.5)


def rank(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's correlation, 0 where either is constant."""
    return float(spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else 0.0


def _compared(cell: Cell) -> list[Cell]:
    """Return the cells of the deltas of the published order beside a cell, and none where one of them is missing."""
    return [cell.beside[name] for name in PUBLISHED_ORDER] if set(PUBLISHED_ORDER) <= set(cell.beside) else []


def _accuracies(cells: list[Cell]) -> np.ndarray:
    return np.array([one.measured.values["accuracy"] for one in cells])


def _numbers(cells: list[Cell]) -> np.ndarray:
    return np.array([one.predicted.values["numbers"] for one in cells])


def _order_rows(cell: Cell) -> list[Row]:
    if not (cells := _compared(cell)):
        return []
    reached, places = _accuracies(cells), np.arange(len(cells))
    return [
        cell.at(None)
        | {"order": rank(-places, reached), "order_counted": rank(_numbers(cells), reached)}
        | {"spread": float(100 * np.ptp(reached)), "best_is_full": float(reached.argmax() == 0)}
    ]


def _deltas(cell: Cell) -> list[Row]:
    """Return what every delta reached on a task, those without a published place too; the frozen head's under `frozen`."""
    frozen = 100 * cell.predicted.values["start"]["accuracy"]
    return [
        {"task": cell.task, "seed": cell.seed, "option": name, "accuracy": 100 * one.measured.values["accuracy"]}
        | {"frozen": frozen, "majority": 100 * cell.predicted.values["majority"], "numbers": one.predicted.values["numbers"]}
        for name, one in cell.beside.items()
    ]


def _told(cell: Cell) -> list[Row]:
    """Return the published averages, of deltas that have one."""
    place = {"task": cell.task, "seed": cell.seed}
    return [place | {"option": name, "published": PUBLISHED[name]} for name in cell.beside if name in PUBLISHED]


def dealt(columns: Columns) -> float:
    """Return the 97.5 % quantile of the mean rank correlation under orders dealt at random, each of variance 1 over k - 1."""
    return float(1.96 / np.sqrt((len(PUBLISHED_ORDER) - 1) * len(set(map(str, columns["task"])))))


def _over(column: str, rival: str) -> Statistic:
    return lambda columns: float(np.mean(columns[column] - columns[rival]))


FACTS_ORDER = Claim(
    id="facts-order",
    nature="prediction",
    view="optimization",
    title="Full tuning does best, then LoRA, adapter, prefix and prompt",
    statement="Within a task, held-out accuracy falls in the published order of the averages: full tuning, LoRA, adapter, prefix, prompt.",
    equation=r'S = 1/T sum_t "Spearman"_o (-pi_o, a_(o t)), quad pi = (1, dots.h, 5)',
    equation_alt="a is the held-out accuracy of delta o on task t, at the step that dev text chose, and pi the delta's place in the "
    "published order; the rank correlation is taken within a task, and its mean over tasks",
    derived="the order of the averages over more than a hundred tasks on T5-base",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_order_rows,
    parts={"deltas": _deltas, "published": _told},
    deltas=(FULL,),
    statistic=Comparison("rank correlation of accuracy with the published order, mean over tasks", mean("order")),
    criteria=(
        Criterion("order", "rank correlation with the published order", mean("order"), (0.5, np.inf), (0.2, np.inf)),
        Criterion(
            "lead",
            "the same above that with the number of parameters",
            _over("order", "order_counted"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(Comparison("rank correlation with the number of parameters", mean("order_counted")),),
    nulls=(Comparison("orders dealt at random, 97.5 % quantile", dealt),),
    also=(
        Comparison("points of accuracy between the best and the worst of the five", mean("spread")),
        Comparison("share of tasks on which full tuning is best", mean("best_is_full")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the rank correlation exceeds 0.5 and that of the number of parameters by 0.1; refuted when it is below 0.2, "
    "or no better than that of the number of parameters.",
    reason="At a correlation of one half two pairs of three are in order. Deltas are sized so that their numbers are in the order of the "
    "published ratios, in which a prefix has more than an adapter and that more than LoRA, and the two orders differ.",
    change="A larger backbone, on which a prompt comes near to full tuning, or other sizes of the deltas.",
    good=partial(compared, EXPERIMENT, APART),
    bad=partial(compared, EXPERIMENT, APART.reversed()),
    good_is="linear layers that see the less of what labels need the later they stand in the published order",
    bad_is="the same layers in the reverse order",
)


def _gap_rows(cell: Cell) -> list[Row]:
    if FULL not in cell.beside:
        return []
    full = cell.beside[FULL]
    majority, frozen = full.predicted.values["majority"], full.predicted.values["start"]["accuracy"]
    own, all_of_it = cell.measured.values["accuracy"], full.measured.values["accuracy"]
    levels = {"over": own - majority, "over_full": all_of_it - majority, "over_frozen": frozen - majority}
    return [cell.at(None) | {name: 100 * value for name, value in levels.items()} | {"behind": 100 * (all_of_it - own)}]


def _of_full(column: str) -> Statistic:
    return lambda columns: float(np.sum(columns[column]) / np.sum(columns["over_full"]))


def _share_of_gain(columns: Columns) -> float:
    """Return the delta's gain over the frozen head as a share of full tuning's, both summed over tasks."""
    frozen = columns["over_frozen"]
    return float(np.sum(columns["over"] - frozen) / np.sum(columns["over_full"] - frozen))


def _published(columns: Columns) -> float:
    """Return the published averages of the rows' deltas over full tuning's, in the mean; NaN where none of them has one."""
    told = [PUBLISHED[name] for name in sorted(set(map(str, columns["delta"])) & set(PUBLISHED))]
    return float(np.mean(told)) / PUBLISHED[FULL] if told else np.nan


FACTS_GAP = Claim(
    id="facts-gap",
    nature="prediction",
    view="optimization",
    title="A delta comes near to what full tuning reaches",
    statement="What a delta reaches above the share of the largest class is nine tenths of what full tuning reaches above it, and its gain "
    "over the frozen head three quarters of full tuning's.",
    equation=r"rho = frac(sum_t (a_t - c_t), sum_t (a_(0 t) - c_t))",
    equation_alt="a is the held-out accuracy of the delta on task t, with index 0 that of full tuning, and c the share of the largest class",
    derived="the averages over more than a hundred tasks on T5-base, as recalled: over full tuning's, those of LoRA are 0.972, of adapters "
    "0.965, of prefixes 0.943 and of prompts 0.718",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_gap_rows,
    deltas=(*PUBLISHED_ORDER[1:], "bitfit", "ln-tuning"),
    statistic=Comparison("accuracy above the largest class, over full tuning's", _of_full("over")),
    criteria=(
        Criterion(
            "relative", "accuracy above the largest class, over full tuning's", _of_full("over"), (0.9, np.inf), (0.8, np.inf)
        ),
        Criterion("gain", "gain over the frozen head, over full tuning's", _share_of_gain, (0.75, np.inf), (0.5, np.inf)),
    ),
    rivals=(Comparison("published average over full tuning's, as recalled, not corrected for chance", _published),),
    nulls=(Comparison("accuracy of the frozen head above the largest class, over full tuning's", _of_full("over_frozen")),),
    also=(Comparison("points of held-out accuracy behind full tuning", mean("behind")),),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the accuracy above the largest class is above nine tenths of full tuning's and the gain above three quarters; "
    "refuted when the one is below eight tenths or the other below one half.",
    reason="The published averages of all deltas but the prompt are above nine tenths, before correction for chance, which is the frozen "
    "model's too; a delta must make most of the gain itself.",
    change="More steps, from which deltas gain more than full tuning, or fewer texts.",
    good=partial(compared, EXPERIMENT, ALIKE, PUBLISHED_ORDER[1:2]),
    bad=partial(compared, EXPERIMENT, SHORT, PUBLISHED_ORDER[1:2]),
    good_is="a linear layer that sees all of what labels need, as full tuning does",
    bad_is="one that sees a quarter of it",
)


def arrival(looks: Sequence[Mapping], start: float, last: int, loss: str = "loss") -> float:
    """Return the step by which a run made 95 % of its own fall of a loss at step `last`; the last of all where it never fell."""
    if next(look for look in looks if look["step"] == last)[loss] >= start:
        return float(looks[-1]["step"])
    return steps_to(looks, start, last, loss, FINAL)


def arrived(cell: Cell) -> float:
    """Return the step by which a run made 95 % of its own final fall of the held-out loss."""
    told = cell.measured.values
    return arrival(told["looks"], cell.predicted.values["start"]["loss"], told["step"])


def _convergence_rows(cell: Cell) -> list[Row]:
    if not (cells := _compared(cell)):
        return []
    steps = np.array([arrived(one) for one in cells])
    later = {name: octaves(one / steps[0]) for name, one in zip(PUBLISHED_ORDER, steps, strict=True)}
    return [
        cell.at(None)
        | {"order": rank(STAGES, steps), "order_counted": rank(-_numbers(cells), steps)}
        | {"first": (later["lora"] + later["adapter"]) / 2, "alike": later["adapter"] - later["lora"]}
        | {"prefix_later": later["prefix"], "prompt_later": later["prompt"], "steps": float(steps[0])}
    ]


def _curves(cell: Cell) -> list[Row]:
    """Return, for every delta and look, the share of its own final fall of the held-out loss that is made; none where it never fell."""
    rows = []
    for name, one in cell.beside.items():
        start, told = one.predicted.values["start"]["loss"], one.measured.values
        if (final := start - told["loss"]) > 0:
            rows += [
                {
                    "task": cell.task,
                    "seed": cell.seed,
                    "option": name,
                    "step": look["step"],
                    "made": (start - look["loss"]) / final,
                }
                for look in told["looks"][1:]
            ]
    return rows


def _work(column: str) -> Statistic:
    """Return the statistic "octaves of work by which a delta is later than full tuning"."""
    return lambda columns: float(np.mean(columns[column]) + octaves(OTHERS_WORK / WORK[FULL]))


FACTS_CONVERGENCE = Claim(
    id="facts-convergence",
    nature="prediction",
    view="optimization",
    title="Full tuning converges first, then LoRA and adapter, prefix and prompt",
    statement="Within a task, the step by which a run has made 95 % of its own final fall of the held-out loss comes first under full "
    "tuning, then under LoRA and adapter, under a prefix, and last under a prompt.",
    equation=r'S = 1/T sum_t "Spearman"_o (pi_o, n_(o t)), quad L(n_(o t)) = L_0 - 0.95 (L_0 - L_(o t))',
    equation_alt="n is the step of delta o on task t, between looks in its logarithm, by which 95 % of the fall of the held-out loss L are "
    "made that it has made at the step which dev text chose, and pi the published stage, in which LoRA and adapter are one",
    derived="the published curves on T5-base, as they are told",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_convergence_rows,
    parts={"curves": _curves},
    deltas=(FULL,),
    statistic=Comparison("rank correlation of the step with the published stage, mean over tasks", mean("order")),
    criteria=(
        Criterion("order", "rank correlation with the published stage", mean("order"), (0.5, np.inf), (0.2, np.inf)),
        Criterion(
            "first", "octaves from full tuning to LoRA and adapter", mean("first"), (0.25, np.inf), (0.0, np.inf), "octaves"
        ),
        Criterion(
            "lead",
            "rank correlation above that with the number of parameters",
            _over("order", "order_counted"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(Comparison("rank correlation of the step with few parameters", mean("order_counted")),),
    nulls=(Comparison("orders dealt at random, 97.5 % quantile", dealt),),
    also=(
        Comparison("octaves from LoRA to adapter", mean("alike")),
        Comparison("octaves from full tuning to the prefix", mean("prefix_later")),
        Comparison("octaves from full tuning to the prompt", mean("prompt_later")),
        Comparison("octaves of work from full tuning to LoRA and adapter", _work("first")),
        Comparison("octaves of work from full tuning to the prompt", _work("prompt_later")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when the rank correlation exceeds 0.5 and that of the number of parameters by 0.1, and LoRA and adapter take a fifth "
    "more steps than full tuning; refuted when it is below 0.2 or no better than that of the number of parameters, or they take no more.",
    reason="Looks are about an octave apart and the step lies between them, and a quarter of an octave over many tasks is told from "
    "none. Each run is counted by its own end, so that a delta which learns little may arrive soon.",
    change="Rates for each task: those of the study are one for a delta, chosen on other tasks.",
    good=partial(compared, EXPERIMENT, PACED),
    bad=partial(compared, EXPERIMENT, PACED.reversed()),
    good_is="linear layers whose numbers are in the smaller units the later they stand in the published order",
    bad_is="the same layers in the reverse order",
)
