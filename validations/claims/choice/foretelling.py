"""What an option of a new task is foretold before training, and its runs where a race asks for them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from tuning.practice import Recipe, scores
from tuning.training import Diverged, cosine, minibatch

from ..practice.tangent import Texts
from ..shared.setting import Setting
from ..shared.training import cross_entropy, first, logits, shifted
from .race import Price


def told(setting: Setting, subject: Any, recipe: Recipe, seed: int) -> dict[str, float]:
    """Return the least dev losses foretold of an option, by the names of `options.FORECASTS`.

    They are those of a practice cell with one linearisation; of the setting only train and dev text are read.
    """
    texts = Texts.of(replace(setting, test=first(setting.dev, 1)), subject.outputs, subject.initial)
    best, start = texts.optimum(), {name: value.detach() for name, value in subject.initial.items()}
    moved = (shifted(start, texts.displacement(costates, ridge, best.weight)) for ridge, costates in texts.ridges(best.weight))
    network = min(cross_entropy(logits(subject.outputs, params, setting.dev), texts.dev.labels) for params in moved)
    path = float(texts.path(recipe, seed).losses.min())
    return {"optimum": best.dev_loss, "path": path, "refined": min(network, best.dev_loss)}


@dataclass(eq=False)
class Trained:
    """Dev losses of runs by (run, look), each trained when first asked for: from its start, since a run that ended keeps no state.

    runs: (subject, rate) of every run. steps: of the looks (L,). passes: of a text through the network, taken so far.
    """

    runs: list[tuple[Any, float]]
    train: Any
    dev: Any
    recipe: Recipe
    seed: int
    passes: float = 0.0
    losses: dict[tuple[int, int], float] = field(default_factory=dict)
    accuracies: dict[tuple[int, int], float] = field(default_factory=dict)
    report: Callable[[str], None] = lambda line: None

    @property
    def steps(self) -> np.ndarray:
        """Return the steps of the looks."""
        return np.array(self.recipe.looked_at)

    @property
    def price(self) -> Price:
        """Return what a step and a look take."""
        return Price(3.0 * self.recipe.batch_size, float(len(self.dev.labels)), kept=False)

    def __getitem__(self, place: tuple[int, int]) -> float:
        if place not in self.losses:
            self._train(*place)
        return self.losses[place]

    def _train(self, run: int, last: int) -> None:
        (subject, rate), steps = self.runs[run], self.recipe.looked_at

        def visit(step: int, params: dict[str, torch.Tensor]) -> None:
            look = steps.index(step)
            self.losses[run, look], self.accuracies[run, look] = scores(subject, params, self.dev)
            self.passes += self.price.look
            if look == last:
                raise _Far

        for look in range(last + 1):
            self.losses.setdefault((run, look), np.inf)  # of a run that ceases to be finite
        known = {look for look in range(last) if np.isfinite(self.losses[run, look])}
        with contextlib.suppress(_Far, Diverged):
            minibatch(
                subject, self.train, steps=self.recipe.steps, batch_size=self.recipe.batch_size, lr=rate,
                weight_decay=self.recipe.decay, warmup=self.recipe.warmup, seed=self.seed, schedule=cosine, visit=visit,
                visited=[steps[look] for look in range(last + 1) if look not in known],
            )  # fmt: skip
        self.passes += self.price.step * steps[last]
        self.report(f"  run {run + 1}: {steps[last]} steps at rate {rate:g}, dev loss {self.losses[run, last]:.3f}")


class _Far(Exception):
    """A run has come as far as it was asked for."""
