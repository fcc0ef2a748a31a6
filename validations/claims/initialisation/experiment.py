"""A LoRA that starts at the law its ensemble shares, and one that starts where chance, weights, inputs or gradient say."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from theory.loss import CrossEntropy
from theory.multiplicative import LoraLaw, lora_law
from theory.shared_gain import Ensemble
from tuning.initialisations import Readings, Start, eva, kaiming, lora_ga, pissa, readings, started
from tuning.practice import Run, practised, scores

from ...store import Record
from ..practice.experiment import recipe_of
from ..shared.setting import Experiment, Setting, own_seed

NOISE = 1.0  # of the price, over the root mean square of what maps read
PENALTIES = (1e-1, 1e-2, 1e-3)  # of the law, among which dev text chooses
SCALES = tuple(float(x) for x in 10.0 ** np.arange(-1.0, 2.01, 0.5))  # of the first-order law, among which dev text chooses
RIVALS = ("kaiming", "lora_ga", "eva", "pissa")
STARTS = ("law", *RIVALS)


def observed(seen: Readings) -> Ensemble:
    """Return the ensemble of a LoRA's maps: the response to signals at what they put out, and the states that they read."""
    mask = seen.mask.double().cpu().numpy()
    G, phi = ([x.double().cpu().numpy() for x in kind.values()] for kind in (seen.slopes, seen.inputs))
    return Ensemble(tuple(G), tuple(phi), seen.outputs.double().cpu().numpy(), mask / mask.sum(1, keepdims=True))


def _read(subject: Any, batch: Any) -> Readings:
    """Return the readings of a subject's maps; a plant says its own."""
    return subject.readings(batch) if hasattr(subject, "readings") else readings(subject, batch)


def _started(subject: Any, start: Start, *, subtracted: bool = False) -> Any:
    """Return the subject at a start; a plant sets out by itself."""
    move = subject.started if hasattr(subject, "started") else partial(started, subject)
    return move(start, subtracted=subtracted)


def _start(law: LoraLaw, seen: Readings, scale: float) -> Start:
    """Return a law as a LoRA's factors; its product is the law's over the LoRA's own scale."""
    made = {}
    for (key, W), (B, A) in zip(seen.weights.items(), law.factors, strict=True):
        made[key] = tuple(torch.as_tensor(x / np.sqrt(scale)).to(W) for x in (B, A))
    return made


def _scaled(start: Start, factor: float) -> Start:
    return {key: (factor**0.5 * B, factor**0.5 * A) for key, (B, A) in start.items()}


def _installed(subject: Any, start: Start, batch: Any) -> dict[str, float]:
    """Return the loss and accuracy with a law installed and nothing trained."""
    begun = _started(subject, start)
    loss, accuracy = scores(begun, begun.initial, batch)
    return {"loss": loss, "accuracy": accuracy}


def predict(setting: Setting) -> Record:
    """Return the law's factors for a LoRA, and those of the first-order law, from the frozen network and its training text.

    The law's penalty, and the first-order law's scale, are those of the lowest dev loss with the law installed in the network
    itself. passes: of a text through the network, a forward one counting one and a backward one two, for the readings of the
    training text and for the choice on dev text. linear: the training loss that the law of full rank reaches on the linear
    response.
    """
    subject = setting.subjects["delta"]
    if setting.dev is None:
        raise ValueError("a start and its rate are chosen on dev text: give the part's option dev, a number of texts")
    seen = _read(subject, setting.train)
    ensemble, loss = observed(seen), CrossEntropy(seen.labels.cpu().numpy())
    rank, scale = subject.delta.rank, subject.delta.scale

    def best(starts: Mapping[float, Start]) -> tuple[float, Start]:
        losses = {x: _installed(subject, start, setting.dev)["loss"] for x, start in starts.items()}
        chosen = min(losses, key=losses.__getitem__)
        return chosen, starts[chosen]

    laws = {r: lora_law(ensemble, loss, r, rank, noise=NOISE) for r in PENALTIES}
    penalty, law = best({r: _start(found, seen, scale) for r, found in laws.items()})
    cheap = _start(lora_law(ensemble, loss, 1.0, rank, noise=NOISE, cheap=True), seen, scale)
    factor, first = best({x: _scaled(cheap, x) for x in SCALES})
    return Record(
        {
            "penalty": penalty,
            "factor": factor,
            "start": float(loss.value(ensemble.y0).mean()),
            "linear": laws[penalty].law.loss,
            "passes": len(setting.train.labels) * (1 + 2 * seen.outputs.shape[1]) + len(PENALTIES) * len(setting.dev.labels),
        },
        _packed("law", law) | _packed("first", first),
    )


def _packed(name: str, start: Start) -> dict[str, np.ndarray]:
    return {f"{name}/{key}/{what}": x.cpu().numpy() for key, pair in start.items() for what, x in zip("BA", pair, strict=True)}


def _unpacked(name: str, arrays: Mapping[str, np.ndarray], seen: Readings) -> Start:
    return {key: tuple(torch.as_tensor(arrays[f"{name}/{key}/{what}"]).to(W) for what in "BA") for key, W in seen.weights.items()}


def _starts(setting: Setting, predicted: Record, seen: Readings) -> dict[str, tuple[Start, bool, int]]:
    """Return every start with whether it is taken out of the weights first, and the passes of a text that it costs."""
    subject, texts = setting.subjects["delta"], len(setting.train.labels)
    rank, scale = subject.delta.rank, subject.delta.scale
    return {
        "law": (_unpacked("law", predicted.arrays, seen), False, predicted.values["passes"]),
        "kaiming": (kaiming(seen, rank, own_seed(setting, 227)), False, 0),
        "lora_ga": (lora_ga(seen, rank), True, 3 * texts),
        "eva": (eva(seen, rank), False, texts),
        "pissa": (pissa(seen, rank, scale), True, 0),
    }


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the runs of AdamW from every start, each with its own sweep of the same rates, on the same texts in the same order.

    Beside them what the two laws reach on held-out text untrained. Options: dev, and those of `tuning.practice.Recipe`. The head
    stays frozen.
    """
    subject, recipe = setting.subjects["delta"], recipe_of(setting.options)
    seen = _read(subject, setting.train)
    untrained = {name: _installed(subject, _unpacked(name, predicted.arrays, seen), setting.test) for name in ("law", "first")}
    per_step, found = 3 * min(recipe.batch_size, len(setting.train.labels)), {}
    for name, (start, subtracted, passes) in _starts(setting, predicted, seen).items():
        begun = _started(subject, start, subtracted=subtracted)
        run = practised(begun, setting.train, setting.dev, setting.test, recipe=recipe, seed=own_seed(setting, 229))
        found[name] = {
            "rate": run.rate,
            "step": run.step,
            "at_edge": run.at_edge,
            "loss": run.chosen.loss,
            "accuracy": run.chosen.accuracy,
            "before": passes / per_step,
            "runs": [_told(one) for one in run.runs],
        }
    loss, accuracy = scores(subject, subject.initial, setting.test)
    frozen = {"loss": loss, "accuracy": accuracy}
    return Record({"steps": recipe.steps, "frozen": frozen, "untrained": untrained, "starts": found}, {})


def _told(run: Run) -> dict:
    looks = [{"step": p.step, "dev_loss": p.dev_loss, "loss": p.loss, "accuracy": p.accuracy} for p in run.path]
    return {"rate": run.rate, "finite": run.finite, "looks": looks}


EXPERIMENT = Experiment(
    "initialisation", "one LoRA from several starts", ("delta",), predict, measure, weight=60.0, per_delta=True, by_token=True
)
