"""Four solvers on one problem, min over u of the mean loss + r/2 |u|^2, with what each had paid for every control it visited."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from theory.open_loop import Path, iterated_lq, successive
from tuning.training import Diverged, adamw, draws, fit, flatten, unflatten

from ..shared.setting import Params
from ..shared.training import l2
from .ensemble import Ensemble

SOLVERS = ("lq", "msa", "lbfgs", "adamw")


@dataclass(frozen=True)
class Rules:
    """What a race allows: gradients that a solver may spend, where it may stop, and how AdamW is run.

    lengths: of AdamW's runs, in gradients of all examples, each under its own schedule, at its own rate of `rates`. batch_size:
    of its batches, whose gradients cost their share. stop: the length of the run that is taken as practice.
    """

    budget: int
    tolerance: float
    lengths: Sequence[int]
    rates: Sequence[float]
    batch_size: int
    stop: int


@dataclass(frozen=True, eq=False)
class Race:
    """The paths by solver, the objective at rest and the least that any of them met.

    trained: the last control of L-BFGS, and whether it converged. stopped: where AdamW's run of the length `stop` ended.
    """

    paths: Mapping[str, Path]
    start: float
    best: float
    trained: np.ndarray
    converged: bool
    stopped: np.ndarray

    def target(self, share: float) -> float:
        """Return the objective at which this share of the whole fall has been made."""
        return self.start - share * (self.start - self.best)


def race(ensemble: Ensemble, r: float, rules: Rules, seed: int) -> Race:
    """Return the four solvers' paths from rest on an ensemble, at the price r of the control."""
    u = flatten(ensemble.rest)
    paths = {
        "lq": iterated_lq(ensemble.forward, u, ensemble.loss, r, budget=rules.budget),
        "msa": successive(ensemble.forward, u, ensemble.loss, r, budget=rules.budget, tolerance=rules.tolerance),
    }
    objective = partial(_objective, ensemble, r)
    paths["lbfgs"], converged = lbfgs_path(objective, ensemble.rest, rules)
    paths["adamw"], stopped = adamw_path(objective, ensemble.rest, len(ensemble.labels), rules, seed)
    best = min(float(path.objectives.min()) for path in paths.values())
    return Race(paths, float(paths["lq"].objectives[0]), best, paths["lbfgs"].controls[-1], converged, stopped)


def outline(path: Path, start: float, best: float) -> list[list[float]]:
    """Return (cost, share of the fall still to make) wherever a solver came lower than before, in the order of costs."""
    least, lower = np.inf, []
    for place in np.argsort(path.costs, kind="stable"):
        value = float(path.objectives[place])
        if value < least:
            least = value
            lower.append([float(path.costs[place]), (value - best) / max(start - best, 1e-300)])
    return lower


def _objective(ensemble: Ensemble, r: float, controls: Params, rows: Tensor | None = None) -> Tensor:
    return ensemble.mean_loss(controls, rows) + 0.5 * r * l2(controls, ensemble.rest)


def lbfgs_path(objective: Callable[[Params], Tensor], rest: Params, rules: Rules) -> tuple[Path, bool]:
    """Return every control at which L-BFGS took a gradient, then the one that it ends at, and whether it converged."""
    seen: list[tuple[np.ndarray, float]] = []

    def watched(controls: Params) -> Tensor:
        value = objective(controls)
        seen.append((flatten(controls), value.item()))
        return value

    fitted = fit(watched, rest, tolerance=rules.tolerance, max_evaluations=rules.budget)
    controls, values = zip(*seen, (flatten(fitted.params), fitted.value), strict=True)
    costs = np.minimum(np.arange(1.0, len(seen) + 2), len(seen))
    return Path(np.array(controls), costs, np.array(values)), bool(fitted.converged)


def adamw_path(objective: Callable[..., Tensor], rest: Params, size: int, rules: Rules, seed: int) -> tuple[Path, np.ndarray]:
    """Return the controls after every gradient's worth of all runs, and the end of the one that stands for practice.

    The price is in the objective, so that every solver minimises the same; there is no decoupled decay. A run that diverges
    leaves what it visited before. Looking at the whole objective on the way is not charged.
    """
    points, stopped = [(flatten(rest), 0.0)], flatten(rest)
    taken = min(rules.batch_size, size)
    for length, rate in zip(rules.lengths, rules.rates, strict=True):
        steps = max(1, round(length * size / taken))
        looks = {max(1, round(k * steps / length)): None for k in range(1, length + 1)}
        visited: list[tuple[np.ndarray, float]] = []

        def visit(step: int, controls: Params, visited: list = visited) -> None:
            visited.append((flatten(controls), step * taken / size))

        with contextlib.suppress(Diverged):
            adamw(
                objective,
                rest,
                draws(size, taken, steps, seed),
                steps=steps,
                lr=rate,
                visit=visit,
                visited=looks,
            )
        points += visited
        if length == rules.stop and visited:
            stopped = visited[-1][0]
    controls, costs = zip(*points, strict=True)
    with torch.no_grad():
        values = [objective(unflatten(u, rest)).item() for u in controls]
    return Path(np.array(controls), np.array(costs), np.array(values)), stopped
