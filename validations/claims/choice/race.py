"""A race of runs on their dev losses, priced in passes of a text through the network, and what else the same price buys."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .options import Runs

RATIO = 3  # of the runs that go on after a round, one in so many


@dataclass(frozen=True)
class Price:
    """What a step and a look take, in passes of a text through the network: a forward one counts one, a gradient three."""

    step: float
    look: float

    def run(self, steps: np.ndarray) -> float:
        """Return the price of one run to the last of its looks."""
        return float(steps[-1] * self.step + len(steps) * self.look)


@dataclass(frozen=True)
class Won:
    """The run and the look that were taken, and what finding them took."""

    run: int
    look: int
    spent: float


def race(runs: Runs, entrants: Sequence[int], budget: float, price: Price) -> Won:
    """Return the winner of successive halving among some runs within a budget (Jamieson and Talwalkar 2016, figure 1).

    What the budget leaves after one whole run is shared evenly among the rounds. In a round every run goes on, under its own
    schedule, to the furthest look that the share pays for; by dev loss there one in `RATIO` goes on. The last is run to
    its end, and the look of its least dev loss is taken.
    """
    field, at, spent = list(entrants), -1, 0.0
    rounds = math.ceil(math.log(max(len(field), 1), RATIO) - 1e-9)
    share = (budget - price.run(runs.steps)) / max(rounds, 1)
    seen: set[int] = set()
    while len(field) > 1:
        begun = runs.steps[at] if at >= 0 else 0
        costs = len(field) * ((runs.steps - begun) * price.step + price.look)
        paid = [look for look in range(at + 1, len(runs.steps)) if costs[look] <= share]
        if paid:
            at = paid[-1]
            spent += float(costs[at])
            seen.add(at)
        if at < 0:
            raise ValueError(f"expected a budget that takes {len(field)} runs to their first look, got {budget:g}: enter fewer")
        field = sorted(field, key=lambda run: runs.losses[run, at])[: math.ceil(len(field) / RATIO)]
    (last,), begun = field, runs.steps[at] if at >= 0 else 0
    later = range(at + 1, len(runs.steps))
    spent += float((runs.steps[-1] - begun) * price.step + len(later) * price.look)
    look = min(seen | {*later}, key=lambda look: (runs.losses[last, look], look))
    return Won(last, look, spent)


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
