"""Products with a map's weights, by oneDNN where that is faster, which uses a processor's full vector width where MKL may not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
        ctx.save_for_backward(x, weight)
        return times(x, weight, bias)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple:
        (x, weight), (of_x, of_weight, of_bias), slope = ctx.saved_tensors, ctx.needs_input_grad, slope.contiguous()
        return (
            times(slope, weight.mT) if of_x else None,
            times(slope.mT, x.mT) if of_weight else None,
            slope.sum(0) if of_bias else None,
        )


def mapped(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W' + b of rows x (N, d), with first derivatives in all three by backward sweeps."""
    return _Mapped.apply(x, weight, bias)
