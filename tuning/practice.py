"""Tuning as people do it: AdamW on minibatches under a cosine schedule, rate and stopping step chosen on dev text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from tuning.backbones import Batch
from tuning.subjects import Params, Subject, check_labels
from tuning.training import Diverged, cosine, minibatch


@dataclass(frozen=True)
class Recipe:
    """How a run is made: its steps, texts a step, the rates to choose from, AdamW's decay, the share of steps that warm up, and
    at how many steps it is looked at."""

    steps: int = 300
    batch_size: int = 32
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    decay: float = 0.01
    warmup: float = 0.06
    looks: int = 16

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.looks) < 1 or not self.rates or min(self.rates) <= 0 or self.decay < 0:
            raise ValueError(f"expected steps, texts a step, looks and rates above 0 and decay of at least 0, got {self}")

    @property
    def looked_at(self) -> tuple[int, ...]:
        """Return the steps after which a run is looked at, evenly spaced in their logarithm from the first to the last."""
        return tuple(int(n) for n in np.unique(np.round(np.geomspace(1, self.steps, self.looks)).astype(int)))


@dataclass(frozen=True)
class Point:
    """One look at the chosen run: losses in nats and accuracies on dev and on held-out text."""

    step: int
    dev_loss: float
    dev_accuracy: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Practised:
    """A delta tuned as in practice.

    params: at the chosen step of the run with the chosen rate, those of the lowest dev loss. path: that run from step 0 on.
    swept: (rate, its step of lowest dev loss, that loss), infinite for a run that ceased to be finite.
    """

    params: Params = field(repr=False)
    rate: float
    step: int
    path: tuple[Point, ...] = field(repr=False)
    swept: tuple[tuple[float, int, float], ...]

    @property
    def start(self) -> Point:
        """Return the look before the first step."""
        return self.path[0]

    @property
    def chosen(self) -> Point:
        """Return the look at the chosen step."""
        return next(point for point in self.path if point.step == self.step)

    @property
    def at_edge(self) -> bool:
        """Return whether the chosen rate ends the list of rates, so that one beyond it may be better."""
        rates = sorted(rate for rate, _, _ in self.swept)
        return self.rate in (rates[0], rates[-1])


def practised(subject: Subject, train: Batch, dev: Batch, test: Batch, *, recipe: Recipe | None = None, seed: int) -> Practised:
    """Return the delta tuned with every rate of the recipe and kept at the look of the lowest dev loss of all.

    The readout is trained too where it is among `subject.initial` (`Subject.with_readout`). Rate and step are chosen on dev
    text alone; held-out text is read along the chosen run, afterwards. Equal arguments give equal bytes. Raises ValueError
    when no run stays finite, and for labels outside the classes.
    """
    recipe = Recipe() if recipe is None else recipe
    for batch in (dev, test):
        check_labels(batch.labels, subject.readout.classes)
    swept, best, kept = [], math.inf, None
    for rate in recipe.rates:
        looks: dict[int, Params] = {}
        try:
            minibatch(
                subject,
                train,
                steps=recipe.steps,
                batch_size=recipe.batch_size,
                lr=rate,
                weight_decay=recipe.decay,
                warmup=recipe.warmup,
                seed=seed,
                schedule=cosine,
                visit=looks.__setitem__,
                visited=recipe.looked_at,
            )
        except Diverged:
            swept.append((rate, 0, math.inf))
            continue
        losses = {step: scores(subject, params, dev)[0] for step, params in looks.items()}
        step = min(losses, key=losses.__getitem__)
        swept.append((rate, step, losses[step]))
        if losses[step] < best:
            best, kept = losses[step], (rate, step, looks)
    if kept is None:
        raise ValueError(f"expected a run of finite loss among the rates {recipe.rates}, got none: lower them")
    rate, step, looks = kept
    path = [Point(n, *scores(subject, p, dev), *scores(subject, p, test)) for n, p in ({0: subject.initial} | looks).items()]
    return Practised(looks[step], rate, step, tuple(path), tuple(swept))


def scores(subject: Subject, params: Params, batch: Batch, size: int = 256) -> tuple[float, float]:
    """Return the mean cross-entropy in nats and the accuracy on a batch, `size` texts at a time."""
    with torch.no_grad():
        outputs = torch.cat([subject.outputs(params, piece) for piece in _pieces(batch, size)]).double()
    hit = (outputs.argmax(-1) == batch.labels).double().mean()
    return float(F.cross_entropy(outputs, batch.labels)), float(hit)


def _pieces(batch: Batch, size: int) -> Sequence[Batch]:
    return [type(batch)(*(x[i : i + size] for x in batch)) for i in range(0, len(batch.labels), size)]
