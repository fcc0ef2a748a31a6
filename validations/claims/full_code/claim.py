"""Whether full tuning lies in the deltas' subspace, whether codes between both do well, and whether codes move outputs alike."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from ...statistics import Statistic
from ...verdict import Criterion, Least
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, mean, relative
from ..shared.claim import lead as above
from ..shared.plants import own
from ..subspace.claim import AHEAD, KEPT, LEARNT, LOST, POINTS, ahead, corrected, published
from .experiment import EXPERIMENT, FULL
from .plants import inborn, separate, wide

BARRIER, WALL = 0.1, 0.5  # of the fall of the reader's loss: the highest barrier that is none to speak of, and one that divides
ALIKE, UNLIKE = 0.5, 0.2  # mean cosine of Jacobians: the least that is alike, and none to speak of
READ, UNREAD = 0.5, 0.25  # of what a reader reaches by its own training: the least kept by another's code, and none to speak of
WAYS = ("into", "out")  # full tuning reads a delta's code, and a delta full tuning's
NULLS = ("rotated", "dealt")


def _where(rows: Sequence[Mapping], column: str, **wanted: object) -> float:
    """Return the mean of a column over the rows that have the wanted values."""
    return float(np.mean([row[column] for row in rows if all(row[key] == value for key, value in wanted.items())]))


def _least(cell: Cell) -> int:
    return min(row["dimension"] for row in cell.measured.values["optimised"])


def _most(cell: Cell) -> int:
    return max(row["dimension"] for row in cell.measured.values["optimised"])


def _place(cell: Cell) -> Row:
    """Return the columns of every row: held-out accuracy of full tuning, of the frozen network and of the majority."""
    p, m = cell.predicted.values, cell.measured.values
    return cell.at(None) | {
        "full": m["full"][FULL]["accuracy"],
        "frozen": p["frozen"][FULL]["accuracy"],
        "majority": p["majority"],
    }


def _rows(cell: Cell) -> list[Row]:
    m, most, least = cell.measured.values, _most(cell), _least(cell)

    def reached(arm: str, d: int) -> float:
        return _where(m["optimised"], "accuracy", arm=arm, dimension=d, delta=FULL)

    def deltas(arm: str) -> float:
        return float(
            np.mean([r["accuracy"] for r in m["optimised"] if (r["arm"], r["dimension"]) == (arm, most) and r["delta"] != FULL])
        )

    searched = {"searched": reached("searched", least), "searched_own": reached("searched own", least)}
    few = {"within_few": reached("own", least), "deltas": deltas("own"), "deltas_learned": deltas("learned")}
    several = {"tuned": float(np.mean([one["accuracy"] for name, one in m["full"].items() if name != FULL]))}
    return [_place(cell) | {"within": reached("own", most), "lost": m["lost"]["accuracy"]} | searched | few | several]


def _runs(cell: Cell) -> list[Row]:
    """Return every code's run: what it reaches in how many dimensions, through which decoder of which delta."""
    full, place = cell.measured.values["full"], _place(cell)
    return [
        place | {"arm": r["arm"], "dimension": r["dimension"], "delta": r["delta"], "accuracy": r["accuracy"]}
        | {"full": full[r["delta"]]["accuracy"]}
        for r in cell.measured.values["optimised"]
    ]  # fmt: skip


def barrier(points: Sequence[Mapping]) -> float:
    """Return how far the loss on a segment rises above the line between its ends, max_a L(a) - (1 - a) L(0) - a L(1)."""
    at, loss = (np.array([point[key] for point in points]) for key in ("at", "loss"))
    return float(np.max(loss - (1.0 - at) * loss[0] - at * loss[-1]))


def _connected(cell: Cell) -> list[Row]:
    p, m = cell.predicted.values, cell.measured.values
    row = _place(cell)
    for arm in ("learned", "own", "apart"):
        end = "" if arm == "learned" else f"_{arm}"
        for way, to_full in zip(WAYS, (True, False), strict=True):
            read = [r for r in _pairs(cell, arm) if (r["to"] == FULL) == to_full]
            row[f"{way}{end}"] = _where(read, "accuracy")
            if arm == "learned":
                row |= {f"{way}_{null}": _where(read, null) for null in NULLS}
    row["tuned"] = float(np.mean([one["accuracy"] for name, one in m["full"].items() if name != FULL]))
    fall = [p["frozen"][r["to"]]["loss"] - m["full"][r["to"]]["loss"] for r in _pairs(cell)]
    heights = {
        (arm, kind): float(np.mean([barrier(_segment(cell, arm, kind, pair)) for pair in _pairs(cell)]))
        for arm, kind in (("learned", "between"), ("learned", "dealt"), ("own", "between"))
    }
    named = {"barrier": ("learned", "between"), "barrier_dealt": ("learned", "dealt"), "barrier_own": ("own", "between")}
    return [row | {name: heights[which] for name, which in named.items()} | {"fall": float(np.mean(fall))}]


def _pairs(cell: Cell, arm: str = "learned") -> list[Mapping]:
    """Return what readers make of each other's codes at the largest dimension, through decoders of a kind."""
    return [r for r in cell.measured.values["transferred"] if (r["arm"], r["dimension"]) == (arm, _most(cell))]


def _segment(cell: Cell, arm: str, kind: str, pair: Mapping) -> list[Mapping]:
    wanted = (arm, kind, pair["from"], pair["to"])
    return [r for r in cell.measured.values["segments"] if (r["arm"], r["kind"], r["from"], r["to"]) == wanted]


def _segments(cell: Cell) -> list[Row]:
    """Return what is kept of the fall of a reader's loss along the segments from its own code to another's, dealt out or not."""
    p, m = cell.predicted.values, cell.measured.values
    rows = []
    for r in m["segments"]:
        frozen, full = p["frozen"][r["to"]]["loss"], m["full"][r["to"]]["loss"]
        kept = (frozen - r["loss"]) / max(frozen - full, 1e-9)
        rows.append(
            cell.at(None) | {"arm": r["arm"], "from": r["from"], "delta": r["to"], "end": r["kind"], "at": r["at"], "kept": kept}
        )
    return rows


def _alignment(cell: Cell) -> list[Row]:
    m, p = cell.measured.values["aligned"], cell.predicted.values

    def pairs(arm: str, column: str, full: bool = False) -> float:
        chosen = [r for r in m if r["arm"] == arm and (FULL in (r["one"], r["other"])) == full]
        return float(np.mean([r[column] for r in chosen]))

    arms = {arm: pairs(arm, "cosine") for arm in ("own", "random", "alone", "dealt")}
    fits = {f"fitted_{arm}": pairs(arm, "fitted") for arm in ("learned", "alone", "random")}
    full = {"full_random": pairs("learned", "cosine", full=True), "full_searched": pairs("searched", "cosine", full=True)}
    learned = {"cosine": pairs("learned", "cosine"), "rotated": pairs("learned", "rotated")}
    return [_place(cell) | learned | arms | fits | full | {"cka": p["cka"], "cka_dealt": p["cka_dealt"]}]


def _aligned(cell: Cell) -> list[Row]:
    """Return the cosine of every pair of readers' Jacobians by kind of decoder."""
    return [
        cell.at(None) | {"arm": r["arm"], "from": r["one"], "delta": r["other"], "cosine": r["cosine"], "fitted": r["fitted"]}
        for r in cell.measured.values["aligned"]
    ]


def _share(column: str, way: str) -> Statistic:
    """Return the statistic "performance of readers over that of their own training, both above the majority's"."""
    tuned = "full" if way == "into" else "tuned"
    return lambda c: float(np.mean(c[column] - c["majority"]) / np.mean(c[tuned] - c["majority"]))


def _over(way: str, null: str) -> Statistic:
    return lambda c: _share(way, way)(c) - _share(null, way)(c)


def _gain(cell: Cell) -> float:
    row = _place(cell)
    return POINTS * (row["full"] - row["frozen"])


def _gained(cells: Sequence[Cell]) -> str:
    return f"median gain of full tuning {np.median([_gain(c) for c in cells]):.1f} points"


LEARNS = Assumption(
    "there is something to learn",
    f"full tuning ends at least {LEARNT:.0f} points of held-out accuracy above the frozen network",
    lambda cell: _gain(cell) >= LEARNT,
    _gained,
)
SOURCES = ("yi2022", "li2018", "aghajanyan2021")

FULL_IN_SUBSPACE = Claim(
    id="full-in-subspace",
    nature="prediction",
    view="optimization",
    title="Full tuning works within the deltas' code",
    statement="A code that all weights read through a random projection, the one that full tuning has beside the joint search for the "
    "decoders of prefix, adapter and LoRA, keeps at its largest dimension at least four fifths of what full tuning reaches in its own "
    "space, chance taken off, and a fifth more than the frozen network and than a code trained on labels dealt out at random.",
    equation=r"E = frac(p (theta_0 + P I) - p_0, p (theta) - p_0), quad I = limits(arg min)_I L (theta_0 + P I)",
    equation_alt="E is held-out accuracy p with the best code I through the random projection P over that with all weights theta, both "
    "less the accuracy p nought of the largest class",
    derived="deltas and full tuning trained on other tasks, which give the projection its unit, and the frozen network",
    sources=SOURCES,
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"runs": _runs},
    statistic=Comparison("corrected E_rel of full tuning within the code", corrected("within")),
    criteria=(
        Criterion("level", "corrected E_rel", corrected("within"), (KEPT, np.inf), (LOST, np.inf)),
        Criterion("lead", "corrected E_rel above nulls", ahead("within", "frozen", "lost"), (AHEAD, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison(
            "corrected E_rel: a decoder of all weights found on other tasks, at the least dimension", corrected("searched")
        ),
        Comparison("corrected E_rel: such a decoder found on the task itself", corrected("searched_own")),
    ),
    nulls=(
        Comparison("corrected E_rel: frozen network", corrected("frozen")),
        Comparison("corrected E_rel: a code trained on labels dealt out", corrected("lost")),
        Comparison("published E_rel, chance included", published("within")),
    ),
    also=(
        Comparison("corrected E_rel: the random projection at the least dimension", corrected("within_few")),
        Comparison("corrected E_rel of deltas: decoders found on the task itself", _share("deltas", "out")),
        Comparison("corrected E_rel of deltas: decoders of other tasks", _share("deltas_learned", "out")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the code keeps four fifths of full tuning's performance above chance, and a fifth more than both nulls; refuted "
    "below a half, or when it is ahead of neither.",
    reason="The published connection of full tuning with deltas gives it a random projection of the code. A few random directions of all "
    "weights may hold nothing that the task needs, however well the decoders of deltas were found beside them.",
    change="More numbers in the code, up to the intrinsic dimension of the task, or a decoder of all weights that is found, too.",
    good=partial(own, EXPERIMENT, inborn),
    bad=partial(own, EXPERIMENT, wide),
    good_is="all weights move only the two signals that the labels need",
    bad_is="all weights move as many signals as there are, of which the labels need two",
)

FULL_CONNECTED = Claim(
    id="full-connected",
    nature="prediction",
    view="optimization",
    title="A delta's code and full tuning's serve each other, and so do those between",
    statement="Full tuning reads a delta's code, and a delta full tuning's, untrained with at least half of what each reaches in "
    "its own space, chance taken off, and a fifth more than the code rotated or dealt out; on the segment between both codes the loss "
    "rises above the line between its ends by at most a tenth of what training takes off it.",
    equation=r"T = frac(p (z_0 + U I) - p_0, p (z) - p_0), quad B = frac(max_alpha L_alpha - (1 - alpha) L_0 - alpha L_1, "
    r"L (z_0) - L (z))",
    equation_alt="T is held-out accuracy p of a reader with the other's code I over that of its own training, both less the accuracy of "
    "the largest class; B is how far its loss L rises between two codes above the line between its ends, over its fall by training",
    derived=FULL_IN_SUBSPACE.derived,
    sources=("yi2022", "frankle2020"),
    experiment=EXPERIMENT,
    rows=_connected,
    parts={"segments": _segments},
    statistic=Comparison("corrected E_rel of full tuning by a delta's code", _share("into", "into")),
    criteria=(
        Criterion(
            "level",
            "corrected E_rel, the lower way",
            Least((_share("into", "into"), _share("out", "out"))),
            (READ, np.inf),
            (UNREAD, np.inf),
        ),
        Criterion(
            "lead",
            "corrected E_rel above nulls, both ways",
            Least(tuple(_over(way, f"{way}_{null}") for way in WAYS for null in NULLS)),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "barrier", "barrier over the fall of the loss", relative("barrier", "fall"), (-np.inf, BARRIER), (-np.inf, WALL)
        ),
    ),
    rivals=(
        Comparison("corrected E_rel of full tuning by a delta's code: decoders found without it", _share("into_apart", "into")),
        Comparison("corrected E_rel of deltas by full tuning's code: decoders found without it", _share("out_apart", "out")),
    ),
    nulls=(
        Comparison("corrected E_rel of full tuning by a delta's code rotated", _share("into_rotated", "into")),
        Comparison("corrected E_rel of full tuning by a delta's code dealt out", _share("into_dealt", "into")),
        Comparison("corrected E_rel of deltas by full tuning's code rotated", _share("out_rotated", "out")),
        Comparison("corrected E_rel of deltas by full tuning's code dealt out", _share("out_dealt", "out")),
        Comparison("barrier to a code dealt out, over the fall of the loss", relative("barrier_dealt", "fall")),
    ),
    also=(
        Comparison("corrected E_rel of deltas by full tuning's code", _share("out", "out")),
        Comparison(
            "corrected E_rel of full tuning by a delta's code: decoders found on the task itself", _share("into_own", "into")
        ),
        Comparison(
            "corrected E_rel of deltas by full tuning's code: decoders found on the task itself", _share("out_own", "out")
        ),
        Comparison("barrier between codes through decoders found on the task itself", relative("barrier_own", "fall")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when both ways keep a half and are a fifth ahead of both nulls, with a barrier of a tenth at most; refuted when "
    "one way keeps less than a quarter or is ahead of neither null, or when the barrier is higher than a half.",
    reason="A segment without a barrier says little by itself: where neither end does anything, there is none. So both ends must serve, "
    "better than codes of the same sizes in another order.",
    change=FULL_IN_SUBSPACE.change,
    good=FULL_IN_SUBSPACE.good,
    bad=FULL_IN_SUBSPACE.bad,
    good_is=FULL_IN_SUBSPACE.good_is,
    bad_is=FULL_IN_SUBSPACE.bad_is,
)

CODE_ALIGNMENT = Claim(
    id="code-alignment",
    nature="prediction",
    view="optimization",
    title="A code moves the outputs of all deltas alike",
    statement="Through decoders that were found together on other tasks, the logits of two deltas answer their codes alike: the mean cosine of the "
    "Jacobians, each at the delta's own code, is at least a half, and a fifth above that of random decoders, of a rotated code, and of "
    "decoders that were found one delta at a time.",
    equation=r"C = frac(tr (J_s^top J_t), norm(J_s)_F norm(J_t)_F), quad J_t = frac(partial y (z_(t,0) + U_t I), partial I)",
    equation_alt="C is the cosine of the Jacobians J of the held-out logits y in the code I through the decoders U of two deltas s and t",
    derived="deltas trained on other tasks",
    sources=("yi2022", "kornblith2019"),
    experiment=EXPERIMENT,
    rows=_alignment,
    parts={"pairs": _aligned},
    statistic=Comparison("cosine of two deltas' Jacobians", mean("cosine")),
    criteria=(
        Criterion("level", "cosine", mean("cosine"), (ALIKE, np.inf), (UNLIKE, np.inf)),
        Criterion("lead", "cosine above nulls", above("cosine", "random", "rotated", "alone"), (AHEAD, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("cosine: decoders found together on the task itself", mean("own")),
        Comparison("cosine: decoders found one delta at a time", mean("alone")),
    ),
    nulls=(
        Comparison("cosine: random decoders of equal norm", mean("random")),
        Comparison("cosine: one code rotated", mean("rotated")),
        Comparison("cosine: decoders found together on the task with labels dealt out", mean("dealt")),
    ),
    also=(
        Comparison("cosine after the best rotation", mean("fitted_learned")),
        Comparison("cosine after the best rotation: decoders found one delta at a time", mean("fitted_alone")),
        Comparison("cosine after the best rotation: random decoders", mean("fitted_random")),
        Comparison("cosine of full tuning's Jacobian with deltas': random projection", mean("full_random")),
        Comparison("cosine of full tuning's Jacobian with deltas': decoder found together", mean("full_searched")),
        Comparison("CKA of the deltas' codes of other tasks", mean("cka")),
        Comparison("the same CKA with tasks dealt out", mean("cka_dealt")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the mean cosine is a half and a fifth above every null; refuted below a fifth, or when it is ahead of none.",
    reason="That codes transfer may be learned by the joint search or belong to the deltas. Decoders found one at a time tell: what is "
    "intrinsic is there, up to a rotation.",
    change="Deltas that act on features of their own, so that no code moves their outputs alike.",
    good=partial(own, EXPERIMENT, inborn),
    bad=partial(own, EXPERIMENT, separate),
    good_is="deltas that act on one signal",
    bad_is="deltas that each act on a signal of their own",
)
