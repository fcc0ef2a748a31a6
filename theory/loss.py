"""Per-example losses on the outputs: value, gradient and curvature, for the linearised problems of the lab."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """The softmax cross-entropy l_i(y) = log sum_c exp(y_c) - y_{labels_i} of each example.

    labels: (N,) integers. `value(y)` is (N,), `gradient(y)` = softmax(y) - onehot is (N, C) and
    `hessian(y)` = diag(p) - p p' is (N, C, C). The loss ignores a common shift of an example's outputs, so it sees
    C - 1 directions only; `basis(C)` is an orthonormal basis of them. Raises ValueError for labels that are not
    integers or fall outside the outputs.
    """

    labels: np.ndarray

    def __post_init__(self):
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels must be a vector of integers, got {labels.dtype} of shape {labels.shape}")
        object.__setattr__(self, "labels", labels)

    def value(self, y):
        """Return the losses (N,) at outputs y (N, C)."""
        return logsumexp(self._fit(y) - np.take_along_axis(y, self.labels[:, None], -1), axis=-1)

    def gradient(self, y):
        """Return the gradients (N, C): softmax(y) - onehot(labels)."""
        p, rows = softmax(self._fit(y), axis=-1), np.arange(len(y))
        p[rows, self.labels] = 0.0
        p[rows, self.labels] = -p.sum(-1)  # p - 1 would lose the digits of a confident example
        return p

    def hessian(self, y):
        """Return the curvatures (N, C, C): diag(p) - p p', its diagonal p_c (1 - p_c) summed from the other p."""
        p = softmax(self._fit(y), axis=-1)
        others = p[:, :, None] * p[:, None, :] * (1.0 - np.eye(p.shape[-1]))
        return np.eye(p.shape[-1]) * others.sum(-1)[:, None, :] - others

    def basis(self, outputs):
        """Return an orthonormal basis (C, C-1) of the contrasts, the directions the softmax can see (Helmert)."""
        H = np.tril(np.ones((outputs, outputs)), -1)[1:]
        H[np.arange(outputs - 1), np.arange(1, outputs)] = -np.arange(1, outputs)
        return (H / np.linalg.norm(H, axis=1, keepdims=True)).T

    def _fit(self, y):
        if y.ndim != 2 or len(y) != len(self.labels):
            raise ValueError(f"outputs must have shape ({len(self.labels)}, C), one row per label, got {y.shape}")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < y.shape[1]:
            raise ValueError(
                f"labels must lie in 0..{y.shape[1] - 1} for {y.shape[1]} outputs, got {self.labels.min()}..{self.labels.max()}"
            )
        return y


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The quadratic loss l_i(y) = 1/2 (y - target_i)' weight_i (y - target_i) of each example.

    target: (N, C). weight: a number, or symmetric positive semi-definite (C, C) or (N, C, C). `value`, `gradient`
    and `hessian` have shapes (N,), (N, C), (N, C, C); `basis(C)` is the identity, every direction counts.
    Raises ValueError for a target that is not a matrix or a weight that is not symmetric positive semi-definite.
    """

    target: np.ndarray
    weight: np.ndarray | float = 1.0

    def __post_init__(self):
        target = np.asarray(self.target, float)
        if target.ndim != 2 or not np.all(np.isfinite(target)):
            raise ValueError(f"target must be finite and have shape (N, C), got shape {target.shape}")
        N, C = target.shape
        weight = np.asarray(self.weight, float)
        if weight.ndim == 0:
            weight = weight * np.eye(C)
        if weight.shape not in ((C, C), (N, C, C)):
            raise ValueError(f"weight must be a number, ({C}, {C}) or ({N}, {C}, {C}), got shape {weight.shape}")
        if not np.all(np.isfinite(weight)):
            raise ValueError("weight must be finite, got NaN or infinity")
        spectrum = np.linalg.eigvalsh(weight)
        if not np.allclose(weight, np.swapaxes(weight, -1, -2)) or spectrum.min() < -1e-12 * abs(spectrum).max():
            raise ValueError("weight must be symmetric positive semi-definite, got one that is not")
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "weight", np.broadcast_to(weight, (N, C, C)))

    def value(self, y):
        """Return the losses (N,) at outputs y (N, C)."""
        return 0.5 * np.sum((y - self.target) * self.gradient(y), axis=-1)

    def gradient(self, y):
        """Return the gradients (N, C): weight (y - target)."""
        if y.shape != self.target.shape:
            raise ValueError(f"outputs must have the target's shape {self.target.shape}, got {y.shape}")
        return np.einsum("ncd,nd->nc", self.weight, y - self.target)

    def hessian(self, y):
        """Return the curvatures (N, C, C), the weights."""
        return self.weight

    def basis(self, outputs):
        """Return the identity (C, C): every output direction is seen."""
        return np.eye(outputs)
