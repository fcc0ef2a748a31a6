"""O-dim as the literature measures it: the curve over the dimension of random subspaces, head and delta together, before training."""

from functools import partial

import numpy as np

from ...statistics import Columns, RankOverTasks, Statistic
from ...verdict import Criterion
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, error, mean
from ..shared.plants import own, swapped
from ..shared.subspaces import at_ends
from .experiment import EXPERIMENT
from .plants import latent_setting, narrow_setting, sweep_setting, wide_setting

FORMS = ("spectrum", "curve", "quadratic")
SWEEP_CURVE_RIVALS = ("participation", "trace_rank", "head", "parameters")
SETTLED = 0.02


def swept(cell: Cell) -> tuple[list[int], int]:
    """Return the dimensions below the whole at which a cell's runs were made, and that of the whole."""
    rows = cell.measured.values["rows"]
    return sorted({row["dimension"] for row in rows if not row["full"]}), next(row["dimension"] for row in rows if row["full"])


def expected(cell: Cell, form: str) -> np.ndarray:
    """Return a predicted curve at the measured dimensions: linear in log d between those of the prediction, which are the same."""
    before = cell.predicted.values
    return np.interp(np.log(swept(cell)[0]), np.log(before["dimensions"]), before["curves"][form])


def _sweep_curve_rows(cell: Cell) -> list[Row]:
    """Return the gain's threshold dimension with its interval, each prediction and rival, and how far each is off."""
    before, after, (dimensions, size) = cell.predicted.values, cell.measured.values, swept(cell)
    value, low, high = at_ends(after["fit"]["share"], dimensions[0], size)
    row = {"measured": value, "low": low, "high": high, "status": after["fit"]["share"]["status"]}
    for name in (*FORMS, *SWEEP_CURVE_RIVALS):
        row |= {name: before[name], f"error_{name}": float(abs(np.log2(value / before[name])))}
    measured = np.array(after["shares"][:-1])
    rms = {f"rms_{n}": float(np.sqrt(np.mean((measured - expected(cell, n)) ** 2))) for n in FORMS[1:]}
    return [cell.place | row | rms | {"beyond_head": after["beyond_head"]}]


def _curves(cell: Cell) -> list[Row]:
    after, (dimensions, size) = cell.measured.values, swept(cell)
    curves = {name: expected(cell, name) for name in cell.predicted.values["curves"]}
    return [
        cell.place
        | {"dimension": d, "parameters": size, "measured": after["shares"][i], "measured_accuracy": after["accuracies"][i]}
        | {name: float(curve[i]) for name, curve in curves.items()}
        for i, d in enumerate(dimensions)
    ]


def _runs(cell: Cell) -> list[Row]:
    return [cell.place | row for row in cell.measured.values["rows"]]


def another_task(c: Columns) -> np.ndarray:
    """Return, row by row, how many octaves the same delta's mean log dimension on the other tasks is off; inf without one."""
    log, task, delta = np.log2(c["measured"]), np.asarray(c["task"]), np.asarray(c["delta"])
    error = np.full(len(log), np.inf)
    for i in range(len(log)):
        others = (task != task[i]) & (delta == delta[i])
        if others.any():
            error[i] = abs(log[i] - log[others].mean())
    return error


def _task_rival(c: Columns) -> float:
    error = another_task(c)
    return float(error[np.isfinite(error)].mean()) if np.isfinite(error).any() else float("nan")


def _beats(form: str) -> Statistic:
    def excess(c: Columns) -> float:
        best = np.min([*(c[f"error_{r}"] for r in SWEEP_CURVE_RIVALS), another_task(c)], axis=0)
        return float(np.mean(best - c[f"error_{form}"]))

    return excess


TRAINED = Assumption(
    "training settled",
    f"less than {SETTLED} of full training's gain fell in the last tenth of its steps",
    lambda cell: cell.measured.values["settled"] < SETTLED,
    lambda cells: f"median share of the gain in the last tenth {np.median([c.measured.values['settled'] for c in cells]):.4f}",
)
RATED = Assumption(
    "rates bracketed",
    "at no more than a quarter of the dimensions a rate beyond the grid could have been better",
    lambda cell: len(cell.measured.values["edges"]["share"]) <= len(cell.measured.values["shares"]) / 4,
    lambda cells: f"median number of dimensions {np.median([len(c.measured.values['edges']['share']) for c in cells]):.0f}",
    needed=0.0,
)
_RIVALS = (
    Comparison("parameter count, octaves off", mean("error_parameters")),
    Comparison("the head's own numbers, octaves off", mean("error_head")),
    Comparison("participation ratio of the kernel, octaves off", mean("error_participation")),
    Comparison("trace over largest eigenvalue, octaves off", mean("error_trace_rank")),
    Comparison("measured dimension of the other tasks, octaves off", _task_rival),
)

SWEEP_CURVE = Claim(
    id="sweep-curve",
    nature="prediction",
    view="optimization",
    title="The head alone explains the curve of a sweep",
    statement="With a head that starts at zero and is trained within the subspace, the share of full training's gain that a random "
    "subspace of all numbers reaches is, at every dimension, that of the linearised problem, in which only the head moves.",
    equation='s(d) = E_B frac(J(0) - min_theta J(B theta), J(0) - min_z J(z)), quad B B^top tilde "Beta"(d \\/ 2, (D - d) \\/ 2), '
    "quad J(z) = 1/N sum_i ell_i (G_i z) + r/2 norm(z)^2",
    equation_alt="the score at dimension d is the expected gain reached in the subspace over the full gain in the linearised problem; the "
    "head's numbers are seen from the subspace as a matrix beta variate",
    derived="the frozen features of the training text, D, and draws of random subspaces other than those trained in",
    sources=("li2018", "aghajanyan2021", "larsen2022"),
    experiment=EXPERIMENT,
    rows=_sweep_curve_rows,
    parts={"curves": _curves, "runs": _runs},
    statistic=Comparison("root mean square error of the predicted share", mean("rms_curve")),
    criteria=(
        Criterion("curve", "root mean square error of the share", error("rms_curve"), (-np.inf, 0.05), (-np.inf, 0.10)),
        Criterion(
            "error", "mean |log2| of measured over predicted dimension", error("error_curve"), (-np.inf, 0.5), (-np.inf, 1.0)
        ),
        Criterion("rivals", "octaves closer than the best rival of each cell", _beats("curve"), (0.0, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        *_RIVALS,
        Comparison("quadratic at the start, root mean square error of the share", mean("rms_quadratic")),
        Comparison("quadratic at the start, octaves off", mean("error_quadratic")),
        Comparison("effective dimension of the spectrum, octaves off", mean("error_spectrum")),
    ),
    assumptions=(TRAINED, RATED),
    rule="Supported when the predicted share is off by less than 0.05 on average and the threshold dimension by less than half an octave, "
    "closer than the best of five rivals in each cell; refuted beyond twice these errors or when a rival is closer.",
    reason="The threshold sits at a share of 0.9, so an error of 0.05 is half of what is left to gain there; half an octave is what a rate "
    "chosen badly costs.",
    change="A head that starts fitted, or longer training with a weaker penalty, where the features move as much as the head.",
    good=partial(own, EXPERIMENT, sweep_setting),
    bad=partial(swapped, EXPERIMENT, sweep_setting),
    good_is="heads among spare numbers that hardly matter, on which the linear theory is nearly exact",
    bad_is="the prediction made for another plant",
)


TENFOLD = float(np.log2(10))
SMALLEST_GAP = 1e-4  # nats: smaller gaps, and negative ones, count as this


def _gained(cell: Cell) -> bool:
    return cell.measured.values["fit"]["accuracy"]["status"] != "no gain"


def _low_rows(cell: Cell) -> list[Row]:
    """Return how many octaves the accuracy's threshold dimension lies below D, and below the head's numbers; and the gap's power.

    A prediction whose solutions are no better than the majority class is put at D, and so is a measurement without any gain.
    """
    before, after, (dimensions, size) = cell.predicted.values, cell.measured.values, swept(cell)
    fit = after["fit"]["accuracy"]
    value, low, high = at_ends(fit, dimensions[0], size)
    predicted = before["accuracy"] or float(size)
    ends = {"reached": fit["value"] is not None, "closed": fit["high"] is not None}
    numbers = {"measured": value, "low": low, "high": high, "predicted": predicted, "parameters": size, "head": before["head"]}
    octaves = {"octaves": size / value, "below_head": before["head"] / value, "expected": size / predicted}
    octaves = {name: float(np.log2(ratio)) for name, ratio in octaves.items()}
    chosen = [row for row in after["rows"] if row["chosen_share"] and not row["full"]]
    gaps = [np.mean([r["test_loss"] - r["train_loss"] for r in chosen if r["dimension"] == d]) for d in dimensions]
    power = float(np.polyfit(np.log(dimensions), np.log(np.maximum(gaps, SMALLEST_GAP)), 1)[0])
    others = {"error": abs(octaves["octaves"] - octaves["expected"]), "gap_power": power}
    return [cell.place | numbers | ends | octaves | others | {"accuracy": fit["baseline"], "majority": after["majority"]}]


GAINED = Assumption(
    "tuning gains",
    "full tuning is more accurate than the majority class, in every cell: none is left out for what it did",
    _gained,
    lambda cells: (
        f"median accuracy {np.median([c.measured.values['fit']['accuracy']['baseline'] for c in cells]):.2f}, "
        f"majority {np.median([c.measured.values['majority'] for c in cells]):.2f}"
    ),
    needed=1.0,
)
LOW = Claim(
    id="low-dimension",
    nature="prediction",
    view="optimization",
    title="Tuning needs few of its directions",
    statement="Held-out accuracy reaches 90 % of full tuning's gain in a random subspace of at most a tenth of the tuned numbers, for every "
    "delta and for all weights.",
    equation="d_90 = min {d : a(d) >= a_0 + 0.9 (a(D) - a_0)} <= D \\/ 10",
    equation_alt="d ninety, the least d whose accuracy is chance plus nine tenths of the full gain over chance, is at most D over ten",
    derived="nothing: the claim is the literature's, and the dimension is measured; linear theory's expectation stands beside it",
    sources=("li2018", "aghajanyan2021"),
    experiment=EXPERIMENT,
    rows=_low_rows,
    statistic=Comparison("octaves below the tuned numbers", mean("octaves")),
    criteria=(Criterion("octaves", "octaves of D over the dimension", mean("octaves"), (TENFOLD, np.inf), (2.0, np.inf)),),
    rivals=(
        Comparison("octaves below the head's own numbers", mean("below_head")),
        Comparison("octaves that linear theory of the head expects", mean("expected")),
        Comparison("measured over linear theory's dimension, octaves either way", mean("error")),
        Comparison("power of d in the generalisation gap (a half in the published bound)", mean("gap_power")),
    ),
    assumptions=(GAINED,),
    rule="Supported when the dimension lies ten times below the number of tuned numbers on average; refuted below four times.",
    reason="A tenth is the least that the literature calls low; a random subspace of half the numbers would hold no surprise.",
    change="Larger D: linear theory expects the dimension to depend on the head and the features, hardly on how many numbers stand beside "
    "them, so that the ratio measures D. Compare the dimension with the head's own numbers.",
    good=partial(own, EXPERIMENT, wide_setting),
    bad=partial(own, EXPERIMENT, narrow_setting),
    good_is="a head among sixteen times as many numbers that hardly matter",
    bad_is="a head alone, whose directions are all needed",
)


def _alike_rows(cell: Cell) -> list[Row]:
    before, after = cell.predicted.values, cell.measured.values
    coefficient = after["coefficient"]["value"]
    if not _gained(cell) or coefficient is None:
        return []
    dimensions, size = swept(cell)
    values = {name: at_ends(after["fit"][name], dimensions[0], size)[0] for name in ("accuracy", "share")}
    features = {"features": after["features"]["value"]} if after["features"] else {}
    known = {"effective": before["effective_dimension"], "participation": before["participation"], "parameters": size}
    return [cell.place | {"coefficient": coefficient, "status": after["coefficient"]["status"]} | values | known | features]


ALIKE = Claim(
    id="dimensions-alike",
    across=True,
    nature="prediction",
    view="optimization",
    title="The notions of dimension order tasks alike",
    statement="Within a delta, the tasks with the larger threshold dimension of held-out accuracy are those with the larger effective dimension of "
    "the frozen model's curvature and the larger local learning coefficient after training.",
    equation='rho (d_90, sum_i lambda_i / (lambda_i + r)) > 0, quad rho (d_90, lambda_"LLC") > 0',
    equation_alt="the rank correlations of d ninety with the effective dimension and with the local learning coefficient are positive",
    derived="the frozen features' spectrum gives the effective dimension; the learning coefficient is measured after training",
    sources=("larsen2022", "lau2023"),
    experiment=EXPERIMENT,
    rows=_alike_rows,
    statistic=Comparison("rank correlation of threshold and effective dimension", RankOverTasks("accuracy", "effective")),
    criteria=(
        Criterion(
            "effective",
            "rank correlation with the effective dimension",
            RankOverTasks("accuracy", "effective"),
            (0.3, 1.01),
            (0.0, 1.01),
        ),
        Criterion(
            "coefficient",
            "rank correlation with the learning coefficient",
            RankOverTasks("accuracy", "coefficient"),
            (0.3, 1.01),
            (0.0, 1.01),
        ),
    ),
    rivals=(
        Comparison("number of tuned numbers", RankOverTasks("accuracy", "parameters")),
        Comparison("participation ratio of the frozen kernel", RankOverTasks("accuracy", "participation")),
        Comparison("TwoNN dimension of the trained features", RankOverTasks("accuracy", "features")),
        Comparison("threshold dimension of the gain in the penalised objective", RankOverTasks("accuracy", "share")),
        Comparison("effective dimension and learning coefficient", RankOverTasks("effective", "coefficient")),
    ),
    assumptions=(
        Assumption(
            "chains agree",
            "the chains of the learning coefficient agree and are in equilibrium",
            lambda cell: cell.measured.values["coefficient"]["status"] == "ok",
            lambda cells: (
                f"{sum(c.measured.values['coefficient']['value'] is not None for c in cells)} of {len(cells)} have a value"
            ),
            needed=0.5,
        ),
    ),
    rule="Supported when both rank correlations over tasks exceed 0.3; refuted when one of them is negative.",
    reason="Notions that measure the same thing should at least order the same tasks alike; with few tasks a correlation of 0.3 is what can be "
    "told from none.",
    change="Tasks whose heads have as many classes: the head's numbers alone order tasks of different numbers of classes.",
    good=partial(own, EXPERIMENT, latent_setting, seeds=2),
    bad=partial(swapped, EXPERIMENT, latent_setting),
    good_is="plants whose states have 2 to 24 directions",
    bad_is="the curvature of another plant",
)
