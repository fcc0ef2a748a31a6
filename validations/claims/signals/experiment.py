"""A delta trained within the few numbers that move the outputs as the leading signals at the ports do, foretold untrained."""

from collections.abc import Callable, Sequence
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
from ..subspace.experiment import DIMENSIONS, check_options, inside, told, trained

DIMENSION, TEXTS = 16, 128
ENOUGH = 0.8  # of the response to signals, or of the gain: the least dimension that holds as much suffices
ARMS = ("predicted", "random", "other")


def _response(outputs: Callable[[Params, Any], torch.Tensor], at: Params, batch: Any) -> np.ndarray:
    """Return the response (N c, M) of the contrasts of the logits on a batch."""
    return tangent(outputs, at, batch).flat.astype(np.float64)


def predict(setting: Setting) -> Record:
    """Return the subspace of a delta's numbers that the leading port signals ask for, a random one, and another task's.

    Responses are those of the frozen network on a part of the training text, through its head; no label is read and nothing is
    trained. The random one lies in the row space of the delta's response, the other one is made in the same way from the text and
    the head of another task, drawn. Foretold besides is the dimension that suffices, from the spectrum of the response to signals: of
    `dimensions`, the first that holds ENOUGH of its square. Options: dev, dimension, dimensions, texts.
    """
    check_options(setting, "code_steps", "code_rates")
    if not setting.other_tasks:
        raise ValueError("expected at least one other task to compare with, got none: add tasks to the study")
    d, texts = (setting.options.get(name, known) for name, known in (("dimension", DIMENSION), ("texts", TEXTS)))
    grid, rng = sorted(setting.options.get("dimensions", DIMENSIONS)), own_rng(setting, 311)
    other = setting.other_tasks[rng.integers(len(setting.other_tasks))]

    def responses(given: Setting) -> tuple[np.ndarray, np.ndarray]:
        subject, batch = given.subjects["delta"], first(given.train, texts)
        return _response(subject.steered, at_rest(subject), batch), _response(subject.outputs, at_start(subject), batch)

    signals, numbers = responses(setting)
    arrays = {
        "predicted": decoder_of_signals(signals, numbers, max(d, *grid)),
        "random": random_row_space(numbers, d, rng),
        "other": decoder_of_signals(*responses(other), d),
    }
    overlap = float(np.sum((arrays["predicted"][:, :d].T @ arrays["other"]) ** 2) / arrays["other"].shape[1])
    subject, spectrum = setting.subjects["delta"], np.linalg.svd(signals, compute_uv=False) ** 2
    return Record(
        {
            "dimension": d,
            "size": numbers.shape[1],
            "frozen": told(*scores(subject, subject.initial, setting.test)),
            "signal_share": float(spectrum[:d].sum() / spectrum.sum()),
            "suffices": sufficient(grid, [float(spectrum[:k].sum() / spectrum.sum()) for k in grid]),
            "overlap": overlap,
        },
        {name: basis.astype(np.float32) for name, basis in arrays.items()},
    )


def sufficient(dimensions: Sequence[int], shares: Sequence[float]) -> int:
    """Return the first dimension whose share is ENOUGH, twice the last one where none is."""
    return next((d for d, share in zip(dimensions, shares, strict=True) if share >= ENOUGH), 2 * dimensions[-1])


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what the delta reaches on held-out text with all its numbers, within each subspace, and within fewer or more directions.

    Coordinates are measured in the length of the trained displacement over the root of their number, so that codes of all
    subspaces are of one size. captured: the share of that displacement's squared length inside.
    """
    subject, d = setting.subjects["delta"], predicted.values["dimension"]
    run = trained(setting, "delta")
    z = flatten({name: run.params[name] - value.detach() for name, value in subject.initial.items()})
    shapes = {name: tuple(value.shape) for name, value in subject.initial.items()}
    like, bases = next(iter(subject.initial.values())), {name: predicted.arrays[name].astype(np.float64) for name in ARMS}
    grid = sorted(setting.options.get("dimensions", DIMENSIONS))
    bases |= {"predicted": bases["predicted"][:, :d]} | {k: bases["predicted"][:, :k] for k in grid}
    units = [np.linalg.norm(z) / np.sqrt(basis.shape[1]) * basis for basis in bases.values()]
    reached = inside(setting, "delta", [Decoder(shapes, torch.as_tensor(unit).to(like)) for unit in units])
    found = {
        arm: score | {"captured": float(np.sum((basis.T @ z) ** 2) / (z @ z))}
        for (arm, basis), (score, _) in zip(bases.items(), reached, strict=True)
    }
    full = told(run.chosen.loss, run.chosen.accuracy) | {"at_edge": run.at_edge}
    curve = [{"dimension": k} | found[k] for k in grid]
    return Record({"full": full, "inside": {arm: found[arm] for arm in ARMS}, "curve": curve}, {})


EXPERIMENT = Experiment(
    "signals", "one delta within the numbers that signals ask for", ("delta",), predict, measure,
    weight=40.0, per_delta=True, needs_other_tasks=True,
)  # fmt: skip
