"""Nodes of the graph that keep their derivatives: activations, gates, norms, softmax, attention and rotations.

Each node's pull, J(x)'g, is a node too, whose own slope needs nothing but what is kept. A pull takes its input as an `edge`, of
which only the place in the graph is needed; what a pull alone reads is let go once it is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Slopes = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> (f'(x), f''(x))
Value = tuple[Tensor] | tuple[()]  # what a forward returns; as an argument of its own it could not be overwritten by the model


class _Edge(torch.autograd.Function):
    """A tensor of zeros that takes no memory and hands what comes back to x: x in a graph that has no use for its numbers."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g


def edge(x: Tensor) -> Value:
    """Return a stand-in for x, without memory, that hands x its derivatives."""
    return (_Edge.apply(x),)


class Pointwise(torch.autograd.Function):
    """y = f(x), elementwise."""

    @staticmethod
    def forward(ctx, x: Tensor, edge: Value, value: Value, slopes: Slopes) -> Tensor:
        first, second = slopes(x)
        ctx.edge, ctx.bend = edge, second
        ctx.save_for_backward(first)
        return value[0]

    @staticmethod
    def backward(ctx, g: Tensor):
        (first,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return g * first, None, None, None
        bend, ctx.bend = ctx.bend, None  # nothing but the pull needs it
        return _PointwisePull.apply(g, *ctx.edge, first, (bend,)), None, None, None


class _PointwisePull(torch.autograd.Function):
    """g f'(x)."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, first: Tensor, bend: Value) -> Tensor:
        ctx.save_for_backward(first, bend[0].mul_(g))
        return g * first

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor):
        first, bent = ctx.saved_tensors
        return u * first, u * bent, None, None


class Gated(torch.autograd.Function):
    """y = f(x) w, elementwise, of two tensors of one shape."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, edges: tuple[Tensor, Tensor], active: Tensor, slopes: Slopes) -> Tensor:
        slope, second = slopes(x)
        ctx.edges, ctx.bends = edges, (second.mul_(w), slope)
        ctx.save_for_backward(active, slope * w)
        return active * w

    @staticmethod
    def backward(ctx, g: Tensor):
        active, first = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return g * first, g * active, None, None, None
        bends, ctx.bends = ctx.bends, None  # nothing but the pull needs them
        return *_GatedPull.apply(g, *ctx.edges, active, first, bends), None, None, None


class _GatedPull(torch.autograd.Function):
    """(g w f'(x), g f(x))."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, w: Tensor, active: Tensor, first: Tensor, bends: tuple) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(active, first, *(bend.mul_(g) for bend in bends))
        return g * first, g * active

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor, v: Tensor):
        active, first, bent, mixed = ctx.saved_tensors
        return (u * first).addcmul_(v, active), (u * bent).addcmul_(v, mixed), u * mixed, None, None, None


class Norm(torch.autograd.Function):
    """y = w z + b, z = (x - mean) rstd over the last `axes`; with P(a) = a - mean(a) - z mean(a z), J'g = rstd P(w g).

    Without `centred`, x - mean is x and mean(a) is left out.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, edge: Value, value: Value, z: Tensor, rstd: Tensor, w: Tensor | None, axes: tuple, centred: bool
    ) -> Tensor:
        ctx.edge, ctx.axes, ctx.centred = edge, axes, centred
        ctx.save_for_backward(z, rstd, w)
        return value[0]

    @staticmethod
    def backward(ctx, g: Tensor):
        z, rstd, w = ctx.saved_tensors
        if torch.is_grad_enabled():
            pulled = _NormPull.apply(g, *ctx.edge, z, rstd, w, ctx.axes, ctx.centred)
        else:
            pulled = _project(g if w is None else g * w, z, ctx.axes, ctx.centred)[0].mul_(rstd)
        return pulled, None, None, None, None, None, None, None


class _NormPull(torch.autograd.Function):
    """rstd P(w g); its slope in x is -rstd^2 (z mean(u P(h)) + mean(h z) P(u) + mean(u z) P(h)) with h = w g."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, z: Tensor, rstd: Tensor, w: Tensor | None, axes: tuple, centred: bool) -> Tensor:
        flat, tilt = _project(g if w is None else g * w, z, axes, centred)
        ctx.axes, ctx.centred = axes, centred
        ctx.save_for_backward(z, rstd, w, flat, tilt)
        return flat * rstd

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor):
        z, rstd, w, flat, tilt = ctx.saved_tensors
        even, lean = _project(u, z, ctx.axes, ctx.centred)
        scale = rstd.square().neg_()
        bent = z * ((u * flat).mean(ctx.axes, keepdim=True) * scale)
        bent.addcmul_(flat, lean * scale).addcmul_(even, tilt * scale)
        even.mul_(rstd)
        return even if w is None else even.mul_(w), bent, None, None, None, None, None


def _project(a: Tensor, z: Tensor, axes: tuple, centred: bool) -> tuple[Tensor, Tensor]:
    """(a - mean(a) - z mean(a z), mean(a z)) over the axes, or without mean(a)."""
    tilt = (a * z).mean(axes, keepdim=True)
    return torch.addcmul(a - a.mean(axes, keepdim=True) if centred else a, z, tilt, value=-1), tilt


class Softmax(torch.autograd.Function):
    """p = softmax(s) over an axis; J'g = p (g - <p, g>)."""

    @staticmethod
    def forward(ctx, s: Tensor, edge: Value, value: Value, axis: int) -> Tensor:
        ctx.edge, ctx.axis = edge, axis
        ctx.save_for_backward(value[0])
        return value[0]

    @staticmethod
    def backward(ctx, g: Tensor):
        (p,) = ctx.saved_tensors
        graph = torch.is_grad_enabled()
        pulled = _SoftmaxPull.apply(g, *ctx.edge, p, ctx.axis) if graph else _spread(g, p, ctx.axis).mul_(p)
        return pulled, None, None, None


class _SoftmaxPull(torch.autograd.Function):
    """q = p (g - <p, g>); its slope in s is q a - p <q, a> with a = u - <p, u>."""

    @staticmethod
    def forward(ctx, g: Tensor, s: Tensor, p: Tensor, axis: int) -> Tensor:
        ctx.axis = axis
        pulled = _spread(g, p, axis).mul_(p)
        ctx.save_for_backward(p, pulled)
        return pulled

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor):
        p, pulled = ctx.saved_tensors
        a = _spread(u, p, ctx.axis)
        bent = pulled * a
        return a.mul_(p), bent.addcmul_(p, bent.sum(ctx.axis, keepdim=True), value=-1), None, None


def _spread(a: Tensor, p: Tensor, axis: int) -> Tensor:
    """a - <p, a>."""
    return a - (a * p).sum(axis, keepdim=True)


class Attention(torch.autograd.Function):
    """y = p v, p = softmax(s), of scores s (..., T, S) and values v (..., S, d)."""

    @staticmethod
    def forward(ctx, s: Tensor, v: Tensor, edge: Value, p: Tensor) -> Tensor:
        ctx.edge = edge
        ctx.save_for_backward(v, p)
        return p @ v

    @staticmethod
    def backward(ctx, g: Tensor):
        v, p = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_AttentionPull.apply(g, *ctx.edge, v, p), None, None
        return _spread(g @ v.mT, p, -1).mul_(p), p.mT @ g, None, None


class _AttentionPull(torch.autograd.Function):
    """(q, p'g) with q = p (g v' - <p, g v'>).

    Moved by (a, b), p moves by e = p (a - <p, a>) and y by e v + p b. The slope in s is m - p <1, m> with
    m = q (a - <p, a>) + p g b', that in v is e'g.
    """

    @staticmethod
    def forward(ctx, g: Tensor, s: Tensor, v: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        pulled = _spread(g @ v.mT, p, -1).mul_(p)
        ctx.save_for_backward(g, v, p, pulled)
        return pulled, p.mT @ g

    @staticmethod
    @once_differentiable
    def backward(ctx, a: Tensor, b: Tensor):
        g, v, p, pulled = ctx.saved_tensors
        moved = _spread(a, p, -1)
        bent = (g @ b.mT).mul_(p).addcmul_(pulled, moved)
        bent.addcmul_(p, bent.sum(-1, keepdim=True), value=-1)
        moved.mul_(p)
        return (moved @ v).add_(p @ b), bent, moved.mT @ g, None


class Turn(torch.autograd.Function):
    """x c + (-x_2, x_1) s for the halves x_1, x_2 of the last axis; the adjoint turns by (c, -(s_2, s_1))."""

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, s: Tensor, value: Value = ()) -> Tensor:
        ctx.save_for_backward(c, s)
        if value:
            return value[0]
        half = x.shape[-1] // 2
        y = x * c
        y[..., :half].addcmul_(x[..., half:], s[..., :half], value=-1)
        y[..., half:].addcmul_(x[..., :half], s[..., half:])
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        c, s = ctx.saved_tensors
        return Turn.apply(g, c, s.roll(s.shape[-1] // 2, -1).neg_()), None, None, None
