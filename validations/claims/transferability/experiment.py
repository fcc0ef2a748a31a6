"""One delta tuned on a task with its head, and put as it is onto every other task of the study, whose head is fitted under it."""

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from tuning.backbones import Batch
from tuning.practice import logits_of, practised
from tuning.subjects import HEAD_C, READOUT_PARAMETERS, Params, Readout

from ...store import Record
from ..practice.experiment import recipe_of
from ..shared.setting import Experiment, Setting, own_seed

NEEDED = ("groups", "senses")


def mark(setting: Setting) -> str:
    """Return what a cell knows another task by: the checksum of its training texts."""
    return f"{zlib.crc32(np.ascontiguousarray(setting.train.tokens.cpu().numpy()).tobytes()):08x}"


def features(setting: Setting, params: Params, batch: Batch) -> np.ndarray:
    """Return what the head of a setting's subject reads of a batch under some delta, (N, d) in float64."""
    subject = setting.subjects["delta"]
    like = subject.readout.weight
    whole = Readout(torch.eye(like.shape[1]).to(like), torch.zeros(like.shape[1]).to(like))
    delta = {name: value for name, value in params.items() if name not in READOUT_PARAMETERS}
    return logits_of(replace(subject, readout=whole), delta, batch).cpu().numpy()


def landed(setting: Setting, params: Params) -> dict[str, float]:
    """Return the held-out accuracy on a setting's task under a delta from elsewhere, and with the head that came with it.

    `fitted`: a logistic regression on standardised features of the task's training texts under the delta, with the penalty of
    every frozen head of the lab; `kept`: the source's own head, where it has as many classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (test, wanted) = (
        (features(setting, params, batch), batch.labels.cpu().numpy()) for batch in (setting.train, setting.test)
    )
    head = make_pipeline(StandardScaler(), LogisticRegression(C=HEAD_C, max_iter=2000, tol=1e-8)).fit(x, y)
    told = {"fitted": float(head.score(test, wanted))}
    if len(params.get("readout.bias", ())) == setting.subjects["delta"].readout.classes:
        weight, bias = (params[name].double().cpu().numpy() for name in READOUT_PARAMETERS)
        told["kept"] = float(np.mean((test @ weight.T + bias).argmax(1) == wanted))
    return told


def predict(setting: Setting) -> Record:
    """Return what is known of a task before training: the groups, what the frozen network reaches, and what makes tasks alike.

    The frozen head is fitted on the training texts, as heads under a delta are. Arrays: the mean of the frozen features of these
    texts (d,), the head (C, d) of the setting and the words that occur. Options: dev, groups and senses, tables of the study's
    tasks, and those of `tuning.practice.Recipe`.
    """
    _check(setting)
    subject, options = setting.subjects["delta"], setting.options
    told = {"mark": mark(setting), "start": {"accuracy": landed(setting, subject.initial)["fitted"]}}
    told |= {name: {key: list(tasks) for key, tasks in options[name].items()} for name in NEEDED}
    mean = features(setting, subject.initial, setting.train).mean(0)
    head = subject.readout.weight.double().cpu().numpy()
    return Record(told, {"mean": mean, "head": head - head.mean(0), "words": _words(setting.train)})


def _words(batch: Batch) -> np.ndarray:
    """Return the tokens that occur; none in a plant, whose tokens are no words."""
    tokens = batch.tokens.cpu().numpy()
    return np.unique(tokens[batch.mask.cpu().numpy().astype(bool)]) if tokens.ndim == 2 else np.zeros(0, dtype=int)


def _check(setting: Setting) -> None:
    if setting.dev is None:
        raise ValueError("tuning as in practice chooses its step on dev text: give the part's option dev, a number of texts")
    for name in NEEDED:
        if not isinstance(setting.options.get(name), Mapping):
            raise ValueError(
                f"expected the option {name}, a table of lists of tasks, in the study's part, it is missing: give it"
            )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what the delta reaches on its own task with its own head, and on every other task as it is, by the task's mark."""
    found = practised(
        setting.subjects["delta"].with_readout(),
        setting.train,
        setting.dev,
        setting.test,
        recipe=recipe_of(setting.options),
        seed=own_seed(setting, 331),
    )
    moved = {mark(other): landed(other, found.params) for other in setting.other_tasks}
    told = {"rate": found.rate, "step": found.step, "accuracy": found.chosen.accuracy, "loss": found.chosen.loss}
    return Record(told | {"moved": moved}, {})


EXPERIMENT = Experiment(
    "transferability", "one delta on tasks that it was not tuned on", ("delta",), predict, measure,
    weight=12.0, per_delta=True, needs_other_tasks=True,
)  # fmt: skip
