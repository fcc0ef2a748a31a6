"""Many options of one backbone: the loss forecast for each before training, the loss each reaches when it is trained."""

from tuning.training import fit

from ...store import Record
from ..shared.setting import Experiment, Setting
from ..shared.training import cost, cross_entropy, l2, logits
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
    labels, rows = setting.test.labels.cpu().numpy(), []
    penalties = {row["option"]: row["r"] for row in predicted.values["options"]}
    for role, subject in setting.subjects.items():
        start = {n: p.detach() for n, p in subject.initial.items()}
        for option in options(role, start, divide=role in DIVIDED):
            origin, r = {n: start[n] for n in option.names}, penalties[option.label]
            fitted = fit(
                lambda p, s=subject, start=start, origin=origin, r=r: (
                    s.loss({**start, **p}, setting.train) + 0.5 * r * l2(p, origin)
                ),
                origin,
                tolerance=setting.tolerance,
                max_evaluations=setting.evaluations,
            )
            outputs = logits(subject.outputs, {**start, **fitted.params}, setting.test)
            rows.append({"option": option.label, "loss": cross_entropy(outputs, labels), **cost(fitted)})
    base = cross_entropy(logits(setting.subjects[DIVIDED[0]].outputs, setting.subjects[DIVIDED[0]].initial, setting.test), labels)
    return Record({"options": rows, "frozen": base}, {})


EXPERIMENT = Experiment(
    "advice", "all options of a palette, forecast and trained", DIVIDED, predict, measure, weight=12.0, further=True
)
