"""Curvature of a mean loss over unequal batches: Hessian, Gauss-Newton and Fisher as operators.

With n_b items in batch b, W = sum_b n_b and L(z) = sum_b (n_b / W) L_b(z),

    H = d2 L / dz2        GGN = sum_b (n_b / W) J_b' (d2 L_b / dy2) J_b        J_b = dy_b / dz.

The graph of the gradient is built once per batch and kept, so that a product costs one reverse sweep through
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks

from probes.layout import batch_size, check_batches, check_params, match, unflatten

MEMORY = 2 << 30            # bytes of activations that kept graphs may hold; further graphs are rebuilt
DENSE = 2 << 30             # bytes above which .dense() refuses

Product = Callable[[list[Tensor]], list[Tensor | None]]     # one tensor per parameter in and out


@dataclass
class _Count:
    """How many products an operator and its blocks have made."""

    value: int = 0


@dataclass(frozen=True)
class Operator:
    """A symmetric curvature matrix (D, D) known through its products; D numbers in the named parameters.

    kind says which matrix; examples is the number of items it averages over; kept and rebuilt count the
    batches whose graphs are held in memory and those whose graphs are rebuilt for each product. The status of
    the value is exact: derivatives are by double backward, with rounding as the only error.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype
    device: torch.device
    examples: float
    kept: int
    rebuilt: int
    _apply: Callable[[Tensor], Tensor] = field(repr=False)
    _narrow: Callable[[tuple[str, ...]], Operator] = field(repr=False)
    _count: _Count = field(repr=False, default_factory=_Count)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order of the rows."""
        return tuple(self.shapes)

    @property
    def shape(self) -> tuple[int, int]:
        """(D, D)."""
        size = sum(math.prod(s) for s in self.shapes.values())
        return size, size

    @property
    def products(self) -> int:
        """Matrix-vector products made so far, one per column."""
        return self._count.value

    def __matmul__(self, v: Tensor) -> Tensor:
        """The product with a vector (D,) or with the columns of (D, k); ValueError for another shape."""
        if v.ndim not in (1, 2) or v.shape[0] != self.shape[0]:
            d = self.shape[0]
            raise ValueError(f"the vector must have shape ({d},) or ({d}, k), got {tuple(v.shape)}")
        columns = v.to(dtype=self.dtype, device=self.device).reshape(self.shape[0], -1)
        self._count.value += columns.shape[1]
        return self._apply(columns).reshape(v.shape)

    def dense(self) -> Tensor:
        """The matrix (D, D) itself, by D products; ValueError, with the size, when it would not fit."""
        size = self.shape[0] ** 2 * torch.finfo(self.dtype).bits // 8
        if size > DENSE:
            raise ValueError(f"the dense matrix {self.shape} needs {size >> 30} GiB; take a .block(names)")
        return self @ torch.eye(self.shape[0], dtype=self.dtype, device=self.device)

    def block(self, names: str | Sequence[str]) -> Operator:
        """The diagonal block of some parameters (names or shell globs), the others held fixed.

        Its graphs are built for those parameters alone, so that layers below the lowest of them cost nothing.
        """
        return self._narrow(match(self.names, names))

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """A vector (D,) as a dict of tensors with the parameters' names and shapes."""
        return unflatten(v, self.shapes)


def hessian(loss: Callable[[dict[str, Tensor], object], Tensor], params: Mapping[str, Tensor],
            batches: Sequence, *, weights: Sequence[float] | None = None, allow_unused: bool = False,
            memory: int = MEMORY) -> Operator:
    """The Hessian of the mean loss, H = sum_b (n_b / W) d2 L_b / dz2, as an operator.

    loss(params, batch) is the mean over the batch's items; weights are the items per batch n_b (default: the
    leading length of its tensors). Products are by double backward (Pearlmutter 1994) through kept graphs
    while they fit `memory` bytes, rebuilt beyond. Raises ValueError for a loss that is random (dropout), not
    finite or not scalar, and for parameters that it does not use, unless allow_unused, which gives them zero
    rows.
    """

    def build(active: dict[str, Tensor], whole: dict[str, Tensor], batch) -> tuple[Tensor, Product]:
        value = loss(whole, batch)
        if value.numel() != 1:
            raise ValueError(f"loss must return a scalar mean over the batch, got shape {tuple(value.shape)}")
        leaves = list(active.values())
        first = _gradient(value.reshape(()), active, allow_unused)

        def product(v: list[Tensor]) -> list[Tensor | None]:
            live = [(g, x) for g, x in zip(first, v, strict=True) if g is not None and g.requires_grad]
            if not live:
                return [None] * len(leaves)
            slopes, vectors = zip(*live, strict=True)
            return grad(slopes, leaves, vectors, retain_graph=True, allow_unused=True)

        return value.detach(), product

    return _operator("hessian", build, params, tuple(params), batches, weights, memory)


def gauss_newton(outputs: Callable[[dict[str, Tensor], object], Tensor],
                 criterion: Callable[[Tensor, object], Tensor], params: Mapping[str, Tensor],
                 batches: Sequence, *, weights: Sequence[float] | None = None, allow_unused: bool = False,
                 memory: int = MEMORY) -> Operator:
    """The generalised Gauss-Newton matrix, sum_b (n_b / W) J_b' (d2 criterion / dy2) J_b, as an operator.

    criterion(outputs, batch) is the scalar mean over the batch. J v is taken as the derivative of J'u in u
    (Schraudolph 2002 uses forward mode; fused attention has none). Raises as `hessian` does.
    """

    def bend(y: Tensor, batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        leaf = y.detach().requires_grad_()
        value = criterion(leaf, batch)
        if value.numel() != 1:
            raise ValueError(f"criterion must return a scalar mean, got shape {tuple(value.shape)}")
        slope, = grad(value.reshape(()), leaf, create_graph=True)

        def curve(u: Tensor) -> Tensor:
            if not slope.requires_grad:
                return torch.zeros_like(u)
            second, = grad(slope, leaf, u, retain_graph=True, allow_unused=True)
            return torch.zeros_like(u) if second is None else second

        return value.detach(), curve

    build = _sandwich(outputs, bend, allow_unused)
    return _operator("gauss-newton", build, params, tuple(params), batches, weights, memory)


def fisher(outputs: Callable[[dict[str, Tensor], object], Tensor], params: Mapping[str, Tensor],
           batches: Sequence, *, weights: Sequence[float] | None = None, allow_unused: bool = False,
           memory: int = MEMORY) -> Operator:
    """The Fisher matrix of softmax outputs (B, C), mean_i J_i' (diag p_i - p_i p_i') J_i, as an operator.

    The expectation over labels is exact, so no labels are read; it equals the Gauss-Newton matrix of cross
    entropy (Martens 2020, sec. 9). Raises as `hessian` does, and ValueError when C < 2.
    """

    def bend(y: Tensor, batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if y.ndim != 2 or y.shape[1] < 2:
            raise ValueError(f"fisher needs softmax outputs (B, C) with C >= 2, got shape {tuple(y.shape)}")
        p = y.detach().softmax(-1)
        return y.detach().logsumexp(-1).mean(), lambda u: (p * u - p * (p * u).sum(-1, keepdim=True)) / len(p)

    build = _sandwich(outputs, bend, allow_unused)
    return _operator("fisher", build, params, tuple(params), batches, weights, memory)


def _sandwich(outputs, bend, allow_unused: bool):
    """The builder of v -> J' curve(J v), with the graphs of y and of J'u kept."""

    def build(active: dict[str, Tensor], whole: dict[str, Tensor], batch) -> tuple[Tensor, Product]:
        y = outputs(whole, batch)
        value, curve = bend(y, batch)
        dual = torch.zeros_like(y, requires_grad=True)
        pulled = _gradient(y, active, allow_unused, dual)
        leaves = list(active.values())

        def product(v: list[Tensor]) -> list[Tensor | None]:
            live = [(g, x) for g, x in zip(pulled, v, strict=True) if g is not None]
            if not live:
                return [None] * len(leaves)
            pushed, = grad([g for g, _ in live], dual, [x for _, x in live], retain_graph=True)
            return grad(y, leaves, curve(pushed), retain_graph=True, allow_unused=True)

        return value, product

    return build


def _gradient(y: Tensor, active: dict[str, Tensor], allow_unused: bool,
              dual: Tensor | None = None) -> list[Tensor | None]:
    """dy/dz with its graph for each active parameter; None where it is not used, if that is allowed."""
    if y.requires_grad:
        found = list(grad(y, list(active.values()), dual, create_graph=True, allow_unused=True))
    else:
        found = [None] * len(active)
    unused = [name for name, g in zip(active, found, strict=True) if g is None]
    if unused and not allow_unused:
        listed = ", ".join(unused)
        raise ValueError(f"the function does not use {listed}; leave these out or set allow_unused=True")
    return found


def _operator(kind: str, build, params: Mapping[str, Tensor], names: tuple[str, ...], batches: Sequence,
              weights: Sequence[float] | None, memory: int) -> Operator:
    """The weighted sum over batches of the products that `build` makes, for the named parameters."""
    check_params(params)
    batches = check_batches(batches)
    items = [float(batch_size(b)) for b in batches] if weights is None else [float(w) for w in weights]
    if len(items) != len(batches) or not all(0 < w < math.inf for w in items):
        raise ValueError(f"weights must be {len(batches)} positive numbers, one per batch, got {weights}")
    point = {k: v.detach().clone() for k, v in params.items()}
    shapes = {k: tuple(point[k].shape) for k in names}

    def graph(batch) -> tuple[Tensor, Product]:
        active = {k: point[k].clone().requires_grad_() for k in names}
        with torch.enable_grad():
            return build(active, {k: active.get(k, point[k]) for k in point}, batch)

    size = _graph_bytes(graph, batches[0]) / batch_size(batches[0])
    kept, used = [], 0.0
    for batch in batches:
        used += size * batch_size(batch)
        kept.append(graph(batch)[1] if used <= memory else None)

    def apply(columns: Tensor) -> Tensor:
        total = torch.zeros_like(columns)
        for batch, ready, weight in zip(batches, kept, items, strict=True):
            product = graph(batch)[1] if ready is None else ready
            for j in range(columns.shape[1]):
                rows = product(list(unflatten(columns[:, j], shapes).values()))
                parts = zip(rows, shapes.values(), strict=True)
                row = [(columns.new_zeros(s) if r is None else r).reshape(-1) for r, s in parts]
                total[:, j] += torch.cat(row) * (weight / sum(items))
        return total

    def narrow(some: tuple[str, ...]) -> Operator:
        return _operator(kind, build, point, some, batches, items, memory)

    held = sum(p is not None for p in kept)
    like = next(iter(point.values()))
    return Operator(kind, shapes, like.dtype, like.device, sum(items), held, len(kept) - held, apply, narrow)


def _graph_bytes(graph, batch) -> int:
    """Bytes that the graph of a batch keeps; the loss is taken twice on the way and must repeat itself."""

    def measured() -> tuple[Tensor, Product, dict[int, int]]:
        seen: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return x

        with saved_tensors_hooks(note, lambda x: x):
            return *graph(batch), seen

    first, alive, held = measured()
    second, _, again = measured()       # while the first graph is alive, only weights sit at the same address
    del alive
    if not bool(torch.isfinite(first)):
        raise ValueError(f"the loss is {float(first)} at these parameters; curvature needs a finite point")
    # repeated sums may differ by a few eps on a GPU; dropout changes the loss by far more
    if abs(first - second) > 100 * torch.finfo(first.dtype).eps * abs(first):
        pair = f"{float(first):.8g}, then {float(second):.8g}"
        raise ValueError(f"the loss is random ({pair}); switch dropout to eval mode")
    return sum(size for place, size in held.items() if place not in again)
