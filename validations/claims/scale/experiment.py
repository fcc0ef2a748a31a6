"""One delta tuned with its head on one backbone, how much of it is of first order, and what random directions of it reach."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from probes.dimension.projection import random_subspace
from tuning.decomposition import InCode
from tuning.practice import Practised, Recipe, practised

from ...statistics import cosine, explained
from ...store import Record
from ..facts.experiment import predict
from ..full_code.experiment import Projected
from ..practice.experiment import recipe_of
from ..shared.setting import Experiment, Setting, own_seed
from ..shared.training import at_start, centred


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the looks at the chosen run, how far its held-out shift is of first order, and what random directions reach.

    `dimensions` random directions of all the delta's numbers and the head's are trained in their place, from the same start on the
    same texts, and looked at half as often; codes of size one take the numbers as far as the whole delta took them. Options: dev, dimensions, code_rates, and
    those of `tuning.practice.Recipe`.
    """
    if setting.dev is None:
        raise ValueError("tuning as in practice chooses its step on dev text: give the part's option dev, a number of texts")
    subject, recipe = setting.subjects["delta"].with_readout(), recipe_of(setting.options)
    found = _tuned(setting, subject, recipe)
    told = {"rate": found.rate, "step": found.step} | _reached(found)
    told["rates"] = [{"rate": run.rate, "dev_loss": run.best.dev_loss} for run in found.runs]
    told["looks"] = [{"step": point.step, "loss": point.loss} for point in found.path]
    told |= _first_order(setting, subject, found)
    return Record(told | {"random": _random(setting, subject, replace(recipe, looks=max(2, recipe.looks // 2)), found)}, {})


def _tuned(setting: Setting, subject: Any, recipe: Recipe) -> Practised:
    return practised(subject, setting.train, setting.dev, setting.test, recipe=recipe, seed=own_seed(setting, 223))


def _reached(found: Practised) -> dict[str, float]:
    return {"accuracy": found.chosen.accuracy, "loss": found.chosen.loss}


def _first_order(setting: Setting, subject: Any, found: Practised) -> dict[str, float]:
    """Return how far the held-out logits moved, and how well the derivative at the start along the trained numbers says so."""
    start = at_start(subject)
    moved = {name: found.params[name] - value for name, value in start.items()}
    foretold = []
    for piece in setting.test.chunks():
        _, slope = torch.func.jvp(lambda params, piece=piece: subject.outputs(params, piece), (start,), (moved,))
        foretold.append(slope.detach().double().cpu().numpy())
    shift, straight = centred(found.chosen.outputs.astype(float) - found.start.outputs), centred(np.concatenate(foretold))
    size = float(np.sqrt(np.mean(shift**2)))
    return {"first_order": explained(shift, straight), "cosine": cosine(shift, straight), "shift": size}


def _random(setting: Setting, subject: Any, recipe: Recipe, found: Practised) -> list[dict[str, float]]:
    """Return what each number of random directions reaches, the smaller subspaces within the larger ones (Li et al. 2018)."""
    if not (dimensions := sorted(setting.options.get("dimensions", ()))):
        return []
    start = at_start(subject)
    moved = math.sqrt(sum(float((found.params[name] - value).square().sum()) for name, value in start.items()))
    like = next(iter(start.values()))
    shapes = {name: tuple(value.shape) for name, value in start.items()}
    drawn = random_subspace(shapes, dimensions[-1], seed=own_seed(setting, 281), dtype=like.dtype, device=like.device)
    return [_within(setting, subject, recipe, drawn.first(d), moved / math.sqrt(d)) for d in dimensions]


def _within(setting: Setting, subject: Any, recipe: Recipe, directions: Any, unit: float) -> dict[str, float]:
    rates: Sequence[float] = setting.options["code_rates"]
    found = _tuned(setting, InCode(subject, Projected(directions, unit)), replace(recipe, rates=tuple(map(float, rates))))
    return {"dimension": directions.dimension, "rate": found.rate} | _reached(found)


EXPERIMENT = Experiment(
    "scale", "one delta on one of several backbones", ("delta",), predict, measure, weight=5.0, per_delta=True
)
