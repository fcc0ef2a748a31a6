"""LoRA without regret, of rates and of the first steps: ten times full tuning's rate, and ranks that start alike."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..practice.claim import LEARNS
from ..practice.experiment import EXPERIMENT
from ..practice.rates import best_rate, least_dev_losses
from ..shared.claim import Cell, Claim, Comparison, Row, error, mean, octaves
from .beside import FULL, RANKS, fall, named, place, rates_suffice
from .plants import ALIKE, GROWING, compared

PUBLISHED = float(np.log2(10.0))
EARLY = 0.1  # of the steps

alike, growing = partial(compared, EXPERIMENT, ALIKE), partial(compared, EXPERIMENT, GROWING)
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
