"""A race of runs on their dev losses, priced in passes of a text through the network, and what else the same price buys."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .options import Runs

RATIO = 3  # of the runs that go on after a round, one in so many
WAIT = 0.35  # of the steps, before which a race drops no run: on a task of development nothing was learnt before a fifth of them


@dataclass(frozen=True)
class Price:
    """What a step and a look take, in passes of a text through the network: a forward one counts one, a gradient three.

    kept: whether a run that was stopped goes on from there; else it is made anew.
    """

    step: float
    look: float
    kept: bool = True

    def run(self, steps: np.ndarray) -> float:
        """Return the price of one run to the last of its looks."""
        return float(steps[-1] * self.step + len(steps) * self.look)


@dataclass(frozen=True)
class Won:
    """The run and the look that were taken, and what finding them took."""

    run: int
    look: int
    spent: float


class Losses(Protocol):
    """Dev losses by run and look, known or trained for when asked."""

    def __getitem__(self, place: tuple[int, int]) -> float: ...


def race(losses: Losses, steps: np.ndarray, order: Sequence[int], budget: float, price: Price) -> Won:
    """Return the winner of a race of the first runs of an order, as many as the budget takes.

    All of them go to the first look after the share `WAIT` of their steps, under their own schedule; by dev loss there one in
    `RATIO` goes on to its end, and the run and look of the least dev loss are taken: successive halving (Jamieson and
    Talwalkar 2016, figure 1) of two rounds. steps: of the looks (L,). One run is made whatever the budget.
    """
    cut = int(np.argmax(steps >= WAIT * steps[-1]))
    start = float(steps[cut] * price.step + price.look)
    rest = float((steps[-1] - price.kept * steps[cut]) * price.step + (len(steps) - 1 - cut) * price.look)
    taken = max(count for count in range(1, len(order) + 1) if count == 1 or _takes(count, start, rest) <= budget)
    field = sorted(order[:taken], key=lambda run: losses[run, cut])[: math.ceil(taken / RATIO)]
    run, look = min(((run, look) for run in field for look in range(cut, len(steps))), key=lambda place: losses[place])
    return Won(run, look, _takes(taken, start, rest))


def _takes(count: int, start: float, rest: float) -> float:
    """Return the price of a race of so many runs."""
    return count * start + math.ceil(count / RATIO) * rest


def halving(losses: Losses, steps: np.ndarray, entrants: Sequence[int], budget: float, price: Price) -> Won:
    """Return the winner of successive halving of all entrants within a budget (Jamieson and Talwalkar 2016, figure 1).

    What the budget leaves after one whole run is shared evenly among the rounds. In a round every run goes on to the furthest
    look that the share pays for; by dev loss there one in `RATIO` goes on. The last is run to its end, and the look of its least
    dev loss is taken. Of more entrants than the budget takes to their first look the first are taken.
    """
    field, at, spent = list(entrants), -1, 0.0
    while len(field) > 1 and len(field) * (steps[0] * price.step + price.look) > _share(len(field), steps, budget, price):
        field.pop()
    share = _share(len(field), steps, budget, price)
    seen: set[int] = set()
    while len(field) > 1:
        begun = steps[at] if at >= 0 else 0
        costs = len(field) * ((steps - begun) * price.step + price.look)
        paid = [look for look in range(at + 1, len(steps)) if costs[look] <= share]
        if paid:
            at = paid[-1]
            spent += float(costs[at])
            seen.add(at)
        field = sorted(field, key=lambda run: losses[run, at])[: math.ceil(len(field) / RATIO)]
    (last,), begun = field, steps[at] if at >= 0 else 0
    later = range(at + 1, len(steps))
    spent += float((steps[-1] - begun) * price.step + len(later) * price.look)
    look = min(seen | {*later}, key=lambda look: (losses[last, look], look))
    return Won(last, look, spent)


def _share(count: int, steps: np.ndarray, budget: float, price: Price) -> float:
    """Return what every round of a race of so many runs may take."""
    return (budget - price.run(steps)) / max(math.ceil(math.log(count, RATIO) - 1e-9), 1)


def grid(runs: Runs, price: Price) -> Won:
    """Return the run of the least dev loss of all, each run to its end."""
    last = int(np.argmin(runs.losses.min(1)))
    return Won(last, int(runs.best[last]), len(runs.losses) * price.run(runs.steps))


def shortened(runs: Runs, budget: float, price: Price) -> Won:
    """Return the run of the least dev loss at the furthest look to which the budget takes all of them; the first, if to none."""
    costs = len(runs.losses) * (runs.steps * price.step + price.look)
    look = max(int(np.sum(costs <= budget)) - 1, 0)
    return Won(int(np.argmin(runs.losses[:, look])), look, float(costs[look]))


def random_gain(runs: Runs, budget: float, price: Price) -> float:
    """Return the expected points of the run of the least dev loss among as many whole ones, drawn at random, as the budget takes.

    Of m drawn from R the i-th best by dev loss is the best with probability C(R - i, m - 1) / C(R, m).
    """
    whole, order = len(runs.losses), np.argsort(runs.losses.min(1), kind="stable")
    drawn = min(max(int(budget // price.run(runs.steps)), 1), whole)
    weights = np.array([math.comb(whole - 1 - i, drawn - 1) for i in range(whole)]) / math.comb(whole, drawn)
    return float(weights @ runs.reached[order])


def finishes(
    runs: Runs, prior: np.ndarray, usual: np.ndarray, price: Price, told: float, shares: Sequence[float]
) -> list[dict[str, float]]:
    """Return, for each share of the grid's price, the points that every way of searching loses against the whole grid's choice.

    prior, usual: points foretold of every run and its mean on other tasks (R,). told: passes that all forecasts take, which the
    race that they lead pays for.
    """
    whole = grid(runs, price)
    best, hindsight = float(runs.gained[whole.run, whole.look]), float(max(runs.reached))

    def lost(won: Won) -> float:
        return best - float(runs.gained[won.run, won.look])

    found = []
    for share in shares:
        budget = share * whole.spent
        led = race(runs.losses, runs.steps, _order(prior), budget - told, price)
        by_mean = race(runs.losses, runs.steps, _order(usual), budget, price)
        plain = halving(runs.losses, runs.steps, range(len(prior)), budget, price)
        found.append(
            {"share": share, "lost": lost(led), "lost_plain": lost(plain), "cost": (led.spent + told) / whole.spent}
            | {"cost_plain": plain.spent / whole.spent, "lost_random": best - random_gain(runs, budget, price)}
            | {"lost_shortened": lost(shortened(runs, budget, price)), "lost_table": lost(by_mean)}
            | {
                "lost_forecast": best - float(runs.reached[int(np.argmax(prior))]),
                "cost_forecast": (price.run(runs.steps) + told) / whole.spent,
            }
            | {"best": best, "hindsight": hindsight - best, "runs": len(prior), "told": told / whole.spent}
        )
    return found


def _order(prior: np.ndarray) -> list[int]:
    """Return the runs from that of which most is foretold on."""
    return [int(run) for run in np.argsort(-prior, kind="stable")]
