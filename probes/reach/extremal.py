"""How far controls at layers are from an extremal of the maximum principle: slopes and gaps of the Hamiltonian, layer by layer.

    H_t(u) = sum_i <lambda_{i,t+1}, f_t(x_{i,t}, u)> / N + r/2 |u|^2        dH_t/du = g_t + r u_t

with states x and costates lambda of the network under the controls. Where the control is added to a layer's output, H_t is a
parabola in it: it lies |g_t + r u_t|^2 / 2r above its least value, which it takes at -g_t / r.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.inputs import check_values, named, opened
from probes.layout import batch_size, check_batches, check_params


@dataclass(frozen=True)
class Extremality:
    """The maximum principle's residuals at controls, one number a layer, in the order of `names`.

    slope: |dH_t/du| at the controls. rest: the same with no control anywhere, about the frozen network's trajectory. gap:
    H_t(u_t) - min over u of H_t, in nats. stationarity = slope / rest: 0 at an extremal, 1 where nothing was trained.
    """

    names: tuple[str, ...]
    slope: Tensor
    rest: Tensor
    gap: Tensor

    @property
    def stationarity(self) -> Tensor:
        """Return |dH_t/du| over that of the frozen network; infinite where the latter is zero and the former is not."""
        return torch.where(self.slope == 0, torch.zeros_like(self.slope), self.slope / self.rest)


def extremality(
    loss: Callable[[dict[str, Tensor], object], Tensor], controls: Mapping[str, Tensor], batches: Sequence, price: float
) -> Extremality:
    """Return how far controls that all examples share are from satisfying the maximum principle, layer by layer.

    loss(controls, batch) is the batch's mean loss under vectors added at layers; batches are weighed by their examples. price:
    the weight r of the controls' energy r/2 |u|^2. One gradient at the controls and one at zero: the sums of costates over
    examples and tokens are the gradients of the mean loss. Source: Pontryagin; Li, Chen, Tai and E, JMLR 2018, section 2.
    Raises ValueError for a price that is not positive, where the Hamiltonian has no minimum, and, with the batch, for values that
    are not finite.
    """
    check_params(controls)
    if not price > 0:
        raise ValueError(f"price must be positive, got {price}: a control that costs nothing has no least Hamiltonian")
    batches = check_batches(batches)
    at = {name: value.detach() for name, value in controls.items()}
    slopes = _slopes(loss, at, batches, price)
    rest = _slopes(loss, {name: torch.zeros_like(value) for name, value in at.items()}, batches, price)
    return Extremality(tuple(at), slopes, rest, slopes.square() / (2 * price))


def _slopes(loss: Callable, at: dict[str, Tensor], batches: Sequence, price: float) -> Tensor:
    """|dH_t/du| of every layer, in float64."""
    total, count = {name: price * value.double() for name, value in at.items()}, sum(batch_size(b) for b in batches)
    function = opened(loss, "loss", "loss")
    for i, batch in enumerate(batches):
        leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
        with torch.enable_grad():
            value = function(leaves, batch)
        found = torch.autograd.grad(value, list(leaves.values()))
        with named(i):
            check_values([value, *found], "the loss or its slope")
        for name, slope in zip(leaves, found, strict=True):
            total[name] = total[name] + batch_size(batch) / count * slope.double()
    return torch.stack([slope.norm() for slope in total.values()])
