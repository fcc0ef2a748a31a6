"""One delta tuned as in practice: the linearised optimum and cheap rivals before training, the best run of a sweep after.

No penalty is given. Whoever forecasts may choose two constants on dev text, as whoever trains chooses a rate and a step there:
the prediction its ridge, and the gradient its scale, each with the weight of the head's numbers in the metric; the refit of the
head alone its ridge, the constant shift itself.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from theory.ensemble import Control, ensemble_lq
from theory.kernel import curvature_eigenvalues
from tuning.practice import Recipe, practised
from tuning.subjects import READOUT_PARAMETERS

from ...statistics import cosine, explained
from ...store import Record
from ..shared.linearisation import Linearisation, linearise, off
from ..shared.setting import Experiment, Params, Setting, own_rng, own_seed
from ..shared.training import centred, cross_entropy, logits, shifted

HEADS = ("joint", "frozen")
RIDGES = tuple(float(x) for x in 10.0 ** np.arange(0.0, -7.01, -0.5))  # over the largest curvature
FREE = 1e-9  # a ridge that only keeps a fit of so few numbers on dev text finite, over its largest curvature
HEAD_WEIGHTS = (1.0, 30.0, 1000.0)  # of the head's numbers in the metric, over the delta's: a head at weight 1 moves first
PATIENCE = 2  # ridges on which the dev loss may rise before smaller ones are left out
PERMUTATIONS = 8
RIVALS = ("gradient", "head", "constant")


@dataclass(frozen=True)
class Found:
    """A forecast whose constants dev text chose: its dev loss, its held-out shift of the logits, the control behind it."""

    dev_loss: float
    shift: np.ndarray
    z: np.ndarray
    ridge: float = 0.0


@dataclass(frozen=True)
class Texts:
    """The linearisations on the three texts: where the optimum is found, its constants chosen, and its forecast held to account.

    root: the square root of each number's weight in the metric. A control z here moves the numbers by z / root.
    """

    train: Linearisation
    dev: Linearisation
    test: Linearisation
    root: np.ndarray

    @classmethod
    def of(cls, setting: Setting, outputs: Any, params: Params) -> "Texts":
        """Return the responses of some logits to some parameters on the texts of a setting, every number of weight one."""
        views = [linearise(outputs, params, batch) for batch in (setting.train, setting.dev, setting.test)]
        return cls(*views, np.ones(views[0].G.shape[-1]))

    def with_head(self, weight: float) -> "Texts":
        """Return the same with the head's numbers of another weight in the metric."""
        sizes = [int(np.prod(shape)) for shape in self.train.shapes]
        heads = np.repeat([name in READOUT_PARAMETERS for name in self.train.names], sizes)
        root = np.where(heads, np.sqrt(weight), 1.0)
        return Texts(*(replace(lin, G=lin.G / root) for lin in (self.train, self.dev, self.test)), self.root * root)

    @functools.cached_property
    def kernel(self) -> np.ndarray:
        """Return G R^-1 G' on the training text, R the metric."""
        return self.train.kernel()

    @functools.cached_property
    def curvature(self) -> float:
        """Return the largest curvature of the training loss at the start."""
        return float(curvature_eigenvalues(self.kernel, self.train.y0, self.train.loss)[0])

    def forecast(self, z: np.ndarray, ridge: float = 0.0) -> Found:
        """Return the forecast of a control."""
        loss = cross_entropy(self.dev.y0 + self.dev.G @ z, self.dev.labels)
        return Found(loss, self.test.G @ z, z / self.root, ridge)

    def optimum(self) -> Found:
        """Return the linearised optimum of the training text under the ridge of the lowest dev loss, searched from the largest."""
        tried: list[Found] = []
        for share in RIDGES:
            ridge = share * self.curvature
            tried.append(self.forecast(self.train.optimum(ridge, kernel=self.kernel).z, ridge))
            best = int(np.argmin([found.dev_loss for found in tried]))
            if len(tried) - 1 - best >= PATIENCE:
                break
        return tried[best]

    def gradient(self) -> Found:
        """Return the step along the first gradient of the training loss whose scale is best on dev."""
        lin = self.train
        direction = -np.tensordot(lin.loss.gradient(lin.y0), lin.G, 2)
        direction /= max(float(np.linalg.norm(direction)), 1e-300)
        return self.forecast(direction * _fitted(self.dev, (self.dev.G @ direction)[..., None]).z)

    def constant(self) -> np.ndarray:
        """Return the one shift of the logits that is best on dev, for every held-out example."""
        classes = self.dev.y0.shape[1]
        found = _fitted(self.dev, np.broadcast_to(np.eye(classes), (len(self.dev.y0), classes, classes)))
        return np.broadcast_to(found.z, self.test.y0.shape)


def _fitted(lin: Linearisation, G: np.ndarray) -> Control:
    """Return the few numbers z that minimise the loss at y0 + G z."""
    ridge = FREE * max(float(np.mean(np.sum(G**2, axis=(1, 2)))), 1e-300)
    return ensemble_lq(G, lin.y0, lin.loss, ridge)


def _arm(setting: Setting) -> Any:
    """Return the subject with its head trained with the delta, or frozen, as the option `head` says."""
    subject, head = setting.subjects["delta"], setting.options.get("head", HEADS[0])
    if head not in HEADS:
        raise ValueError(f"expected the option head to be one of {', '.join(HEADS)}, got {head!r}")
    if setting.dev is None:
        raise ValueError("tuning as in practice chooses its rate on dev text: give the part's option dev, a number of texts")
    return subject.with_readout() if head == "joint" else subject


def _refitted_head(setting: Setting) -> Found:
    """Return the refit of the head alone on the frozen features of the training text."""
    subject = setting.subjects["delta"].with_readout()
    head = {name: subject.initial[name] for name in READOUT_PARAMETERS}

    def outputs(params: Params, batch: Any) -> Tensor:
        return subject.outputs(subject.initial | params, batch)

    return Texts.of(setting, outputs, head).optimum()


def _forecast(y0: np.ndarray, shift: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the held-out loss and accuracy that a shift of the logits comes to."""
    return {"loss": cross_entropy(y0 + shift, labels), "accuracy": float(np.mean((y0 + shift).argmax(1) == labels))}


def predict(setting: Setting) -> Record:
    """Return the forecast of the linearised optimum, of its rivals and of its null, and eta.

    The optimum is that of the delta's numbers, and the head's where they are trained too. Null: the optimum for permuted
    labels of the training text, under the same ridge and metric.
    """
    subject, rng = _arm(setting), own_rng(setting, 211)
    plain = Texts.of(setting, subject.outputs, subject.initial)
    joint = set(READOUT_PARAMETERS) <= set(subject.initial)
    metrics = {weight: plain.with_head(weight) for weight in (HEAD_WEIGHTS if joint else HEAD_WEIGHTS[:1])}
    optima = {weight: texts.optimum() for weight, texts in metrics.items()}
    weight = min(optima, key=lambda w: optima[w].dev_loss)
    best, texts, test = optima[weight], metrics[weight], plain.test
    null = [
        texts.test.G @ texts.train.optimum(best.ridge, kernel=texts.kernel, labels=rng.permutation(plain.train.labels)).z
        for _ in range(PERMUTATIONS)
    ]
    head = _refitted_head(setting)
    shifts = {
        "optimum": best.shift,
        "gradient": min((own.gradient() for own in metrics.values()), key=lambda found: found.dev_loss).shift,
        "head": head.shift,
        "constant": plain.constant(),
    }
    moved = logits(subject.outputs, shifted(subject.initial, best.z), setting.test)
    return Record(
        {
            "eta": off(moved - test.y0, best.shift),
            "ridge": best.ridge,
            "head_weight": weight,
            "head_ridge": head.ridge,
            "curvature": texts.curvature,
            "norm": float(np.linalg.norm(best.z)),
            "numbers": int(test.G.shape[-1]),
            "start": _forecast(test.y0, np.zeros_like(test.y0), test.labels),
            "network": _forecast(moved, np.zeros_like(moved), test.labels),
            "forecasts": {name: _forecast(test.y0, shift, test.labels) for name, shift in shifts.items()},
        },
        {"y0": test.y0, "permuted": np.stack(null).astype(np.float32)}
        | {name: shift.astype(np.float32) for name, shift in shifts.items()},
    )


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """Return how a cell trains: what its options say of the recipe's own settings, and the recipe's where they say nothing."""
    known = {name: options[name] for name in Recipe.__dataclass_fields__ if name in options}
    return Recipe(**(known | ({"rates": tuple(map(float, known["rates"]))} if "rates" in known else {})))


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the run that dev text chose, its path, and how well each forecast meets its held-out shift of the logits.

    Options: head ("joint" or "frozen"), dev, and those of `tuning.practice.Recipe`.
    """
    subject, a = _arm(setting), predicted.arrays
    run = practised(
        subject,
        setting.train,
        setting.dev,
        setting.test,
        recipe=recipe_of(setting.options),
        seed=own_seed(setting, 223),
    )
    outputs = logits(subject.outputs, run.params, setting.test)
    shift = centred(outputs - a["y0"])
    forecasts = {name: centred(a[name].astype(float)) for name in ("optimum", *RIVALS)}
    null = [centred(one.astype(float)) for one in a["permuted"]]
    return Record(
        {
            "rate": run.rate,
            "step": run.step,
            "at_edge": run.at_edge,
            "swept": [{"rate": rate, "step": step, "dev_loss": min(loss, 1e9)} for rate, step, loss in run.swept],
            "path": [vars(point) for point in run.path],
            **_forecast(outputs, np.zeros_like(outputs), setting.test.labels.cpu().numpy()),
            "cosines": {name: cosine(shift, own) for name, own in forecasts.items()}
            | {"permuted": float(np.quantile([cosine(shift, one) for one in null], 0.975))},
            "r2": {name: explained(shift, own) for name, own in forecasts.items()}
            | {"permuted": float(np.quantile([explained(shift, one) for one in null], 0.975))},
        },
        {"outputs": outputs.astype(np.float32)}
        | {f"params/{name}": value.detach().cpu().numpy() for name, value in run.params.items()},
    )


EXPERIMENT = Experiment("practice", "one delta tuned as in practice", ("delta",), predict, measure, weight=40.0, per_delta=True)
