"""The response G = dy/dz of a network's outputs to its parameters or control signals, and its contractions.

With examples i = 1..N, outputs c = 1..C and all parameters z flattened in dict order (M numbers),

    G[i, c, :] = d y_c(z; x_i) / dz        (N, C, M)        K = G R^-1 G'        (NC, NC).

C reverse sweeps through the real network give every row, with all cross-token paths and every layer at once.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from probes.inputs import check_repeats, check_values, coarsest, named, opened, precision, standing, steady
from probes.layout import (
    batch_size,
    check_batches,
    check_finite,
    check_params,
    columns,
    flatten,
    group_names,
    split_batch,
    unflatten,
)

Outputs = Callable[[dict[str, Tensor], object], Tensor]
CHUNK = 32  # examples differentiated at once: activations of C x CHUNK sequences are alive
BUDGET = 1 << 30  # bytes that G may take


@dataclass(frozen=True)
class Response:
    """G = dy/dz at one point, held as a matrix when it fits the budget and as an operator otherwise.

    outputs (N, C) are y at the point; matrix (N, C, M) is G or None; names and shapes give the order of the M
    columns. route is "vmap", or "loop" for one example at a time; `note` says why it was needed. precision is the
    coarsest dtype in the graph, and status "exact" (derivatives by reverse mode, rounding of dtype only) or the coarser
    dtype that rounds: "rounded in bfloat16".
    """

    outputs: Tensor
    matrix: Tensor | None
    shapes: dict[str, tuple[int, ...]]
    route: str
    note: str
    status: str
    precision: torch.dtype
    _function: Outputs = field(repr=False)
    _params: dict[str, Tensor] = field(repr=False)
    _batches: list = field(repr=False)
    _chunk: int = field(repr=False)
    _budget: int = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the parameters that G differentiates, in the order of its columns."""
        return tuple(self.shapes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape (N, C, M)."""
        return *self.outputs.shape, sum(math.prod(s) for s in self.shapes.values())

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype in which G is held: that of the outputs, float32 at least."""
        return self.outputs.dtype

    def matvec(self, dz: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the first-order change of the outputs, G dz: (N, C) for dz (M,) or a dict, (N, C, k) for (M, k).

        Without the matrix it is computed as d/dv <G'v, dz>, two reverse sweeps per batch: forward mode is not
        used, because fused attention has none. Raises ValueError for a vector of another length.
        """
        n, c, m = self.shape
        dz = flatten({k: dz[k] for k in self.names}) if isinstance(dz, Mapping) else dz
        if dz.ndim not in (1, 2) or dz.shape[0] != m:
            raise ValueError(f"dz must have shape ({m},) or ({m}, k), got {tuple(dz.shape)}")
        dz = dz.to(self.outputs)
        if self.matrix is not None:
            return self.matrix @ dz
        if dz.ndim == 2:
            return torch.stack([self.matvec(column) for column in dz.unbind(1)], dim=-1)
        parts = []
        for y, z in self._forwards():
            dual = torch.zeros_like(y, requires_grad=True)
            if not y.requires_grad:
                parts.append(torch.zeros_like(y))
                continue
            rows = torch.autograd.grad(y, list(z.values()), dual, create_graph=True, allow_unused=True)
            pairs = zip(rows, unflatten(dz, self.shapes).values(), strict=True)
            total = sum((torch.sum(row * d) for row, d in pairs if row is not None), dual.sum() * 0)
            parts.append(torch.autograd.grad(total, dual)[0])
            with named(len(parts) - 1):
                check_values(parts[-1:], "the product of G")
        return torch.cat(parts)

    def rmatvec(self, dy: Tensor) -> Tensor:
        """Return the pulled-back covector G' dy by one reverse sweep: (M,) for dy (N, C), (M, k) for (N, C, k)."""
        n, c, m = self.shape
        if dy.ndim not in (2, 3) or tuple(dy.shape[:2]) != (n, c):
            raise ValueError(f"dy must have shape ({n}, {c}) or ({n}, {c}, k), got {tuple(dy.shape)}")
        dy = dy.to(self.outputs)
        if self.matrix is not None:
            flat = self.matrix.reshape(n * c, m).T @ dy.reshape(n * c, -1)
            return flat.reshape(m, *dy.shape[2:])
        if dy.ndim == 3:
            return torch.stack([self.rmatvec(column) for column in dy.unbind(2)], dim=-1)
        total, start = torch.zeros(m, dtype=self.dtype, device=self.outputs.device), 0
        for i, (y, z) in enumerate(self._forwards()):
            pulled = _pull(y, z, dy[start : start + len(y)])
            with named(i):
                check_values([pulled], "the product of G'")
            total += pulled
            start += len(y)
        return total

    def kernel(self, metric: float | Tensor | Mapping[str, float | Tensor] | None = None) -> Tensor:
        """Return the kernel K = G R^-1 G' of shape (N C, N C), rows ordered example by example.

        The tangent kernel of the parameters (Jacot et al. 2018, sec. 4), which is the output controllability
        Gramian when they are control signals. R is diagonal and positive: None for the identity, a number, a
        vector (M,), or a dict name -> number or tensor. Without the matrix, K is summed over blocks of
        columns that fit the budget. Raises ValueError when R is not positive or does not fit.
        """
        n, c, m = self.shape
        root = self._inverse_root(metric)
        if self.matrix is not None:
            scaled = (self.matrix if root is None else self.matrix * root).reshape(n * c, m)
            return scaled @ scaled.T
        total = self.outputs.new_zeros(n * c, n * c)
        start = 0
        for block in self._column_blocks():
            part, width = self._restricted(block), sum(math.prod(self.shapes[k]) for k in block)
            part._add_kernel(total, None if root is None else root[start : start + width])
            start += width
        check_finite(total)
        return total

    def per_example(self) -> Iterator[Tensor]:
        """Return the matrices G_i (C, M), one example at a time in the batches' order; one chunk is alive."""
        if self.matrix is not None:
            yield from self.matrix
        else:
            for _, rows in self._rows(self._chunk):
                yield from rows

    def by_group(self, groups: Sequence[str] | Mapping[str, str | Sequence[str]]) -> dict[str, Response]:
        """Return the responses to parts of the parameters: group label -> Response with those columns only.

        Groups are shell globs (["*.0.*", "*.1.*"], each its own label) or a mapping label -> glob or list of
        names. G dz is the sum of the parts when the groups partition the names. Raises ValueError for a
        pattern that matches nothing.
        """
        return {label: self._restricted(names) for label, names in group_names(self.names, groups).items()}

    def numpy(self) -> np.ndarray:
        """Return G as a float64 array (N, C, M), for theory; ValueError, with the size, when G was not formed."""
        if self.matrix is None:
            size = math.prod(self.shape) * self.outputs.element_size()
            raise ValueError(f"G of shape {self.shape} was not formed: set budget >= {size} bytes")
        return self.matrix.detach().cpu().numpy().astype(np.float64)

    def _restricted(self, names: Sequence[str]) -> Response:
        """This response with only the named columns."""
        shapes = {k: s for k, s in self.shapes.items() if k in set(names)}
        if self.matrix is None:
            return replace(self, shapes=shapes)
        at = columns(self.shapes, names).to(self.matrix.device)
        first, last = int(at[0]), int(at[-1]) + 1
        whole = self.matrix[..., first:last]
        return replace(self, shapes=shapes, matrix=whole if last - first == len(at) else self.matrix[..., at])

    def _inverse_root(self, metric) -> Tensor | None:
        """R^-1/2 as a vector (M,), or None for the identity."""
        if metric is None:
            return None
        m, like = self.shape[2], self.outputs
        if isinstance(metric, Mapping):
            if set(metric) != set(self.names):
                raise ValueError(f"metric must name exactly {self.names}, got {tuple(metric)}")
            rows = [torch.as_tensor(metric[k]).to(like).expand(s) for k, s in self.shapes.items()]
            diagonal = torch.cat([row.reshape(-1) for row in rows])
        else:
            diagonal = torch.as_tensor(metric).to(like)
            if diagonal.ndim and tuple(diagonal.shape) != (m,):
                got = tuple(diagonal.shape)
                raise ValueError(f"metric must be a number or the diagonal ({m},) of R, got shape {got}")
            diagonal = diagonal.expand(m)
        if not bool((diagonal > 0).all()):
            raise ValueError("metric must be positive everywhere: K = G R^-1 G' has no meaning where R <= 0")
        return diagonal.rsqrt()

    def _point(self, differentiate: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(fixed, active) parameters; the active ones are fresh leaves when they are to be differentiated."""
        active = {k: self._params[k].detach() for k in self.names}
        if differentiate:
            active = {k: v.clone().requires_grad_() for k, v in active.items()}
        return {k: v.detach() for k, v in self._params.items() if k not in active}, active

    def _forwards(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Per batch: the outputs (B, C) with their graph, and the leaves they hang on."""
        for batch in self._batches:
            fixed, active = self._point(True)
            with torch.enable_grad():
                y = self._function({k: active.get(k, fixed.get(k)) for k in self._params}, batch)
            yield y, active

    def _rows(self, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(outputs (b, C), G rows (b, C, M)) for consecutive chunks of examples, by the recorded route."""
        for batch in self._batches:
            tensors, rebuild = split_batch(batch)
            for start in range(0, batch_size(batch), chunk):
                part = [t[start : start + chunk] for t in tensors]
                yield self._looped(part, rebuild) if self.route == "loop" else self._mapped(part, rebuild)

    def _mapped(self, part: list[Tensor], rebuild) -> tuple[Tensor, Tensor]:
        """One chunk by vmap over examples of C simultaneous reverse sweeps."""
        fixed, active = self._point(False)

        def single(z, *example):
            whole = {k: z.get(k, fixed.get(k)) for k in self._params}
            y = self._function(whole, rebuild([e.unsqueeze(0) for e in example])).squeeze(0)
            return y, y

        jacobian = torch.func.jacrev(single, has_aux=True)
        with torch.no_grad():  # what the function closes over may require gradients; G does not
            rows, y = torch.func.vmap(jacobian, in_dims=(None, *[0] * len(part)))(active, *part)
        return y, torch.cat([rows[k].reshape(*y.shape, -1) for k in self.names], dim=-1)

    def _looped(self, part: list[Tensor], rebuild) -> tuple[Tensor, Tensor]:
        """One chunk by plain autograd, an example and an output at a time."""
        values, rows = [], []
        for i in range(len(part[0])):
            fixed, active = self._point(True)
            with torch.enable_grad():
                whole = {k: active.get(k, fixed.get(k)) for k in self._params}
                y = self._function(whole, rebuild([t[i : i + 1] for t in part])).squeeze(0)
            rows.append(torch.stack([_pull(v, active) for v in y]))
            values.append(y.detach())
        return torch.stack(values), torch.stack(rows)

    def _column_blocks(self) -> list[list[str]]:
        """The names packed, in order, into blocks whose columns of G fit the budget (or are one tensor)."""
        blocks, used = [], math.inf
        for name, shape in self.shapes.items():
            size = self.outputs.numel() * math.prod(shape) * self.outputs.element_size()
            if used + size > self._budget:
                blocks.append([])
                used = 0
            blocks[-1].append(name)
            used += size
        return blocks

    def _add_kernel(self, total: Tensor, root: Tensor | None) -> None:
        """Add G R^-1 G' of these columns to `total`; tiles of rows are paired when a tensor is too wide."""
        n, c, m = self.shape
        tile = max(1, min(n, self._budget // (2 * c * m * self.outputs.element_size())))
        if c * n * m * self.outputs.element_size() <= self._budget:
            tile = n

        def tiles() -> Iterator[tuple[int, Tensor]]:
            held, start = [], 0
            for _, rows in self._rows(min(self._chunk, tile)):
                if held and sum(map(len, held)) + len(rows) > tile:
                    yield start, torch.cat(held).reshape(-1, m)
                    start, held = start + sum(map(len, held)), []
                held.append(rows if root is None else rows * root)
            yield start, torch.cat(held).reshape(-1, m)

        for i, left in tiles():
            for j, right in ((i, left),) if tile == n else tiles():
                if j <= i:
                    block = left @ right.T
                    total[i * c : i * c + len(left), j * c : j * c + len(right)] += block
                    if j < i:
                        total[j * c : j * c + len(right), i * c : i * c + len(left)] += block.T
                else:
                    break


def response(
    outputs: Outputs,
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    chunk: int = CHUNK,
    budget: int = BUDGET,
    route: str | None = None,
) -> Response:
    """Return the response G = dy/dz of the outputs to all parameters, at params, example by example.

    y = outputs(params, batch) has shape (B, C), or is a model's output with that as .logits; batches are containers of
    tensors with a leading example axis, and the examples must not interact. G (N, C, M), N over all batches in order, is
    formed when it fits `budget` bytes and stays an operator otherwise. Sequences (B, T, V) are taken position by position
    as C = T V outputs where G fits the budget, and refused, with the size, where it does not.
    `chunk` examples are differentiated at once. route: "vmap", "loop" (one example at a time, for control flow that depends
    on data) or None, the first that works. Raises ValueError, with the batch, when outputs or G are not finite, or when an
    example's outputs depend on its neighbours or on chance.
    """
    check_params(params)
    batches = check_batches(batches)
    if chunk < 1 or route not in (None, "vmap", "loop"):
        raise ValueError(f"chunk must be >= 1 and route None, 'vmap' or 'loop', got {chunk} and {route!r}")
    params, called, parts = dict(params), opened(outputs, "logits", "outputs"), []
    for i, batch in enumerate(batches):
        with named(i), torch.no_grad():
            y = steady(lambda batch=batch: called(dict(params), batch), "the outputs")
            if y.ndim < 2 or len(y) != batch_size(batch):
                raise ValueError(f"outputs must return (B, C) = ({batch_size(batch)}, C), got {tuple(y.shape)}")
            check_values([y], "an output")
            _check_sequences(y, parts, sum(p.numel() for p in params.values()), budget)
            parts.append(y.flatten(1))
    y = torch.cat(parts).detach()
    function = lambda *given: called(*given).flatten(1)  # noqa: E731
    shapes = {k: tuple(v.shape) for k, v in params.items()}
    found = Response(y, None, shapes, route or "vmap", "", "exact", y.dtype, function, params, batches, chunk, budget)
    found, first = _with_route(_graded(found), insist=route is not None)
    if math.prod(found.shape) * y.element_size() > budget:
        return found
    matrix, start = y.new_empty(found.shape), 0
    for value, rows in found._rows(chunk) if len(y) > 1 else [first]:
        _check_alone(value, y[start : start + len(value)], found.precision)
        matrix[start : start + len(value)] = rows
        start += len(value)
    finite = torch.isfinite(matrix).flatten(1).all(1)
    if not bool(finite.all()):
        ends = torch.tensor([batch_size(b) for b in batches]).cumsum(0)
        with named(int((ends <= int((~finite).nonzero()[0])).sum())):
            check_values([matrix[~finite]], "the derivative of an output")
    return replace(found, matrix=matrix)


def _check_sequences(y: Tensor, before: Sequence[Tensor], m: int, budget: int) -> None:
    """Refuse sequences of outputs that are too many for G, and those of another length than the batches before."""
    if before and y[0].numel() != before[0].shape[1]:
        raise ValueError(
            f"each example has {y[0].numel()} outputs and in the batches before {before[0].shape[1]}: choose the same for all, "
            "such as outputs at the last position"
        )
    size = (sum(map(len, before)) + len(y)) * y[0].numel() * m * y.element_size()
    if y.ndim > 2 and size > budget:
        raise ValueError(
            f"outputs {tuple(y.shape)} are {y[0].numel()} an example, whose derivatives by {m} numbers take {size:.1e} bytes "
            f"(budget: {budget:.1e}): choose positions and columns, or a function of the logits, so that outputs are (B, C)"
        )


def _graded(found: Response) -> Response:
    """The response with its precision, from the graph of the first example, whose outputs must repeat themselves."""
    tensors, rebuild = split_batch(found._batches[0])
    part = rebuild([t[:1] for t in tensors])

    def once() -> Tensor:
        _, active = found._point(True)
        with torch.enable_grad():
            return found._function(active, part)

    y = once()
    check_repeats(
        y.detach().reshape(-1), once().detach().reshape(-1), lambda: once().detach().reshape(-1), precision(y), "an output"
    )
    coarse = coarsest({precision(y), *(p.dtype for p in found._params.values())})
    return replace(found, precision=coarse, status=standing(coarse, found.dtype))


def _with_route(found: Response, insist: bool) -> tuple[Response, tuple[Tensor, Tensor]]:
    """The response with the route that works, tried on the first example, and that example's (outputs, G rows)."""
    tensors, rebuild = split_batch(found._batches[0])
    first = [t[:1] for t in tensors]
    if found.route == "vmap":
        try:
            made = found._mapped(first, rebuild)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever vmap trips over, the loop below either works or raises it
            if insist:
                raise
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 160)
            found = replace(found, route="loop", note=f"vmap was not possible, {reason}")
    if found.route == "loop":
        made = found._looped(first, rebuild)
    _check_alone(made[0], found.outputs[:1], found.precision)
    return found, made


def _check_alone(alone: Tensor, together: Tensor, precision: torch.dtype) -> None:
    """Refuse outputs that change when an example is evaluated alone: G would not be its derivative."""
    # kernels round differently at other batch sizes, by tens of eps; sqrt(eps) is well above that
    bound = math.sqrt(torch.finfo(precision).eps) * (1 + together.abs().max())
    gap = (alone - together).abs().max()
    if gap > bound:
        raise ValueError(
            f"outputs of an example alone differ from its row in the batch by {gap:.2e}; examples must be "
            "independent and outputs deterministic: switch dropout and batch normalisation to eval mode"
        )


def _pull(y: Tensor, params: Mapping[str, Tensor], dy: Tensor | None = None) -> Tensor:
    """The gradient of <y, dy> as one vector, zero where a parameter was not used; the graph is kept."""
    if not y.requires_grad:
        return torch.cat([torch.zeros_like(p).reshape(-1) for p in params.values()])
    rows = torch.autograd.grad(y, list(params.values()), dy, retain_graph=True, allow_unused=True)
    parts = zip(rows, params.values(), strict=True)
    return torch.cat([(torch.zeros_like(p) if row is None else row).reshape(-1) for row, p in parts])
