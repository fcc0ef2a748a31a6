"""Softmax cross entropy through a frozen vocabulary map, without a graph of vocabulary size.

For states h (n, d), a map W (V, d) and b (V,), targets t and weights w of the tokens, with p_i = softmax(W h_i + b),

    L = sum_i w_i (log sum_v exp(W h_i + b)_v - (W h_i + b)_{t_i})
    dL/dh_i = w_i W'(p_i - e_{t_i})             d2L/dh_i2 u = w_i W'(p_i * Wu - p_i <p_i, Wu>).

Slopes are (n, d). Of what has the size of the vocabulary only p is held, up to `HELD` bytes; beyond, it is computed
again for every product. All else is a chunk of tokens at a time, a quarter of them at most.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

HELD = 1 << 28  # bytes of probabilities that are held for products
CHUNK = 1 << 25  # bytes of logits that are alive at once


def head_loss(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, w: Tensor) -> Tensor:
    """Return sum_i w_i (logsumexp(z_i) - z_i[t_i]) with z = h W' + b, twice differentiable in h (n, d) alone."""
    return _Loss.apply(h, weight, bias, targets, w)


def logit_loss(z: Tensor, targets: Tensor, w: Tensor) -> Tensor:
    """Return sum_i w_i (logsumexp(z_i) - z_i[t_i]) of logits z (n, V), for a vocabulary map that is adapted or bent."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return (w * (z.logsumexp(-1) - z.gather(-1, targets[:, None])[:, 0])).sum()


def _chunks(n: int, vocabulary: int, wide: torch.dtype) -> Iterator[slice]:
    step = max(1, min(CHUNK // (vocabulary * wide.itemsize), -(-n // 4)))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


class _Loss(torch.autograd.Function):
    """The value, with its slope taken along."""

    @staticmethod
    def forward(ctx, h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, w: Tensor) -> Tensor:
        (n, _), vocabulary, wide = h.shape, len(weight), torch.promote_types(h.dtype, torch.float32)
        sloped = ctx.needs_input_grad[0]
        keep = sloped and n * vocabulary * wide.itemsize <= HELD
        held = h.new_empty(n, vocabulary, dtype=wide) if keep else None
        slope = torch.empty_like(h) if sloped else None
        value = torch.zeros((), dtype=wide, device=h.device)
        for part in _chunks(n, vocabulary, wide):
            p, at = linear(h[part].to(weight.dtype), weight, bias).to(wide), targets[part, None]
            total = p.logsumexp(-1, keepdim=True)
            value += (w[part, None] * (total - p.gather(-1, at))).sum()
            if sloped:
                p.sub_(total).exp_()
                if held is not None:
                    held[part] = p
                p.scatter_add_(-1, at, p.new_full(at.shape, -1.0)).mul_(w[part, None])
                slope[part] = p.to(weight.dtype) @ weight
        ctx.save_for_backward(h, weight, bias, w, slope, held)
        return value

    @staticmethod
    def backward(ctx, g: Tensor):
        h, weight, bias, w, slope, held = ctx.saved_tensors
        if torch.is_grad_enabled():
            slope = _Slope.apply(h, weight, bias, w, slope, held)
        return (g * slope).to(h.dtype), None, None, None, None


class _Slope(torch.autograd.Function):
    """w_i W'(p_i - e_t), given; its own slope by W'(p u - p <p, u>), where a common shift of u changes nothing."""

    @staticmethod
    def forward(ctx, h: Tensor, weight: Tensor, bias: Tensor | None, w: Tensor, slope: Tensor, held: Tensor | None) -> Tensor:
        ctx.save_for_backward(h, weight, bias, w, held)
        return slope.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor):
        h, weight, bias, w, held = ctx.saved_tensors
        wide, bent = torch.promote_types(h.dtype, torch.float32), torch.empty_like(h)
        for part in _chunks(len(h), len(weight), wide):
            p = linear(h[part].to(weight.dtype), weight, bias).to(wide).softmax(-1) if held is None else held[part]
            v = (u[part].to(weight.dtype) @ weight.T).to(wide)
            v -= v.gather(-1, p.argmax(-1, keepdim=True))  # without the likeliest token's part nothing cancels
            v.sub_(torch.linalg.vecdot(p, v)[:, None]).mul_(p).mul_(w[part, None])
            bent[part] = v.to(weight.dtype) @ weight
        return bent, None, None, None, None, None
