"""Whether one code serves several deltas on a task that its decoders never saw, trained through one and read by another."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ...statistics import Statistic
from ...verdict import Criterion, Least
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row
from ..shared.plants import own
from .experiment import EXPERIMENT, TESTED
from .plants import apart, together

POINTS, LEARNT = 100.0, 5.0
KEPT, LOST, AHEAD = 0.8, 0.5, 0.2  # of the full performance: the least kept, less than that is lost, and the lead over nulls


def corrected(column: str) -> Statistic:
    """Return the statistic "performance over that of the full deltas, both above the majority's", of means over cells."""
    return lambda c: float(np.mean(c[column] - c["majority"]) / np.mean(c["full"] - c["majority"]))


def published(column: str) -> Statistic:
    """Return the statistic E_rel, performance over that of the full deltas, chance included."""
    return lambda c: float(np.mean(c[column]) / np.mean(c["full"]))


def ahead(column: str, *nulls: str) -> Least:
    """Return the statistic "corrected performance above that of every null"; the least of these leads."""

    def over(null: str) -> Statistic:
        return lambda columns: corrected(column)(columns) - corrected(null)(columns)

    return Least(tuple(over(null) for null in nulls))


def _place(cell: Cell) -> Row:
    """Return the columns of every row: mean held-out accuracy over deltas, trained in full and frozen, and the majority's."""
    p, m = cell.predicted.values, cell.measured.values
    full, frozen = (float(np.mean([one["accuracy"] for one in kind.values()])) for kind in (m["full"], p["frozen"]))
    return cell.at(None) | {"full": full, "frozen": frozen, "majority": p["majority"]}


def _tested(cell: Cell) -> int:
    """Return the dimension at which nulls were tried."""
    return next(row["dimension"] for row in cell.measured.values["optimised"] if row["arm"] == "random")


def _optimised(cell: Cell, arm: str) -> float:
    d = _tested(cell)
    kept = [r["accuracy"] for r in cell.measured.values["optimised"] if (r["arm"], r["dimension"]) == (arm, d)]
    return float(np.mean(kept))


def _rows(cell: Cell) -> list[Row]:
    return [_place(cell) | {arm: _optimised(cell, arm) for arm in ("learned", "random", "principal")}]


def _runs(cell: Cell) -> list[Row]:
    """Return every code's run: what it reaches in how many dimensions, through which decoder of which delta."""
    full, place = cell.measured.values["full"], _place(cell)
    return [
        place | {"arm": r["arm"], "dimension": r["dimension"], "delta": r["delta"], "accuracy": r["accuracy"]}
        | {"full": full[r["delta"]]["accuracy"]}
        for r in cell.measured.values["optimised"]
    ]  # fmt: skip


def _transfers(cell: Cell) -> list[Row]:
    """Return one row a pair of deltas: what the code of one makes of the other."""
    full, place = cell.measured.values["full"], _place(cell)
    return [
        place | {"from": r["from"], "delta": r["to"], "full": full[r["to"]]["accuracy"], "transferred": r["accuracy"]}
        | {"rotated": r["rotated"], "foreign": r["foreign"]}
        for r in cell.measured.values["transferred"]
    ]  # fmt: skip


def _transferred(cell: Cell) -> list[Row]:
    pairs = cell.measured.values["transferred"]
    means = {
        name: float(np.mean([r[key] for r in pairs]))
        for name, key in (("transferred", "accuracy"), ("rotated", "rotated"), ("foreign", "foreign"))
    }
    return [_place(cell) | {"learned": _optimised(cell, "learned")} | means]


def _gain(cell: Cell) -> float:
    place = _place(cell)
    return POINTS * (place["full"] - place["frozen"])


def _gained(cells: Sequence[Cell]) -> str:
    return f"median gain of the full deltas {np.median([_gain(c) for c in cells]):.1f} points"


LEARNS = Assumption(
    "there is something to learn",
    f"trained in full, the deltas end on average at least {LEARNT:.0f} points of held-out accuracy above the frozen network",
    lambda cell: _gain(cell) >= LEARNT,
    _gained,
)
SHOWN = (
    Comparison("corrected E_rel: frozen network", corrected("frozen")),
    Comparison("published E_rel, chance included", published("learned")),
    Comparison("published E_rel: majority of the classes", published("majority")),
)
SOURCES = ("yi2022", "qin2021")

ONE_SUBSPACE = Claim(
    id="one-subspace",
    nature="prediction",
    view="optimization",
    title="Deltas of a new task lie in a subspace found on other tasks",
    statement=f"Decoders of one code of {TESTED} numbers into prefix, adapter and LoRA, found on other tasks, serve a task that they "
    "never saw: a code trained through them keeps at least four fifths of what each delta reaches with all its numbers, chance taken "
    "off, and a fifth more than one trained through random decoders.",
    equation=r"E = frac(sum_t p (z_(t,0) + U_t I_t) - p_0, sum_t p (z_t) - p_0), quad I_t = limits(arg min)_I L_t (z_(t,0) + U_t I)",
    equation_alt="E is held-out accuracy p with the best code through the decoders U t, summed over deltas t, over that with all numbers, "
    "both less the accuracy p nought of the largest class",
    derived="deltas trained on other tasks and the frozen network; nothing of the new task",
    sources=SOURCES,
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"runs": _runs},
    statistic=Comparison("corrected E_rel of a code through decoders of other tasks", corrected("learned")),
    criteria=(
        Criterion("level", "corrected E_rel", corrected("learned"), (KEPT, np.inf), (LOST, np.inf)),
        Criterion("lead", "corrected E_rel above nulls", ahead("learned", "random", "frozen"), (AHEAD, np.inf), (0.0, np.inf)),
    ),
    rivals=(Comparison("corrected E_rel: principal decoders of the same deltas", corrected("principal")),),
    nulls=(Comparison("corrected E_rel: random decoders of equal norm", corrected("random")), *SHOWN),
    assumptions=(LEARNS,),
    rule="Supported when a code keeps four fifths of the full deltas' performance above chance, and a fifth more than one through random "
    "decoders and than the frozen network; refuted below a half, or when it is ahead of neither.",
    reason="The published E_rel counts chance and what the frozen network knows as kept, and has no null. Decoders found on the task "
    "itself hold its own solution, so that only a task which they never saw says anything.",
    change="Tasks whose heads look at other features, or too few tasks to span what they share.",
    good=partial(own, EXPERIMENT, together),
    bad=partial(own, EXPERIMENT, apart),
    good_is="tasks that need mixtures of the same two signals",
    bad_is="tasks that need two signals each of their own",
)

CODE_TRANSFER = Claim(
    id="code-transfer",
    nature="prediction",
    view="optimization",
    title="A code found with one delta serves another without training",
    statement="A code trained on a new task through one delta's decoder, read by another delta's and not trained further, keeps at least "
    "four fifths of what that delta reaches with all its numbers, chance taken off, and a fifth more than the same code rotated, than "
    "codes of other tasks and than the frozen network.",
    equation=r"T = frac(sum_(s != t) p (z_(t,0) + U_t I_s) - p_0, sum_(s != t) p (z_t) - p_0)",
    equation_alt="T is held-out accuracy p of delta t with the code of delta s, summed over pairs of different deltas, over that with all "
    "numbers, both less the accuracy p nought of the largest class",
    derived=ONE_SUBSPACE.derived,
    sources=SOURCES,
    experiment=EXPERIMENT,
    rows=_transferred,
    parts={"transfers": _transfers},
    statistic=Comparison("corrected E_rel of another delta's code, untrained", corrected("transferred")),
    criteria=(
        Criterion("level", "corrected E_rel", corrected("transferred"), (KEPT, np.inf), (LOST, np.inf)),
        Criterion(
            "lead",
            "corrected E_rel above nulls",
            ahead("transferred", "rotated", "foreign", "frozen"),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(Comparison("corrected E_rel: the delta's own code", corrected("learned")),),
    nulls=(
        Comparison("corrected E_rel: the code rotated at random", corrected("rotated")),
        Comparison("corrected E_rel: codes of other tasks", corrected("foreign")),
        SHOWN[0],
    ),
    assumptions=(LEARNS,),
    rule="Supported when another delta's code keeps four fifths of the performance above chance, and a fifth more than the code rotated, "
    "than other tasks' codes and than the frozen network; refuted below a half, or when it is behind one of them.",
    reason=ONE_SUBSPACE.reason + " A rotated code is as long; another task's was found in the same way.",
    change=ONE_SUBSPACE.change,
    good=ONE_SUBSPACE.good,
    bad=ONE_SUBSPACE.bad,
    good_is=ONE_SUBSPACE.good_is,
    bad_is=ONE_SUBSPACE.bad_is,
)
