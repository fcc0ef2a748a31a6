"""Curvature of a mean loss over unequal batches: Hessian, Gauss-Newton and Fisher as operators.

With n_b items in batch b, W = sum_b n_b and L(z) = sum_b (n_b / W) L_b(z),

    H = d2 L / dz2        GGN = sum_b (n_b / W) J_b' (d2 L_b / dy2) J_b        J_b = dy_b / dz.

The graph of the gradient is built once per batch and kept, so that a product costs one reverse sweep through it.
Attention runs unfused, since the fused kernels have no second derivative. With a process group, each process holds
some of the batches, and one sum over the processes per product completes the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from probes.curvature.cached_derivatives import cached_derivatives
from probes.curvature.operators import Operator
from probes.inputs import (
    check_repeats,
    check_values,
    coarsest,
    named,
    nodes,
    opened,
    precision,
    settle,
    steady,
)
from probes.layout import batch_size, check_batches, check_finite, check_params, flatten, unflatten

MEMORY = 2 << 30  # bytes of activations that kept graphs may hold; further graphs are rebuilt

Leaves = dict[str, Tensor]
Product = Callable[[list[Tensor]], Sequence[Tensor | None]]  # one tensor per parameter in and out
Weights = Sequence[float] | Callable[[object], float] | str | None


@dataclass(frozen=True)
class _Built:
    """One batch's graph: what must be finite and repeat itself, its product if asked for, items told by its outputs."""

    y: Tensor
    values: list[Tensor]
    product: Product | None
    items: int | None = None


Build = Callable[[Leaves, Leaves, object, bool], _Built]  # (active leaves, all parameters, batch, second)


def hessian(
    loss: Callable[[Leaves, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int = MEMORY,
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

    def build(active: Leaves, whole: Leaves, batch, second: bool) -> _Built:
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

        return _Built(value, [value, *(g for g in first if g is not None)], product if second else None)

    return _operator("hessian", build, params, batches, weights, memory, group, compiled)


def gauss_newton(
    outputs: Callable[[Leaves, object], Tensor],
    criterion: Callable[[Tensor, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int = MEMORY,
    group: dist.ProcessGroup | None = None,
) -> Operator:
    """Return the generalised Gauss-Newton matrix, sum_b (n_b / W) J_b' (d2 criterion / dy2) J_b, as an operator.

    criterion(outputs, batch) is the scalar mean over the batch. J v is taken as the derivative of J'u in u
    (Schraudolph 2002 uses forward mode; fused attention has none). For softmax outputs `fisher` is the same matrix
    in closed form and holds less memory. Options and errors are those of `hessian`.
    """

    function = opened(criterion, "loss", "criterion")

    def bend(y: Tensor, batch) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
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

        return [value, slope], curve

    return _operator("gauss-newton", _sandwich(outputs, bend, allow_unused), params, batches, weights, memory, group)


def fisher(
    outputs: Callable[[Leaves, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int = MEMORY,
    group: dist.ProcessGroup | None = None,
) -> Operator:
    """Return the Fisher matrix of softmax outputs (B, C), mean_i J_i' (diag p_i - p_i p_i') J_i, as an operator.

    The expectation over labels is exact, so no labels are read; it equals the Gauss-Newton matrix of cross entropy
    (Martens 2020, sec. 9). Options and errors are those of `hessian`; ValueError when C < 2.
    """

    def bend(y: Tensor, batch) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
        if y.ndim != 2 or y.shape[1] < 2:
            raise ValueError(f"fisher needs softmax outputs (B, C) with C >= 2, got shape {tuple(y.shape)}")
        p = y.detach().softmax(-1)
        top = p.argmax(-1, keepdim=True)  # a common shift of u changes nothing; without u_top nothing cancels

        def curve(u: Tensor) -> Tensor:
            u = u - u.gather(-1, top)
            return (p * u - p * (p * u).sum(-1, keepdim=True)) / len(p)

        return [], curve

    return _operator("fisher", _sandwich(outputs, bend, allow_unused), params, batches, weights, memory, group)


def empirical_fisher(
    losses: Callable[[Leaves, object], Tensor],
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Weights = None,
    allow_unused: bool = False,
    memory: int = MEMORY,
    group: dist.ProcessGroup | None = None,
) -> Operator:
    """Return the empirical Fisher matrix, mean_i g_i g_i' with g_i the gradient of example i's loss, as an operator.

    losses(params, batch) gives the loss of each example (B,). Unlike `fisher` it reads the labels, and it is no
    curvature away from the optimum (Kunstner, Balles & Hennig 2019). Options and errors are those of `hessian`.
    """

    def bend(y: Tensor, batch) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
        if y.ndim != 1 or len(y) != batch_size(batch):
            raise ValueError(f"losses must return one loss per example ({batch_size(batch)},), got {tuple(y.shape)}")
        return [], lambda u: u / len(u)

    build = _sandwich(losses, bend, allow_unused, "loss")
    return _operator("empirical-fisher", build, params, batches, weights, memory, group)


def _sandwich(outputs, bend, allow_unused: bool, name: str = "logits") -> Build:
    """The builder of v -> J' curve(J v), with the graphs of y and of J'u kept; bend gives more values to check."""
    function = opened(outputs, name, "losses" if name == "loss" else "outputs")

    def build(active: Leaves, whole: Leaves, batch, second: bool) -> _Built:
        y = function(whole, batch)
        more, curve = bend(y, batch)
        items = math.prod(y.shape[:-1]) if name == "logits" else None
        if not second:
            return _Built(y, [y, *more], None, items)
        dual = torch.zeros_like(y, requires_grad=True)
        pulled = _slopes(y, active, allow_unused, True, dual)
        leaves = list(active.values())

        def product(v: list[Tensor]) -> Sequence[Tensor | None]:
            live = [(g, x) for g, x in zip(pulled, v, strict=True) if g is not None]
            if not live:
                return [None] * len(leaves)
            (pushed,) = grad([g for g, _ in live], dual, [x for _, x in live], retain_graph=True)
            return grad(y, leaves, curve(pushed), retain_graph=True, allow_unused=True)

        return _Built(y, [y, *more], product, items)

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


@dataclass(frozen=True)
class _Mean:
    """What an operator and its blocks share: the point, the data, and what was learnt when it was checked."""

    kind: str
    build: Build
    point: Leaves
    batches: list
    items: list[float]
    total: float
    memory: int
    group: dist.ProcessGroup | None
    compiled: bool
    fixed: frozenset[int] = frozenset()  # addresses of weights and data, which graphs refer to but do not own
    precision: torch.dtype = torch.float64

    @property
    def what(self) -> str:
        """Return what the checks call the function's value."""
        return "the loss or its gradient" if self.kind == "hessian" else "the function or its criterion"

    def graph(self, names: Sequence[str], batch, second: bool = True) -> tuple[_Built, dict[int, int]]:
        """Return the graph for the named parameters, and {address: bytes} of what it saves."""
        active = {k: self.point[k].clone().requires_grad_() for k in names}
        held: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in self.fixed:
                held[storage.data_ptr()] = storage.nbytes()
            return x.detach()  # a node that saved its own output would keep itself alive

        whole = {k: active.get(k, self.point[k]) for k in self.point}
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(note, lambda x: x), cached_derivatives():
            return self.build(active, whole, batch, second), held

    def checked(self, i: int, second: bool = True) -> tuple[_Built, dict[int, int]]:
        """Return the graph of batch i for all parameters; ValueError, with the batch, for chance and for what is not finite."""
        with named(i):
            made, held = steady(lambda: self.graph(tuple(self.point), self.batches[i], second), self.what)
            check_values(made.values, self.what, self.batches[i])
        return made, held

    def witness(self, made: _Built | None = None) -> Tensor:
        """Return the first batch's values in one vector, from its graph or evaluated anew without second derivatives."""
        found = self.graph(tuple(self.point), self.batches[0], second=False)[0] if made is None else made
        return torch.cat([x.detach().reshape(-1) for x in found.values])


def _operator(
    kind: str,
    build: Build,
    params: Mapping[str, Tensor],
    batches: Sequence,
    weights: Weights,
    memory: int,
    group: dist.ProcessGroup | None,
    compiled: bool = False,
) -> Operator:
    """The weighted sum over batches of the products that `build` makes, after a check of every batch."""
    check_params(params)
    batches = check_batches(batches)
    items = settle(batches, weights, group=group)
    point = {k: v.detach().clone() for k, v in params.items()}
    total = torch.tensor(sum(items), dtype=torch.float64, device=next(iter(point.values())).device)
    if group is not None:
        dist.all_reduce(total, group=group)
    mean = _Mean(kind, build, point, batches, items, float(total), memory, group, compiled)
    first, held = mean.checked(0)
    again, seen = mean.graph(tuple(point), batches[0], second=False)
    check_repeats(mean.witness(first), mean.witness(again), mean.witness, precision(first.y), mean.what)
    # while the first graph is alive, only what neither graph owns sits at the same address
    mean = replace(mean, fixed=frozenset(seen) & frozenset(held))
    return _assemble(mean, tuple(point), (first, {p: size for p, size in held.items() if p not in mean.fixed}), weights is None)


def _assemble(
    mean: _Mean, names: tuple[str, ...], first: tuple[_Built, dict[int, int]] | None, counted: bool = False
) -> Operator:
    """The operator of some parameters; first: the first batch's graph, where all batches are still to be checked."""
    shapes = {k: tuple(mean.point[k].shape) for k in names}
    ready: list[Product | None] = []
    used, rate, new = 0, 0.0, first is not None
    kinds, ratios = {v.dtype for v in mean.point.values()}, set()
    for i, batch in enumerate(mean.batches):
        fits = used + rate * batch_size(batch) <= mean.memory
        made, held = None, {}
        if i == 0 and first is not None:
            (made, held), first = first, None
        elif new:
            made, held = mean.checked(i, second=fits)
        elif fits:
            made, held = mean.graph(names, batch)
        if new:
            kinds.add(precision(made.y))
            ratios.add(None if made.items is None else made.items / batch_size(batch))
        size, product = (sum(held.values()), made.product) if fits else (0, None)
        rate = max(rate, size / batch_size(batch))
        fits = fits and used + size <= mean.memory
        used += size * fits
        if fits and mean.compiled:
            product = _compiled(product, [mean.point[k] for k in names])
        ready.append(product if fits else None)
        del made, product
    if counted and len(ratios) > 1:
        raise ValueError(
            "the outputs have other numbers of rows per example from batch to batch, so that a mean over them is "
            "none over examples: pass weights, the number of items in each batch's mean"
        )
    if new:
        mean = replace(mean, precision=coarsest(kinds))

    def parts(vectors: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """(batch, column, product) for every batch and column."""
        for i, (batch, held) in enumerate(zip(mean.batches, ready, strict=True)):
            product = mean.graph(names, batch)[0].product if held is None else held
            for j in range(vectors.shape[1]):
                given = [x.to(mean.point[k].dtype) for k, x in unflatten(vectors[:, j], shapes).items()]
                rows = zip(product(given), shapes.items(), strict=True)
                yield i, j, flatten({k: vectors.new_zeros(shape) if row is None else row for row, (k, shape) in rows})

    def apply(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for i, j, part in parts(vectors):
            total[:, j].add_(part, alpha=mean.items[i] / mean.total)
        if mean.group is not None:
            dist.all_reduce(total, group=mean.group)
        if not bool(torch.isfinite(total).all()):  # rare: say where, by the same products again
            check_values([vectors], "the vector of the product")
            for i, _, part in parts(vectors):
                with named(i):
                    check_values([part], "the product with its curvature")
            check_finite(total)
        return total

    like = next(iter(mean.point.values()))
    kept_graphs = sum(p is not None for p in ready)
    wide = torch.promote_types(like.dtype, torch.float32)
    return Operator(
        mean.kind,
        shapes,
        wide,
        like.device,
        mean.precision,
        mean.total,
        kept_graphs,
        len(ready) - kept_graphs,
        used,
        apply,
        lambda some: _assemble(mean, some, None),
    )


def _compiled(product: Product, example: list[Tensor]) -> Product:
    """The same product traced to one program and compiled."""
    from torch.fx.experimental.proxy_tensor import make_fx  # imported here: it loads the tracer

    used = [row is not None for row in product(example)]
    traced = make_fx(lambda *v: [row for row in product(list(v)) if row is not None])(*example)
    program = torch.compile(traced)

    def run(v: list[Tensor]) -> Sequence[Tensor | None]:
        rows = iter(program(*v))
        return [next(rows) if live else None for live in used]

    try:
        run(example)
    except Exception as error:
        cause = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the product could not be compiled ({cause}); leave compiled=False, or install a C++ compiler if it is missing"
        ) from error
    return run
