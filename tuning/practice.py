"""Tuning as people do it: AdamW on minibatches under a cosine schedule, rate and stopping step chosen on dev text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.ensembles import outputs
from tuning.subjects import Params, Subject, check_labels
from tuning.sweeps import folds, minibatches, spread
from tuning.training import Diverged, cosine, minibatch, shares


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
    def shares(self) -> list[float]:
        """Return the rate of every step as a share of the highest."""
        return shares(self.steps, self.warmup, cosine)

    @property
    def looked_at(self) -> tuple[int, ...]:
        """Return the steps after which a run is looked at, evenly spaced in their logarithm from the first to the last."""
        return tuple(int(n) for n in np.unique(np.round(np.geomspace(1, self.steps, self.looks)).astype(int)))


@dataclass(frozen=True)
class Point:
    """One look at a run: losses in nats and accuracies on dev and on held-out text, and the held-out logits (N, C)."""

    step: int
    dev_loss: float
    dev_accuracy: float
    loss: float
    accuracy: float
    outputs: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Run:
    """One rate's run, looked at from step 0 on; the path ends where the run ceased to be finite."""

    rate: float
    path: tuple[Point, ...] = field(repr=False)
    finite: bool

    @property
    def best(self) -> Point:
        """Return the look after training of the lowest dev loss; of a run that ceased to be finite, the look before it began."""
        return min(self.path[1:], key=lambda point: point.dev_loss) if self.finite else self.path[0]


@dataclass(frozen=True)
class Practised:
    """A delta tuned as in practice: every rate's run, and the delta at the chosen step of the chosen one."""

    params: Params = field(repr=False)
    runs: tuple[Run, ...]
    chosen_run: Run

    @property
    def rate(self) -> float:
        """Return the rate of the lowest dev loss."""
        return self.chosen_run.rate

    @property
    def step(self) -> int:
        """Return the step of the lowest dev loss."""
        return self.chosen.step

    @property
    def path(self) -> tuple[Point, ...]:
        """Return the chosen run's looks."""
        return self.chosen_run.path

    @property
    def start(self) -> Point:
        """Return the look before the first step."""
        return self.path[0]

    @property
    def chosen(self) -> Point:
        """Return the look at the chosen step."""
        return self.chosen_run.best

    @property
    def at_edge(self) -> bool:
        """Return whether the chosen rate ends the list of rates, so that one beyond it may be better."""
        return self.rate in (min(run.rate for run in self.runs), max(run.rate for run in self.runs))


def practised(subject: Subject, train: Batch, dev: Batch, test: Batch, *, recipe: Recipe | None = None, seed: int) -> Practised:
    """Return the delta tuned with every rate of the recipe and kept at the look of the lowest dev loss of all.

    The readout is trained too where it is among `subject.initial` (`Subject.with_readout`). Rate and step are chosen on dev
    text alone; held-out text is read along the runs, which share passes where that is faster (`tuning.sweeps.folds`). Equal
    arguments give equal bytes. Raises ValueError when no run stays finite, and for labels outside the classes.
    """
    recipe = Recipe() if recipe is None else recipe
    for batch in (dev, test):
        check_labels(batch.labels, subject.readout.classes)

    def looked(step: int, params: Params) -> Point:
        return _point(step, logits_of(subject, params, dev), dev, logits_of(subject, params, test), test)

    start = looked(0, subject.initial)
    tries = [_Try(rate, [start]) for rate in recipe.rates]
    options = {
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "weight_decay": recipe.decay,
        "warmup": recipe.warmup,
        "seed": seed,
        "schedule": cosine,
        "visited": recipe.looked_at,
    }

    def together(step: int, params: Params, finite: Tensor) -> None:
        on_dev, on_test = (_logits_of_all(subject, params, batch) for batch in (dev, test))
        for member, alive in enumerate(finite.tolist()):
            if alive:
                point = _point(step, on_dev[member], dev, on_test[member], test)
                tries[member].add(point, {name: value[member].clone() for name, value in params.items()})

    if folds(subject):
        finite = minibatches(subject, train, rates=recipe.rates, visit=together, **options)
        for tried, alive in zip(tries, finite.tolist(), strict=True):
            tried.finite = alive
    else:
        for tried in tries:
            try:
                minibatch(subject, train, lr=tried.rate, visit=lambda n, met, t=tried: t.add(looked(n, met), met), **options)
            except Diverged:
                tried.finite = False
    runs = [Run(tried.rate, tuple(tried.path), tried.finite) for tried in tries]
    best = min((i for i, run in enumerate(runs) if run.finite), key=lambda i: runs[i].best.dev_loss, default=None)
    if best is None or not math.isfinite(runs[best].best.dev_loss):
        raise ValueError(f"expected a run of finite loss among the rates {recipe.rates}, got none: lower them")
    return Practised(tries[best].params[runs[best].best.step], tuple(runs), runs[best])


@dataclass
class _Try:
    """A run as it is made: its looks, and the parameters at each."""

    rate: float
    path: list[Point]
    params: dict[int, Params] = field(default_factory=dict)
    finite: bool = True

    def add(self, point: Point, params: Params) -> None:
        self.path.append(point)
        self.params[point.step] = params


def _point(step: int, on_dev: Tensor, dev: Batch, on_test: Tensor, test: Batch) -> Point:
    return Point(step, *_scored(on_dev, dev), *_scored(on_test, test), on_test.float().cpu().numpy())


def _logits_of_all(subject: Subject, params: Params, batch: Batch, size: int = 256) -> Tensor:
    """Return the logits (E, N, C) of every member of params (E, ...) on a batch in float64, without a graph."""
    members = len(next(iter(params.values())))
    with torch.no_grad():
        return torch.cat([outputs(subject, params, spread(piece, members)) for piece in batch.chunks(size)], 1).double()


def logits_of(subject: Subject, params: Params, batch: Batch, size: int = 64) -> Tensor:
    """Return the logits (N, C) on a batch in float64, without a graph, `size` texts at a time and no padding computed."""
    with torch.no_grad():
        return torch.cat([subject.outputs(params, piece, packed=True) for piece in batch.chunks(size)]).double()


def scores(subject: Subject, params: Params, batch: Batch) -> tuple[float, float]:
    """Return the mean cross-entropy in nats and the accuracy on a batch."""
    return _scored(logits_of(subject, params, batch), batch)


def _scored(outputs: Tensor, batch: Batch) -> tuple[float, float]:
    hit = (outputs.argmax(-1) == batch.labels).double().mean()
    return float(F.cross_entropy(outputs, batch.labels)), float(hit)
