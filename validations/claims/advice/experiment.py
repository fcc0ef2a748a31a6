"""Many options of one backbone: the loss forecast for each before training, the loss each reaches when it is trained."""

from typing import Any

from torch import Tensor

from ...store import Record
from ..shared.setting import Experiment, Params, Setting
from ..shared.training import at_start, cost, loss_at, penalised, train
from .forecast import options, survey

DIVIDED = ("palette",)


def predict(setting: Setting) -> Record:
    """Return every option's forecast from the training text and the frozen model alone (see `forecast`)."""
    made, frozen = survey(setting.subjects, DIVIDED, setting.train, setting.seed)
    rows = [
        {
            "option": m.option.label,
            "role": m.option.role,
            "size": m.option.size,
            "share": m.share,
            "r": m.r,
            "forecast": m.loss,
            "eta": m.eta,
            "slope": m.slope,
            "trace": m.trace,
        }
        for m in made
    ]
    return Record({"options": rows, "frozen": float(frozen.mean())}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the held-out loss that every option reaches when trained with the penalty that the forecast chose for it.

    Only the option's parameters move; the rest of its delta stays at its start, where it changes nothing. All parameters of
    the option are trained, also those whose columns vanish in the linearisation.
    """
    rows = []
    penalties = {row["option"]: row["r"] for row in predicted.values["options"]}
    for role, subject in setting.subjects.items():
        start = at_start(subject)
        for option in options(role, start, divide=role in DIVIDED):
            origin = {n: start[n] for n in option.names}

            def loss(params: Params, batch: Any, subject=subject, start=start) -> Tensor:
                return subject.loss({**start, **params}, batch)

            fitted = train(setting, penalised(loss, setting.train, penalties[option.label], origin), origin)
            reached = loss_at(subject.outputs, {**start, **fitted.params}, setting.test)
            rows.append({"option": option.label, "loss": reached, **cost(fitted)})
    base = setting.subjects[DIVIDED[0]]
    return Record({"options": rows, "frozen": loss_at(base.outputs, base.initial, setting.test)}, {})


EXPERIMENT = Experiment(
    "advice", "all options of a palette, forecast and trained", DIVIDED, predict, measure, weight=12.0, further=True
)
