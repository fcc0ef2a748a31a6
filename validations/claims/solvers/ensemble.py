"""The examples of a cell under one control that they share: the real network, and its linearisation at rest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.loss import CrossEntropy
from tuning.training import unflatten

from ..shared.linearisation import Linearisation
from ..shared.setting import Params
from ..shared.training import at_rest, taken


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Examples under controls at ports: outputs(controls, rows) are the logits of some of them (None: of all).

    A control is (d,), shared by the examples, or (B, d), each example's own. rest: no control, a zero vector at every port.
    """

    outputs: Callable[[Params, Tensor | None], Tensor]
    labels: Tensor
    rest: Params

    @property
    def loss(self) -> CrossEntropy:
        """Return the cross-entropy of the labels."""
        return CrossEntropy(self.labels.cpu().numpy())

    @property
    def rows(self) -> Tensor:
        """Return the places of all examples."""
        return torch.arange(len(self.labels), device=self.labels.device)

    def mean_loss(self, controls: Params, rows: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy of some examples under shared controls; differentiable."""
        labels = self.labels if rows is None else self.labels[rows]
        return torch.nn.functional.cross_entropy(self.outputs(controls, rows), labels)

    def forward(self, u: np.ndarray) -> "Swept":
        """Return a forward pass of all examples at one flat control (M,), whose graph waits for backward sweeps."""
        own = {
            port: value.expand(len(self.labels), -1).clone().requires_grad_() for port, value in unflatten(u, self.rest).items()
        }
        with torch.enable_grad():
            return Swept(self.outputs(own, None), self.labels, own)


@dataclass(frozen=True, eq=False)
class Swept:
    """A forward pass with a copy of the control for every example, by which one backward sweep gives each its own slope."""

    logits: Tensor
    labels: Tensor
    controls: Params

    @property
    def outputs(self) -> np.ndarray:
        """Return the logits (N, C) in float64."""
        return self.logits.detach().double().cpu().numpy()

    def _pulled(self, value: Tensor) -> np.ndarray:
        rows = torch.autograd.grad(value, list(self.controls.values()), retain_graph=True)
        return torch.cat(rows, dim=1).double().cpu().numpy()

    def gradient(self) -> np.ndarray:
        """Return the gradient (M,) of the mean loss in the shared control: one backward sweep."""
        return self._pulled(torch.nn.functional.cross_entropy(self.logits, self.labels)).sum(0)

    def response(self) -> np.ndarray:
        """Return the derivative (N, C, M) of the logits less each example's first: C - 1 backward sweeps."""
        rows = [self._pulled((self.logits[:, c] - self.logits[:, 0]).sum()) for c in range(1, self.logits.shape[1])]
        return np.stack([np.zeros_like(rows[0]), *rows], axis=1)


def of_network(subject: Any, batch: Any) -> Ensemble:
    """Return a batch of the frozen network under vectors added at its ports, at every token."""

    def outputs(controls: Params, rows: Tensor | None) -> Tensor:
        return subject.steered(controls, batch if rows is None else taken(batch, rows))

    return Ensemble(outputs, batch.labels, at_rest(subject))


def of_tangent(lin: Linearisation, rest: Params) -> Ensemble:
    """Return the same examples on the network's linearisation at rest, y0 + G u, in float64."""
    G, y0 = torch.as_tensor(lin.G), torch.as_tensor(lin.y0)

    def outputs(controls: Params, rows: Tensor | None) -> Tensor:
        u = torch.cat(list(controls.values()), dim=-1)
        own, start = (G, y0) if rows is None else (G[rows], y0[rows])
        return start + (own @ u if u.ndim == 1 else torch.einsum("ncm,nm->nc", own, u))

    return Ensemble(outputs, torch.as_tensor(lin.labels), {port: value.double() for port, value in rest.items()})
