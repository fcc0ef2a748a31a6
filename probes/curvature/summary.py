"""Per-layer and per-block summaries of a curvature operator: ends, trace, effective dimension, negative mass.

For the diagonal block H_g of a group g of parameters, with eigenvalues lambda_i and a ridge r,

    largest, smallest lambda       tr H_g       d(r) = sum_i lambda_i / (lambda_i + r)       #{lambda_i < 0} / D_g.

A block's curvature is that of its parameters with all others held fixed. It belongs to the parametrisation:
A -> R A, B -> B R^-1 leaves a low-rank product as it is and changes its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probes.curvature.block_traces import block_traces
from probes.curvature.density import Density, density
from probes.curvature.hessian import hessian
from probes.curvature.operators import Operator
from probes.curvature.plan import Part, Tell, Watched, plan
from probes.curvature.spectrum import Spectrum, end_eigenpairs, gauss_newton_spectrum
from probes.layout import check_batches, columns, group_names
from probes.records import Estimate

Groups = Mapping[str, str | Sequence[str]] | Sequence[str] | Callable[[Sequence[str]], Mapping]


@dataclass(frozen=True)
class Extreme:
    """An extreme eigenvalue of a block: an eigenvalue lies within `residual` of `value`."""

    value: float
    residual: float
    converged: bool


@dataclass(frozen=True)
class BlockSummary:
    """The curvature of one group of parameters, in units of the loss per squared parameter.

    size is D, the numbers in the block. trace, effective_dimension and negative_mass have standard error 0 where they are
    exact; largest, smallest, negative_mass and density are None where they were not asked for. spectrum says whose
    eigenvalues the effective dimension sums at ridge: "gauss-newton" (exact), or "positive part" of the block's own;
    gauss_newton_trace is None without outputs. route is "dense" (diagonalised), "shared" (cut from a larger group's matrix) or
    "iterative". products counts the operator's products, 0 where another group has paid; those of the traces' common probes
    count with the largest group that uses them. precision names the coarsest dtype in the graph.
    """

    name: str
    names: tuple[str, ...]
    size: int
    largest: Extreme | None
    smallest: Extreme | None
    trace: Estimate
    effective_dimension: Estimate
    negative_mass: Estimate | None
    ridge: float
    spectrum: str
    gauss_newton_trace: float | None
    route: str
    products: int
    precision: str
    density: Density | None = field(repr=False)

    @property
    def exact(self) -> bool:
        """Return whether nothing was sampled."""
        return self.route != "iterative"


def summaries(
    source: Operator | Callable,
    groups: Groups | None = None,
    *,
    params: Mapping[str, Tensor] | None = None,
    batches: Sequence | None = None,
    outputs: Callable | None = None,
    criterion: Callable | None = None,
    weights: Sequence[float] | Callable | str | None = None,
    ridge: float = 1e-3,
    probes: int = 10,
    steps: int = 50,
    budget: int = 32,
    dense: int | None = None,
    tol: float = 1e-3,
    ends: Collection[str] | None = None,
    densities: Collection[str] | None = None,
    seed: int = 0,
    allow_unused: bool = False,
    tell: Tell | None = None,
) -> tuple[BlockSummary, ...]:
    """Measure the curvature of each group of parameters, in the order of the groups.

    source is an Operator, or a loss(params, batch) whose Hessian is taken at params over batches. groups maps labels to names
    or globs, lists globs, or is a function of the names such as `by_layer`; None makes one per tensor. outputs (B, C) and
    criterion give the effective dimension of the exact Gauss-Newton spectrum instead of the positive eigenvalues'.
    Blocks of up to `dense` numbers are diagonalised; None does so where that takes no more products than `budget` for a
    trace, probes * steps for a density and about 25 for the ends, to the relative residual tol. Otherwise the traces of all
    groups come from the same `budget` products, and ends and densities name the groups that get these too (None: all; the
    positive eigenvalues' dimension needs every density). tell(part, products) hears of each product, and of 0 at a part's end.
    Raises ValueError for a ridge that is not positive, a name that matches nothing, and as `hessian` does.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, in units of the curvature, got {ridge}")
    batches = None if batches is None else check_batches(batches)
    given = params is not None and batches is not None
    if (outputs is None) != (criterion is None) or (outputs is not None and not given):
        raise ValueError("the Gauss-Newton spectrum takes outputs, criterion, params and batches together")
    if isinstance(source, Operator):
        op = source
    elif given:
        op = hessian(source, params, batches, weights=weights, allow_unused=allow_unused)
    else:
        raise ValueError("a loss needs params and batches; or pass an operator, hessian(loss, params, batches)")
    named = groups(op.names) if callable(groups) else groups
    wanted = group_names(op.names, {name: [name] for name in op.names} if named is None else named)
    flat = None
    if outputs is not None:
        flat = _Flat.of(gauss_newton_spectrum(outputs, criterion, {k: params[k] for k in op.names}, batches, weights=weights))
    cut = {"ends": ends, "densities": densities if flat is not None else None}
    parts = plan(op, wanted, probes=probes, steps=steps, budget=budget, dense=dense, tol=tol, **cut)
    matrices: dict[str, tuple[dict, Tensor]] = {}
    measured: dict[str, dict] = {}
    for part in parts:
        if part.route == "same":
            measured[part.label] = measured[part.of] | {"products": 0}
        elif part.route == "shared":
            shapes, matrix = matrices[part.of]
            rows = columns(shapes, part.names).to(matrix.device)
            measured[part.label] = _diagonalised(matrix[rows][:, rows], "shared", 0)
        elif part.route == "dense":
            watched = Watched(_block(op, part.names), part, tell)
            matrices[part.label] = watched.op.shapes, watched.dense()
            measured[part.label] = _diagonalised(matrices[part.label][1], "dense", watched.finish())
        elif part.route == "iterative":
            measured[part.label] = _iterated(op, part, probes, steps, tol, seed, tell)
        else:
            iterated = {p.label: p.names for p in parts if measured.get(p.label, {}).get("route") == "iterative"}
            watched = Watched(_block(op, part.names), part, tell)
            known = {} if flat is None else flat.on(columns(op.shapes, part.names))
            traces = block_traces(watched, watched.op.shapes, iterated, budget=budget, seed=seed, **known)
            for label, found in traces.items():
                measured[label] = measured[label] | {"trace": found}
            first = next(iter(iterated))
            measured[first] = measured[first] | {"products": measured[first]["products"] + watched.finish()}
    found = {part.label: part for part in parts}
    return tuple(
        BlockSummary(
            name=label,
            names=names,
            size=found[label].size,
            **measured[label],
            negative_mass=None if measured[label]["density"] is None else measured[label]["density"].negative_mass(),
            **_effective(measured[label]["density"], flat, columns(op.shapes, names), ridge),
            precision=str(op.precision).removeprefix("torch."),
            ridge=ridge,
        )
        for label, names in wanted.items()
    )


@dataclass(frozen=True)
class _Flat:
    """The Gauss-Newton matrix root diag(sign) root' (D, k), down to its resolution, of so many examples; and of its blocks."""

    root: Tensor
    sign: Tensor
    examples: int

    @classmethod
    def of(cls, found: Spectrum) -> _Flat:
        """Return the matrix with a spectrum."""
        values = found.values.double()
        if not found.rank:
            return cls(torch.zeros(found.size, 1, dtype=torch.float64, device=values.device), values.new_ones(1), found.examples)
        return cls(found.vectors(found.rank).double() * values.abs().sqrt(), values.sign(), found.examples)

    def on(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the factors of the block of some rows."""
        return {"root": self.root[rows.to(self.root.device)], "sign": self.sign}

    def values(self, rows: Tensor) -> Tensor:
        """Return the eigenvalues (k,) of the block of some rows that may differ from zero, from a matrix (k, k)."""
        root = self.on(rows)["root"]
        if bool((self.sign > 0).all()):
            return torch.linalg.eigvalsh(root.T @ root)
        squares, turn = torch.linalg.eigh(root.T @ root)
        half = turn * squares.clamp_min(0).sqrt()
        return torch.linalg.eigvalsh(half.T @ (self.sign[:, None] * half))


def _block(op: Operator, names: tuple[str, ...]) -> Operator:
    return op if names == op.names else op.block(names)


def _diagonalised(matrix: Tensor, route: str, products: int) -> dict:
    """Both ends, trace and density of a matrix from its eigendecomposition."""
    size, exact = len(matrix), matrix.double()
    values, vectors = torch.linalg.eigh((exact + exact.T) / 2)
    residuals = (exact @ vectors - vectors * values).norm(dim=0)
    total = float(exact.trace())
    return {
        "largest": Extreme(float(values[-1]), float(residuals[-1]), True),
        "smallest": Extreme(float(values[0]), float(residuals[0]), True),
        "trace": Estimate("trace", total, 0.0, (total, total), size, products=products),
        "density": density(matrix, probes=1, steps=size),
        "route": route,
        "products": products,
    }


def _iterated(op: Operator, part: Part, probes: int, steps: int, tol: float, seed: int, tell: Tell | None) -> dict:
    """Both ends by Lanczos and the density by quadrature, where they are wanted; the trace comes later."""
    high = low = spread = None
    products = 0
    if part.products:
        watched = Watched(_block(op, part.names), part, tell)
        if part.ends:
            ends = end_eigenpairs(watched, tol=tol, seed=seed)
            rows = zip(ends.values.tolist(), ends.residuals.tolist(), ends.converged.tolist(), strict=True)
            high, low = (Extreme(*row) for row in rows)
        if part.density:
            null = high is not None and high == low == Extreme(0.0, 0.0, True)  # a random vector was mapped to zero, so all are
            spread = density(watched, probes=2 if null else probes, steps=1 if null else steps, seed=seed)
        products = watched.finish()
    return {"largest": high, "smallest": low, "density": spread, "route": "iterative", "products": products}


def _effective(found: Density | None, flat: _Flat | None, rows: Tensor, ridge: float) -> dict:
    """sum_i lambda_i / (lambda_i + r) of the Gauss-Newton spectrum, else of the density's positive part, and whose it is."""
    name = "effective dimension"
    if flat is not None:
        values = flat.values(rows)
        kept = values.clamp_min(0)
        exact = float((kept / (kept + ridge)).sum())
        estimate = Estimate(name, exact, 0.0, (exact, exact), flat.examples)
        return {"effective_dimension": estimate, "spectrum": "gauss-newton", "gauss_newton_trace": float(values.sum())}
    return {"effective_dimension": found.effective_dimension(ridge), "spectrum": "positive part", "gauss_newton_trace": None}
