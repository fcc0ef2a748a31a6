"""Whether the frozen network says, before any training, in which few directions a delta's training will gain."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ...statistics import Columns, Statistic
from ...verdict import Criterion, Least
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, mean
from ..shared.plants import own
from .experiment import ARMS, DIMENSION, EXPERIMENT, sufficient
from .plants import hidden, prominent

POINTS, LEARNT = 100.0, 5.0
KEPT, LOST, AHEAD = 0.8, 0.5, 0.2  # of the gain: the least kept, less than that is lost, and the lead over nulls


def share(column: str) -> Statistic:
    """Return the statistic "mean gain over the mean gain with all numbers"; NaN where that gains nothing."""
    return lambda c: float(np.mean(c[column]) / np.mean(c["gain"])) if np.mean(c["gain"]) > 0 else float("nan")


def _ahead(null: str) -> Statistic:
    def over(columns: Columns) -> float:
        return share("gain_predicted")(columns) - share(null)(columns)

    return over


def _octaves(columns: Columns) -> float:
    """Return by how many octaves the dimension that suffices is missed, mean of the absolute error."""
    return float(np.mean(np.abs(np.log2(columns["suffices_predicted"] / columns["suffices"]))))


LEAD = Least((_ahead("gain_random"), _ahead("gain_other")))


def _rows(cell: Cell) -> list[Row]:
    p, m = cell.predicted.values, cell.measured.values
    frozen, full, inside = p["frozen"], m["full"], m["inside"]
    return [
        cell.at(None)
        | {"gain": frozen["loss"] - full["loss"], "points": POINTS * (full["accuracy"] - frozen["accuracy"])}
        | {
            "gain_predicted": frozen["loss"] - inside["predicted"]["loss"],
            "gain_random": frozen["loss"] - inside["random"]["loss"],
        }
        | {"gain_other": frozen["loss"] - inside["other"]["loss"]}
        | {"points_predicted": POINTS * (inside["predicted"]["accuracy"] - frozen["accuracy"])}
        | {"captured_predicted": inside["predicted"]["captured"], "captured_random": inside["random"]["captured"]}
        | {"captured_other": inside["other"]["captured"], "signal_share": p["signal_share"], "overlap": p["overlap"]}
        | {"suffices_predicted": p["suffices"], "suffices": _suffices(cell)}
    ]


def _suffices(cell: Cell) -> int:
    """Return the first dimension in which training within the foretold directions keeps enough of the gain."""
    frozen, m = cell.predicted.values["frozen"]["loss"], cell.measured.values
    gain = frozen - m["full"]["loss"]
    shares = [(frozen - one["loss"]) / gain if gain > 0 else 0.0 for one in m["curve"]]
    return sufficient([one["dimension"] for one in m["curve"]], shares)


def _curve(cell: Cell) -> list[Row]:
    """Return the gain within the first of the foretold directions against their number."""
    frozen, m = cell.predicted.values["frozen"]["loss"], cell.measured.values
    return [
        cell.at(None)
        | {"dimension": one["dimension"], "gain": frozen - m["full"]["loss"], "gain_predicted": frozen - one["loss"]}
        for one in m["curve"]
    ]


def _learns(cell: Cell) -> bool:
    frozen, full = cell.predicted.values["frozen"], cell.measured.values["full"]
    return POINTS * (full["accuracy"] - frozen["accuracy"]) >= LEARNT


def _gained(cells: Sequence[Cell]) -> str:
    gains = [c.measured.values["full"]["accuracy"] - c.predicted.values["frozen"]["accuracy"] for c in cells]
    return f"median gain with all numbers {POINTS * np.median(gains):.1f} points"


LEARNS = Assumption(
    "there is something to learn",
    f"with all its numbers the delta ends at least {LEARNT:.0f} points of held-out accuracy above the frozen network",
    _learns,
    _gained,
)
WORDS = {
    "predicted": "foretold subspace",
    "random": "random subspace of the row space",
    "other": "another task's foretold subspace",
}

PREDICTED_SUBSPACE = Claim(
    id="predicted-subspace",
    nature="prediction",
    view="control",
    title="The frozen network says in which few directions a delta learns",
    statement=f"Trained within the {DIMENSION} directions of its numbers that move the outputs as the leading signals at the ports do, "
    "a delta loses less than a fifth of the held-out gain that it has with all its numbers, and makes a fifth more of it than within a "
    "random subspace of its response's row space and than within another task's subspace.",
    equation=r"z_i = G_delta^top (G_delta G_delta^top + r I)^(-1) u_i, quad G_s = sum_i sigma_i u_i v_i^top, quad "
    r"rho = frac(L(0) - min_theta L(sum_(i <= d) theta_i z_i), L(0) - min_z L(z))",
    equation_alt="z i are the least numbers of the delta that move the outputs by u i, the left singular vectors of the response to port "
    "signals in falling order; rho is the fall of the held-out loss L by training within the first d of them over that by training all",
    derived="the frozen network's responses to port signals and to the delta's numbers on training text, through its head; no label",
    sources=("yi2022", "ding2023", "aghajanyan2021"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"curve": _curve},
    statistic=Comparison("share of the gain within the foretold subspace", share("gain_predicted")),
    criteria=(
        Criterion("share", "share of the gain", share("gain_predicted"), (KEPT, np.inf), (LOST, np.inf)),
        Criterion("lead", "share above both other subspaces'", LEAD, (AHEAD, np.inf), (0.0, np.inf)),
    ),
    rivals=(Comparison(f"share of the gain: {WORDS['other']}", share("gain_other")),),
    nulls=(Comparison(f"share of the gain: {WORDS['random']}", share("gain_random")),),
    also=tuple(Comparison(f"squared length of the trained step inside: {WORDS[arm]}", mean(f"captured_{arm}")) for arm in ARMS)
    + (Comparison("points of held-out accuracy: all numbers", mean("points")),)
    + (Comparison("points of held-out accuracy: foretold subspace", mean("points_predicted")),)
    + (Comparison("number of directions foretold to suffice for four fifths, from the spectrum", mean("suffices_predicted")),)
    + (Comparison("number of directions that suffice for four fifths of the gain", mean("suffices")),)
    + (Comparison("octaves between these two numbers", _octaves),),
    assumptions=(LEARNS,),
    rule="Supported when training within the foretold subspace keeps four fifths of the gain and a fifth more of it than within either "
    "other one; refuted below a half, or when it is behind one of them.",
    reason="All deltas act through signals at the ports. If what signals can do to the outputs rules what is learnt, few directions "
    "suffice and are known untrained; the row space shows what their order adds, another task's what the task adds.",
    change="Learning that needs features which hardly move the outputs at first, or that move only as training goes on.",
    good=partial(own, EXPERIMENT, prominent),
    bad=partial(own, EXPERIMENT, hidden),
    good_is="tasks that need the two signals that move their outputs most",
    bad_is="tasks that need two signals that move their outputs less than others do",
)
