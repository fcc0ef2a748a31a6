"""One delta tuned as in practice at one rate, with its head: what it reaches and how soon, without a forecast of its own."""

import numpy as np

from tuning.practice import Point, practised, scores

from ...store import Record
from ..practice.experiment import recipe_of
from ..shared.setting import Experiment, Setting, own_seed


def predict(setting: Setting) -> Record:
    """Return what is known of a delta before training: the frozen network's held-out scores and how many numbers it tunes."""
    subject, labels = setting.subjects["delta"], setting.test.labels.cpu().numpy()
    loss, accuracy = scores(subject, subject.initial, setting.test)
    numbers = sum(value.numel() for value in subject.initial.values())
    majority = float(np.bincount(labels).max() / len(labels))
    return Record({"start": {"loss": loss, "accuracy": accuracy}, "majority": majority, "numbers": numbers}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the looks at the run whose rate dev text chose, the chosen one's scores, and what each rate came to.

    Options: dev, and those of `tuning.practice.Recipe`.
    """
    if setting.dev is None:
        raise ValueError("tuning as in practice chooses its step on dev text: give the part's option dev, a number of texts")
    found = practised(
        setting.subjects["delta"].with_readout(),
        setting.train,
        setting.dev,
        setting.test,
        recipe=recipe_of(setting.options),
        seed=own_seed(setting, 223),
    )
    rates = [{"rate": run.rate, "finite": run.finite, "dev_loss": run.best.dev_loss} for run in found.runs]
    told = {"rate": found.rate, "step": found.step, "accuracy": found.chosen.accuracy, "loss": found.chosen.loss}
    return Record(told | {"rates": rates, "looks": [_look(point) for point in found.path]}, {})


def _look(point: Point) -> dict:
    return {"step": point.step, "dev_loss": point.dev_loss, "loss": point.loss, "accuracy": point.accuracy}


EXPERIMENT = Experiment("facts", "one delta tuned with its head", ("delta",), predict, measure, weight=5.0, per_delta=True)
