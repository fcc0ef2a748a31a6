"""Whether one code serves several deltas on a task that its decoders never saw: trained, read by another, and side by side."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ...statistics import Statistic
from ...verdict import Criterion, Least
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, lead, mean
from ..shared.plants import own
from .experiment import EXPERIMENT, TESTED
from .landscape import ROOM, common
from .plants import apart, together

POINTS, LEARNT = 100.0, 5.0
ARMS = ("learned", "own", "stick", "pooled", "principal", "random", "dealt")
KEPT, LOST, AHEAD = 0.8, 0.5, 0.2  # of the full performance: the least kept, less than that is lost, and the lead over nulls
SHARED, SPLIT = 1 / 3, 0.1  # of the area where any delta does well, where all do: the least that is common, and none to speak of


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


def _optimised(cell: Cell, arm: str) -> float:
    m = cell.measured.values
    return float(np.mean([r["accuracy"] for r in m["optimised"] if (r["arm"], r["dimension"]) == (arm, m["tested"])]))


def _read(cell: Cell, arm: str) -> list[dict]:
    """Return what codes of the tested dimension reach untrained, pair by pair of deltas."""
    m = cell.measured.values
    return [r for r in m["transferred"] if (r["arm"], r["dimension"]) == (arm, m["tested"])]


def _rows(cell: Cell) -> list[Row]:
    angles = {
        f"angle_{name}": float(np.mean([one[name] for one in cell.predicted.values["angles"].values()]))
        for name in ("foretold", "random")
    }
    return [_place(cell) | {arm: _optimised(cell, arm) for arm in ARMS} | angles]


def _runs(cell: Cell) -> list[Row]:
    """Return every code's run: what it reaches in how many dimensions, through which decoder of which delta."""
    full, place = cell.measured.values["full"], _place(cell)
    return [
        place | {"arm": r["arm"], "dimension": r["dimension"], "delta": r["delta"], "accuracy": r["accuracy"]}
        | {"full": full[r["delta"]]["accuracy"]}
        for r in cell.measured.values["optimised"]
    ]  # fmt: skip


def _transfers(cell: Cell) -> list[Row]:
    """Return one row a pair of deltas, kind of decoder and dimension: what the code of one makes of the other, and nulls."""
    full, place = cell.measured.values["full"], _place(cell)
    return [
        place | {"arm": r["arm"], "dimension": r["dimension"], "from": r["from"], "delta": r["to"]}
        | {"full": full[r["to"]]["accuracy"], "transferred": r["accuracy"]}
        | {null: r.get(null) for null in ("rotated", "foreign")}
        for r in cell.measured.values["transferred"]
    ]  # fmt: skip


def _transferred(cell: Cell) -> list[Row]:
    means = {arm: float(np.mean([r["accuracy"] for r in _read(cell, arm)])) for arm in ARMS}
    learned, place = _read(cell, "learned"), _place(cell) | {"learned": _optimised(cell, "learned")}
    nulls = {null: float(np.mean([r[null] for r in learned])) for null in ("rotated", "foreign")}
    own = {f"own_{null}": float(np.mean([r[null] for r in _read(cell, "own")])) for null in nulls}
    return [place | {"transferred": means.pop("learned")} | means | nulls | own]


def _shared(cell: Cell, arm: str) -> tuple[float, float]:
    """Return the area that is common to all deltas over that of any of them, and over the plane, for an arm."""
    m = cell.measured
    return common({delta: m.arrays[f"landscape/{arm}/{delta}"] for delta in m.values["limits"]}, m.values["limits"])


def _regions(cell: Cell) -> list[Row]:
    areas = {arm: _shared(cell, arm) for arm in ("learned", "own", "rotated", "random")}
    return [
        _place(cell) | {f"shared_{arm}": shared for arm, (shared, _) in areas.items()} | {"area": areas["learned"][1]}
        | {"area_random": areas["random"][1]}
    ]  # fmt: skip


def _grids(cell: Cell) -> list[Row]:
    """Return the share of every delta's fall of the loss that is kept over the plane of the task's own decoders, as published.

    Coordinates are in units of the outermost code.
    """
    m, rows = cell.measured, []
    for delta, (frozen, full) in m.values["limits"].items():
        grid = m.arrays[f"landscape/own/{delta}"]
        along = np.linspace(-ROOM, ROOM, len(grid))
        rows += [
            cell.at(None)
            | {"delta": delta, "x": float(x), "y": float(y), "kept": float((frozen - loss) / max(frozen - full, 1e-9))}
            for y, line in zip(along, grid, strict=True)
            for x, loss in zip(along, line, strict=True)
        ]
    return rows


def _codes(cell: Cell) -> list[Row]:
    """Return where the code that each delta trained falls on the plane."""
    placed = ROOM / float(cell.measured.arrays["extent/own"]) * cell.measured.arrays["plane/own"]
    deltas = cell.measured.values["limits"]
    return [cell.at(None) | {"delta": d, "x": float(x), "y": float(y)} for d, (x, y) in zip(deltas, placed, strict=True)]


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
    rivals=(
        Comparison("corrected E_rel: principal decoders of the same deltas", corrected("principal")),
        Comparison("corrected E_rel: decoders found on the task itself, as published", corrected("own")),
    ),
    nulls=(
        Comparison("corrected E_rel: random decoders of equal norm", corrected("random")),
        Comparison("corrected E_rel: decoders found on tasks whose labels were dealt out", corrected("dealt")),
        *SHOWN,
    ),
    also=(
        Comparison("corrected E_rel: decoders found on all tasks at once, this one among them", corrected("pooled")),
        Comparison("corrected E_rel: decoders found on the task itself under the published weights", corrected("stick")),
        Comparison("published E_rel: decoders found on all tasks at once", published("pooled")),
        Comparison("published E_rel: decoders found on the task itself", published("own")),
        Comparison("mean squared cosine of decoders with the foretold directions", mean("angle_foretold")),
        Comparison("mean squared cosine of decoders with random directions of the row space", mean("angle_random")),
    ),
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
    rivals=(
        Comparison("corrected E_rel: the delta's own code", corrected("learned")),
        Comparison("corrected E_rel: another delta's code, decoders found on the task itself", corrected("own")),
    ),
    nulls=(
        Comparison("corrected E_rel: the code rotated at random", corrected("rotated")),
        Comparison("corrected E_rel: codes of other tasks", corrected("foreign")),
        Comparison("corrected E_rel: another delta's code through random decoders", corrected("random")),
        Comparison(
            "corrected E_rel: another delta's code through decoders of tasks whose labels were dealt out", corrected("dealt")
        ),
        SHOWN[0],
    ),
    also=(
        Comparison("corrected E_rel: another delta's code, decoders found on all tasks at once", corrected("pooled")),
        Comparison(
            "corrected E_rel: another delta's code, decoders found on the task itself, published weights", corrected("stick")
        ),
        Comparison("corrected E_rel: another delta's code rotated, decoders found on the task itself", corrected("own_rotated")),
        Comparison("corrected E_rel: another task's code, decoders found on the task itself", corrected("own_foreign")),
        Comparison("published E_rel: another delta's code, decoders found on the task itself", published("own")),
        Comparison("published E_rel: another delta's code, decoders found on all tasks at once", published("pooled")),
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

CODE_LANDSCAPE = Claim(
    id="code-landscape",
    nature="prediction",
    view="optimization",
    title="All deltas do well in one region of the code",
    statement="Over a plane of the code, through decoders that never saw the task, all deltas together keep half of the fall of their "
    "held-out loss on at least a third of the area where any of them does, and on a fifth more of it than through random decoders and "
    "than with the code rotated for each delta.",
    equation=r"J = frac(abs(inter.big_t A_t), abs(union.big_t A_t)), quad A_t = {I in P : L_t (z_(t,0) + U_t I) <= "
    r"frac(1, 2) (L_t (z_(t,0)) + L_t (z_t))}",
    equation_alt="J is the area common to the regions A t of all deltas over that of their union on a plane P; a delta's region holds the "
    "codes I at which its held-out loss L has fallen half of the way from the frozen network's to that of training all numbers",
    derived=ONE_SUBSPACE.derived + "; the plane is that of the codes trained through the decoders",
    sources=SOURCES,
    experiment=EXPERIMENT,
    rows=_regions,
    parts={"grids": _grids, "codes": _codes},
    statistic=Comparison("area where all deltas do well over that where any does", mean("shared_learned")),
    criteria=(
        Criterion("level", "area of all over that of any", mean("shared_learned"), (SHARED, np.inf), (SPLIT, np.inf)),
        Criterion(
            "lead",
            "the same above nulls",
            lead("shared_learned", "shared_random", "shared_rotated"),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(Comparison("area of all over that of any: decoders found on the task itself", mean("shared_own")),),
    nulls=(
        Comparison("area of all over that of any: random decoders of equal norm", mean("shared_random")),
        Comparison("area of all over that of any: the code rotated for each delta", mean("shared_rotated")),
    ),
    also=(
        Comparison("share of the plane where all deltas do well", mean("area")),
        Comparison("share of the plane where all deltas do well: random decoders", mean("area_random")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the common region is a third of the whole one, and a fifth more of it than both nulls'; refuted below a tenth, or "
    "when it is ahead of neither.",
    reason="A common region on a picture may be that of any two directions which do no harm. Random decoders show what norm alone does, "
    "a rotation for each delta what the regions are worth without a code that means the same to all.",
    change=ONE_SUBSPACE.change,
    good=ONE_SUBSPACE.good,
    bad=ONE_SUBSPACE.bad,
    good_is=ONE_SUBSPACE.good_is,
    bad_is=ONE_SUBSPACE.bad_is,
)
