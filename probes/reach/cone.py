"""What a prefix writes into one attention head, against the cone of its values that it cannot leave.

>>> values, prefix = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 1.0]], dtype=torch.float64)
>>> frozen, tuned = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.5, 0.25, 0.25]]).double()
>>> found = prefix_cone(lambda v: frozen @ v, lambda v: tuned @ v, values, prefix)
>>> found.gate.tolist(), found.bias.tolist(), found.rank
([0.5], [[0.5, 0.5]], 1)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PrefixCone:
    """What a prefix of length l writes into one attention head, measured at T queries, in float64.

    gate (T,) is the attention mass on the prefix, bias (T, d_v) = output - (1 - gate) base what it adds. residual
    (T,) is the distance of the bias from the cone of the prefix's values over |bias|, and resolution (T,) what
    rounding alone makes of it, which grows as the gate closes; rank is the numerical rank of the T biases and can
    be at most l. ratio is the largest change of log (A_ij / A_ik) between context tokens. perpendicular (T,) is
    the length of the part of the output at right angles to the output without the prefix.
    """

    length: int
    gate: Tensor
    base: Tensor
    output: Tensor
    bias: Tensor
    residual: Tensor
    resolution: Tensor
    rank: int
    ratio: float
    perpendicular: Tensor

    def tightness(self, bound) -> Tensor:
        """Return bound / perpendicular (T,): at least 1 where a bound on the part at right angles holds, 1 if it is tight."""
        return torch.as_tensor(bound).to(self.perpendicular) / self.perpendicular


def prefix_cone(
    frozen: Callable[[Tensor], Tensor], tuned: Callable[[Tensor], Tensor], values: Tensor, prefix_values: Tensor
) -> PrefixCone:
    """Measure the reachable cone of a prefix in a real head: where its outputs lie, against where a prefix can put them.

    t_i^pt = A_i0 V mu + (1 - A_i0) t_i for one token; for l tokens the biases lie in a cone of rank <= l, and the ratios of
    attention within the context stay (Petrov, Torr & Bibi 2024, section 3, for the same layer input).
    A head is a map of values: frozen (S, p) -> (T, p), tuned (l + S, p) -> (T, p), prefix first, with whatever else a delta
    changes; the weights are read off at an identity. values (S, d_v), prefix_values (l, d_v). Raises ValueError for shapes
    that do not fit and a head whose weights do not sum to one.
    """
    if values.ndim != 2 or prefix_values.ndim != 2 or values.shape[1] != prefix_values.shape[1]:
        raise ValueError(
            "values (S, d_v) and prefix_values (l, d_v) must share d_v, got "
            f"{tuple(values.shape)} and {tuple(prefix_values.shape)}"
        )
    V, P = values.detach().double(), prefix_values.detach().double()
    s, l = len(V), len(P)  # noqa: E741 - the prefix length of the papers
    with torch.no_grad():
        before, after = frozen(torch.eye(s).to(V)), tuned(torch.eye(l + s).to(V))
        base, output = frozen(V), tuned(torch.cat([P, V]))
    if any(not torch.allclose(w.sum(1), torch.ones(len(w)).to(w), atol=1e-9) for w in (before, after)):
        raise ValueError(
            "a head's weights must sum to one over its keys, these do not; pass the head without "
            "dropout and before the output projection"
        )
    gate = after[:, :l].sum(1)
    bias = output - (1 - gate)[:, None] * base
    rounding = torch.finfo(torch.float64).eps * (l + s) * float(torch.cat([P, V]).norm(dim=1).max())
    sizes = bias.norm(dim=1)
    residual = [nnls(P.T.cpu().numpy(), b.cpu().numpy(), maxiter=100 * l)[1] for b in bias / sizes.clamp_min(1e-300)[:, None]]
    seen = (before > 0) & (after[:, l:] > 0)
    moved = torch.where(seen, after[:, l:], 1.0).log() - torch.where(seen, before, 1.0).log()
    spread = moved.masked_fill(~seen, -torch.inf).amax(1) - moved.masked_fill(~seen, torch.inf).amin(1)
    along = (output * base).sum(1, keepdim=True) / (base**2).sum(1, keepdim=True)
    return PrefixCone(
        l,
        gate,
        base,
        output,
        bias,
        torch.as_tensor(np.array(residual)).to(bias),
        rounding / sizes,
        int((torch.linalg.svdvals(bias) > rounding * math.sqrt(len(sizes))).sum()),
        float(spread.max()),
        (output - along * base).norm(dim=1),
    )
