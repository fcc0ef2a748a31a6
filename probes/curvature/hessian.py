"""Curvature of a mean loss over unequal batches: Hessian, Gauss-Newton and Fisher as operators.

With n_b items in batch b, W = sum_b n_b and L(z) = sum_b (n_b / W) L_b(z),

    H = d2 L / dz2        GGN = sum_b (n_b / W) J_b' (d2 L_b / dy2) J_b        J_b = dy_b / dz.

Outputs may be sequences (B, T, V): a criterion's mean over tokens is then what is averaged, and `fisher` takes the positions
that a mask lets count.

Attention runs unfused, since the fused kernels have no second derivative. How graphs are kept and batches averaged:
`probes.curvature.assembly`.

A linear model's Hessian is its Fisher matrix, and where two outputs are equal the labels do not matter either:

    >>> point = {"w": torch.zeros(2, 3, dtype=torch.float64)}
    >>> batch = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 1])
    >>> outputs = lambda params, batch: batch[0] @ params["w"].T
    >>> losses = lambda params, batch: torch.nn.functional.cross_entropy(outputs(params, batch), batch[1], reduction="none")
    >>> H = hessian(lambda *given: losses(*given).mean(), point, [batch])
    >>> F, E = fisher(outputs, point, [batch]), empirical_fisher(losses, point, [batch])
    >>> bool(torch.allclose(H.dense(), F.dense())), bool(torch.allclose(F.dense(), E.dense()))
    (True, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import get_gradient_edge

from probes.curvature.assembly import Build, Built, Leaves, Weights, mean_operator
from probes.curvature.operators import Operator
from probes.inputs import nodes, opened
from probes.layout import batch_size


def hessian(
    loss: Callable[[Leaves, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int | None = None,
    group: dist.ProcessGroup | None = None,
    compiled: bool = False,
) -> Operator:
    """Return the Hessian of the mean loss, H = sum_b (n_b / W) d2 L_b / dz2, as an operator.

    loss(params, batch) is the mean over the batch's items, or a model's output with that as .loss. Products are by double
    backward (Pearlmutter 1994) through graphs kept while they fit `memory` bytes and rebuilt beyond.
    weights: the items n_b per batch, as numbers, a function of the batch, or "rows" (the default unless labels could be
    counted by tokens too and would give other shares: then they are asked for).
    group: the processes that share the data, each with batches of its own. compiled: a quarter cheaper per product for half a
    minute at the start. allow_unused: parameters without use get zero rows.
    Raises ValueError, with the batch, for a loss that is random, not finite or not scalar, batch normalisation in training
    mode, attention without a second derivative, a product that does not compile, and unused parameters.
    """
    function = opened(loss, "loss", "loss")

    def build(active: Leaves, whole: Leaves, batch, second: bool) -> Built:
        value = function(whole, batch)
        if value.numel() != 1:
            raise ValueError(f"loss must return a scalar mean over the batch, got shape {tuple(value.shape)}")
        leaves = list(active.values())
        first = _slopes(value.reshape(()), active, allow_unused, second)

        def product(v: list[Tensor]) -> Sequence[Tensor | None]:
            live = [(g, x) for g, x in zip(first, v, strict=True) if g is not None and g.requires_grad]
            if not live:
                return [None] * len(leaves)
            slopes, vectors = zip(*live, strict=True)
            return grad(slopes, leaves, vectors, retain_graph=True, allow_unused=True)

        return Built(value, [value, *(g for g in first if g is not None)], product if second else None)

    return mean_operator("hessian", build, params, batches, weights, memory, group, compiled)


def gauss_newton(
    outputs: Callable[[Leaves, object], Tensor],
    criterion: Callable[[Tensor, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Operator:
    """Return the generalised Gauss-Newton matrix, sum_b (n_b / W) J_b' (d2 criterion / dy2) J_b, as an operator.

    outputs may have any shape; criterion(outputs, batch) is the scalar mean over the batch. J v is taken as the derivative
    of J'u in u (Schraudolph 2002 uses forward mode; fused attention has none). For softmax outputs `fisher` is the same
    matrix in closed form and holds less memory. Options and errors are those of `hessian`.
    """

    function = opened(criterion, "loss", "criterion")

    def bend(y: Tensor, batch) -> _Bent:
        leaf = y.detach().requires_grad_()
        value = function(leaf, batch)
        if value.numel() != 1:
            raise ValueError(f"criterion must return a scalar mean, got shape {tuple(value.shape)}")
        if not value.requires_grad:
            raise ValueError("criterion does not use the outputs; compute it from its first argument")
        (slope,) = grad(value.reshape(()), leaf, create_graph=True)

        def curve(u: Tensor) -> Tensor:
            if not slope.requires_grad:
                return torch.zeros_like(u)
            (second,) = grad(slope, leaf, u, retain_graph=True, allow_unused=True)
            return torch.zeros_like(u) if second is None else second

        return _Bent([value, slope], curve)

    return mean_operator("gauss-newton", _sandwich(outputs, bend, allow_unused), params, batches, weights, memory, group)


def fisher(
    outputs: Callable[[Leaves, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    mask: Callable[[object], Tensor] | None = None,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Operator:
    """Return the Fisher matrix of softmax outputs (..., C), mean_i J_i' (diag p_i - p_i p_i') J_i, as an operator.

    i runs over the examples of (B, C), the positions of (B, T, C); mask(batch), a bool tensor (B,) or (B, T), says which count.
    The number of items of a batch is that of the positions that count, unless weights are given.
    The expectation over labels is exact, so no labels are read; it equals the Gauss-Newton matrix of cross entropy
    (Martens 2020, sec. 9). Beside p no more than one tensor of the outputs' size is alive in a product. Other options
    and errors are those of `hessian`; ValueError when C < 2, for another mask and where it lets nothing count.
    """

    def pick(y: Tensor, batch) -> tuple[Tensor, int | None]:
        if y.ndim < 2 or y.shape[-1] < 2:
            raise ValueError(f"fisher needs softmax outputs (B, C) or (B, T, C) with C >= 2, got shape {tuple(y.shape)}")
        rows = y.flatten(0, -2)
        if mask is None:
            return rows, None if y.ndim == 2 else len(rows)
        counts = mask(batch)
        if not isinstance(counts, Tensor) or counts.dtype != torch.bool or counts.shape != y.shape[:-1]:
            got = f"{counts.dtype} {tuple(counts.shape)}" if isinstance(counts, Tensor) else type(counts).__name__
            raise ValueError(f"mask(batch) must be a bool tensor {tuple(y.shape[:-1])}, one entry per row of outputs, got {got}")
        chosen = counts.to(y.device).reshape(-1).nonzero()[:, 0]
        if len(chosen) == 0:
            raise ValueError("mask lets no position of the batch count, so that its mean is over nothing: leave the batch out")
        return rows.index_select(0, chosen), len(chosen)

    def bend(y: Tensor, batch) -> _Bent:
        p = y.detach().softmax(-1)
        top = p.argmax(-1, keepdim=True)  # a common shift of u changes nothing; without u_top nothing cancels

        def curve(u: Tensor) -> Tensor:
            u.sub_(u.gather(-1, top)).mul_(p)
            return u.addcmul_(p, u.sum(-1, keepdim=True), value=-1).div_(len(p))

        return _Bent([], curve, p.untyped_storage().nbytes())

    build = _sandwich(outputs, bend, allow_unused, pick=pick)
    return mean_operator("fisher", build, params, batches, weights, memory, group, masked=mask is not None)


def empirical_fisher(
    losses: Callable[[Leaves, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Operator:
    """Return the empirical Fisher matrix, mean_i g_i g_i' with g_i the gradient of example i's loss, as an operator.

    losses(params, batch) gives the loss of each example (B,). Unlike `fisher` it reads the labels, and it is no
    curvature away from the optimum (Kunstner, Balles & Hennig 2019). Options and errors are those of `hessian`.
    """

    def bend(y: Tensor, batch) -> _Bent:
        if y.ndim != 1 or len(y) != batch_size(batch):
            raise ValueError(f"losses must return one loss per example ({batch_size(batch)},), got {tuple(y.shape)}")
        return _Bent([], lambda u: u.div_(len(u)))

    build = _sandwich(losses, bend, allow_unused, "loss")
    return mean_operator("empirical-fisher", build, params, batches, weights, memory, group)


@dataclass(frozen=True)
class _Bent:
    """How a criterion bends at outputs y: values to check, u -> (d2 criterion / dy2) u in u's own memory if it likes, bytes."""

    values: list[Tensor]
    curve: Callable[[Tensor], Tensor]
    extra: int = 0


def _all_rows(y: Tensor, batch) -> tuple[Tensor, None]:
    """The outputs themselves, whose mean is over as many items as the criterion says."""
    return y, None


def _sandwich(outputs, bend, allow_unused: bool, name: str = "logits", pick=_all_rows) -> Build:
    """The builder of v -> J' curve(J v), with the graphs of y and of J'u kept; pick gives the outputs and items that count."""
    function = opened(outputs, name, "losses" if name == "loss" else "outputs")

    def build(active: Leaves, whole: Leaves, batch, second: bool) -> Built:
        y, items = pick(function(whole, batch), batch)
        bent = bend(y, batch)
        curve, rows = bent.curve, math.prod(y.shape[:-1]) if name == "logits" else None
        if not second:
            return Built(y, [y, *bent.values], None, rows, items)
        dual = y.new_zeros(()).expand(y.shape).requires_grad_()  # its values are never read
        pulled = _slopes(y, active, allow_unused, True, dual)
        leaves, end = list(active.values()), get_gradient_edge(y) if y.requires_grad else None  # y itself is let go

        def product(v: list[Tensor]) -> Sequence[Tensor | None]:
            live = [(g, x) for g, x in zip(pulled, v, strict=True) if g is not None]
            if not live:
                return [None] * len(leaves)
            (pushed,) = grad([g for g, _ in live], dual, [x for _, x in live], retain_graph=True)
            # what is linear in v is v itself or new memory
            given = {x.untyped_storage().data_ptr() for _, x in live}
            own = pushed.is_contiguous() and pushed.untyped_storage().data_ptr() not in given
            return grad(end, leaves, curve(pushed if own else pushed.clone()), retain_graph=True, allow_unused=True)

        return Built(y, [y, *bent.values], product, rows, items, bent.extra)

    return build


def _slopes(y: Tensor, active: Leaves, allow_unused: bool, graph: bool, dual: Tensor | None = None) -> list[Tensor | None]:
    """dy/dz for each active parameter, with its graph if wanted; None where it is not used, if that is allowed."""
    if y.requires_grad:
        _refuse(y)
        found = list(grad(y, list(active.values()), dual, create_graph=graph, allow_unused=True))
    else:
        found = [None] * len(active)
    unused = [name for name, g in zip(active, found, strict=True) if g is None]
    if unused and not allow_unused:
        listed = ", ".join(unused)
        raise ValueError(
            f"the function does not use {listed}; leave these out or set allow_unused=True, and call what uses "
            "them outside torch.no_grad and without a checkpointing of its own"
        )
    return found


def _refuse(y: Tensor) -> None:
    """Refuse what double backward gets wrong (batch statistics) or cannot do (fused attention kernels)."""
    for node in nodes(y):
        name = node.name()
        if "BatchNorm" in name and (getattr(node, "_saved_training", False) or getattr(node, "_saved_train", False)):
            raise ValueError(
                "batch normalisation is in training mode, where the loss of an example depends on its batch; call model.eval()"
            )
        if "Flash" in name or "EfficientAttention" in name or "CudnnAttention" in name:
            raise ValueError(
                f"the fused attention kernel {name} has no second derivative; load the model with "
                "attn_implementation='eager' or 'sdpa' and force no kernel"
            )
