"""Subspaces found in the frozen model's curvature against drawn ones, and subspaces with a trained scale per layer."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import LINEAR, Assumption, Cell, Claim, Comparison, Row, error, mean, mean_excess
from ..shared.plants import own, swapped
from ..shared.subspaces import at_ends
from .experiment import EXPERIMENT
from .plants import layer_setting, spread_setting

NULLS = ("random", "turned", "foreign")


def _threshold(curve: dict) -> float:
    """Return a threshold dimension, at the end tried where it is censored."""
    return at_ends(curve["threshold"], curve["smallest"], curve["largest"])[0]


def _saved(arms: dict, arm: str, reference: str = "random") -> float:
    """Return by how many octaves a family's threshold dimension lies below another's."""
    return float(np.log2(_threshold(arms[reference]) / _threshold(arms[arm])))


def _censored(arms: dict, *names: str) -> bool:
    return any(arms[name]["threshold"]["value"] is None for name in names)


def _means(curve: dict) -> dict[int, float]:
    """Return the mean share over draws by dimension."""
    d, y = np.array(curve["dimensions"]), np.array(curve["scores"])
    return {int(k): float(y[d == k].mean()) for k in np.unique(d)}


def _share(arms: dict, arm: str, dimensions: list[int]) -> float:
    means = _means(arms[arm])
    return float(np.mean([means[d] for d in dimensions]))


def _found(cell: Cell) -> list[Row]:
    p, expected, arms = cell.predicted.values, cell.predicted.values["arms"], cell.measured.values["arms"]
    known, found = (_means(record["gauss-newton"]) for record in (expected, arms))
    both = [d for d in found if d in known]
    near = [d for d in p["near"] if d in found]
    saved = {"measured": _saved(arms, "gauss-newton"), "predicted": _saved(expected, "gauss-newton")}
    saved |= {f"saved_{name}": float(np.log2(p["size"] / p[name])) for name in ("rank", "participation")}
    row = cell.place | saved | {"numbers": p["size"], "rank": p["rank"], "censored": _censored(arms, "random", "gauss-newton")}
    row |= {"error": abs(saved["measured"] - saved["predicted"])}
    row |= {f"error_{name}": abs(saved["measured"] - saved[f"saved_{name}"]) for name in ("rank", "participation")}
    row |= {"rms": float(np.sqrt(np.mean([(found[d] - known[d]) ** 2 for d in both])))}
    shares = {f"share_{name}": _share(arms, name, near) for name in ("gauss-newton", "reachable", *NULLS) if name in arms}
    row |= shares | {"lead": shares["share_gauss-newton"] - max(shares["share_random"], shares["share_turned"])}
    row |= {f"saved_{name}": _saved(arms, name) for name in ("reachable", "said") if name in arms}
    if "trajectory" in arms:
        row["share_trajectory"] = _share(arms, "trajectory", [min(arms["trajectory"]["dimensions"])])
    if "principal" in arms:
        rank = max(arms["principal"]["dimensions"])
        at_rank = {"principal": _share(arms, "principal", [rank]), "found_at_rank": _share(arms, "gauss-newton", [rank])}
        row |= {"principal_rank": rank} | {f"share_{name}": value for name, value in at_rank.items()}
    return [row]


def _curves(cell: Cell) -> list[Row]:
    """Return the mean share over draws of every family at every dimension, with its prediction where one was made."""
    expected, arms = cell.predicted.values["arms"], cell.measured.values["arms"]
    rows = []
    for arm, curve in arms.items():
        known = _means(expected["scaled" if arm == "said" and "scaled" in expected else arm]) if arm in expected else {}
        rows += [
            cell.place | {"family": arm, "dimension": d, "measured": share, "predicted": known.get(d)}
            for d, share in _means(curve).items()
        ]
    return rows


def _scales(cell: Cell) -> list[Row]:
    p, expected, arms = cell.predicted.values, cell.predicted.values["arms"], cell.measured.values["arms"]
    counted = _threshold(expected["random"])
    saved = {"saved": _saved(arms, "said"), "saved_counted": float(np.log2(counted / (counted + p["layers"])))}
    linear = {"first": "said", "scaled": "scaled"}
    saved |= {f"saved_{name}": _saved(expected, arm) for name, arm in linear.items() if arm in expected}
    errors = {f"error_{name[6:]}": abs(saved["saved"] - value) for name, value in saved.items() if name != "saved"}
    thresholds = {name: _threshold(arms[name]) for name in ("random", "said")}
    known = {"layers": p["layers"], "numbers": p["size"], "censored": _censored(arms, "random", "said")}
    return [cell.place | saved | errors | thresholds | known]


def _converged(*without: str) -> Assumption:
    """Return the assumption that training converged in the full space and in all families of subspaces but some."""

    def costs(cell: Cell) -> list[dict]:
        return [cost for arm, cost in cell.measured.values["costs"].items() if arm not in without]

    return Assumption(
        "training converged",
        "the gradient norm fell to the stated fraction of its initial value in nine of ten trainings of every family",
        lambda cell: min(cost["converged"] for cost in costs(cell)) >= 0.9,
        lambda cells: f"median evaluations {np.median([sum(cost['evaluations'] for cost in costs(c)) for c in cells]):.0f}",
        needed=0.8,
    )


_COMMON = {
    "view": "optimization",
    "experiment": EXPERIMENT,
    "parts": {"curves": _curves},
}

FOUND = Claim(
    id="found-subspaces",
    nature="consistency",
    title="Curvature finds subspaces that are far smaller than random ones",
    statement="In the leading Gauss–Newton directions of the frozen model, training reaches 90 % of the full gain in the penalised "
    "objective with as many octaves fewer dimensions than in random directions as the linearised problem says.",
    equation='log_2 frac(d_"90"^"random", d_"90"^"found"), quad s(d) = frac(J(0) - min_theta J(V_d theta), J(0) - min_z J(z)), '
    'quad V_d = "eig"_d (1/N sum_i G_i^top H_i G_i)',
    equation_alt="the octaves saved are the base-two logarithm of the threshold dimension of random over that of found subspaces; "
    "the found one holds the d leading eigenvectors of the Gauss-Newton matrix",
    derived="the Gauss-Newton directions and the linearised problem solved inside them and inside the random subspaces; the directions "
    "see no labels",
    sources=("li2018", "larsen2022", "aghajanyan2021"),
    rows=_found,
    statistic=Comparison("octaves saved, measured", mean("measured")),
    criteria=(
        Criterion("share", "root mean square error of the predicted share", error("rms"), (-np.inf, 0.05), (-np.inf, 0.10)),
        Criterion("saving", "mean |measured - predicted| octaves saved", error("error"), (-np.inf, 0.5), (-np.inf, 1.0)),
        Criterion("lead", "share above both random kinds, few directions", mean("lead"), (0.1, np.inf), (0.0, np.inf)),
        Criterion(
            "rivals",
            "octaves closer than the better rival",
            mean_excess("error", "error_rank", "error_participation", less=True),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("parameters over rank, octaves off", mean("error_rank")),
        Comparison("parameters over participation ratio, octaves off", mean("error_participation")),
        Comparison("octaves saved by the leading directions of the response", mean("saved_reachable")),
        Comparison("octaves saved by a trained scale per layer", mean("saved_said")),
        Comparison("share in the first direction of the training itself", mean("share_trajectory")),
        Comparison("share in other tasks' principal directions", mean("share_principal")),
        Comparison("share in as many Gauss–Newton directions", mean("share_found_at_rank")),
    ),
    nulls=(
        Comparison("share in few random directions of the Gauss–Newton span", mean("share_turned")),
        Comparison("share in few Gauss–Newton directions of another task", mean("share_foreign")),
        Comparison("share in few random directions", mean("share_random")),
    ),
    assumptions=(_converged("said"), LINEAR),
    rule="Supported when the predicted share is off by less than 0.05 on average, the octaves saved by less than half a one, the share "
    "in a few directions exceeds that in random ones, of all and of the Gauss–Newton span, by 0.1, and the prediction is closer than "
    "both rivals; refuted beyond 0.10 or an octave, when random directions do better, or when a rival is closer.",
    reason="Dimensions double from one to the next, so half an octave is what the measurement tells apart. Random directions of the "
    "same span know which numbers the outputs answer to, so that only the order by curvature can beat them.",
    change="Gains that lie along directions of small curvature, or a gain that no Gauss–Newton matrix shows, as where a "
    "delta's numbers multiply each other.",
    good=partial(own, EXPERIMENT, spread_setting),
    bad=partial(swapped, EXPERIMENT, spread_setting),
    good_is="gated plants with a slight bend, on which the linearisation is nearly exact",
    bad_is="the prediction made for another plant, of which more or fewer components matter",
    **_COMMON,
)

SCALES = Claim(
    id="layer-scales",
    nature="prediction",
    title="A trained scale per layer lowers the threshold dimension",
    statement="Random subspaces with a trained scale per layer, counted among the dimensions, reach 90 % of the full gain in the "
    "penalised objective with fewer dimensions than random subspaces without.",
    equation='log_2 frac(d_"90"^"random", d_"90"^"scaled") > 0, quad z_l = (1 + s_l) (P theta)_l, quad d = m + dim(theta)',
    equation_alt="the octaves saved are positive; layer l moves by one plus its scale times its part of P theta, and d counts the m "
    "scales",
    derived="nothing: the claim is the literature's. To first order the scales have no effect at the start and cost their number; the "
    "linearised network with the scales trained gives another saving before training",
    sources=("aghajanyan2021", "li2018"),
    rows=_scales,
    statistic=Comparison("octaves saved by the scales", mean("saved")),
    criteria=(Criterion("saving", "octaves saved by the scales", mean("saved"), (0.25, np.inf), (0.1, np.inf), unit="octaves"),),
    rivals=(
        Comparison("octaves saved on the linearised network with its scales trained", mean("saved_scaled")),
        Comparison("the same, octaves off", mean("error_scaled")),
        Comparison("scales without effect, octaves off", mean("error_first")),
        Comparison("scales that cost their number alone, octaves off", mean("error_counted")),
    ),
    nulls=(Comparison("octaves saved by as many dimensions less, predicted", mean("saved_first")),),
    assumptions=(_converged(), LINEAR),
    rule="Supported when scales save more than a quarter of an octave on average; refuted when they save less than a tenth.",
    reason="In a plant whose layers matter alike, scales save about a seventh of an octave by fitting how each draw happens to fall; a "
    "tenth is the resolution of the measurement.",
    change="Layers that matter alike, many layers beside few dimensions, or training that stops at the saddle where the scales start.",
    good=partial(own, EXPERIMENT, partial(layer_setting, blocks=4)),
    bad=partial(own, EXPERIMENT, partial(layer_setting, blocks=1)),
    good_is="plants of four blocks, one of which is five times as strong as the others",
    bad_is="plants of a single block, whose scale changes nothing",
    **_COMMON,
)
