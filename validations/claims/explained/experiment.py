"""One delta tuned as those of the facts are, and what was said of it before, from training and dev text alone."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from theory.kernel import curvature_eigenvalues
from theory.subspace import effective_dimension

from ...store import Record
from ..facts.experiment import measure
from ..facts.experiment import predict as known
from ..information.experiment import predict as information
from ..practice.experiment import recipe_of
from ..practice.tangent import Path, Texts
from ..shared.setting import Experiment, Setting, own_seed
from ..shared.training import cross_entropy, first, logits, shifted


def predict(setting: Setting) -> Record:
    """Return what is known of a delta before training, with what its tangent model and its kernel foretell of dev text.

    Forecasts: the tangent optimum, AdamW's path on the tangent model at the rate and over the texts of the training, the network
    itself at the optimum. Of the kernel: its largest curvature, the dimension that the optimum's ridge leaves, its alignment with
    the labels, the gradient's norm. Option, over those of training: worth, the texts on which a prefix is told what it is worth
    to read gates and states (`information.experiment`).
    """
    subject, recipe = setting.subjects["delta"].with_readout(), recipe_of(setting.options)
    if len(recipe.rates) != 1:
        raise ValueError(f"expected one rate, at which the path is foretold, got {len(recipe.rates)}: give the option rates one")
    texts = Texts.of(replace(setting, test=first(setting.dev, 1)), subject.outputs, subject.initial)
    dev, best = texts.dev, texts.optimum()
    path = texts.path(recipe, own_seed(setting, 223))
    optimum = dev.shifted((dev.flat @ best.z.astype(dev.G.dtype)).reshape(len(dev.y0), -1).astype(float))
    network = logits(subject.outputs, shifted(subject.initial, best.z), setting.dev)
    forecasts = {"start": dev.y0, "optimum": optimum, "path": dev.shifted(path.dev[path.chosen]), "network": network}
    told = {
        "forecasts": {name: _scored(y, dev.labels) for name, y in forecasts.items()},
        "path": _path_told(path, cross_entropy(dev.y0, dev.labels)),
        "kernel": _kernel(texts, best.ridge, best.weight),
    }
    return Record(known(setting).values | told | _worth(setting), {})


def _scored(y: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the dev loss and accuracy of some logits."""
    return {"dev_loss": cross_entropy(y, labels), "accuracy": float(np.mean(y.argmax(1) == labels))}


def _path_told(path: Path, start: float) -> dict:
    """Return the step of the path's lowest dev loss, and its looks from step 0 on."""
    run, look = path.chosen
    looks = zip((0, *path.steps), (start, *map(float, path.losses[run])), strict=True)
    return {"step": path.steps[look], "looks": [{"step": step, "dev_loss": loss} for step, loss in looks]}


def _kernel(texts: Texts, ridge: float, weight: float) -> dict[str, float]:
    """Return what the kernel of the training text says: of all numbers under the optimum's ridge, and of the delta's own."""
    train = texts.train
    E, count = train.basis, len(train.y0)
    joint, own = texts.kernel("train", weight), texts.kernel("train", np.inf)
    whole = np.einsum("Cc,ncmd,Dd->nCmD", E, joint.reshape(count, E.shape[1], count, E.shape[1]), E, optimize=True)
    spectrum = curvature_eigenvalues(whole.reshape(train.y0.size, -1), train.y0, train.loss)
    costates = (train.loss.gradient(train.y0) @ E).ravel() / count
    power = float(costates @ own @ costates)
    return {
        "curvature": texts.curvature(own),
        "dimension": effective_dimension(spectrum, ridge),
        "alignment": power / (float(np.linalg.norm(own)) * float(costates @ costates)),
        "gradient": float(np.sqrt(power)),
    }


def _worth(setting: Setting) -> Mapping:
    """Return by how many nats reading gates, and states, lowers the objective of the linear response, where the options ask."""
    if "worth" not in setting.options:
        return {}
    told = information(replace(setting, train=first(setting.train, setting.options["worth"]))).values["levels"][0]
    return {
        "worth": {
            name: values["gate"] - values["state"] for name, values in (("state", told["values"]), ("first", told["first"]))
        }
        | {"gate": told["values"]["shared"] - told["values"]["gate"], "price": told["r"]}
    }


EXPERIMENT = Experiment(
    "explained", "one delta tuned with its head, foretold", ("delta",), predict, measure, weight=8.0, per_delta=True
)
