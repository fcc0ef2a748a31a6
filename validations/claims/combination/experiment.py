"""A delta, several at once, or several one after another, with the head: what the same number of steps comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tuning.backbones import Backbone, Batch
from tuning.deltas import Combined
from tuning.practice import practised
from tuning.subjects import READOUT_PARAMETERS, Readout, Subject

from ...store import Record
from ..facts.experiment import measure as together
from ..facts.experiment import predict
from ..practice.experiment import recipe_of
from ..shared.setting import Experiment, Params, Setting, own_seed


@dataclass(frozen=True, eq=False)
class Stage:
    """A subject of which `initial` is trained and the numbers `fixed` stay where they are."""

    subject: Subject
    initial: Params
    fixed: Mapping[str, Tensor]

    @property
    def backbone(self) -> Backbone:
        """Return the subject's backbone."""
        return self.subject.backbone

    @property
    def readout(self) -> Readout:
        """Return the subject's readout."""
        return self.subject.readout

    def outputs(self, params: Params, batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the logits (B, C)."""
        return self.subject.outputs({**self.fixed, **params}, batch, packed=packed)

    def loss(self, params: Params, batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the mean cross-entropy of the batch."""
        return self.subject.loss({**self.fixed, **params}, batch, packed=packed)


def stages(subject: Subject) -> list[tuple[str, ...]]:
    """Return the labels of a combined delta's parts that are there at each stage, the last of which is then trained."""
    labels = [label for label, _ in subject.delta.parts]
    return [tuple(labels[: k + 1]) for k in range(len(labels))]


def stage(subject: Subject, there: tuple[str, ...], reached: Params) -> Stage:
    """Return the subject with the parts `there` alone, of which the last is trained with the head.

    reached: what earlier stages made of theirs and of the head.
    """
    parts = tuple((label, part) for label, part in subject.delta.parts if label in there)
    own = {name: value for name, value in subject.initial.items() if name.startswith(f"{there[-1]}/")}
    head = dict(zip(READOUT_PARAMETERS, (subject.readout.weight, subject.readout.bias), strict=True))
    trained = own | {name: reached.get(name, value) for name, value in head.items()}
    fixed = {name: value for name, value in reached.items() if name not in trained}
    return Stage(replace(subject, delta=Combined(parts), initial={**fixed, **own}), trained, fixed)


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what tuning comes to, as for one delta; with the option `sequence`, part after part in the combined delta's order.

    Each part of a sequence gets its share of the steps and is then frozen; the head is trained throughout. Options: sequence (1
    for one after another), dev, and those of `tuning.practice.Recipe`.
    """
    if not setting.options.get("sequence"):
        return together(setting, predicted)
    subject = setting.subjects["delta"]
    order = stages(subject)
    recipe = recipe_of(setting.options)
    recipe, reached, told = replace(recipe, steps=max(1, recipe.steps // len(order))), {}, []
    for k, there in enumerate(order):
        found = practised(
            stage(subject, there, reached),
            setting.train,
            setting.dev,
            setting.test,
            recipe=recipe,
            seed=own_seed(setting, 227, k),
        )
        reached = {**reached, **found.params}
        told.append({"part": there[-1], "rate": found.rate, "step": found.step} | _scores(found.chosen))
    return Record(_scores(found.chosen) | {"stages": told}, {})


def _scores(point: Any) -> dict:
    return {"dev_loss": point.dev_loss, "loss": point.loss, "accuracy": point.accuracy}


EXPERIMENT = Experiment(
    "combination", "deltas together, tuned with the head", ("delta",), predict, measure, weight=5.0, per_delta=True
)
