"""LoRA without regret: the best rates, the first steps, which maps to tune, when a rank is too small, what a large batch costs."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from ...verdict import Criterion
from ..practice.claim import LEARNS
from ..practice.experiment import EXPERIMENT
from ..practice.rates import best_rate, least_dev_losses
from ..shared.claim import Cell, Claim, Comparison, Row, error, mean, octaves
from . import beside
from .beside import FULL, RANKS, curves, fall, forecast, gain, leaving, named, of_full, order, place, rates_suffice
from .plants import ALIKE, GROWING, PRODUCT, TOO_SMALL, compared

PUBLISHED = float(np.log2(10.0))
EARLY = 0.1  # of the steps
LEAVING, GAINS = ("left_1", "left_4", "left_16"), ("gain_1", "gain_4", "gain_16")  # columns of the ranks

alike, too_small, product, growing = (partial(compared, EXPERIMENT, kind) for kind in (ALIKE, TOO_SMALL, PRODUCT, GROWING))
GROWING_IS = (
    "factors on the direction that labels need, with no product to learn and a scale that grows with the rank, under a teacher of "
    "rank one in the map of attention"
)


def _ratios(cell: Cell) -> dict[int, dict[str, float]]:
    """Return, by rank, the octaves from full tuning's best rate to LoRA's: measured, foretold, and by the count of numbers."""
    full, *ranks = named(cell, (FULL, *RANKS.values())) or [None]
    if full is None:
        return {}
    best = best_rate(full.measured.values["runs"])
    said = full.predicted.values
    return {
        rank: {
            "measured": octaves(best_rate(one.measured.values["runs"]) / best),
            "predicted": octaves(said["adaptive_sharpness"] / one.predicted.values["adaptive_sharpness"]),
            "counted": octaves(said["numbers"] / one.predicted.values["numbers"]),
        }
        for rank, one in zip(RANKS, ranks, strict=True)
    }


def _rate_rows(cell: Cell) -> list[Row]:
    if not (ratios := _ratios(cell)):
        return []
    by = {name: np.array([one[name] for one in ratios.values()]) for name in ("measured", "predicted", "counted")}
    middle = {name: float(np.mean(values)) for name, values in by.items()}
    spread = {name: float(np.ptp(values)) for name, values in by.items()}
    return [
        place(cell)
        | middle
        | {"spread": spread["measured"], "spread_predicted": spread["predicted"], "spread_counted": spread["counted"]}
        | {"error": abs(middle["predicted"] - middle["measured"]), "error_ten": abs(PUBLISHED - middle["measured"])}
        | {"error_counted": abs(middle["counted"] - middle["measured"]), "error_same": abs(middle["measured"])}
    ]


def _ranks(cell: Cell) -> list[Row]:
    """Return the ratio of each rank, measured and foretold, in octaves."""
    return [{"task": cell.task, "seed": cell.seed, "rank": rank} | found for rank, found in _ratios(cell).items()]


def _sweeps(cell: Cell) -> list[Row]:
    """Return the least dev loss at every rate, above that of the delta's best; full tuning as rank 0."""
    rows = []
    for rank, name in ({0: FULL} | RANKS).items():
        for one in named(cell, (name,)):
            rates, losses = least_dev_losses(one.measured.values["runs"])
            rows += [
                {"task": cell.task, "seed": cell.seed, "rank": rank, "rate": float(rate), "above": float(loss - losses.min())}
                for rate, loss in zip(rates, losses, strict=True)
            ]
    return rows


REGRET_RATE = Claim(
    id="regret-rate",
    nature="prediction",
    view="optimization",
    title="LoRA's best rate is ten times full tuning's, at every rank",
    statement="AdamW's best rate for LoRA under alpha over rank is ten times that for full tuning, and the same for ranks 1, 4 "
    "and 16; beside it stands the ratio of the two adaptive sharpnesses, which the frozen model tells before training.",
    equation=r'log_2 eta_"LoRA" / eta_"full" = log_2 10, quad "foretold:" quad log_2 lambda_"full" / lambda_"LoRA"',
    equation_alt="eta is the rate at the minimum of the parabola through the lowest dev loss of a sweep and its neighbours, "
    "lambda the largest eigenvalue of the Hessian of the tangent model preconditioned by Adam",
    derived="the response of the frozen model to each delta's numbers, and Adam's second moments along the path on the tangent "
    "model",
    sources=("schulman2025", "hu2022", "cohen2022"),
    experiment=EXPERIMENT,
    rows=_rate_rows,
    parts={"ranks": _ranks, "sweeps": _sweeps},
    deltas=(FULL,),
    statistic=Comparison("octaves from full tuning's best rate to LoRA's, mean over ranks", mean("measured")),
    criteria=(
        Criterion(
            "ratio",
            "octaves from full tuning's best rate to LoRA's, mean over ranks",
            mean("measured"),
            (PUBLISHED - 1.0, PUBLISHED + 1.0),
            (PUBLISHED - 2.0, PUBLISHED + 2.0),
            "octaves",
        ),
        Criterion("spread", "octaves between the ranks' best rates", mean("spread"), (-np.inf, 1.0), (-np.inf, 2.0), "octaves"),
    ),
    rivals=(
        Comparison("octaves foretold by the adaptive sharpness", mean("predicted")),
        Comparison("octaves between the ranks, foretold by the adaptive sharpness", mean("spread_predicted")),
        Comparison("distance of the adaptive sharpness's ratio, in octaves", error("error")),
        Comparison("distance of ten, in octaves", error("error_ten")),
        Comparison("distance of the ratio of the numbers tuned, in octaves", error("error_counted")),
    ),
    nulls=(Comparison("distance of one rate for both, in octaves", error("error_same")),),
    assumptions=(LEARNS, rates_suffice(FULL, *RANKS.values())),
    rule="Supported when LoRA's best rate is between 5 and 20 times full tuning's and those of the ranks lie within a factor of "
    "2; refuted when it is below 2.5 or above 40 times, or the ranks are more than a factor of 4 apart.",
    reason="Rates are tried a factor of 2 apart, and a rate that is a factor of 2 off the best costs little; one that is a "
    "factor of 4 off is another rate. What the tangent model says of the ratio decides nothing here and is shown beside it.",
    change="Factors that are not scaled by alpha over rank, another alpha, or a width at which the ratio is another.",
    good=alike,
    bad=growing,
    good_is="factors on the direction that labels need, scaled by alpha over rank so that they act as one",
    bad_is=GROWING_IS,
)


def _starts(cell: Cell) -> list[Row]:
    """Return, by rank and step of the first tenth, what one common rate did: fall of the held-out loss, size of the shift."""
    ranks, rows = named(cell, tuple(RANKS.values())), []
    for rank, one in zip(RANKS, ranks, strict=bool(ranks)):
        runs = sorted(one.measured.values["runs"], key=lambda run: run["rate"])
        run = runs[(len(runs) - 1) // 2]
        told = next(path for path in one.predicted.values["path"]["runs"] if path["rate"] == run["rate"])
        foretold = {look["step"]: fall(one, look) for look in told["looks"]}
        last = told["looks"][-1]["step"]
        rows += [
            {"task": cell.task, "seed": cell.seed, "rank": rank, "step": look["step"]}
            | {"fall": fall(one, look), "size": look["size"], "predicted": foretold[look["step"]]}
            | {"numbers": one.predicted.values["numbers"]}
            for look in run["looks"][1:]
            if look["step"] <= EARLY * last
        ]
    return rows


def _apart(rows: list[Row], column: str) -> float:
    """Return how far the rank that is furthest from the largest one is off it: over the looks, the sum of distances over that of
    the largest rank's sizes."""
    by = {rank: np.array([row[column] for row in rows if row["rank"] == rank]) for rank in RANKS}
    largest = by[max(RANKS)]
    return max(float(np.sum(np.abs(one - largest)) / max(np.sum(np.abs(largest)), 1e-12)) for one in by.values())


def _early_rows(cell: Cell) -> list[Row]:
    rows = _starts(cell)
    if not rows:
        return []
    counts = [row["numbers"] for row in rows]
    return [
        place(cell)
        | {"spread": _apart(rows, "fall"), "spread_size": _apart(rows, "size"), "predicted": _apart(rows, "predicted")}
        | {"spread_counted": 1.0 - min(counts) / max(counts), "looks": len(rows) // len(RANKS)}
    ]


REGRET_EARLY = Claim(
    id="regret-early",
    nature="prediction",
    view="optimization",
    title="Under alpha over rank, LoRA's first steps do not depend on the rank",
    statement="At one rate for ranks 1, 4 and 16, the held-out loss falls alike and the held-out logits move as far over the "
    "first tenth of the steps; beside it stands what AdamW's path on each rank's tangent model says of the same looks.",
    equation=r"D = max_r frac(sum_t abs(Delta_r (t) - Delta_16 (t)), sum_t abs(Delta_16 (t))), quad t <= T \/ 10",
    equation_alt="Delta is the fall of the held-out loss at step t of rank r, or the root mean square of the shift of the "
    "held-out logits, and T the number of steps",
    derived="AdamW on each rank's tangent model, on the texts that training draws",
    sources=("schulman2025", "hu2022"),
    experiment=EXPERIMENT,
    rows=_early_rows,
    parts={"looks": _starts},
    deltas=(FULL,),
    statistic=Comparison("distance of the furthest rank's fall from rank 16's, over that", mean("spread")),
    criteria=(
        Criterion("fall", "distance of the furthest rank's fall of the loss", mean("spread"), (-np.inf, 0.25), (-np.inf, 0.5)),
        Criterion("size", "distance of the furthest rank's size of shift", mean("spread_size"), (-np.inf, 0.25), (-np.inf, 0.5)),
    ),
    rivals=(
        Comparison("distance of the falls foretold by the tangent path", mean("predicted")),
        Comparison("distance if falls went with the number of numbers", mean("spread_counted")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when no rank's falls of the held-out loss, nor the sizes of its logit shifts, are off those of rank 16 by "
    "more than a quarter of these, summed over the looks of the first tenth of the steps; refuted when one is off by more than "
    "half.",
    reason="Curves a quarter apart are read as one curve on a plot of the loss; if falls went with rank, rank 1 would be off by "
    "fifteen sixteenths. The rate is the middle of the grid, lower of two, before anything was seen.",
    change="Factors that are not scaled by alpha over rank, or so few maps that a single random row decides the first steps.",
    good=alike,
    bad=growing,
    good_is="factors on the direction that labels need, scaled by alpha over rank so that they act as one",
    bad_is=GROWING_IS,
)


def _layer_rows(cell: Cell) -> list[Row]:
    cells = named(cell, (FULL, beside.ATTENTION, beside.MLP))
    if not cells:
        return []
    full, attention, mlp = cells
    points = {one.delta: beside.POINTS * one.measured.values["accuracy"] for one in cells}
    foretold = [beside.POINTS * one.predicted.values["forecasts"]["optimum"]["accuracy"] for one in (mlp, attention)]
    counts = [one.predicted.values["numbers"] for one in (mlp, attention)]
    return [
        place(cell)
        | {"gain_full": gain(full), "gain_attention": gain(attention), "gain_mlp": gain(mlp)}
        | {"advantage": gain(mlp) - gain(attention), "points": points[beside.MLP] - points[beside.ATTENTION]}
        | {"predicted": forecast(mlp, "optimum") - forecast(attention, "optimum"), "points_predicted": foretold[0] - foretold[1]}
        | {"numbers_mlp": counts[0], "numbers_attention": counts[1], "counted": octaves(counts[0] / counts[1])}
    ]


def _rightly(columns: Mapping) -> float:
    """Return the share of rows in which the foretold advantage has the sign of the measured one."""
    return float(np.mean(np.sign(columns["predicted"]) == np.sign(columns["advantage"])))


REGRET_LAYERS = Claim(
    id="regret-layers",
    nature="prediction",
    view="optimization",
    title="LoRA on the MLP alone beats LoRA on attention alone",
    statement="With about as many numbers, LoRA on the maps of the MLP ends at a lower held-out loss and a higher accuracy than "
    "LoRA on those of attention; beside it stands the difference that the two tangent optima forecast.",
    equation=r'A = frac(sum_"cells" L_"attention" - L_"MLP", sum_"cells" L_0 - L_"full")',
    equation_alt="L is the held-out loss at the rate and step that dev text chose, and that before training",
    derived="the tangent optimum of either delta, its penalty chosen on dev text, and how many numbers each of them tunes",
    sources=("schulman2025", "hu2022"),
    experiment=EXPERIMENT,
    rows=_layer_rows,
    deltas=(FULL,),
    statistic=Comparison("the MLP's lead over attention, over full tuning's gain", of_full("advantage")),
    criteria=(
        Criterion(
            "lead", "the MLP's lead over attention, over full tuning's gain", of_full("advantage"), (0.05, np.inf), (0.0, np.inf)
        ),
        Criterion("points", "the MLP's lead in accuracy, in points", mean("points"), (0.0, np.inf), (-2.0, np.inf), "points"),
    ),
    rivals=(
        Comparison("the MLP's lead in nats", mean("advantage")),
        Comparison("lead forecast by the tangent optima, over full tuning's gain", of_full("predicted")),
        Comparison("lead in points forecast by the tangent optima", mean("points_predicted")),
        Comparison("share of cells in which the tangent optima name the better one", _rightly),
        Comparison("octaves by which the MLP's delta has more numbers", mean("counted")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the MLP's lead exceeds a twentieth of full tuning's gain and is one of accuracy too; refuted when "
    "attention is ahead in loss, or by more than 2 points of accuracy.",
    reason="A lead of less than a twentieth of the gain is too small to choose layers by. Ranks are matched so that both deltas "
    "have about as many numbers; a lead that goes with these would need no layers to explain it.",
    change="Ranks that give attention many more numbers, or tasks that turn on which words attend to which.",
    good=too_small,
    bad=growing,
    good_is="a teacher of every rank whose strength lies in the MLP's map",
    bad_is=GROWING_IS,
)


def _capacity_rows(cell: Cell) -> list[Row]:
    cells = named(cell, (FULL, *RANKS.values()))
    if not cells:
        return []
    left = {}
    for foretold in (False, True):
        steps, (full, *ranks) = curves(cells, foretold)
        left[foretold] = [leaving(steps, curve, full) for curve in ranks]
    return [
        place(cell)
        | {"order": order(left[False]), "predicted": order(left[True]), "gain_full": gain(cells[0])}
        | dict(zip(LEAVING, left[False], strict=True))
        | dict(zip(GAINS, map(gain, cells[1:]), strict=True))
    ]


def _along(cell: Cell) -> list[Row]:
    """Return the curves as shares of full tuning's final gain, measured and foretold; full tuning as rank 0."""
    cells = named(cell, (FULL, *RANKS.values()))
    if not cells:
        return []
    (steps, measured), (_, foretold) = curves(cells, False), curves(cells, True)
    ends = [max(float(one[0][-1]), 1e-9) for one in (measured, foretold)]
    return [
        {"task": cell.task, "seed": cell.seed, "rank": rank, "step": int(step)}
        | {"share": float(own / ends[0]), "predicted": float(said / ends[1])}
        for rank, one, other in zip((0, *RANKS), measured, foretold, strict=True)
        for step, own, said in zip(steps, one, other, strict=True)
    ]


REGRET_CAPACITY = Claim(
    id="regret-capacity",
    nature="prediction",
    view="optimization",
    title="A low rank leaves full tuning's curve at a step that grows with the rank",
    statement="With every delta at its own best rate, LoRA of ranks 1, 4 and 16 follows full tuning's curve of held-out loss up "
    "to a step that is later for a higher rank; beside it stands the same order on the tangent models.",
    equation=r'tau = 1/3 sum_(r < q) "sign"(t_q - t_r), quad t_r = min {t: '
    r'Delta_"full" (u) - Delta_r (u) > 1/10 Delta_"full" (T) "for all" u >= t}',
    equation_alt="Delta is the fall of the held-out loss at the look of the lowest dev loss so far, T the last step, and t of a "
    "rank that does not leave is T",
    derived="AdamW's path on each delta's tangent model, its rate chosen on dev text",
    sources=("schulman2025", "hu2022"),
    experiment=EXPERIMENT,
    rows=_capacity_rows,
    parts={"curves": _along},
    deltas=(FULL,),
    statistic=Comparison("Kendall's correlation of leaving step and rank, within task and seed", mean("order")),
    criteria=(Criterion("order", "Kendall's correlation of leaving step and rank", mean("order"), (0.5, np.inf), (0.2, np.inf)),),
    rivals=(
        Comparison("the same correlation on the tangent models", mean("predicted")),
        *(
            Comparison(f"share of full tuning's gain that rank {rank} reaches", of_full(name))
            for rank, name in zip(RANKS, GAINS, strict=True)
        ),
    ),
    nulls=(Comparison("leaving steps in no order", lambda columns: 0.0),),
    assumptions=(LEARNS, rates_suffice(FULL)),
    rule="Supported when the order of leaving steps agrees with that of ranks by more than one half, so that at least two pairs "
    "of three are in order and none reversed, on average; refuted when it is below one fifth, as it is where no rank leaves.",
    reason="Of three ranks one that alone leaves early gives two thirds. A tenth of the gain is about the least by which two "
    "curves are told apart on a plot. The count of numbers orders these deltas as the rank does and is no rival.",
    change="Tasks so small that rank 1 holds all there is to learn, or runs too short to fill it.",
    good=too_small,
    bad=growing,
    good_is="a teacher of every rank whose strength lies in the MLP's map",
    bad_is=GROWING_IS,
)


def _batch_rows(cell: Cell) -> list[Row]:
    cells = named(cell, (FULL, beside.FULL_LARGE_BATCH, beside.SMALL_BATCH, beside.LARGE_BATCH))
    if not cells:
        return []
    full, full_large, small, large = map(gain, cells)
    told = [forecast(one, "path") for one in cells]
    return [
        place(cell)
        | {"gain_full": full, "penalty": small - large, "penalty_full": full - full_large}
        | {"excess": (small - large) - (full - full_large)}
        | {"predicted": (told[2] - told[3]) - (told[0] - told[1])}
    ]


REGRET_BATCH = Claim(
    id="regret-batch",
    nature="prediction",
    view="optimization",
    title="A large batch costs LoRA more than it costs full tuning",
    statement="Over as many passes through the text, four times the batch raises the held-out loss of LoRA by more than that of "
    "full tuning, rates swept anew on the same grid; beside it stands what the paths on the tangent models say.",
    equation=r'E = frac(sum_"cells" (L_"large" - L_"small")_"LoRA" - (L_"large" - L_"small")_"full", sum_"cells" L_0 - L_"full")',
    equation_alt="L is the held-out loss at the rate and step that dev text chose, with the small and the large batch, and that "
    "before training",
    derived="AdamW's path on the tangent models of LoRA and of full tuning, with either batch, its rate chosen on dev text",
    sources=("schulman2025",),
    experiment=EXPERIMENT,
    rows=_batch_rows,
    deltas=(FULL,),
    statistic=Comparison("LoRA's excess cost of a large batch, over full tuning's gain", of_full("excess")),
    criteria=(
        Criterion(
            "excess",
            "LoRA's excess cost of a large batch, over full tuning's gain",
            of_full("excess"),
            (0.05, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("excess foretold by the tangent paths, over full tuning's gain", of_full("predicted")),
        Comparison("LoRA's own cost of a large batch, over full tuning's gain", of_full("penalty")),
        Comparison("full tuning's own cost of a large batch, over its gain", of_full("penalty_full")),
    ),
    nulls=(Comparison("no excess", lambda columns: 0.0),),
    assumptions=(
        LEARNS,
        rates_suffice(FULL, beside.FULL_LARGE_BATCH, beside.SMALL_BATCH, beside.LARGE_BATCH),
    ),
    rule="Supported when four times the batch costs LoRA more than it costs full tuning by a twentieth of full tuning's gain; "
    "refuted when it costs LoRA no more.",
    reason="An excess of less than a twentieth of the gain is too small to choose a batch by. The tangent model has no product of "
    "factors, so that an excess which it foretells has another cause.",
    change="So few steps that full tuning cannot reach its optimum either, or rates whose grid ends too low for a large batch.",
    good=product,
    bad=growing,
    good_is="factors that both start small, whose product grows with the square of the steps, under rates that end where the "
    "small batch is best",
    bad_is=GROWING_IS,
)
