"""How the threshold dimension of one delta depends on the labels and on the pretraining of the frozen backbone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from probes.dimension.projection import random_subspace
from theory.kernel import participation_ratio
from theory.subspace import effective_dimension
from tuning.backbones import Backbone, wrap
from tuning.subjects import Subject, fit_readout, subject

from ...store import Record
from ..shared.linearisation import Linearisation, departure, linearise
from ..shared.setting import Experiment, Params, Setting, own_rng, own_seed
from ..shared.subspaces import at_ends, crossing, estimate, shapes, solved_within, trained_within
from ..shared.training import at_start, cost, cross_entropy, logits, loss_at, penalised, shifted, summed, train

PENALTY = 3e-5  # share of the largest curvature, that of a shift common to all texts, which says little of what fitting needs
SMALLEST, LEVELS, DRAWS = 2, 7, 3
DENSE = 4096  # numbers up to which subspaces are drawn from all of them alike
LABELS = ("permuted", "again")  # the arms whose labels are permuted, by two permutations
NETWORKS = ("shuffled", "fresh")  # the arms whose network knows nothing


@dataclass(frozen=True)
class Arm:
    """A subject and the text it is tuned on."""

    subject: Any
    text: Any

    @property
    def origin(self) -> Params:
        """Return the delta's numbers at the start."""
        return at_start(self.subject)

    def loss(self, params: Params) -> float:
        """Return the plain training cross-entropy in nats."""
        return loss_at(self.subject.outputs, params, self.text)


def arms(setting: Setting) -> dict[str, Arm]:
    """Return the arms by name: true labels, two permutations of them, a shuffled and a freshly initialised network.

    Every arm is made in the same way from its network and its labels: the head is fitted on the network's own features of the
    held-out texts, under the arm's labels, and the delta starts anew. A permutation moves labels among the training texts, and
    among the held-out ones. Subjects that the setting gives in the roles of `NETWORKS` are taken as they are, heads included.
    """
    own = setting.subjects["delta"]
    given = {name: setting.subjects[name] for name in NETWORKS if name in setting.subjects}
    others = given or {
        "shuffled": replace(own, backbone=own.shuffled(own_seed(setting, 173)).backbone),
        "fresh": replace(own, backbone=fresh(own.backbone, own_seed(setting, 179))),
    }
    made = {}
    for name, network in {"true": own, **dict.fromkeys(LABELS, own), **others}.items():
        text, held = (_permuted(batch, name, setting) for batch in (setting.train, setting.test))
        made[name] = Arm(network if given else _headed(network, held), text)
    return made


def fresh(backbone: Backbone, seed: int) -> Backbone:
    """Return a backbone of the same kind and configuration with the weights that its own initialiser draws."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = type(backbone.model)(backbone.model.config).to(backbone.device, backbone.dtype)
    return wrap(model, backbone.tokenizer, name=f"{backbone.name}, fresh")


def _headed(of: Subject, held: Any) -> Subject:
    return subject(of.backbone, of.delta, fit_readout(of.backbone, held, of.readout.classes), of.seed)


def _permuted(batch: Any, name: str, setting: Setting) -> Any:
    if name not in LABELS:
        return batch
    order = own_rng(setting, 149, LABELS.index(name), len(batch.labels)).permutation(len(batch.labels))
    return batch._replace(labels=batch.labels[torch.as_tensor(order)])


def _subspaces(setting: Setting, origin: Params) -> list[tuple[int, Any]]:
    """Return (d, subspace) of every run: log-spaced dimensions from `SMALLEST` to half the numbers, each drawn several times."""
    size, first = sum(p.numel() for p in origin.values()), next(iter(origin.values()))
    spaced = np.geomspace(SMALLEST, size / 2, int(setting.options.get("levels", LEVELS)))
    kind = "dense" if size <= DENSE else "sorf"
    return [
        (d, random_subspace(shapes(origin), d, kind=kind, seed=own_seed(setting, draw, d), dtype=first.dtype))
        for d in sorted({round(x) for x in spaced})
        for draw in range(int(setting.options.get("draws", DRAWS)))
    ]


def _kernel_measures(lin: Linearisation, r: float) -> dict[str, float]:
    """Return the participation ratio and trace over largest eigenvalue of G G', and sum_i lambda_i / (lambda_i + r)."""
    kernel = np.linalg.eigvalsh(lin.kernel())
    return {
        "participation": participation_ratio(np.maximum(kernel, 0.0)),
        "trace_rank": float(kernel.sum() / kernel.max()),
        "effective": effective_dimension(lin.curvatures(lin.y0), r),
    }


def _predicted(setting: Setting, arm: Arm) -> dict:
    origin = arm.origin
    lin = linearise(arm.subject.outputs, origin, arm.text)
    r = float(setting.options.get("share", PENALTY)) * float(lin.curvatures(lin.y0)[0])
    full, start = lin.optimum(r), cross_entropy(lin.y0, lin.labels)
    fall = max(start - full.loss, 1e-12)
    runs = _subspaces(setting, origin)
    dimensions = sorted({d for d, _ in runs})
    shares = np.array([(start - solved_within(lin, space, origin, r).loss) / fall for _, space in runs])
    mean = [float(np.mean([s for (d, _), s in zip(runs, shares, strict=True) if d == at])) for at in dimensions]
    moved = logits(arm.subject.outputs, shifted(origin, full.z), arm.text)
    return {
        "r": r,
        "start": start,
        "fall": start - full.loss,
        "shares": mean,
        "d90": crossing(dimensions, mean, lin.G.shape[-1]),
        "departure": departure(lin, full, moved),
        **_kernel_measures(lin, r),
    }


def predict(setting: Setting) -> Record:
    """Return every arm's threshold dimension before training: the linearised problem solved in the subspaces of the training.

    Score: the share of the full optimum's fall in the plain training cross-entropy. The penalty r, which only makes the optimum
    finite, is one share of each arm's own largest Gauss-Newton curvature at the start. A dimension beyond the ones tried is put
    at their end. Beside it measures of the kernel, which see no labels but through the head.
    """
    origin = at_start(setting.subjects["delta"])
    return Record(
        {name: _predicted(setting, arm) for name, arm in arms(setting).items()}
        | {
            "dimensions": sorted({d for d, _ in _subspaces(setting, origin)}),
            "parameters": sum(p.numel() for p in origin.values()),
            "texts": len(setting.train.labels),
        },
        {},
    )


def _trained(setting: Setting, arm: Arm, r: float) -> dict:
    origin = arm.origin
    objective = penalised(arm.subject.loss, arm.text, r, origin)
    full, start = train(setting, objective, origin), arm.loss(origin)
    fall, dimensions, scores, costs = start - arm.loss(full.params), [], [], [cost(full)]
    for d, space in _subspaces(setting, origin):
        fitted = trained_within(setting, objective, origin, space)
        step = space.apply(fitted.params["theta"])
        reached = arm.loss({name: p + step[name] for name, p in origin.items()})
        dimensions.append(d)
        scores.append((start - reached) / max(fall, 1e-12))
        costs.append(cost(fitted))
    size = sum(p.numel() for p in origin.values())
    found = estimate([*dimensions, size], [*scores, 1.0], [1.0], chance=0.0)
    value, low, high = at_ends(found, dimensions[0], size)
    known = summed(costs)
    return {
        "start": start,
        "fall": fall,
        "scores": scores,
        "d90": found["isotonic"] or float(dimensions[0]),
        "censored": found["isotonic"] is None,
        "logistic": value,
        "low": low,
        "high": high,
        "status": found["status"],
        **known,
        "converged": known["converged"] >= 0.9,
    }


def measure(setting: Setting, predicted: Record) -> Record:
    """Return every arm's threshold dimension from full-batch training in the same subspaces, with the scores of the runs."""
    record: Mapping[str, Any] = predicted.values
    return Record({name: _trained(setting, arm, record[name]["r"]) for name, arm in arms(setting).items()}, {})


EXPERIMENT = Experiment(
    "origins", "threshold dimensions by labels and pretraining", ("delta",), predict, measure, weight=40.0, per_delta=True
)
