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
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from probes.layout import batch_size, check_batches, check_params, columns, flatten, match, unflatten
from probes.smooth import kept

MEMORY = 2 << 30            # bytes of activations that kept graphs may hold; further graphs are rebuilt
DENSE = 2 << 30             # bytes above which .dense() refuses

Leaves = dict[str, Tensor]
Product = Callable[[list[Tensor]], Sequence[Tensor | None]]     # one tensor per parameter in and out
# (active leaves, all parameters, batch, second) -> what must repeat itself, and the product if second is True
Build = Callable[[Leaves, Leaves, object, bool], tuple[Tensor, Product | None]]


@dataclass
class _Count:
    """How many products an operator has made."""

    value: int = 0


@dataclass(frozen=True)
class Operator:
    """A symmetric curvature matrix (D, D) known through its products; D numbers in the named parameters.

    kind says which matrix; examples is the number of items it averages over; kept and rebuilt count the batches
    whose graphs are held in memory, in `held` bytes, and those whose graphs are rebuilt for each product. The
    value is exact: derivatives are by double backward, with rounding as the only error.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype
    device: torch.device
    examples: float
    kept: int
    rebuilt: int
    held: int
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
        matrix = v.to(dtype=self.dtype, device=self.device).reshape(self.shape[0], -1)
        self._count.value += matrix.shape[1]
        return self._apply(matrix).reshape(v.shape)

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

    def between(self, rows: str | Sequence[str], cols: str | Sequence[str]) -> Block:
        """The block of rows and columns of two sets of parameters, A against B say; they may overlap."""
        above, beside = match(self.names, rows), match(self.names, cols)
        both = self._narrow(tuple(n for n in self.names if n in above or n in beside))
        return Block(both, columns(both.shapes, above), columns(both.shapes, beside))

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """A vector (D,) as a dict of tensors with the parameters' names and shapes."""
        return unflatten(v, self.shapes)


@dataclass(frozen=True)
class Block:
    """The rows and columns (index vectors) of a curvature operator, as a rectangular operator with its transpose."""

    whole: Operator
    rows: Tensor = field(repr=False)
    columns: Tensor = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.rows), len(self.columns)

    @property
    def T(self) -> Block:
        """The transposed block."""
        return replace(self, rows=self.columns, columns=self.rows)

    def __matmul__(self, v: Tensor) -> Tensor:
        """The product with a vector (columns,) or matrix (columns, k); ValueError for another shape."""
        if v.ndim not in (1, 2) or v.shape[0] != self.shape[1]:
            d = self.shape[1]
            raise ValueError(f"the vector must have shape ({d},) or ({d}, k), got {tuple(v.shape)}")
        spread = torch.zeros(self.whole.shape[0], *v.shape[1:], dtype=self.whole.dtype, device=self.whole.device)
        spread[self.columns] = v.to(spread)
        return (self.whole @ spread)[self.rows]

    def dense(self) -> Tensor:
        """The block itself (rows, columns), by as many products as its shorter side."""
        if self.shape[0] < self.shape[1]:
            return self.T.dense().T
        return self @ torch.eye(self.shape[1], dtype=self.whole.dtype, device=self.whole.device)


def hessian(loss: Callable[[Leaves, object], Tensor], params: Mapping[str, Tensor], batches: Sequence, *,
            weights: Sequence[float] | None = None, allow_unused: bool = False, memory: int = MEMORY,
            group: dist.ProcessGroup | None = None, compiled: bool = False) -> Operator:
    """The Hessian of the mean loss, H = sum_b (n_b / W) d2 L_b / dz2, as an operator.

    loss(params, batch) is the mean over the batch's items; weights are the items per batch n_b (default: the leading
    length of its tensors). Products are by double backward (Pearlmutter 1994) through kept graphs while they fit
    `memory` bytes, rebuilt beyond. group: the processes that share the data, each with batches of its own
    (torch.distributed.group.WORLD under torchrun). compiled: trace the product and compile it, a quarter cheaper per
    product for half a minute at the start. Raises ValueError for a loss that is random (dropout), not finite or not
    scalar, for batch normalisation in training mode, for attention without a second derivative, for a product that
    does not compile, and for parameters that the loss does not use, unless allow_unused, which gives them zero rows.
    """

    def build(active: Leaves, whole: Leaves, batch, second: bool) -> tuple[Tensor, Product | None]:
        value = loss(whole, batch)
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

        found = [value] + [g for g in first if g is not None]
        return torch.cat([g.detach().reshape(-1) for g in found]), product if second else None

    return _operator("hessian", build, params, batches, weights, memory, group, compiled)


def gauss_newton(outputs: Callable[[Leaves, object], Tensor], criterion: Callable[[Tensor, object], Tensor],
                 params: Mapping[str, Tensor], batches: Sequence, *, weights: Sequence[float] | None = None,
                 allow_unused: bool = False, memory: int = MEMORY,
                 group: dist.ProcessGroup | None = None) -> Operator:
    """The generalised Gauss-Newton matrix, sum_b (n_b / W) J_b' (d2 criterion / dy2) J_b, as an operator.

    criterion(outputs, batch) is the scalar mean over the batch. J v is taken as the derivative of J'u in u
    (Schraudolph 2002 uses forward mode; fused attention has none). For softmax outputs `fisher` is the same matrix
    in closed form and holds less memory. Options and errors are those of `hessian`.
    """

    def bend(y: Tensor, batch) -> Callable[[Tensor], Tensor]:
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

        return curve

    return _operator("gauss-newton", _sandwich(outputs, bend, allow_unused), params, batches, weights, memory, group)


def fisher(outputs: Callable[[Leaves, object], Tensor], params: Mapping[str, Tensor], batches: Sequence, *,
           weights: Sequence[float] | None = None, allow_unused: bool = False, memory: int = MEMORY,
           group: dist.ProcessGroup | None = None) -> Operator:
    """The Fisher matrix of softmax outputs (B, C), mean_i J_i' (diag p_i - p_i p_i') J_i, as an operator.

    The expectation over labels is exact, so no labels are read; it equals the Gauss-Newton matrix of cross entropy
    (Martens 2020, sec. 9). Options and errors are those of `hessian`; ValueError when C < 2.
    """

    def bend(y: Tensor, batch) -> Callable[[Tensor], Tensor]:
        if y.ndim != 2 or y.shape[1] < 2:
            raise ValueError(f"fisher needs softmax outputs (B, C) with C >= 2, got shape {tuple(y.shape)}")
        p = y.detach().softmax(-1)
        top = p.argmax(-1, keepdim=True)                # a common shift of u changes nothing; without u_top nothing cancels

        def curve(u: Tensor) -> Tensor:
            u = u - u.gather(-1, top)
            return (p * u - p * (p * u).sum(-1, keepdim=True)) / len(p)

        return curve

    return _operator("fisher", _sandwich(outputs, bend, allow_unused), params, batches, weights, memory, group)


def empirical_fisher(losses: Callable[[Leaves, object], Tensor], params: Mapping[str, Tensor], batches: Sequence, *,
                     weights: Sequence[float] | None = None, allow_unused: bool = False, memory: int = MEMORY,
                     group: dist.ProcessGroup | None = None) -> Operator:
    """The empirical Fisher matrix, mean_i g_i g_i' with g_i the gradient of example i's loss, as an operator.

    losses(params, batch) gives the loss of each example (B,). Unlike `fisher` it reads the labels, and it is no
    curvature away from the optimum (Kunstner, Balles & Hennig 2019). Options and errors are those of `hessian`.
    """

    def bend(y: Tensor, batch) -> Callable[[Tensor], Tensor]:
        if y.ndim != 1 or len(y) != batch_size(batch):
            raise ValueError(f"losses must return one loss per example ({batch_size(batch)},), got {tuple(y.shape)}")
        return lambda u: u / len(u)

    build = _sandwich(losses, bend, allow_unused)
    return _operator("empirical-fisher", build, params, batches, weights, memory, group)


def _sandwich(outputs, bend, allow_unused: bool) -> Build:
    """The builder of v -> J' curve(J v), with the graphs of y and of J'u kept."""

    def build(active: Leaves, whole: Leaves, batch, second: bool) -> tuple[Tensor, Product | None]:
        y = outputs(whole, batch)
        if not second:
            return y.detach().reshape(-1), None
        curve = bend(y, batch)
        dual = torch.zeros_like(y, requires_grad=True)
        pulled = _slopes(y, active, allow_unused, True, dual)
        leaves = list(active.values())

        def product(v: list[Tensor]) -> Sequence[Tensor | None]:
            live = [(g, x) for g, x in zip(pulled, v, strict=True) if g is not None]
            if not live:
                return [None] * len(leaves)
            pushed, = grad([g for g, _ in live], dual, [x for _, x in live], retain_graph=True)
            return grad(y, leaves, curve(pushed), retain_graph=True, allow_unused=True)

        return y.detach().reshape(-1), product

    return build


def _slopes(y: Tensor, active: Leaves, allow_unused: bool, graph: bool,
            dual: Tensor | None = None) -> list[Tensor | None]:
    """dy/dz for each active parameter, with its graph if wanted; None where it is not used, if that is allowed."""
    if y.requires_grad:
        _refuse(y)
        found = list(grad(y, list(active.values()), dual, create_graph=graph, allow_unused=True))
    else:
        found = [None] * len(active)
    unused = [name for name, g in zip(active, found, strict=True) if g is None]
    if unused and not allow_unused:
        listed = ", ".join(unused)
        raise ValueError(f"the function does not use {listed}; leave these out or set allow_unused=True")
    return found


def _nodes(y: Tensor) -> Iterator:
    """Every node of the graph behind y, once."""
    seen, waiting = set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
            yield node


def _refuse(y: Tensor) -> None:
    """Refuse what double backward gets wrong (batch statistics) or cannot do (fused attention kernels)."""
    for node in _nodes(y):
        name = node.name()
        if "BatchNorm" in name and (getattr(node, "_saved_training", False) or getattr(node, "_saved_train", False)):
            raise ValueError("batch normalisation is in training mode, where the loss of an example depends on its "
                             "batch; call model.eval()")
        if "Flash" in name or "EfficientAttention" in name or "CudnnAttention" in name:
            raise ValueError(f"the fused attention kernel {name} has no second derivative; load the model with "
                             "attn_implementation='eager' or 'sdpa' and force no kernel")


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
    fixed: frozenset[int] = frozenset()     # addresses of weights and data, which graphs refer to but do not own

    def graph(self, names: Sequence[str], batch, second: bool = True) -> tuple[Tensor, Product | None, dict[int, int]]:
        """(witness, product, {address: bytes} of what the graph saves) for the named parameters."""
        active = {k: self.point[k].clone().requires_grad_() for k in names}
        held: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in self.fixed:
                held[storage.data_ptr()] = storage.nbytes()
            return x.detach()       # a node that saved its own output would keep itself alive

        whole = {k: active.get(k, self.point[k]) for k in self.point}
        smooth = kept() if second else nullcontext()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(note, lambda x: x), smooth:
            return *self.build(active, whole, batch, second), held


def _operator(kind: str, build: Build, params: Mapping[str, Tensor], batches: Sequence,
              weights: Sequence[float] | None, memory: int, group: dist.ProcessGroup | None,
              compiled: bool = False) -> Operator:
    """The weighted sum over batches of the products that `build` makes, after one check of the first batch."""
    check_params(params)
    batches = check_batches(batches)
    items = [float(batch_size(b)) for b in batches] if weights is None else [float(w) for w in weights]
    if len(items) != len(batches) or not all(0 < w < math.inf for w in items):
        raise ValueError(f"weights must be {len(batches)} positive numbers, one per batch, got {weights}")
    point = {k: v.detach().clone() for k, v in params.items()}
    total = torch.tensor(sum(items), dtype=torch.float64, device=next(iter(point.values())).device)
    if group is not None:
        dist.all_reduce(total, group=group)
    mean = _Mean(kind, build, point, batches, items, float(total), memory, group, compiled)
    first = mean.graph(tuple(point), batches[0])
    again, _, seen = mean.graph(tuple(point), batches[0], second=False)
    _check_repeats(first[0], again)
    # while the first graph is alive, only what neither graph owns sits at the same address
    mean = replace(mean, fixed=frozenset(seen) & frozenset(first[2]))
    held = {place: size for place, size in first[2].items() if place not in mean.fixed}
    return _assemble(mean, tuple(point), (first[1], sum(held.values())))


def _check_repeats(first: Tensor, again: Tensor) -> None:
    """Refuse values that are not finite or that change from one evaluation to the next."""
    if not bool(torch.isfinite(first).all()):
        raise ValueError(f"the loss or its gradient is not finite at these parameters ({float(first[0])}); curvature "
                         "needs a finite point")
    # the same sums taken otherwise differ by a few eps; dropout changes them by far more
    gap = float((first - again).norm())
    if gap > 1e3 * torch.finfo(first.dtype).eps * float(first.norm()):
        raise ValueError(f"the loss is random ({float(first[0]):.8g}, then {float(again[0]):.8g}; its gradient differs "
                         f"by {gap:.1e} in norm); switch dropout to eval mode")


def _assemble(mean: _Mean, names: tuple[str, ...], first: tuple[Product, int] | None) -> Operator:
    """The operator of some parameters; first: the first batch's product and its bytes, where they are made already."""
    shapes = {k: tuple(mean.point[k].shape) for k in names}
    ready: list[Product | None] = []
    used, rate = 0, 0.0
    for i, batch in enumerate(mean.batches):
        if used + rate * batch_size(batch) > mean.memory:
            ready.append(None)
            continue
        if i == 0 and first is not None:
            product, size = first
            first = None
        else:
            _, product, held = mean.graph(names, batch)
            size = sum(held.values())
        rate = max(rate, size / batch_size(batch))
        fits = used + size <= mean.memory
        used += size * fits
        if fits and mean.compiled:
            product = _compiled(product, [mean.point[k] for k in names])
        ready.append(product if fits else None)

    def apply(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for batch, held, weight in zip(mean.batches, ready, mean.items, strict=True):
            product = mean.graph(names, batch)[1] if held is None else held
            for j in range(vectors.shape[1]):
                rows = product(list(unflatten(vectors[:, j], shapes).values()))
                parts = zip(rows, shapes.items(), strict=True)
                filled = {k: vectors.new_zeros(shape) if row is None else row for row, (k, shape) in parts}
                total[:, j].add_(flatten(filled), alpha=weight / mean.total)
        if mean.group is not None:
            dist.all_reduce(total, group=mean.group)
        return total

    like = next(iter(mean.point.values()))
    kept_graphs = sum(p is not None for p in ready)
    return Operator(mean.kind, shapes, like.dtype, like.device, mean.total, kept_graphs, len(ready) - kept_graphs, used,
                    apply, lambda some: _assemble(mean, some, None))


def _compiled(product: Product, example: list[Tensor]) -> Product:
    """The same product traced to one program and compiled."""
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
        raise ValueError(f"the product could not be compiled ({cause}); leave compiled=False, or install a C++ compiler "
                         "if it is missing") from error
    return run
