"""Losses, penalties and full-batch training, as every experiment computes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.loss import CrossEntropy
from tuning.training import Fit, fit, unflatten

from .setting import Params, Setting


def shifted(params: Params, vector: np.ndarray) -> Params:
    """Return params + vector."""
    return {name: p + d for (name, p), d in zip(params.items(), unflatten(vector, params).values(), strict=True)}


def logits(outputs: Callable[[Params, Any], Tensor], params: Params, batch: Any) -> np.ndarray:
    """Return the outputs as float64 numpy, without a graph."""
    with torch.no_grad():
        return outputs(params, batch).double().cpu().numpy()


def centred(shift: np.ndarray) -> np.ndarray:
    """Return logit shifts with their mean over classes removed: softmax does not see it."""
    return shift - shift.mean(-1, keepdims=True)


def cross_entropy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy of logits (N, C) in nats."""
    return float(CrossEntropy(labels).value(outputs).mean())


def loss_at(outputs: Callable[[Params, Any], Tensor], params: Params, batch: Any) -> float:
    """Return the mean cross-entropy of a batch at some parameters, in nats."""
    return cross_entropy(logits(outputs, params, batch), batch.labels.cpu().numpy())


def steered_loss(subject: Any, signals: Params, batch: Any) -> Tensor:
    """Return the mean cross-entropy of the frozen backbone with additive signals at ports."""
    return torch.nn.functional.cross_entropy(subject.steered(signals, batch), batch.labels)


def majority(batch: Any) -> float:
    """Return the share of the largest class."""
    return float(np.bincount(batch.labels.cpu().numpy()).max() / len(batch.labels))


def l2(params: Params, origin: Params) -> Tensor:
    """Return |params - origin|^2."""
    return sum(((p - origin[name]) ** 2).sum() for name, p in params.items())


def penalised(loss: Callable[[Params, Any], Tensor], batch: Any, r: float, origin: Params) -> Callable[[Params], Tensor]:
    """Return the objective loss(params, batch) + (r/2)|params - origin|^2."""
    return lambda params: loss(params, batch) + 0.5 * r * l2(params, origin)


def train(setting: Setting, objective: Callable[[Params], Tensor], initial: Params) -> Fit:
    """Return the full-batch optimum of an objective with the study's tolerance and budget."""
    return fit(objective, initial, tolerance=setting.tolerance, max_evaluations=setting.evaluations)


def cost(fitted: Fit) -> dict:
    """Return a training's convergence as plain numbers (its durations go to the provenance, not here)."""
    return {
        "converged": bool(fitted.converged),
        "evaluations": int(fitted.evaluations),
        "gradient_ratio": float(fitted.gradient_norm / max(fitted.initial_gradient_norm, 1e-30)),
    }


def summed(costs: Sequence[Mapping]) -> dict:
    """Return the share of trainings that converged, the evaluations of all, and the largest gradient left over the first."""
    return {
        "converged": float(np.mean([c["converged"] for c in costs])),
        "evaluations": sum(c["evaluations"] for c in costs),
        "gradient_ratio": max(c["gradient_ratio"] for c in costs),
    }


def at_start(subject: Any) -> Params:
    """Return a delta's numbers at its start."""
    return {name: p.detach() for name, p in subject.initial.items()}


def at_rest(subject: Any, ports: Sequence[str] | None = None) -> Params:
    """Return no control: a zero vector at every port, or at some."""
    return {port: torch.zeros(subject.width, dtype=subject.dtype) for port in (subject.ports if ports is None else ports)}


def signals(z: np.ndarray, ports: Sequence[str], subject: Any) -> Params:
    """Return a flat control as one vector per port."""
    return {port: torch.as_tensor(u, dtype=subject.dtype) for port, u in zip(ports, np.split(z, len(ports)), strict=True)}


def attention_ports(subject: Any) -> tuple[str, ...]:
    """Return the ports of the attention sublayers."""
    return tuple(port for port in subject.ports if port.endswith("attention"))


def taken(batch: Any, rows: Tensor) -> Any:
    """Return some examples of a batch."""
    return type(batch)(*(x[rows.to(x.device)] for x in batch))


def first(batch: Any, count: int) -> Any:
    """Return the first examples of a batch."""
    return type(batch)(*(x[:count] for x in batch))
