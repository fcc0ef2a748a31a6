"""Derivatives of smooth layers cached at a point, so that products with a retained Hessian do not take them again.

Autograd's double backward of an activation evaluates exp and erf at every product, and that of a norm or of attention some
twenty elementwise operations, although the point stands still. Inside `cached_derivatives()` gelu, silu, their products with
a gate, softmax, layer_norm, rms_norm and attention have the same values and derivatives with what depends on the point alone
taken once. For y = f(x), upstream g and u:

    pull     J(x)'g                       kept: f'(x)
    bend     (J(x)'u, d<u, J(x)'g>/dx)    cached: g f''(x)

Norms and gates written out in Python are known by what their tensors were made of, never by a module's name: x times
rsqrt(mean(x^2) + eps) is a norm whoever computes it, and so is its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.curvature.derivative_nodes import Attention, Gated, Norm, Pointwise, Slopes, Softmax, Turn, edge


@dataclass(frozen=True)
class _Made:
    """What a tensor was made of: its form, the tensors x with the versions that were read, and more."""

    form: str
    x: Tensor
    version: int
    more: tuple = ()


def _note(y: Tensor, form: str, x: Tensor, *more) -> Tensor:
    """y, with a note of what it was made of and of its own version."""
    y._made = (y._version, _Made(form, x, x._version, more))
    return y


def _made(y, form: str) -> _Made | None:
    """The note on y, if it is of this form and nothing was overwritten since."""
    version, made = getattr(y, "_made", (0, None)) if isinstance(y, Tensor) else (0, None)
    fresh = made is not None and made.form == form and version == y._version and made.version == made.x._version
    return made if fresh else None


def _gelu_slopes(z: Tensor) -> tuple[Tensor, Tensor]:
    squared = z.square()
    bell = (squared * -0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    first = (z * math.sqrt(0.5)).erf_().add_(1).mul_(0.5).addcmul_(z, bell)
    return first, squared.neg_().add_(2).mul_(bell)


def _gelu_tanh_slopes(z: Tensor) -> tuple[Tensor, Tensor]:
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(scale * (z + cubic * z**3))
    slope, bend = scale * (1 + 3 * cubic * z * z), 6 * scale * cubic * z
    rise = (1 - t * t) * slope
    return (1 + t + z * rise) / 2, rise + z * ((1 - t * t) * bend - 2 * t * rise * slope) / 2


def _silu_slopes(z: Tensor) -> tuple[Tensor, Tensor]:
    s = z.sigmoid()
    d = s * (1 - s)
    return s + z * d, d * (2 + z * (1 - 2 * s))


def _activated(x: Tensor, value: Tensor, slopes: Slopes) -> Tensor:
    return _note(Pointwise.apply(x, edge(x), (value,), slopes), "active", x, value.detach(), slopes)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    slopes = _gelu_slopes if approximate == "none" else _gelu_tanh_slopes
    return _activated(x, F.gelu(x.detach(), approximate=approximate), slopes)


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    return _activated(x, F.silu(x.detach()), _silu_slopes)


def _functional_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None):
    return None if dim is None else _softmax(input, dim, dtype)


def _softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    s = input if dtype is None else input.to(dtype)
    wide = s.to(torch.promote_types(s.dtype, torch.float32))
    return Softmax.apply(wide, edge(wide), (wide.detach().softmax(dim),), dim).to(s.dtype)


def _layer_norm(input: Tensor, normalized_shape, weight=None, bias=None, eps: float = 1e-5) -> Tensor | None:
    if any(w is not None and w.requires_grad for w in (weight, bias)):
        return None
    x, axes = input.detach(), tuple(range(-len(normalized_shape), 0))
    value, mean, rstd = torch.native_layer_norm(x, normalized_shape, weight, bias, eps)
    return Norm.apply(input, edge(input), (value,), (x - mean).mul_(rstd), rstd, weight, axes, True)


def _rms_norm(input: Tensor, normalized_shape, weight=None, eps: float | None = None) -> Tensor | None:
    if (weight is not None and weight.requires_grad) or (eps is None and torch.finfo(input.dtype).bits < 32):
        return None
    value, axes = F.rms_norm(input.detach(), normalized_shape, weight, eps), tuple(range(-len(normalized_shape), 0))
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    x, w = wide.detach(), None if weight is None else weight.to(wide.dtype)
    rstd = x.square().mean(axes, keepdim=True).add_(torch.finfo(x.dtype).eps if eps is None else eps).rsqrt_()
    return Norm.apply(wide, edge(wide), (value.to(wide.dtype),), x * rstd, rstd, w, axes, False).to(input.dtype)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Tensor | None:
    if not torch.backends.cuda.math_sdp_enabled() or dropout_p or (attn_mask is not None and attn_mask.requires_grad):
        return None
    wide = torch.promote_types(query.dtype, torch.float32)  # as the unfused kernel computes
    q, k, v = (t.to(wide) for t in (query, key, value))
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] or q.shape[-1] != k.shape[-1]:
        return None
    if is_causal:
        attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril_()
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    if attn_mask is not None and torch.broadcast_shapes(attn_mask.shape, scores.shape) != scores.shape:
        return None
    with torch.no_grad():
        known = scores.detach().clone()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            known.masked_fill_(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            known += attn_mask
        nothing = known.amax(-1, keepdim=True) == -torch.inf  # a position that attends to none
        p = known.softmax(-1).masked_fill_(nothing, 0)
    return Attention.apply(scores, v, edge(scores), p).to(query.dtype)


# Of the functions that norms, gates and rotations are written in: call makes the plain result.


def _pow(call: Callable, x: Tensor, exponent=2) -> Tensor:
    found = call()
    if isinstance(exponent, int | float) and exponent == 2:
        return _note(found, "square", x)
    made = _made(x, "mean square") if isinstance(exponent, int | float) and exponent == -0.5 else None
    return found if made is None else _note(found, "rstd", made.x, *made.more)


def _mean(call: Callable, x: Tensor, dim=None, keepdim: bool = False) -> Tensor:
    found, made = call(), _made(x, "square")
    if made is None or dim is None or not keepdim:
        return found
    return _note(found, "mean square", made.x, (dim,) if isinstance(dim, int) else tuple(dim))


def _add(call: Callable, x, other) -> Tensor:
    found = call()
    for y, z in ((x, other), (other, x)):
        if isinstance(z, int | float) and (made := _made(y, "mean square")) is not None:
            return _note(found, "mean square", made.x, *made.more)
        if (kept := _made(y, "scaled")) is not None and (turned := _made(z, "turned, scaled")) is not None:
            (c, c_version), (s, s_version) = kept.more, turned.more
            if kept.x is turned.x and c.shape == s.shape and (c_version, s_version) == (c._version, s._version):
                return Turn.apply(kept.x, c, s, (found.detach(),))
    return found


def _part(call: Callable, x: Tensor, key) -> Tensor:
    found, half = call(), x.shape[-1] // 2 if x.ndim else 0
    if (
        x.ndim
        and isinstance(key, tuple)
        and len(key) == 2
        and key[0] is Ellipsis
        and isinstance(key[1], slice)
        and 2 * half == x.shape[-1]
    ):
        ends = key[1].indices(2 * half)
        if ends in ((0, half, 1), (half, 2 * half, 1)):
            return _note(found, "half", x, ends[0] > 0)
    return found


def _neg(call: Callable, x: Tensor) -> Tensor:
    found, made = call(), _made(x, "half")
    return _note(found, "second half, negated", made.x) if made is not None and made.more == (True,) else found


def _cat(call: Callable, tensors, dim: int = 0) -> Tensor:
    found = call()
    if len(tensors) == 2 and dim in (-1, found.ndim - 1):
        second, first = _made(tensors[0], "second half, negated"), _made(tensors[1], "half")
        if second is not None and first is not None and second.x is first.x and first.more == (False,):
            return _note(found, "turned", first.x)
    return found


def _rsqrt(call: Callable, x: Tensor) -> Tensor:
    return _pow(call, x, -0.5)


def _mul(call: Callable, x, other) -> Tensor:
    if x is other:
        return _note(call(), "square", x)
    for y, w in ((x, other), (other, x)):
        if not isinstance(w, Tensor) or not isinstance(y, Tensor) or w.dtype != y.dtype:
            continue
        if (made := _made(y, "rstd")) is not None and made.x is w:
            z = w.detach() * y.detach()
            return _note(
                Norm.apply(w, edge(w), (z.clone(),), z, y.detach(), None, *made.more, False),
                "normed",
                w,
                z,
                y.detach(),
                *made.more,
            )
        if (made := _made(y, "normed")) is not None and not w.requires_grad and w.ndim <= y.ndim:
            z, rstd, axes = made.more
            value = z * w
            return Norm.apply(made.x, edge(made.x), (value,), z, rstd, w, axes, False) if value.shape == z.shape else call()
        if (made := _made(y, "active")) is not None and w.shape == y.shape:
            return Gated.apply(made.x, w, edge(made.x) + edge(w), *made.more)
        if not w.requires_grad and 0 < w.ndim == y.ndim and w.shape[-1] == y.shape[-1]:
            made, found = _made(y, "turned"), call()
            if found.shape != y.shape:
                return found
            form, z = ("scaled", y) if made is None else ("turned, scaled", made.x)
            return _note(found, form, z, w, w._version)
    return call()


_CACHED = {
    F.gelu: _gelu,
    F.silu: _silu,
    F.softmax: _functional_softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.scaled_dot_product_attention: _attention,
}
_OPTIONS = {"dim", "keepdim", "exponent", "other"}  # with any others, what is written out goes the usual way
_WRITTEN = {
    torch.rsqrt: _rsqrt,
    Tensor.rsqrt: _rsqrt,
    torch.square: _pow,
    Tensor.square: _pow,
    torch.mean: _mean,
    Tensor.mean: _mean,
}
_WRITTEN |= {Tensor.__getitem__: _part, torch.cat: _cat, torch.neg: _neg, Tensor.neg: _neg, Tensor.__neg__: _neg}
_WRITTEN |= dict.fromkeys((torch.pow, Tensor.pow, Tensor.__pow__), _pow)
_WRITTEN |= dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _add)
_WRITTEN |= dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _mul)


class cached_derivatives(TorchFunctionMode):
    """A context in which activations, norms, softmax and attention keep their derivatives: they and values are right to rounding.

    Calls inside a torch.func transform or without a gradient go the usual way.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        ours, written = _CACHED.get(func), _WRITTEN.get(func)
        given = (args[0] if func is torch.cat else args[:2]) if args and (ours or written) else ()
        plain = not any(isinstance(x, Tensor) and x.requires_grad for x in given) or not torch.is_grad_enabled()
        plain = plain or not (kwargs.keys() <= _OPTIONS if written else "axis" not in kwargs)
        if plain or torch._C._functorch.peek_interpreter_stack() is not None:
            return func(*args, **kwargs)
        if written:
            return written(lambda: func(*args, **kwargs), *args, **kwargs)
        found = ours(*args, **kwargs)
        return func(*args, **kwargs) if found is None else found
