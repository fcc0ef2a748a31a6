"""The mean over unequal batches of products that a graph per batch makes, checked, as one operator.

A builder makes one batch's graph for some of the parameters. Graphs are kept while they fit the memory, so that a product
costs one reverse sweep through each, and built again for every product beyond. With a process group, each process holds
some of the batches, and one sum over the processes per product completes the mean.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel

from probes.curvature.cached_derivatives import cached_derivatives
from probes.curvature.operators import Operator
from probes.curvature.replay import Product, Replayed, recordable
from probes.inputs import check_repeats, check_values, coarsest, named, precision, settle, steady
from probes.layout import batch_size, check_batches, check_finite, check_params, flatten, unflatten

MEMORY = 2 << 30  # bytes of activations that kept graphs may always hold on a CPU; further graphs are rebuilt
MEMINFO = Path("/proc/meminfo")  # where a system states it, what is free

Leaves = dict[str, Tensor]
Held = dict[int, tuple[int, StorageWeakRef]]  # what a graph saves: address -> bytes, and whether the storage is still there
Weights = Sequence[float] | Callable[[object], float] | str | None


@dataclass(frozen=True)
class Built:
    """One batch's graph: what must be finite and repeat itself, the product if asked for, and what the outputs tell.

    values begin with the function's value; rows is the number of rows of the outputs, a hint of the items that they are a mean
    over; items is that number where it is known; extra counts the bytes that the product holds outside the graph.
    """

    y: Tensor
    values: list[Tensor]
    product: Product | None
    rows: int | None = None
    items: int | None = None
    extra: int = 0


Build = Callable[[Leaves, Leaves, object, bool], Built]  # (active leaves, all parameters, batch, second)


@dataclass(frozen=True)
class _Mean:
    """What an operator and its blocks share: the point, the data, and what was learnt when it was checked."""

    kind: str
    build: Build
    point: Leaves
    batches: list
    items: list[float]
    total: float
    memory: int | None
    group: dist.ProcessGroup | None
    compiled: bool
    fixed: frozenset[int] = frozenset()  # addresses of weights and data, which graphs refer to but do not own
    precision: torch.dtype = torch.float64
    noise: float = 0.0

    @property
    def what(self) -> str:
        """Return what the checks call the function's value."""
        return "the loss or its gradient" if self.kind == "hessian" else "the function or its criterion"

    def graph(self, names: Sequence[str], batch, second: bool = True) -> tuple[Built, Held]:
        """Return the graph for the named parameters, and what it saves."""
        held: Held = {}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in self.fixed:
                held[storage.data_ptr()] = storage.nbytes(), StorageWeakRef(storage)
            return x.detach()  # a node that saved its own output would keep itself alive

        device = next(iter(self.point.values())).device
        with recordable(device), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(note, lambda x: x):
            active = {k: self.point[k].clone().requires_grad_() for k in names}
            whole = {k: active.get(k, self.point[k]) for k in self.point}
            with cached_derivatives():
                return self.build(active, whole, batch, second), held

    def checked(self, i: int, second: bool = True) -> tuple[Built, Held]:
        """Return the graph of batch i for all parameters; ValueError, with the batch, for chance and for what is not finite."""
        with named(i):
            made, held = steady(lambda: self.graph(tuple(self.point), self.batches[i], second), self.what)
            check_values(made.values, self.what, self.batches[i])
        return made, held

    def witness(self) -> Tensor:
        """Return the first batch's values in one vector, evaluated anew without second derivatives."""
        return _vector(self.graph(tuple(self.point), self.batches[0], second=False)[0])


def _vector(made: Built) -> Tensor:
    return torch.cat([x.detach().reshape(-1) for x in made.values])


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device now, what torch has cached and does not use included; None where unknown."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu" or not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="utf-8").splitlines() if ":" in line)
    return int(lines.get("MemAvailable", "0 kB").split()[0]) * 1024


def default_memory(device: torch.device) -> int:
    """Return the bytes that kept graphs may hold where no number is given, from what is free on the device now.

    On a CUDA device 60 % of the free memory, on a CPU a quarter of it, 2 GiB at least; elsewhere 2 GiB.
    """
    free = free_memory(device)
    if free is None:
        return MEMORY
    return int(0.6 * free) if device.type == "cuda" else max(MEMORY, free // 4)


def mean_operator(
    kind: str,
    build: Build,
    params: Mapping[str, Tensor],
    batches: Sequence,
    weights: Weights,
    memory: int | None,
    group: dist.ProcessGroup | None,
    compiled: bool = False,
    masked: bool = False,
) -> Operator:
    """Return the weighted sum over batches of the products that `build` makes, after a check of every batch.

    memory None stands for `default_memory`, asked anew for every block. masked: a mask says which items count, so that no
    weights need to be asked for.
    """
    check_params(params)
    batches = check_batches(batches)
    items = settle(batches, "rows" if masked and weights is None else weights, group=group)
    point = {k: v.detach().clone() for k, v in params.items()}
    mean = _Mean(kind, build, point, batches, items, _summed(items, point, group), memory, group, compiled)
    once, seen = mean.checked(0, second=False)
    witness = _vector(once)
    del once  # gone before the first graph is made, which costs as much again
    first, held = mean.checked(0)
    noise = check_repeats(witness, _vector(first), mean.witness, precision(first.y), mean.what, first.values[0].numel())
    # what has outlived the graph that saved it is not the graph's own
    mean = replace(mean, fixed=frozenset(at for at, (_, storage) in seen.items() if not storage.expired()), noise=noise)
    own = {at: saved for at, saved in held.items() if at not in mean.fixed}
    made = _assemble(mean, tuple(point), (first, own), weights is None)
    _give_back(made.device)
    return made


def _give_back(device: torch.device) -> None:
    """Give the system what building took and freed, where the C library keeps it in pieces that products cannot use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if device.type == "cpu" and os.name == "posix" else None
    if trim is not None:
        trim(0)


def _summed(items: Sequence[float], point: Leaves, group: dist.ProcessGroup | None) -> float:
    """The items of all processes."""
    total = torch.tensor(sum(items), dtype=torch.float64, device=next(iter(point.values())).device)
    if group is not None:
        dist.all_reduce(total, group=group)
    return float(total)


def _assemble(mean: _Mean, names: tuple[str, ...], first: tuple[Built, Held] | None, counted: bool = False) -> Operator:
    """The operator of some parameters; first: the first batch's graph, where all batches are still to be checked."""
    shapes = {k: tuple(mean.point[k].shape) for k in names}
    ready: list[Product | None] = []
    used, rate, new = 0, 0.0, first is not None
    kinds, ratios, items = {v.dtype for v in mean.point.values()}, set(), []
    like = next(iter(mean.point.values()))
    memory = default_memory(like.device) if mean.memory is None else mean.memory
    for i, batch in enumerate(mean.batches):
        fits = used + rate * batch_size(batch) <= memory
        made, held = None, {}
        if i == 0 and first is not None:
            (made, held), first = first, None
        elif new:
            made, held = mean.checked(i, second=fits)
        elif fits:
            made, held = mean.graph(names, batch)
        if new:
            kinds.add(precision(made.y))
            ratios.add(None if made.rows is None else made.rows / batch_size(batch))
            items.append(made.items)
        size, product = (sum(size for size, _ in held.values()) + made.extra, made.product) if fits else (0, None)
        rate = max(rate, size / batch_size(batch))
        fits = fits and used + size <= memory
        used += size * fits
        if fits and mean.compiled:
            product = _compiled(product, [mean.point[k] for k in names])
        elif fits and like.device.type == "cuda" and product is not None:
            product = Replayed(product, like.device)
        ready.append(product if fits else None)
        del made, product
    if counted and None not in items:
        mean = replace(mean, items=items, total=_summed(items, mean.point, mean.group))
    elif counted and len(ratios) > 1:
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

    kept_graphs = sum(p is not None for p in ready)
    wide = torch.promote_types(like.dtype, torch.float32)
    return Operator(
        mean.kind,
        shapes,
        wide,
        like.device,
        mean.precision,
        mean.noise,
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
