"""Products with a map's weights: by oneDNN where that is faster, which uses a processor's full vector width where MKL may not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 2**21  # multiplications from which the faster product makes up for its call, some 10 microseconds
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W' + b of rows x (N, d) without a graph; W (m, d) may be a transposed view, b is (m,)."""
    large = x.shape[0] * weight.numel() >= LEAST
    if _ONEDNN is None or not large or x.dtype != torch.float32 or x.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return F.linear(x, weight, bias)
    return _ONEDNN(x, weight, bias, "none", [], "")


class _Mapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return times(x, weight, bias)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple:
        return times(slope.contiguous(), ctx.weight.mT), None, None


def mapped(x: Tensor, module: nn.Linear) -> Tensor:
    """Return a frozen linear map of rows (N, d), with first derivatives in the rows by backward sweeps."""
    return _Mapped.apply(x, module.weight, module.bias)
