"""Whether a delta serves tasks of its own group untrained, and others less, as no dealing of tasks into groups would make it."""

from collections.abc import Callable
from functools import partial

import numpy as np

from ...statistics import Columns, Statistic
from ...verdict import Criterion
from ..facts.claim import MOSTLY_LEARNS
from ..shared.among import Among, among
from ..shared.claim import Cell, Claim, Comparison, Row
from .experiment import EXPERIMENT
from .plants import alone, shared

POINTS = 100.0
DEALS, SHOWN = 999, 200  # of the groups over the tasks; and those that the figure shows
Pairs = Callable[[Columns], np.ndarray]  # which pairs are meant, of columns


def _group(cell: Cell, kind: str, task: str) -> str | None:
    """Return the group, or the sense of the labels, of a task; None where the study names none."""
    return next((name for name, tasks in cell.predicted.values[kind].items() if task in tasks), None)


def _rows(cell: Among) -> list[Row]:
    """Return one row for every other task whose delta of this name was put onto this task; none for a task without a group."""
    own, frozen = cell.measured.values["accuracy"], cell.predicted.values["start"]["accuracy"]
    rows = []
    for source in (group[cell.delta] for group in getattr(cell, "others", ()) if cell.delta in group):
        groups, senses = ([_group(cell, kind, one.task) for one in (source, cell)] for kind in ("groups", "senses"))
        if source.seed != cell.seed or None in groups:
            continue
        told = source.measured.values["moved"][cell.predicted.values["mark"]]
        same_sense = senses[0] is not None and senses[0] == senses[1] and "kept" in told
        start = source.predicted.values["start"]["accuracy"]
        rows.append(
            cell.at(None)
            | {"source": source.task, "source_group": groups[0], "group": groups[1], "same": float(groups[0] == groups[1])}
            | {"moved": POINTS * (told["fitted"] - frozen), "own": POINTS * (own - frozen)}
            | {"sense": float(same_sense), "kept": POINTS * (told["kept"] - frozen) if same_sense else 0.0}
            | {"source_own": POINTS * (source.measured.values["accuracy"] - start)}
            | _likeness(cell, source)
        )
    return rows


def _likeness(cell: Cell, source: Cell) -> Row:
    """Return how alike two tasks are before training: their heads, their words and their mean features."""
    mine, theirs = cell.predicted.arrays, source.predicted.arrays
    bases = [np.linalg.svd(one["head"], full_matrices=False)[2][: len(one["head"]) - 1] for one in (mine, theirs)]
    words = np.union1d(mine["words"], theirs["words"])
    return {
        "alike_heads": float(np.linalg.norm(bases[0] @ bases[1].T, 2)),
        "alike_words": len(np.intersect1d(mine["words"], theirs["words"])) / max(len(words), 1),
        "alike_means": -float(np.linalg.norm(mine["mean"] - theirs["mean"])),
    }


def _known(columns: Columns) -> dict[str, np.ndarray]:
    """Return the pairs whose source is a target too: a task that an interval leaves out is left out as a source as well."""
    kept = np.isin(columns["source"], columns["task"])
    return {name: values[kept] for name, values in columns.items()}


def _share(columns: Columns, chosen: np.ndarray, column: str = "moved") -> np.ndarray:
    """Return the gain that moved deltas make on chosen pairs, (..., pairs), over that of the targets' own; sums over pairs."""
    with np.errstate(invalid="ignore", divide="ignore"):  # no pair chosen: no number
        return (chosen @ columns[column]) / (chosen @ columns["own"])


def _lead(columns: Columns, chosen: np.ndarray) -> np.ndarray:
    return _share(columns, chosen) - _share(columns, 1.0 - chosen)


def _paired(measure: Callable[[Columns], float]) -> Statistic:
    """Return the statistic "a measure of the pairs whose source is a target too"; NaN where there is none."""

    def statistic(columns: Columns) -> float:
        known = _known(columns)
        return float(measure(known)) if len(known["same"]) else np.nan

    return statistic


def _of(pairs: Pairs, measure: Callable[[Columns, np.ndarray], np.ndarray]) -> Statistic:
    """Return the statistic "a measure of the chosen pairs", over tasks that are sources and targets."""
    return _paired(lambda known: float(measure(known, pairs(known))))


def _within(columns: Columns) -> np.ndarray:
    return columns["same"]


def _between(columns: Columns) -> np.ndarray:
    return 1.0 - columns["same"]


def _likest(column: str) -> Pairs:
    """Return the pairs that lead in a column, as many as lie within groups."""

    def chosen(columns: Columns) -> np.ndarray:
        count = int(columns["same"].sum())
        made = np.zeros(len(columns["same"]))
        made[np.argsort(-columns[column], kind="stable")[:count]] = 1.0
        return made

    return chosen


def _in_sense(pairs: Pairs) -> Pairs:
    return lambda columns: pairs(columns) * columns["sense"]


def dealt(columns: Columns, deals: int = DEALS) -> np.ndarray:
    """Return the lead of transfer within groups under groups dealt out over the tasks, (deals,)."""
    names, where = np.unique(np.concatenate([columns["task"], columns["source"]]), return_inverse=True)
    target, source = np.split(where, 2)
    group = dict(zip(columns["task"], columns["group"], strict=True))
    codes = np.unique([group[name] for name in names], return_inverse=True)[1]
    rng = np.random.default_rng([89, len(names)])
    mixed = np.stack([rng.permutation(codes) for _ in range(deals)])
    return _lead(columns, (mixed[:, target] == mixed[:, source]).astype(float))


@_paired
def chance(columns: Columns) -> float:
    """Return the 97.5 % quantile of the lead under groups dealt out over the tasks."""
    return float(np.quantile(dealt(columns), 0.975))


@_paired
def _above_chance(columns: Columns) -> float:
    return float(_lead(columns, columns["same"])) - chance(columns)


@_paired
def _best_is_near(columns: Columns) -> float:
    """Return the share of targets to which the best source of all is of their group."""
    tasks = np.unique(columns["task"])
    own = [np.where(columns["task"] == task, columns["moved"], -np.inf).argmax() for task in tasks]
    return float(np.mean(columns["same"][own]))


ALIKE = ("alike_heads", "alike_words", "alike_means", "source_own")


@_paired
def _at_equal(columns: Columns) -> float:
    """Return the coefficient of a common group in the gain over the mean own gain, beside all that makes tasks alike."""
    beside = [columns[name] - columns[name].mean() for name in ALIKE]
    spread = [one / (one.std() or 1.0) for one in beside]
    design = np.stack([np.ones(len(columns["same"])), columns["same"], *spread], axis=1)
    return float(np.linalg.lstsq(design, columns["moved"] / columns["own"].mean(), rcond=None)[0][1])


def _deals(cell: Among) -> list[Row]:
    """Return the lead under groups dealt out over the tasks, once for a delta and seed, on its first task by name."""
    cells = [cell, *(group[cell.delta] for group in cell.others if cell.delta in group)]
    if cell.task != min(one.task for one in cells):
        return []
    rows = [row for one in among(cells) for row in _rows(one)]
    if not rows:
        return []
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    place = {"task": cell.task, "delta": cell.delta, "seed": cell.seed}
    found = float(_lead(columns, columns["same"]))
    return [place | {"draw": k, "lead": float(lead), "found": found} for k, lead in enumerate(dealt(columns, SHOWN))]


_WORDS = {
    "alike_heads": "heads most alike",
    "alike_words": "most words in common",
    "alike_means": "nearest mean features",
    "source_own": "sources of the most own gain",
}

FACTS_TRANSFER = Claim(
    id="facts-transfer",
    nature="prediction",
    view="optimization",
    title="A delta serves tasks of its own group untrained, and others less",
    statement="Put untrained onto another task of its group, whose head is fitted under it, a delta makes half of the gain that the "
    "task's own delta makes over the frozen head, and a fifth of it more than on tasks of other groups, which is more than groups dealt "
    "out over the tasks give.",
    equation=r"tau = frac(sum_((s, t) in W) (a_(s t) - a_t), sum_((s, t) in W) (a_(t t) - a_t)), quad Delta = tau_W - tau_B",
    equation_alt="a is held-out accuracy on target task t: with one index that of the head fitted on the frozen network, with two that "
    "under the delta tuned on source s, with its own head where both are one task; W are the ordered pairs of different tasks of one "
    "group, B those of two",
    derived="that zero-shot transfer is good within a type of tasks and low between types, published for twelve tasks of five types on "
    "T5-base, as recalled; groups were named before any delta was moved",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"deals": _deals},
    statistic=Comparison("share of the own gain within groups, less that between them", _of(_within, _lead)),
    criteria=(
        Criterion("within", "share of the own gain within groups", _of(_within, _share), (0.5, np.inf), (0.25, np.inf)),
        Criterion("lead", "share within groups less that between", _of(_within, _lead), (0.2, np.inf), (0.1, np.inf)),
        Criterion("chance", "that lead above 39 of 40 dealings", _above_chance, (0.0, np.inf), (-0.1, np.inf)),
    ),
    rivals=tuple(
        Comparison(f"the same lead of as many pairs: {words}", _of(_likest(name), _lead)) for name, words in _WORDS.items()
    ),
    nulls=(Comparison("groups dealt out over the tasks, 97.5 % quantile of the lead", chance),),
    also=(
        Comparison("share of the own gain between groups", _of(_between, _share)),
        Comparison("lead of a common group beside likeness of heads, words, means and the source's gain", _at_equal),
        Comparison("share of targets whose best source is of their group", _best_is_near),
        Comparison(
            "share within groups, with the source's head, labels of one sense",
            _of(_in_sense(_within), partial(_share, column="kept")),
        ),
        Comparison(
            "share between groups, with the source's head, labels of one sense",
            _of(_in_sense(_between), partial(_share, column="kept")),
        ),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when deltas from the group make more than half of the own gain, a fifth of it more than deltas from other groups, "
    "and that lead exceeds what 39 of 40 dealings of the groups give; refuted when they make less than a quarter, lead by less than a "
    "tenth, or lead by a tenth less than that quantile.",
    reason="A half and a fifth are what a reader of good and of low would expect at the least. Every head is fitted on the target's "
    "training texts, so that it is the delta alone that is not trained. An interval leaves a task out as target and as source.",
    change="Other groups, larger backbones, on which deltas change less, or deltas without a head of their own while they are tuned.",
    across=True,
    good=shared,
    bad=alone,
    good_is="linear layers of twelve tasks in four groups, labels of a group needing the same numbers",
    bad_is="the same with numbers of its own for every task",
)
