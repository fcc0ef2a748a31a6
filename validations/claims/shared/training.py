"""Losses, penalties and full-batch training, as every experiment computes them."""

from collections.abc import Callable
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


def steered_loss(subject: Any, signals: Params, batch: Any) -> Tensor:
    """Return the mean cross-entropy of the frozen backbone with additive signals at ports."""
    return torch.nn.functional.cross_entropy(subject.steered(signals, batch), batch.labels)


def train(setting: Setting, objective: Callable[[Params], Tensor], initial: Params) -> Fit:
    """Return the full-batch optimum of an objective with the study's tolerance and budget."""
    return fit(objective, initial, tolerance=setting.tolerance, max_evaluations=setting.evaluations)


def l2(params: Params, origin: Params) -> Tensor:
    """Return |params - origin|^2."""
    return sum(((p - origin[name]) ** 2).sum() for name, p in params.items())


def cost(fitted: Fit) -> dict:
    """Return a training's convergence as plain numbers (its durations go to the provenance, not here)."""
    return {
        "converged": bool(fitted.converged),
        "evaluations": int(fitted.evaluations),
        "gradient_ratio": float(fitted.gradient_norm / max(fitted.initial_gradient_norm, 1e-30)),
    }


def at_rest(subject: Any) -> Params:
    """Return no control: a zero vector at every port."""
    return {port: torch.zeros(subject.width, dtype=subject.dtype) for port in subject.ports}
