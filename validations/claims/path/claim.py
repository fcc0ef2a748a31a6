"""Whether AdamW's path on the tangent model is the path of the network, how long, at which rate, and in how many steps."""

from functools import partial

import numpy as np
from scipy.stats import spearmanr

from ...statistics import Columns, Positive
from ...verdict import Criterion, Least
from ..practice.experiment import EXPERIMENT
from ..practice.plants import fixed_features, learnt_features, paced, saturating, scaled, unlike
from ..practice.rates import best_rate
from ..practice.runs import (
    HALF,
    INSIDE_THE_GRID,
    LEARNS,
    at_choice,
    chosen,
    ends,
    foretold,
    holds,
    nats,
    others,
    place,
    points,
    steps_to,
)
from ..shared.claim import Cell, Claim, Comparison, Row, error, mean, octaves
from ..shared.plants import own, swapped

# From "agreement", "negation" and "tense", whatever the delta:
DOSE_END = 0.1  # the dose at which the tangent path ends
ADAPTIVE = 4.0  # best rate times adaptive sharpness
RATE = 0.015  # the best rate

DERIVED = (
    "the response of the frozen model to the delta's numbers, and the head's where it is trained too, on training, dev and "
    "held-out text; the labels of training and dev text; the order in which training will draw its texts"
)


def _path_rows(cell: Cell) -> list[Row]:
    look, told = at_choice(cell), cell.predicted.values["path"]
    rivals = [look[f"r2_{name}"] for name in ("gradient", "head") if f"r2_{name}" in look]
    own = next(one for run in told["runs"] if run["rate"] == told["rate"] for one in run["looks"] if one["step"] == told["step"])
    return [
        place(cell)
        | {"r2": look["r2_shift"], "cosine": look["cosine"], "margin": look["r2_shift"] - max(0.0, *rivals)}
        | {"r2_gradient": look["r2_gradient"], "r2_head": look.get("r2_head", 0.0)}
        | {"r2_optimum": cell.measured.values["r2"]["optimum"]}
        | {"measured": nats(cell, cell.measured.values), "predicted": nats(cell, own)}
        | {"points": points(cell, cell.measured.values), "points_predicted": points(cell, own)}
    ]


def _dose_map(cell: Cell) -> list[Row]:
    """Return, at every look at every rate's run, how the tangent path meets the network and what it gains."""
    return [
        cell.at(None)
        | {"rate": run["rate"], "step": look["step"], "dose": told["dose"], "eta": told["eta"]}
        | {"cosine": look["cosine"], "r2": look["r2_shift"]}
        | {"points": points(cell, look), "points_predicted": points(cell, told)}
        | {"chosen": run["rate"] == cell.measured.values["rate"]}
        for run in cell.measured.values["runs"]
        for look, told in zip(run["looks"][1:], foretold(cell, run["rate"]), strict=False)
    ]


PRACTICE_PATH = Claim(
    id="practice-path",
    nature="prediction",
    view="optimization",
    title="AdamW on the tangent model says where AdamW on the network goes",
    statement="Where dev text stops the run that it chose, the held-out logits have moved as AdamW moves those of the model that "
    "is linear in the tuned numbers, over the same texts, at the same rate, and that run costs no pass through the network.",
    equation=r'R^2 = 1 - frac(norm((y_t - y_0) - G z_t)^2, norm(y_t - y_0)^2), quad z_(t+1) = z_t - eta_t "AdamW"(1/B sum_(i in B_t) '
    r"G_i^T (p_i (y_0 + G z_t) - e_i))",
    equation_alt="R squared is one less the squared distance of the held-out logits' shift on the network from that on the tangent "
    "model at the same step, over the squared size of the former; the tangent model's numbers z follow AdamW over the same "
    "minibatches and rates",
    derived=DERIVED,
    sources=("jacot2018", "malladi2023"),
    experiment=EXPERIMENT,
    rows=_path_rows,
    parts={"map": _dose_map},
    statistic=Comparison("share of the held-out shift that the tangent path explains", mean("r2")),
    criteria=(
        Criterion("r2", "share of the held-out shift explained", mean("r2"), (0.5, np.inf), (0.25, np.inf)),
        Criterion("margin", "share explained above the best rival's", mean("margin"), (0.1, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("share explained by the first gradient, its scale fitted to what happened", mean("r2_gradient")),
        Comparison("share explained by AdamW on the head alone", mean("r2_head")),
        Comparison("share explained by the linearised optimum", mean("r2_optimum")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the tangent path explains half of the shift at the chosen step, and a tenth more of it than the best "
    "rival; refuted when it explains less than a quarter, or no more than the best rival.",
    reason="Half is the least that could stand in for a run, a quarter what a cosine of one half leaves. The first gradient is "
    "given the scale that fits best afterwards, which favours it.",
    change="A delta whose features move during tuning, or a rate at which it oscillates.",
    good=partial(own, EXPERIMENT, fixed_features),
    bad=partial(own, EXPERIMENT, learnt_features),
    good_is="a layer whose logits are linear in what is tuned, on which the two runs are one",
    bad_is="a layer whose one row must turn by a right angle before anything is learnt",
)


def _horizon_rows(cell: Cell) -> list[Row]:
    """Return a row for each rate at which the forecast ends, or was said to end, before training does."""
    rows = []
    for run in cell.measured.values["runs"]:
        told = foretold(cell, run["rate"])
        looks = run["looks"][1:]
        if len(looks) < 2:
            continue
        doses = [one["dose"] for one in told[: len(looks)]]
        measured, predicted = ends(doses, [holds(look) for look in looks]), ends(doses, [one["r2"] >= HALF for one in told])
        if measured is None and predicted is None:
            continue
        seen = {"measured": measured or doses[-1], "predicted": predicted or doses[-1]}
        logs = {name: float(np.log2(value)) for name, value in seen.items()}
        rule = float(np.log2(min(DOSE_END, doses[-1])))
        rows.append(
            place(cell)
            | {"rate": run["rate"], **seen, "log_measured": logs["measured"], "log_predicted": logs["predicted"]}
            | {"off": abs(logs["predicted"] - logs["measured"]), "off_rule": abs(rule - logs["measured"])}
        )
    return rows


def _rule_lead(columns: Columns) -> float:
    return float(np.mean(columns["off_rule"] - columns["off"]))


def _others_lead(columns: Columns) -> float:
    return float(np.mean(np.abs(others("log_measured")(columns) - columns["log_measured"]) - columns["off"]))


def _ranked(columns: Columns) -> float:
    """Return Spearman's correlation of predicted and measured horizons, none where either is constant."""
    x, y = columns["log_predicted"], columns["log_measured"]
    return float(spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else float("nan")


def _ranked_within(columns: Columns) -> float:
    """Return the mean over deltas of the same correlation within each."""
    own = [{k: v[columns["delta"] == delta] for k, v in columns.items()} for delta in np.unique(columns["delta"])]
    return float(np.nanmean([_ranked(one) for one in own]))


def _others_off(columns: Columns) -> float:
    return float(np.mean(np.abs(others("log_measured")(columns) - columns["log_measured"])))


PRACTICE_HORIZON = Claim(
    id="practice-horizon",
    nature="prediction",
    view="optimization",
    title="A forward pass along the tangent path says where the tangent model ends",
    statement="The dose at which the tangent path stops explaining half of the held-out shift, or falls behind the head's own path, is "
    "that at which it stops explaining half of what the network does at the path's own numbers, on dev text and before training; "
    "numbers that have no gradient at the start are moved there as far as Adam's signs take them.",
    equation=r"d^* = min { d_t : R^2 (y_t - y_0, G z_t) < 1/2 }, quad hat(d) = min { d_t : R^2 (y(theta_0 + z_t + d_t s) - y_0, "
    r'G z_t) < 1/2 }, quad s = -op("sgn") nabla L(theta_0 + z_1) thin bb(1)[G = 0]',
    equation_alt="the measured horizon is the least dose, the sum of the rates so far, at which the tangent path explains less than half of "
    "the tuned network's shift; the predicted one that at which it explains less than half of the network's shift at the tangent "
    "path's numbers, those without a gradient at the start moved by the dose against the sign of their gradient after the first steps",
    derived=DERIVED + "; a forward pass of the dev text at every look at the tangent path",
    sources=("jacot2018", "malladi2023"),
    experiment=EXPERIMENT,
    rows=_horizon_rows,
    statistic=Comparison("octaves between the predicted and the measured horizon", error("off")),
    criteria=(
        Criterion("off", "octaves between the horizons", error("off"), (-np.inf, 1.0), (-np.inf, 1.585), "octaves"),
        Criterion(
            "nearer",
            "octaves by which the better of two rules without theory is further off",
            Least((_rule_lead, _others_lead)),
            (0.1, np.inf),
            (0.0, np.inf),
            "octaves",
        ),
    ),
    rivals=(
        Comparison(f"octaves off: the dose {DOSE_END} for every delta", error("off_rule")),
        Comparison("octaves off: the mean horizon of the same delta on the other tasks", Positive(_others_off)),
    ),
    also=(
        Comparison("Spearman's correlation of predicted and measured horizon over runs of all deltas", _ranked),
        Comparison("the same within a delta, mean over deltas", _ranked_within),
    ),
    assumptions=(LEARNS,),
    rule="Supported when predicted and measured horizon agree within a factor 2 on average, and by a tenth of an octave better than "
    "one dose for all and than what the other tasks' runs say; refuted when they differ by more than a factor 3, or a rule "
    "without theory is as near.",
    reason="Within a factor 2 one knows whether to trust a forecast or to train. The rivals ask for no pass through the network. Rates at "
    "which neither horizon is reached are left out, and a horizon that is not reached counts as the end of the run.",
    change="Features that turn while the tangent path, which does not see them turn, stays linear.",
    good=partial(own, EXPERIMENT, saturating),
    bad=partial(own, EXPERIMENT, unlike),
    good_is="layers whose signal saturates, each at another dose",
    bad_is="the same layers with dev text on which the signal is ten times smaller",
)


def _rate_rows(cell: Cell) -> list[Row]:
    measured, sharpness = best_rate(cell.measured.values["runs"]), cell.predicted.values["adaptive_sharpness"]
    guesses = {"predicted": ADAPTIVE / sharpness, "rule": RATE, "path": cell.predicted.values["path"]["rate"]}
    logs = {name: octaves(guess / measured) for name, guess in guesses.items()}
    return [
        place(cell)
        | {"measured": measured, **guesses, "sharpness": sharpness, "log_measured": octaves(measured)}
        | {"off": abs(logs["predicted"]), "off_rule": abs(logs["rule"]), "off_path": abs(logs["path"])}
        | {"numbers": cell.predicted.values["numbers"]}
    ]


PRACTICE_RATE = Claim(
    id="practice-rate",
    nature="prediction",
    view="optimization",
    title="The largest curvature in Adam's metric says the best learning rate",
    statement="The rate of the lowest dev loss is one constant over the largest eigenvalue of the frozen model's Gauss-Newton "
    "curvature, preconditioned by Adam's second moments on the tangent path, for every delta and task.",
    equation=r"hat(eta) = c \/ lambda_max (D^(-1\/2) G^T H G D^(-1\/2)), quad D = sqrt(v)",
    equation_alt="the predicted rate is a constant over the largest eigenvalue of D to the minus one half times G transposed H G times "
    "D to the minus one half, D the roots of Adam's second moments at the end of the first epoch on the tangent model",
    derived=DERIVED,
    sources=("cohen2022",),
    experiment=EXPERIMENT,
    rows=_rate_rows,
    statistic=Comparison("octaves between the predicted and the best rate", error("off")),
    criteria=(
        Criterion("off", "octaves between predicted and best rate", error("off"), (-np.inf, 1.0), (-np.inf, 2.0), "octaves"),
        Criterion(
            "nearer", "octaves by which one rate for all is further off", _rule_lead, (0.1, np.inf), (0.0, np.inf), "octaves"
        ),
    ),
    rivals=(
        Comparison(f"octaves off: the rate {RATE} for every delta", error("off_rule")),
        Comparison("octaves off: the best rate on the tangent path", error("off_path")),
        Comparison("octaves off: the mean best rate of the same delta on the other tasks", Positive(_others_off)),
    ),
    assumptions=(INSIDE_THE_GRID,),
    rule="Supported when the predicted rate is within a factor 2 of the best on average and a tenth of an octave nearer than one "
    "rate for all deltas; refuted when it is more than a factor 4 off, or no nearer.",
    reason="Sweeps step by factors of 2 to 3, so a factor 2 would save the sweep and a factor 4 would not. What the other tasks' "
    "sweeps say is shown, but costs those sweeps.",
    change="A best rate that is set by noise or by over-fitting and not by curvature.",
    good=partial(own, EXPERIMENT, scaled, 3),
    bad=partial(swapped, EXPERIMENT, scaled, 3),
    good_is="layers whose numbers are measured in units that differ up to elevenfold",
    bad_is="the same layers, each with the forecast made for another",
)


def _steps_rows(cell: Cell) -> list[Row]:
    start, told = cell.predicted.values["start"], cell.predicted.values["path"]
    measured = steps_to(chosen(cell)["looks"], start["loss"], cell.measured.values["step"])
    predicted = steps_to(foretold(cell, told["rate"]), start["dev_loss"], told["step"], "dev_loss")
    off = abs(octaves(predicted / measured))
    return [place(cell) | {"measured": measured, "predicted": predicted, "log_measured": octaves(measured), "off": off}]


PRACTICE_STEPS = Claim(
    id="practice-steps",
    nature="prediction",
    view="optimization",
    title="The tangent path says after how many steps most of the gain is made",
    statement="The step by which the chosen run has made nine tenths of its own gain on held-out text is that by which the tangent "
    "path, at the rate and step that dev text chooses on it, has made nine tenths of its own.",
    equation=r'log_2 frac(hat(t)_(90), t_(90)), quad t_(90) = min { t : L(y_0) - L(y_t) >= 0.9 (L(y_0) - L(y_"chosen")) }',
    equation_alt="octaves between the predicted and the measured step by which nine tenths of the fall of the held-out loss is made",
    derived=DERIVED,
    sources=("jacot2018", "malladi2023"),
    experiment=EXPERIMENT,
    rows=_steps_rows,
    statistic=Comparison("octaves between the predicted and the measured step", error("off")),
    criteria=(
        Criterion("off", "octaves between predicted and measured step", error("off"), (-np.inf, 1.0), (-np.inf, 2.0), "octaves"),
        Criterion(
            "nearer",
            "octaves by which the other tasks' mean is further off",
            _others_lead,
            (0.1, np.inf),
            (0.0, np.inf),
            "octaves",
        ),
    ),
    rivals=(Comparison("octaves off: the mean step of the same delta on the other tasks", Positive(_others_off)),),
    assumptions=(LEARNS,),
    rule="Supported when the steps agree within a factor 2 on average, and by a tenth of an octave better than the other tasks' "
    "mean; refuted when they differ by more than a factor 4, or the mean is as near.",
    reason="A factor 2 in steps is a factor 2 in cost; the other tasks' mean is what experience offers.",
    change="A plateau before features are found, which the tangent path does not have.",
    good=partial(own, EXPERIMENT, paced, 3),
    bad=partial(swapped, EXPERIMENT, paced, 3),
    good_is="layers whose logits are linear in what is tuned, each trained at one rate, a slow or a fast one",
    bad_is="the same layers, each with the forecast made for another",
)
