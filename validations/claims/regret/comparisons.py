"""LoRA without regret, of where and how much: which maps to tune, when a rank is too small, and what a large batch costs."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from ...verdict import Criterion
from ..practice.claim import LEARNS
from ..practice.experiment import EXPERIMENT
from ..shared.claim import Cell, Claim, Comparison, Row, mean, octaves
from . import beside
from .beside import FULL, RANKS, forecast, gain, named, of_full, place, rates_suffice
from .claim import GROWING_IS, growing
from .plants import PRODUCT, TOO_SMALL, compared

LEFT = 0.1  # of full tuning's gain, from which on a curve has left full tuning's
LEAVING, GAINS = ("left_1", "left_4", "left_16"), ("gain_1", "gain_4", "gain_16")  # columns of the ranks

too_small, product = partial(compared, EXPERIMENT, TOO_SMALL), partial(compared, EXPERIMENT, PRODUCT)


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


def _curve(told: Mapping, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps, falls of the held-out loss) along a chosen run, at every look those of the lowest dev loss so far."""
    looks = [look for look in beside.chosen_run(told)["looks"] if look["step"] > 0]
    best = np.array([min(range(k + 1), key=lambda i: looks[i]["dev_loss"]) for k in range(len(looks))])
    falls = np.array([start - look["loss"] for look in looks])
    return np.array([look["step"] for look in looks]), falls[best]


def _curves(cells: Sequence[Cell], foretold: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the steps and the curve of every cell, that of its own chosen rate."""
    said = [(one.predicted.values["path"] if foretold else one.measured.values) for one in cells]
    found = [_curve(told, one.predicted.values["start"]["loss"]) for told, one in zip(said, cells, strict=True)]
    return found[0][0], [falls for _, falls in found]


def _leaving(steps: np.ndarray, curve: np.ndarray, full: np.ndarray) -> float:
    """Return the first step from which a curve stays below full tuning's by a tenth of its final gain; the last where none is."""
    below = full - curve > LEFT * max(full[-1], 0.0)
    stays = np.logical_and.accumulate(below[::-1])[::-1]
    return float(steps[np.argmax(stays)] if stays.any() else steps[-1])


def _order(left: Sequence[float]) -> float:
    """Return Kendall's tau of leaving steps in the order of ranks: pairs in order less pairs in reverse, over all pairs."""
    return float(np.mean([np.sign(later - sooner) for sooner, later in combinations(left, 2)]))


def _capacity_rows(cell: Cell) -> list[Row]:
    cells = named(cell, (FULL, *RANKS.values()))
    if not cells:
        return []
    left = {}
    for foretold in (False, True):
        steps, (full, *curves) = _curves(cells, foretold)
        left[foretold] = [_leaving(steps, curve, full) for curve in curves]
    return [
        place(cell)
        | {"order": _order(left[False]), "predicted": _order(left[True]), "gain_full": gain(cells[0])}
        | dict(zip(LEAVING, left[False], strict=True))
        | dict(zip(GAINS, map(gain, cells[1:]), strict=True))
    ]


def _along(cell: Cell) -> list[Row]:
    """Return the curves as shares of full tuning's final gain, measured and foretold; full tuning as rank 0."""
    cells = named(cell, (FULL, *RANKS.values()))
    if not cells:
        return []
    (steps, measured), (_, foretold) = _curves(cells, False), _curves(cells, True)
    ends = [max(float(curves[0][-1]), 1e-9) for curves in (measured, foretold)]
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
