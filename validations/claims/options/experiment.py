"""One delta at a few rates, tuned with its head: what is told of every rate before training, and the run of each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from theory.loss import CrossEntropy
from tuning.practice import Point, practised, scores

from ...store import Record
from ..practice.experiment import recipe_of
from ..practice.tangent import Path, Tangent, Texts, products
from ..shared.linearisation import off
from ..shared.setting import Experiment, Setting, own_seed
from ..shared.training import cross_entropy, first, logits, majority, shifted
from .rivals import scores as rival_scores

TEXTS = 128  # to train on, whose first derivatives are taken; and half as many of dev
MOST = 1e4  # of a logit, where a displacement leaves what floats hold


def predict(setting: Setting) -> Record:
    """Return what a few texts of the frozen model tell of a delta and of each of its rates, from training and dev text alone.

    told: the fall of the dev loss under the tangent optimum, label alignment <y y', K> / (|K| |y|^2) and effective dimension
    (tr K)^2 / |K|^2 of the delta's own tangent kernel K, the largest curvature, and that under Adam's second moments. Of every
    rate what `_rates_told` says. signature: the difference of mean features by class, of the task. passes: of a text through the
    network.
    Options: texts, dev, and those of `tuning.practice.Recipe`.
    """
    if setting.dev is None:
        raise ValueError("tuning as in practice chooses its step on dev text: give the part's option dev, a number of texts")
    subject, recipe = setting.subjects["delta"].with_readout(), recipe_of(setting.options)
    count = setting.options.get("texts", TEXTS)
    few = replace(setting, train=first(setting.train, count), dev=first(setting.dev, count // 2), test=first(setting.dev, 1))
    texts = Texts.of(few, subject.outputs, subject.initial)
    best, path = texts.optimum(), texts.path(recipe, own_seed(setting, 223))
    start = cross_entropy(texts.dev.y0, texts.dev.labels)
    rates = _rates_told(subject, few, texts, path, recipe.rates)
    met = scores(subject, subject.initial, setting.test)
    on_dev = scores(subject, subject.initial, setting.dev)
    return Record(
        {
            "start": dict(zip(("loss", "accuracy", "dev_loss", "dev_accuracy"), (*met, *on_dev), strict=True)),
            "majority": majority(setting.test),
            "numbers": sum(value.numel() for value in subject.initial.values()),
            "told": _kernel_told(texts)
            | {"optimum": start - best.dev_loss, "curvature": texts.curvature(texts.kernel("train", 1.0))}
            | {"sharpness": texts.adaptive_sharpness(path)},
            "rates": rates,
            "rivals": rival_scores(subject, texts, few.train),
            "passes": len(texts.train.y0) * (1 + 2 * texts.train.basis.shape[1])
            + len(texts.dev.y0) * (1 + 2 * texts.train.basis.shape[1] + len(rates)),
        },
        {"signature": _signature(texts.train, texts.head)},
    )


def _rates_told(subject: Any, few: Setting, texts: Texts, path: Path, rates: Sequence[float]) -> list[dict[str, float]]:
    """Return what AdamW's path on the tangent model tells of every rate.

    path, late: falls of the dev loss at the best and at the last look. hits: the largest rise of dev accuracy. early, fitted:
    losses on training text at the first and at the last look. At the last displacement, moved: the fall of the network's own
    dev loss; eta: how far its shift is from the tangent's.
    """
    dev, origin, found = texts.dev, {name: value.detach() for name, value in subject.initial.items()}, []
    start, right = cross_entropy(dev.y0, dev.labels), float(np.mean(dev.y0.argmax(-1) == dev.labels))
    early, fitted = (_losses(texts.train, path.z[:, look]) for look in (0, -1))
    for r, rate in enumerate(rates):
        moved = logits(subject.outputs, shifted(origin, path.z[r, -1].astype(float)), few.dev)
        moved = np.clip(np.nan_to_num(moved), -MOST, MOST)
        hits = (dev.shifted(path.dev[r]).argmax(-1) == dev.labels).mean(-1)
        found.append(
            {"rate": rate, "path": start - float(path.losses[r].min()), "late": start - float(path.losses[r, -1])}
            | {"hits": float(hits.max()) - right, "early": float(early[r]), "fitted": float(fitted[r])}
            | {"moved": start - cross_entropy(moved, dev.labels), "eta": off((moved - dev.y0) @ dev.basis, path.dev[r, -1])}
        )
    return found


def _losses(part: Tangent, z: np.ndarray) -> np.ndarray:
    """Return the mean losses (R,) of a part's tangent model at displacements (R, M)."""
    shifts = (z @ part.flat.T).reshape(len(z), *part.G.shape[:2]).astype(float)
    return np.array([cross_entropy(part.shifted(one), part.labels) for one in shifts])


def _kernel_told(texts: Texts) -> dict[str, float]:
    """Return label alignment and effective dimension of the delta's own tangent kernel on the training text."""
    own = texts.train.flat[:, texts.own]
    K, y = products(own, own), _centred_labels(texts.train).ravel()
    size = max(float(np.linalg.norm(K)), 1e-300)
    return {"alignment": float(y @ K @ y / (size * (y @ y))), "dimension": float((np.trace(K) / size) ** 2)}


def _centred_labels(part: Tangent) -> np.ndarray:
    """Return the labels as differences from their shares, in the contrasts (N, c)."""
    onehot = np.eye(part.y0.shape[1])[part.labels]
    return (onehot - onehot.mean(0)) @ CrossEntropy(part.labels).basis(part.y0.shape[1])


def _signature(part: Tangent, head: slice) -> np.ndarray:
    """Return the direction in the head's numbers in which the labels pull the mean features, of length one."""
    pull = np.einsum("nc,ncm->m", _centred_labels(part), part.G[..., head].astype(float))
    return (pull / max(float(np.linalg.norm(pull)), 1e-300)).astype(np.float32)


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the run of every rate with the scores at its looks, and the rate and step that dev text chooses among them."""
    found = practised(
        setting.subjects["delta"].with_readout(),
        setting.train,
        setting.dev,
        setting.test,
        recipe=recipe_of(setting.options),
        seed=own_seed(setting, 223),
    )
    runs = [{"rate": run.rate, "finite": run.finite, "looks": [_look(point) for point in run.path]} for run in found.runs]
    told = {"rate": found.rate, "step": found.step, "accuracy": found.chosen.accuracy, "loss": found.chosen.loss}
    return Record(told | {"runs": runs}, {})


def _look(point: Point) -> dict:
    return {
        "step": point.step,
        "dev_loss": point.dev_loss,
        "dev_accuracy": point.dev_accuracy,
        "loss": point.loss,
        "accuracy": point.accuracy,
    }


EXPERIMENT = Experiment("options", "one delta at a few rates", ("delta",), predict, measure, weight=9.0, per_delta=True)
