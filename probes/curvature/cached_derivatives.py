"""Derivatives of smooth layers cached at a point, so that products with a retained Hessian do not take them again.

Autograd's double backward of an activation evaluates exp and erf at every product, and that of layer_norm some
twenty elementwise operations, although the point stands still. Inside `cached_derivatives()` gelu, silu and layer_norm have the
same values and derivatives with what depends on the point alone taken once. For y = f(x), upstream g and u:

    pull     J(x)'g                       kept: f'(x)
    bend     (J(x)'u, d<u, J(x)'g>/dx)    cached: g f''(x)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class _Pointwise(torch.autograd.Function):
    """y = f(x), elementwise, with f'(x) and f''(x) given."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(x, first, second)
        return value

    @staticmethod
    def backward(ctx, g: Tensor):
        x, first, second = ctx.saved_tensors
        pulled = _PointwisePull.apply(g, x, first, second) if torch.is_grad_enabled() else g * first
        return pulled, None, None, None


class _PointwisePull(torch.autograd.Function):
    """g f'(x)."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, g * second)
        return g * first

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor):
        first, bent = ctx.saved_tensors
        return u * first, u * bent, None, None


class _Norm(torch.autograd.Function):
    """y = w z + b, z = (x - mean) rstd over the last `axes`; with P(a) = a - mean(a) - z mean(a z), J'g = rstd P(w g)."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, z: Tensor, rstd: Tensor, w: Tensor | None, axes: tuple) -> Tensor:
        ctx.axes = axes
        ctx.save_for_backward(x, z, rstd, w)
        return value

    @staticmethod
    def backward(ctx, g: Tensor):
        x, z, rstd, w = ctx.saved_tensors
        if torch.is_grad_enabled():
            pulled = _NormPull.apply(g, x, z, rstd, w, ctx.axes)
        else:
            pulled = _project(g if w is None else g * w, z, ctx.axes)[0].mul_(rstd)
        return pulled, None, None, None, None, None


class _NormPull(torch.autograd.Function):
    """rstd P(w g); its slope in x is -rstd^2 (z mean(u P(h)) + mean(h z) P(u) + mean(u z) P(h)) with h = w g."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, z: Tensor, rstd: Tensor, w: Tensor | None, axes: tuple) -> Tensor:
        flat, tilt = _project(g if w is None else g * w, z, axes)
        ctx.axes = axes
        ctx.save_for_backward(z, rstd, w, flat, tilt)
        return flat * rstd

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor):
        z, rstd, w, flat, tilt = ctx.saved_tensors
        bent = z * (u * flat).mean(ctx.axes, keepdim=True)
        even, lean = _project(u, z, ctx.axes)
        bent.addcmul_(flat, lean).addcmul_(even, tilt).mul_(-rstd * rstd)
        even.mul_(rstd)
        return even if w is None else even.mul_(w), bent, None, None, None, None


def _project(a: Tensor, z: Tensor, axes: tuple) -> tuple[Tensor, Tensor]:
    """(a - mean(a) - z mean(a z), mean(a z)) over the axes."""
    tilt = (a * z).mean(axes, keepdim=True)
    return torch.addcmul(a - a.mean(axes, keepdim=True), z, tilt, value=-1), tilt


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    z = x.detach()
    value = F.gelu(z, approximate=approximate)
    if approximate == "none":
        squared = z.square()
        bell = (squared * -0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
        first = (z * math.sqrt(0.5)).erf_().add_(1).mul_(0.5).addcmul_(z, bell)
        return _Pointwise.apply(x, value, first, squared.neg_().add_(2).mul_(bell))
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(scale * (z + cubic * z**3))
    slope, bend = scale * (1 + 3 * cubic * z * z), 6 * scale * cubic * z
    rise = (1 - t * t) * slope
    return _Pointwise.apply(x, value, (1 + t + z * rise) / 2, rise + z * ((1 - t * t) * bend - 2 * t * rise * slope) / 2)


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    z = x.detach()
    s = z.sigmoid()
    d = s * (1 - s)
    return _Pointwise.apply(x, F.silu(z), s + z * d, d * (2 + z * (1 - 2 * s)))


def _layer_norm(input: Tensor, normalized_shape, weight=None, bias=None, eps: float = 1e-5) -> Tensor:
    if any(w is not None and w.requires_grad for w in (weight, bias)):
        return F.layer_norm(input, normalized_shape, weight, bias, eps)
    x, axes = input.detach(), tuple(range(-len(normalized_shape), 0))
    value, mean, rstd = torch.native_layer_norm(x, normalized_shape, weight, bias, eps)
    return _Norm.apply(input, value, (x - mean).mul_(rstd), rstd, weight, axes)


_CACHED = {F.gelu: _gelu, F.silu: _silu, F.layer_norm: _layer_norm}


class cached_derivatives(TorchFunctionMode):
    """A context in which gelu, silu and layer_norm keep their derivatives; values are unchanged, derivatives to rounding.

    Calls inside a torch.func transform or without a gradient go the usual way.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        ours = _CACHED.get(func)
        plain = ours is None or not args or not args[0].requires_grad or not torch.is_grad_enabled()
        if plain or torch._C._functorch.peek_interpreter_stack() is not None:
            return func(*args, **kwargs)
        return ours(*args, **kwargs)
