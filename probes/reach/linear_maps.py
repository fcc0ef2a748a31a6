"""Views of a network as a linear system where no matrix fits: maps by products, their leading triples, their range.

J = d f / d z at a point        J v and J' w by reverse sweeps alone, many columns at once
J v_i = s_i u_i                 the leading singular triples of any such map, each with its measured residual
G = d y / d u                   the outputs' response to controls added to a trajectory that is held
eta_i(s) = |y_i(s u) - y_i(0) - s G_i u| / |s G_i u|        how far the linear view holds

    >>> point = {"z": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    >>> J = jacobian_map(lambda params: params["z"] ** 2, point)  # diag(6, 8)
    >>> [round(float(s), 6) for s in block_svd(J.matvec, J.rmatvec, J.shape, 2).values]
    [8.0, 6.0]
    >>> square, direction = lambda params, batch: batch * params["z"] ** 2, {"z": torch.ones(2, dtype=torch.float64)}
    >>> linear_regime(square, point, direction, [torch.ones(1, 2, dtype=torch.float64)], [0.5, 5.0]).median.tolist()
    [0.07071067811865475, 0.7071067811865476]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.inputs import check_values, coarsest, named, opened, precision, steady
from probes.layout import check_batches, check_params, flatten, unflatten
from probes.reach.response import Outputs, Response, response

SPARE = 8  # columns of a block beyond the wanted triples
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
LIMIT = 0.3  # of eta: what still counts as linear


@dataclass(frozen=True)
class LinearMap:
    """A linear map R^n -> R^m by its products: matvec (n, k) -> (m, k), rmatvec (m, k) -> (n, k), vectors alike."""

    matvec: Callable[[Tensor], Tensor]
    rmatvec: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device


def jacobian_map(
    function: Callable[[dict[str, Tensor]], Tensor], at: Mapping[str, Tensor], *, chunk: int | None = None
) -> LinearMap:
    """Return J = d function / d z at the point, as products; z is a dict of tensors, flattened in its order.

    J'w is one reverse sweep and J v = d <J'w, v> / dw a sweep through that sweep, vmapped over columns, `chunk` at a
    time (None: all): cheaper than forward mode on transformers and possible where a kernel has none. The function
    returns a tensor of any shape, flattened, or a model's output with that as .logits. Raises TypeError or ValueError for
    a point that is no dict of floating tensors of one kind, and for values that are random or not finite.
    """
    check_params(at)
    shapes, point = {k: tuple(v.shape) for k, v in at.items()}, flatten(at).detach()
    plain = opened(function, "logits", "the function")
    with torch.no_grad():  # parameters that the function closes over may require gradients; J does not
        value, pull = steady(lambda: torch.func.vjp(lambda z: plain(unflatten(z, shapes)).reshape(-1), point), "the function")
    check_values([value], "the function")

    def rmatvec(w: Tensor) -> Tensor:
        return _by_columns(lambda column: pull(column)[0], w, len(value), chunk)

    def matvec(v: Tensor) -> Tensor:
        def push(column: Tensor) -> Tensor:
            return torch.func.vjp(lambda w: pull(w)[0], torch.zeros_like(value))[1](column.to(point.dtype))[0]

        return _by_columns(push, v, len(point), chunk)

    return LinearMap(matvec, rmatvec, (len(value), len(point)), value.dtype, value.device)


def _by_columns(product: Callable[[Tensor], Tensor], x: Tensor, size: int, chunk: int | None) -> Tensor:
    """A product of vectors applied to a vector (size,) or to every column of (size, k)."""
    if x.ndim not in (1, 2) or len(x) != size:
        raise ValueError(f"expected a vector ({size},) or columns ({size}, k), got {tuple(x.shape)}")
    with torch.no_grad():
        return product(x) if x.ndim == 1 else torch.func.vmap(product, in_dims=1, out_dims=1, chunk_size=chunk)(x)


@dataclass(frozen=True)
class SingularTriples:
    """The leading singular triples of a map K: K'u = s v by construction, and residuals = |K v - s u| as measured.

    values (k,) in decreasing order, left (m, k), right (n, k), residuals (k,). A singular value of K lies within
    residuals[i] of values[i]. converged (k,) says where the residual is at most tol s (or rounding of the largest
    value), products counts columns multiplied by K or K', sweeps the blocks of them.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    residuals: Tensor
    converged: Tensor
    products: int
    sweeps: int

    @property
    def status(self) -> str:
        """Return "converged", or how many triples are not."""
        missing = int((~self.converged).sum())
        return "converged" if not missing else f"{missing} of {len(self.values)} triples not converged"


def block_svd(
    matvec: Callable[[Tensor], Tensor],
    rmatvec: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
    k: int,
    *,
    tol: float = 1e-3,
    seed: int = 0,
    max_sweeps: int = 50,
    block: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SingularTriples:
    """Return the k leading singular triples of the map (m, n) that matvec (n, j) -> (m, j) and rmatvec (m, j) -> (n, j) give.

    Randomised block Golub-Kahan bidiagonalisation with full reorthogonalisation (Musco and Musco 2015, algorithm 2): from
    random V_0, Q <- [Q, K V_new], V <- [V, K'Q_new], and the singular values of V'K'Q. Every residual |K v - s u| is
    measured. Stops when the k leading ones are at most tol s, or after max_sweeps of 2 `block` products (default k + 8).
    A residual says that a singular value is near, not that it is among the leading ones, so a loose tol may return neighbours
    on flat spectra. Where the rank is below k the last values are zero. Raises ValueError for k outside 1 .. min(m, n), tol
    <= 0 or max_sweeps < 1.
    """
    m, n = shape
    if not 1 <= k <= min(m, n):
        raise ValueError(f"k must lie between 1 and the map's smaller side {min(m, n)}, got {k}")
    if not tol > 0 or max_sweeps < 1 or (block is not None and block < 1):
        raise ValueError(f"tol, max_sweeps and block must be positive, got {tol}, {max_sweeps} and {block}")
    generator, kind = torch.Generator().manual_seed(seed), {"dtype": dtype, "device": device}
    draw = lambda rows, columns: torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(**kind)  # noqa: E731
    empty = lambda rows: torch.zeros(rows, 0, **kind)  # noqa: E731
    V = _extend(empty(n), draw(n, min(block or k + SPARE, m, n)), 0.0)
    P, Q, T = matvec(V), empty(m), torch.zeros(V.shape[1], 0, **kind)
    products, sweeps, fresh, scale = V.shape[1], 0, P, float(torch.linalg.matrix_norm(P, 2))
    noise = 10 * torch.finfo(dtype).eps
    while True:
        sweeps += 1
        new = _extend(Q, fresh, noise * scale)
        Y = rmatvec(new) if new.shape[1] else empty(n)
        more = _extend(V, Y, noise * scale)
        fresh = matvec(more) if more.shape[1] else empty(m)
        products += new.shape[1] + more.shape[1]
        Q, V, P = torch.cat([Q, new], 1), torch.cat([V, more], 1), torch.cat([P, fresh], 1)
        T = torch.cat([torch.cat([T, T.new_zeros(more.shape[1], T.shape[1])]), V.T @ Y], 1)  # K'Q = V T
        a, s, bt = torch.linalg.svd(T, full_matrices=False)
        a, s, b = a[:, :k], s[:k], bt[:k].T
        scale = max(scale, float(s[0]) if len(s) else 0.0)
        residuals = torch.linalg.vector_norm(P @ a - Q @ (b * s), dim=0, dtype=torch.float64)
        settled = residuals <= (tol * s).clamp_min(noise * scale)
        spent = fresh.shape[1] == 0  # the space is invariant: there is nothing to add
        if spent or sweeps >= max_sweeps or (len(s) == k and bool(settled.all())):
            break
    left, right = Q @ b, V @ a
    if missing := k - len(s):
        left = torch.cat([left, _extend(left, draw(m, missing), 0.0)], 1)
        right = torch.cat([right, _extend(right, draw(n, missing), 0.0)], 1)
        zero = torch.linalg.vector_norm(matvec(right[:, -missing:]), dim=0, dtype=torch.float64).to(s)
        s, residuals, products = torch.cat([s, torch.zeros_like(zero)]), torch.cat([residuals, zero]), products + missing
        settled = torch.cat([settled, zero <= noise * scale])
    return SingularTriples(s, left, right, residuals.to(s), settled, products, sweeps)


def _extend(basis: Tensor, block: Tensor, floor: float) -> Tensor:
    """Orthonormal columns that span what `block` has outside the orthonormal basis, above the size `floor`."""
    outside = lambda x: x - basis @ (basis.T @ x)  # noqa: E731
    u, s, _ = torch.linalg.svd(outside(block), full_matrices=False)
    room = basis.shape[0] - basis.shape[1]
    # a column that was nearly inside has lost its right angle to the basis by rounding: project it once more
    return torch.linalg.qr(outside(u[:, :room][:, s[:room] > floor]))[0]


def output_map(
    steered: Callable[[dict[str, Tensor], object], Tensor],
    controls: Mapping[str, Tensor],
    batches: Sequence,
    *,
    held: Sequence[Mapping[str, Tensor]] | None = None,
    **options,
) -> Response:
    """Return G = dy/du, the response of the outputs to controls that all examples share, about any trajectory, open loop.

    y = steered(signals, batch) (B, C) adds signals at places; `controls` gives each place's control and its value at the
    point (zeros as a rule). held: per batch the signals {place: (B, d) or (B, T, d)} that lead to the trajectory; None is the
    frozen one. Where the delta reacts to the control, differentiate the tuned outputs with `response` instead. Options are
    those of `response`. Raises ValueError when held signals do not fit the batches.
    """
    batches = check_batches(batches)
    held = [{} for _ in batches] if held is None else list(held)
    if len(held) != len(batches):
        raise ValueError(f"expected held signals for each of {len(batches)} batches, got {len(held)}")

    def outputs(u: dict[str, Tensor], item: tuple) -> Tensor:
        batch, fixed = item
        return steered({**fixed, **{k: v + fixed[k] if k in fixed else v for k, v in u.items()}}, batch)

    items = [(batch, {k: v.detach() for k, v in signals.items()}) for batch, signals in zip(batches, held, strict=True)]
    return response(outputs, controls, items, **options)


@dataclass(frozen=True)
class LinearRegime:
    """eta (K, N) over K scales and N examples: the departure of the outputs from their linear prediction.

    shift (N,) is |G_i u|; median (K,), quantiles (K, L) at `levels` and share (K,), of examples with eta <= limit, are
    over the examples. largest is the largest scale up to which the median stays at most `limit`, 0 if none does.
    rounding (K,) is the median of eps |y_i| / |s G_i u|, with the eps of `precision`, the coarsest dtype in the graph: an
    eta of that size is noise. status is "ok", or "not finite" where a step leads out of the function's domain.
    """

    scales: Tensor
    eta: Tensor
    shift: Tensor
    median: Tensor
    levels: tuple[float, ...]
    quantiles: Tensor
    share: Tensor
    limit: float
    largest: float
    rounding: Tensor
    precision: torch.dtype
    status: str


def linear_regime(
    outputs: Outputs,
    params: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    batches: Sequence,
    scales: Sequence[float],
    *,
    limit: float = LIMIT,
    levels: Sequence[float] = LEVELS,
) -> LinearRegime:
    """Measure eta_i(s) = |y_i(z + s u) - y_i(z) - s G_i u| / |s G_i u| for every example i and scale s, and summarise it.

    y = outputs(params, batch) (B, C), z = params, u = direction (the same names and shapes), G_i = dy_i/dz; a control per
    example is a parameter with a leading example axis and takes a single batch. eta grows like s where the remainder is
    quadratic; it is infinite for an example that u moves at second order only, and zero for one that it does not move.
    Raises ValueError for scales that are not positive and increasing, a direction that does not fit the parameters, and, with
    the batch, outputs that are random or not finite.
    """
    check_params(params)
    batches, s = check_batches(batches), torch.as_tensor(scales, dtype=torch.float64)
    if s.ndim != 1 or not len(s) or not bool((s > 0).all() and (s[1:] > s[:-1]).all() and torch.isfinite(s).all()):
        raise ValueError(f"scales must be positive, finite and increasing, got {list(scales)}")
    if {k: v.shape for k, v in direction.items()} != {k: v.shape for k, v in params.items()}:
        raise ValueError(f"direction must have the names and shapes of the parameters {tuple(params)}, got {tuple(direction)}")
    params, u = dict(params), flatten({k: direction[k] for k in params})
    function = opened(outputs, "logits", "outputs")
    shift, start, moved = [], [], []
    for i, batch in enumerate(batches):
        with named(i):
            at = jacobian_map(lambda z, b=batch: function(z, b), params)
        with torch.no_grad():
            start.append(function(params, batch).double())
            reached = [function({k: v + float(x) * direction[k] for k, v in params.items()}, batch) for x in s]
        shift.append(at.matvec(u).reshape(start[-1].shape).double())
        with named(i):
            check_values(shift[-1:], "the derivative of the outputs")
        moved.append(torch.stack(reached).double() - start[-1])
    y, linear, moved = torch.cat(start), torch.cat(shift), torch.cat(moved, dim=1)
    s = s.to(y.device)
    size, rest = linear.norm(dim=-1), (moved - s[:, None, None] * linear).norm(dim=-1)
    eta = torch.where(rest == 0, 0.0, rest / (s[:, None] * size))
    with torch.enable_grad():
        graph = function({k: v.detach().clone().requires_grad_() for k, v in params.items()}, batches[0])
    coarse = coarsest({precision(graph), u.dtype})
    rounding = torch.finfo(coarse).eps * y.norm(dim=-1) / (s[:, None] * size)
    median = _quantiles(eta, [0.5])[:, 0]
    within = int((~(median <= limit)).to(torch.int64).cumsum(0).eq(0).sum())
    return LinearRegime(
        scales=s,
        eta=eta,
        shift=size,
        median=median,
        levels=tuple(levels),
        quantiles=_quantiles(eta, levels),
        share=(eta <= limit).double().mean(1),
        limit=limit,
        largest=float(s[within - 1]) if within else 0.0,
        rounding=_quantiles(rounding, [0.5])[:, 0],
        precision=coarse,
        status="ok" if bool(torch.isfinite(moved).all()) else "not finite",
    )


def _quantiles(x: Tensor, levels: Sequence[float]) -> Tensor:
    """The quantiles (K, L) of the rows of x (K, N); between two infinite entries they are infinite."""
    found = x.quantile(torch.tensor(levels, dtype=x.dtype, device=x.device), dim=1).T
    return torch.where(found.isnan() & ~x.isnan().any(1, keepdim=True), torch.inf, found)
