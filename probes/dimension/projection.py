"""Random subspaces of all tensors together: z = z0 + P theta with P (D, d), P'P = I (Li et al. 2018, sec. 2).

A step in theta moves all parameters as far as it is long. That subspace is DID, direct intrinsic dimension;
`layer_scaled_subspace` adds a trained scale per layer, counted in d (Aghajanyan et al. 2021, sec. 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from probes.layout import by_layer

DENSE = 4 << 30  # bytes above which a dense projection is refused
COLUMNS = 128  # columns whose orthonormality is measured at once
CACHED = 1 << 17  # numbers transformed at once on a CPU: they stay in its cache
RESIDENT = 1 << 24  # numbers transformed at once on another device, where few large steps are faster
FEW = 16  # fewer full blocks than this, and a truncated one is corrected by a Cholesky factor
CORRECT = 8192  # the largest dimension for which that factor is made

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Projection:
    """A linear map P from theta (d,) to tensors with D numbers in all; P'P = I up to .orthonormality_error().

    apply and adjoint take leading axes (theta (..., d) <-> tensors (..., *shape)), are differentiable to any
    order, and run under vmap; the gradient of f(P theta) in theta is exactly P' times f's. drawn is the
    dimension it was drawn at, above `dimension` for one made by .first; kind, seed, shapes and drawn
    reproduce it.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]
    dimension: int
    seed: int
    dtype: torch.dtype
    device: torch.device
    drawn: int
    _forward: Map = field(repr=False)  # (k, drawn) -> (k, D)
    _backward: Map = field(repr=False)  # (k, D) -> (k, drawn)
    _state: tuple[Tensor, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Return D, the numbers moved."""
        return sum(math.prod(s) for s in self.shapes.values())

    @property
    def state_bytes(self) -> int:
        """Return the bytes that P holds."""
        return sum(x.nbytes for x in self._state)

    def apply(self, theta: Tensor) -> dict[str, Tensor]:
        """Return P theta as a dict of tensors (..., *shape); ValueError unless theta ends in d numbers."""
        _check_end(theta, self.dimension)
        theta = pad(theta.to(self.dtype), (0, self.drawn - self.dimension))
        flat = _Linear.apply(theta, self._forward, self._backward)
        parts = flat.split([math.prod(s) for s in self.shapes.values()], dim=-1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape((*theta.shape[:-1], *shape)) for (name, shape), part in named}

    def adjoint(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return P' applied to tensors (..., *shape), the coordinates (..., d) of their projection."""
        rows = []
        for name, shape in self.shapes.items():
            value = tensors[name].to(self.dtype)
            if value.shape[value.ndim - len(shape) :] != shape:
                raise ValueError(f"{name} must end in shape {shape}, got {tuple(value.shape)}")
            rows.append(value.reshape(*value.shape[: value.ndim - len(shape)], -1))
        flat = torch.cat(rows, dim=-1) if len(rows) > 1 else rows[0]
        return _Linear.apply(flat, self._backward, self._forward)[..., : self.dimension]

    def first(self, dimension: int) -> Projection:
        """Return the subspace of the first d columns, so that subspaces of growing d contain each other.

        Raises ValueError unless 1 <= d <= this dimension, and for kind "onehot", whose first columns leave all
        other parameters where they are.
        """
        if self.kind == "onehot":
            raise ValueError("the first columns of a onehot projection leave parameters unmoved; draw one for each dimension")
        if not 1 <= dimension <= self.dimension:
            raise ValueError(f"dimension must lie between 1 and the projection's {self.dimension}, got {dimension}")
        return replace(self, dimension=dimension)

    def orthonormality_error(self, columns: int = 256) -> float:
        """Return the largest entry of |P'P - I|, measured on all columns, or on that many drawn at random."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(self.dimension, generator=generator)[:columns]
        worst = 0.0
        for part in chosen.split(max(1, min(COLUMNS, (1 << 26) // self.size))):
            unit = torch.zeros(len(part), self.drawn, dtype=self.dtype, device=self.device)
            unit[torch.arange(len(part)), part] = 1
            found = self._backward(self._forward(unit)) - unit
            worst = max(worst, float(found[:, : self.dimension].abs().max()))
        return worst


@dataclass(frozen=True)
class LayerScaled:
    """theta (d,) -> tensors, (1 + s_l) (P theta')_l for every tensor of layer l, theta = (s, theta').

    The m scales s stand first and are counted in d, so that theta' has d - m numbers. The map is bilinear in
    the scales 1 + s and theta': where theta' = 0, the usual start, the gradient in the scales is zero.
    """

    projection: Projection
    layers: Mapping[str, tuple[str, ...]]

    @property
    def dimension(self) -> int:
        """Return d, scales included."""
        return len(self.layers) + self.projection.dimension

    @property
    def size(self) -> int:
        """Return D, the numbers moved."""
        return self.projection.size

    def apply(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the tensors (..., *shape) at theta (..., d), zero at theta = 0; ValueError unless theta ends in d numbers."""
        _check_end(theta, self.dimension)
        theta, m = theta.to(self.projection.dtype), len(self.layers)
        moved = self.projection.apply(theta[..., m:])
        place = {name: i for i, names in enumerate(self.layers.values()) for name in names}
        scale = {name: 1 + theta[..., i] for name, i in place.items()}
        return {
            name: x * scale[name].reshape(*theta.shape[:-1], *[1] * len(self.projection.shapes[name]))
            for name, x in moved.items()
        }


def _check_end(theta: Tensor, dimension: int) -> None:
    if theta.shape[-1:] != (dimension,):
        raise ValueError(f"theta must end in {dimension} numbers, got shape {tuple(theta.shape)}")


class _Linear(torch.autograd.Function):
    """A linear map given with its adjoint, so that its derivative keeps nothing and is exact."""

    @staticmethod
    def forward(x: Tensor, forward: Map, backward: Map) -> Tensor:
        return forward(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.map, ctx.transpose = inputs

    @staticmethod
    def backward(ctx, slope: Tensor):
        return _Linear.apply(slope, ctx.transpose, ctx.map), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):
        return _Linear.apply(tangent, ctx.map, ctx.transpose)

    @staticmethod
    def vmap(info, axes, x: Tensor, forward: Map, backward: Map):
        return _Linear.apply(x.movedim(axes[0], 0), forward, backward), 0


def random_subspace(
    shapes: Mapping[str, Sequence[int]],
    dimension: int,
    *,
    kind: str = "sorf",
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Projection:
    """Return a random d-dimensional subspace of all tensors together, as an isometric projection P (D, d).

    "sorf": blocks H S_k H S_0 of random signs and Hadamard matrices (Yu et al. 2016), stacked; D bytes of state. "dense": the
    QR factor of a Gaussian matrix. "onehot": one signed entry per row, columns of equal size up to one (Uni-LoRA 2025).
    "sparse": about sqrt(D) signs per column (Li, Hastie & Church 2006), orthogonal only on average; the others are exactly
    orthonormal. The draw is the same on every device.
    Raises ValueError unless 1 <= d <= D, when a dense P would not fit, and for a sorf of d > 8192 and more than half of D.
    """
    shapes = {k: tuple(s) for k, s in shapes.items()}
    size = sum(math.prod(s) for s in shapes.values())
    if not 1 <= dimension <= size:
        raise ValueError(f"dimension must lie between 1 and the tensors' {size} numbers, got {dimension}")
    makers = {"sorf": _sorf, "dense": _dense, "onehot": _onehot, "sparse": _sparse}
    if kind not in makers:
        raise ValueError(f"kind must be one of {', '.join(makers)}, got {kind!r}")
    generator = torch.Generator().manual_seed(seed)
    made = makers[kind](size, dimension, generator, dtype, torch.device(device))
    return Projection(kind, shapes, dimension, seed, dtype, torch.device(device), dimension, *made)


def layer_scaled_subspace(
    shapes: Mapping[str, Sequence[int]],
    dimension: int,
    *,
    layers: Callable = by_layer,
    kind: str = "sorf",
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LayerScaled:
    """Return structure-aware subspace: z_l = z0_l + lambda_l (P theta')_l with m trained scales, theta' (d - m,).

    Aghajanyan et al. 2021, sec. 3.1; lambda_l = 1 + s_l starts at 1, and theta = (s, theta') has d numbers in
    all. layers(names) groups the tensors (default: by the first number in their path) and each group is a
    layer. Raises ValueError unless m < d, each tensor is in one layer, and d - m suits `random_subspace`.
    """
    found = {place: tuple(names) for place, names in layers(tuple(shapes)).items()}
    if sorted(name for names in found.values() for name in names) != sorted(shapes):
        raise ValueError("layers must put every tensor into exactly one layer")
    m = len(found)
    if dimension <= m:
        raise ValueError(f"dimension must exceed the {m} layer scales, which are counted in it, got {dimension}")
    return LayerScaled(random_subspace(shapes, dimension - m, kind=kind, seed=seed, dtype=dtype, device=device), found)


def _dense(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """P = QR factor, in float64 before it is rounded to dtype."""
    if size * d * 8 > DENSE:
        raise ValueError(f"a dense projection ({size}, {d}) takes {size * d * 8 >> 30} GiB; use kind='sorf'")
    gaussian = torch.randn(size, d, generator=generator, dtype=torch.float64)
    p = torch.linalg.qr(gaussian.to(device))[0].to(dtype)
    return lambda x: x @ p.T, lambda y: y @ p, (p,)


def _onehot(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """Row i holds sign_i / sqrt(rows of its column) in column place_i; columns differ by one row at most."""
    place = (torch.randperm(size, generator=generator) % d).to(device)
    sign = torch.randint(2, (size,), generator=generator).to(device) * 2 - 1
    value = (sign / torch.bincount(place, minlength=d).double().sqrt()[place]).to(dtype)

    def backward(y: Tensor) -> Tensor:
        # in slices of 256 rows per column: one running sum of 1e4 rows would lose 3 digits
        total = y.new_zeros(len(y), d)
        for i in range(0, size, 256 * d):
            part = slice(i, i + 256 * d)
            total = total + y.new_zeros(len(y), d).index_add(1, place[part], y[:, part] * value[part])
        return total

    return lambda x: x[:, place] * value, backward, (place, value)


def _sparse(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """m = sqrt(D) signs per column, one in each of m equal strata of rows, so that they never collide."""
    m = max(1, math.isqrt(size))
    edges = torch.arange(m + 1) * size // m
    width = (edges[1:] - edges[:-1]).expand(d, m)
    row = edges[:-1] + (torch.rand(d, m, generator=generator, dtype=torch.float64) * width).long()
    place = torch.arange(d)[:, None].expand(d, m)
    value = (torch.randint(2, (d, m), generator=generator).double() * 2 - 1) / math.sqrt(m)
    row, place, value = row.reshape(-1).to(device), place.reshape(-1).to(device), value.to(device, dtype)

    def forward(x: Tensor) -> Tensor:
        return x.new_zeros(len(x), size).index_add(1, row, x[:, place] * value.reshape(-1))

    def backward(y: Tensor) -> Tensor:
        return (y[:, row].reshape(len(y), d, m) * value).sum(-1)

    return forward, backward, (row, place, value)


def _sorf(size: int, d: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device):
    """P = sqrt(1 / K) [H S_k H S_0]_{k <= K}, first d columns, n rows to a block, D = K n + rest.

    A full block is an orthogonal matrix; only what fills the rest can bend P'P away from the identity. Where
    K is large, the rest repeats rows of the last block with random signs, both copies times sqrt(1/2), which
    keeps P'P = I. Otherwise it holds the first rows of one more block, and a Cholesky factor of P'P corrects. Where D
    does not fill one block (d > D / 2, or D < 256), P is dense.
    """
    n = max(256, 1 << (d - 1).bit_length())
    full, rest = divmod(size, n)
    if full == 0 and d > CORRECT:
        raise ValueError(f"a sorf of dimension {d} needs at least {n} numbers to move, got {size}; use kind='onehot'")
    if full == 0:  # a part of one block, a dyadic convolution, may be singular
        return _dense(size, d, generator, dtype, device)
    truncated = rest > 0 and full < FEW and d <= CORRECT
    blocks, tied = full + truncated, 0 if truncated else rest
    signs = (torch.randint(2, (blocks * n + tied,), generator=generator, dtype=torch.int8) * 2 - 1).to(device)
    start = (torch.randint(2, (n,), generator=generator, dtype=torch.int8) * 2 - 1).to(device)
    left = _hadamard(1 << (n.bit_length() // 2), dtype, device)
    right = _hadamard(n // len(left), dtype, device)
    scale, last = math.sqrt(n / (size - tied)), (blocks - 1) * n
    begin, half = start.to(dtype) * scale, math.sqrt(0.5)

    def mix(x: Tensor, spare: Tensor) -> Tensor:
        """H x for rows of n numbers, in place."""
        torch.matmul(left, x.view(-1, len(left), len(right)), out=spare.view(-1, len(left), len(right)))
        torch.mm(spare.view(-1, len(right)), right, out=x.view(-1, len(right)))
        return x

    def chunks(count: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """The rows, the signs and two buffers (count, b, n) for b blocks at a time, the same memory every time."""
        at_once = max(1, (CACHED if device.type == "cpu" else RESIDENT) // (n * count))
        room = torch.empty(3, count * min(at_once, blocks) * n, dtype=dtype, device=device)
        for i in range(0, blocks, at_once):
            b = min(at_once, blocks - i)
            part = slice(i * n, (i + b) * n)
            x, spare = (r[: count * b * n].view(count, b, n) for r in room[:2])
            yield part, room[2, : b * n].view(b, n).copy_(signs[part].view(b, n)), x, spare

    def whole(x: Tensor) -> Tensor:
        base = pad(x, (0, n - d)) * begin
        base = mix(base, torch.empty_like(base))[:, None]
        out = x.new_empty(len(x), blocks * n + tied)
        for part, sign, rows, spare in chunks(len(x)):
            out[:, part] = mix(torch.mul(base, sign, out=rows), spare).view(len(x), -1)
        if tied:
            out[:, last + n :] = out[:, last : last + tied].mul_(half) * signs[last + n :]
        return out[:, :size]

    def fold(y: Tensor) -> Tensor:
        total = y.new_zeros(len(y), n, dtype=torch.float64)
        for part, sign, rows, spare in chunks(len(y)):
            there, given = rows.view(len(y), -1), y[:, part]
            there[:, : given.shape[1]] = given
            there[:, given.shape[1] :] = 0
            if tied and part.stop > last:
                split = there[:, last - part.start : last - part.start + tied]
                split.add_(y[:, last + n :] * signs[last + n :]).mul_(half)
            total += mix(rows, spare).mul_(sign).sum(1)
        total = total.to(dtype)
        return (mix(total, torch.empty_like(total)) * begin)[:, :d]

    state = (signs, begin, left, right)
    if not truncated:
        return whole, fold, state
    tail = _last_rows(n, d, rest, signs[last:], start)
    gram = scale**2 * (tail.T @ tail + full * torch.eye(d, dtype=torch.float64, device=device))
    factor = torch.linalg.cholesky(gram)
    unit = torch.eye(d, dtype=gram.dtype, device=device)
    inverse = torch.linalg.solve_triangular(factor, unit, upper=False).to(dtype)
    return lambda x: whole(x @ inverse), lambda y: fold(y) @ inverse.T, (*state, inverse)


def _last_rows(n: int, d: int, rest: int, sign: Tensor, start: Tensor) -> Tensor:
    """The first `rest` rows and d columns of the last block H S_k H S_0, in float64."""
    h = _hadamard(n, torch.float64, sign.device)
    return (h[:rest] * sign.double()) @ (h[:, :d] * start[:d].double())


def _hadamard(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal Sylvester-Hadamard matrix (n, n), n a power of two."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return (h / math.sqrt(n)).to(device, dtype)
