"""A delta trained within the few numbers that move the outputs as the leading signals at the ports do, foretold untrained."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from theory.signals import decoder_of_signals, random_row_space
from tuning.decomposition import Decoder
from tuning.practice import scores
from tuning.subjects import Params
from tuning.training import flatten

from ...store import Record
from ..practice.tangent import tangent
from ..shared.setting import Experiment, Setting, own_rng
from ..shared.training import at_rest, at_start, first
from ..subspace.experiment import check_options, inside, told, trained

DIMENSION, TEXTS = 16, 128
ARMS = ("predicted", "random", "other")


def _response(outputs: Callable[[Params, Any], torch.Tensor], at: Params, batch: Any) -> np.ndarray:
    """Return the response (N c, M) of the contrasts of the logits on a batch."""
    return tangent(outputs, at, batch).flat.astype(np.float64)


def predict(setting: Setting) -> Record:
    """Return the subspace of a delta's numbers that the leading port signals ask for, a random one, and another task's.

    Responses are those of the frozen network on a part of the training text, through its head; no label is read and nothing is
    trained. The random one lies in the row space of the delta's response, the other one is made in the same way from the text and
    the head of another task, drawn. Options: dev, dimension, texts.
    """
    check_options(setting, "code_steps", "code_rates")
    if not setting.other_tasks:
        raise ValueError("expected at least one other task to compare with, got none: add tasks to the study")
    d, texts = (setting.options.get(name, known) for name, known in (("dimension", DIMENSION), ("texts", TEXTS)))
    rng = own_rng(setting, 311)
    other = setting.other_tasks[rng.integers(len(setting.other_tasks))]

    def responses(given: Setting) -> tuple[np.ndarray, np.ndarray]:
        subject, batch = given.subjects["delta"], first(given.train, texts)
        return _response(subject.steered, at_rest(subject), batch), _response(subject.outputs, at_start(subject), batch)

    signals, numbers = responses(setting)
    arrays = {
        "predicted": decoder_of_signals(signals, numbers, d),
        "random": random_row_space(numbers, d, rng),
        "other": decoder_of_signals(*responses(other), d),
    }
    overlap = float(np.sum((arrays["predicted"].T @ arrays["other"]) ** 2) / arrays["predicted"].shape[1])
    subject, spectrum = setting.subjects["delta"], np.linalg.svd(signals, compute_uv=False) ** 2
    return Record(
        {
            "dimension": d,
            "size": numbers.shape[1],
            "frozen": told(*scores(subject, subject.initial, setting.test)),
            "signal_share": float(spectrum[:d].sum() / spectrum.sum()),
            "overlap": overlap,
        },
        {name: basis.astype(np.float32) for name, basis in arrays.items()},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what the delta reaches on held-out text with all its numbers, and within each subspace.

    Coordinates are measured in the length of the trained displacement over the root of their number, so that codes of all
    subspaces are of one size. captured: the share of that displacement's squared length inside.
    """
    subject = setting.subjects["delta"]
    run = trained(setting, "delta")
    z = flatten({name: run.params[name] - value.detach() for name, value in subject.initial.items()})
    shapes = {name: tuple(value.shape) for name, value in subject.initial.items()}
    like, found = next(iter(subject.initial.values())), {}
    for arm in ARMS:
        basis = predicted.arrays[arm].astype(np.float64)
        unit = np.linalg.norm(z) / np.sqrt(basis.shape[1])
        reached, _ = inside(setting, "delta", Decoder(shapes, torch.as_tensor(unit * basis).to(like)))
        found[arm] = reached | {"captured": float(np.sum((basis.T @ z) ** 2) / (z @ z))}
    full = told(run.chosen.loss, run.chosen.accuracy) | {"at_edge": run.at_edge}
    return Record({"full": full, "inside": found}, {})


EXPERIMENT = Experiment(
    "signals", "one delta within the numbers that signals ask for", ("delta",), predict, measure,
    weight=40.0, per_delta=True, needs_other_tasks=True,
)  # fmt: skip
