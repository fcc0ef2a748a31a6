"""What is known of the options of a task: what was told of each before training, and what its run gained."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..choice.options import FULL, Options, Runs, by_rate
from ..practice.rates import best_rate, lowest
from ..shared.claim import Cell

Group = Mapping[str, Cell]  # the cells of one task and seed, by delta
RIVALS = ("numbers", "gradient", "fisher", "condition", "features")  # one number a delta, for all of its rates
FALL = 1.0  # nats of the dev loss, beyond which a rise counts as that
FEATURES = ("path", "late", "hits", "early", "fitted", "moved", "eta", "optimum", "alignment", "dimension", "pace")


def told(said: Mapping) -> list[dict[str, float]]:
    """Return the numbers of `FEATURES` of every rate of a delta, from what was said before training.

    Rises of the dev loss are cut at `FALL` nats, losses on training text have their sign turned, eta and dimension are
    logarithms, and pace is that of the rate times the adaptive sharpness.
    """
    own = said["told"]
    shared = {name: own[name] for name in ("optimum", "alignment")} | {"dimension": np.log2(own["dimension"])}
    return [
        {name: max(rate[name], -FALL) for name in ("path", "late", "moved")}
        | {"hits": rate["hits"], "early": -rate["early"], "fitted": -rate["fitted"], "eta": -np.log2(max(rate["eta"], 1e-3))}
        | {"pace": np.log2(rate["rate"] * own["sharpness"])}
        | shared
        for rate in sorted(said["rates"], key=lambda one: one["rate"])
    ]


def called(cells: Group) -> list[tuple[str, float]]:
    """Return (delta, rate) of every option, in the order of `Runs`."""
    return [(name, run["rate"]) for name, cell in cells.items() for run in by_rate(cell)]


def of_runs(cells: Group) -> Options:
    """Return the options of one task and seed: a delta at a rate, and the points that its run gained."""
    names = tuple(f"{name} at {rate:g}" for name, rate in called(cells))
    numbers = [[one[name] for name in FEATURES] for cell in cells.values() for one in told(cell.predicted.values)]
    return Options(names, np.array(numbers), Runs.of(cells).reached, cells[FULL].task)


def of_rates(cells: Group) -> Options:
    """Return the deltas of one task and seed: what is told of the rate of each, and the best rate of its sweep, in octaves.

    Told: minus the logarithm of the adaptive sharpness, and the rate at the least dev loss along the tangent model's paths.
    """
    numbers = []
    for cell in cells.values():
        said = sorted(cell.predicted.values["rates"], key=lambda one: one["rate"])
        on_paths = lowest(np.array([one["rate"] for one in said]), -np.array([one["path"] for one in said]))
        numbers.append([-np.log2(cell.predicted.values["told"]["sharpness"]), np.log2(on_paths)])
    swept = [float(np.log2(best_rate(cell.measured.values["runs"]))) for cell in cells.values()]
    return Options(tuple(cells), np.array(numbers), np.array(swept), cells[FULL].task)


def scored(cells: Group, rival: str) -> np.ndarray:
    """Return a rival's number of every option: that of its delta, at every rate."""
    return np.array([cell.predicted.values["rivals"][rival] for cell in cells.values() for _ in by_rate(cell)])


def nearest(cells: Group, others: Sequence[Group]) -> np.ndarray:
    """Return what every option gained on the nearest other task: that in which the labels pull mean features most alike."""
    own, near = cells[FULL].predicted.arrays["signature"], {}
    for group in others:
        their = group[FULL].predicted.arrays["signature"]
        alike = abs(float(own @ their)) if own.shape == their.shape else 0.0
        near.setdefault(group[FULL].task, []).append((alike, Runs.of(group).reached))
    best = max(near.values(), key=lambda seeds: np.mean([alike for alike, _ in seeds]))
    return np.mean([reached for _, reached in best], axis=0)


def swept_ends(cells: Group) -> np.ndarray:
    """Return the lowest and the highest rate of every delta's sweep, in octaves (C, 2)."""
    return np.log2([[float(end([r for n, r in called(cells) if n == name])) for end in (min, max)] for name in cells])
