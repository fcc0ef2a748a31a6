"""The curvature of a criterion in the outputs of each example, right to its last digits however confident these are.

Differentiated twice, softmax cross entropy gives p_i p_j off the diagonal and p_i - p_i^2 on it, where everything
cancels as p_i nears 1. Its rows sum to zero, as those of every criterion do that sees only differences of outputs;
such a diagonal is the sum of the others in its row, without cancellation. The curvature p (1 - p) of a logistic loss
is even, and taken on the side where p is small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import grad
from torch.utils._pytree import tree_map

ROUNDING = 100  # eps times the terms of a sum, below which the sum is zero

Product = Callable[[Tensor], Tensor]


def output_curvature(criterion: Callable, y: Tensor, batch) -> Tensor:
    """Return the blocks (B, C, C) of d2 criterion / dy2 at y (B, C), symmetric, in float64.

    criterion(y, batch) is evaluated in float64 where it allows that. Raises ValueError when it couples the examples.
    """
    given, (y, batch) = y.dtype, _widened(criterion, y, batch)

    def at(point: Tensor) -> Tensor:
        return _blocks(_product(criterion, point, batch), y).double()

    _check_apart(_product(criterion, y, batch), y)
    blocks, origin = at(y), at(torch.zeros_like(y))
    narrow = bool((blocks == blocks.float()).all())  # a criterion may convert to a type of its own
    kind = torch.finfo(torch.float32 if narrow and given == torch.float64 else given)
    blocks = (blocks + blocks.mT) / 2
    return _mirrored(at, _balanced(blocks, origin, kind.eps, kind.tiny), origin, y, kind.eps)


def _balanced(blocks: Tensor, origin: Tensor, eps: float, tiny: float) -> Tensor:
    """The blocks, with the diagonal from the rest of the row where rows sum to zero: here, and at equal outputs.

    Only one output of an example can have p > 1/2, and so one row at most whose sum is rounding of larger terms.
    """
    flat = blocks.diagonal(dim1=1, dim2=2)
    rest = blocks - torch.diag_embed(flat)
    terms, scale = blocks.abs().sum(2), origin.abs().amax((1, 2))
    error = (flat + rest.sum(2)).abs()
    zero = origin.sum(2).abs() <= ROUNDING * eps * origin.abs().sum(2)
    doubtful = (error > ROUNDING * eps * terms + tiny).sum(1)
    sums = zero.all(1) & (scale > 0) & (doubtful <= 1) & (error.amax(1) <= ROUNDING * eps * scale + tiny)
    return torch.where(sums[:, None, None], rest - torch.diag_embed(rest.sum(2)), blocks)


def _mirrored(at: Callable[[Tensor], Tensor], blocks: Tensor, origin: Tensor, y: Tensor, eps: float) -> Tensor:
    """The blocks, with the diagonal taken at -|y| where outputs do not meet and their curvature is even in y."""
    apart = [(b - torch.diag_embed(b.diagonal(dim1=1, dim2=2)) == 0).all() for b in (blocks, origin)]
    if not all(apart):
        return blocks
    here, side, one, other, scale = (
        b.diagonal(dim1=1, dim2=2) for b in (blocks, at(-y.abs()), at(torch.ones_like(y)), at(-torch.ones_like(y)), origin)
    )
    even = (one - other).abs() <= ROUNDING * eps * one.abs()
    even &= (here - side).abs() <= ROUNDING * eps * scale.abs()
    return torch.diag_embed(torch.where(even, side, here))


def _widened(criterion: Callable, y: Tensor, batch) -> tuple[Tensor, object]:
    """Outputs and batch in float64 where the criterion takes them, else as they are."""

    def widen(x):
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    for wide in ((y.double(), tree_map(widen, batch)), (y.double(), batch)):
        try:
            _product(criterion, *wide)(torch.zeros_like(wide[0]))
        except Exception:  # whatever is wrong besides the type is raised by the last attempt
            continue
        return wide
    return y, batch


def _product(criterion: Callable, y: Tensor, batch) -> Product:
    """u -> (d2 criterion / dy2) u at y."""
    leaf = y.detach().clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = grad(criterion(leaf, batch).reshape(()), leaf, create_graph=True)

    def product(u: Tensor) -> Tensor:
        if not slope.requires_grad:
            return torch.zeros_like(u)
        (second,) = grad(slope, leaf, u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if second is None else second

    return product


def _blocks(product: Product, y: Tensor) -> Tensor:
    """Each example's block, by C products."""
    unit = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    return torch.stack([product(row.expand_as(y).contiguous()) for row in unit], dim=-1)


def _check_apart(product: Product, y: Tensor) -> None:
    """Refuse a criterion in which moving some examples bends the slope of others; two examples differ in some bit."""
    number, generator = torch.arange(len(y), device=y.device), torch.Generator().manual_seed(0)
    for bit in range((len(y) - 1).bit_length()):
        moved = ((number >> bit) & 1).bool()
        found = product(torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) * moved[:, None]).abs()
        if float(found[~moved].max()) > ROUNDING * torch.finfo(y.dtype).eps * float(found[moved].max()):
            raise ValueError(
                "the criterion couples the examples of a batch, but the Gram route needs a mean of "
                "theirs; use gauss_newton and top_eigenpairs instead"
            )
