"""Per-layer and per-block summaries of a curvature operator: ends, trace, effective dimension, negative mass.

For the diagonal block H_g of a group g of parameters, with eigenvalues lambda_i and a ridge r,

    largest, smallest lambda       tr H_g       d(r) = sum_i lambda_i / (lambda_i + r)       #{lambda_i < 0} / D_g.

A block's curvature is that of its parameters with all others held fixed. It belongs to the parametrisation:
A -> R A, B -> B R^-1 leaves a low-rank product as it is and changes its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from probes.curvature.density import Density, density
from probes.curvature.hessian import hessian
from probes.curvature.operators import Operator
from probes.curvature.spectrum import Spectrum, end_eigenpairs, gauss_newton_spectrum
from probes.curvature.trace import trace
from probes.layout import check_batches, columns, group_names
from probes.records import Estimate, student

ENDS = 25  # products that both extreme eigenvalues take together, about
LARGEST = 4096  # the most numbers in a block that is diagonalised unasked

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
    exact. spectrum says whose eigenvalues the effective dimension sums at ridge: "gauss-newton" (exact), or "positive part"
    of the block's own; gauss_newton_trace is None without outputs. route is "dense" (diagonalised), "shared" (cut from a
    larger group's matrix) or "iterative". products counts the operator's products, 0 where another group has paid. precision
    names the coarsest dtype in the graph.
    """

    name: str
    names: tuple[str, ...]
    size: int
    largest: Extreme
    smallest: Extreme
    trace: Estimate
    effective_dimension: Estimate
    negative_mass: Estimate
    ridge: float
    spectrum: str
    gauss_newton_trace: float | None
    route: str
    products: int
    precision: str
    density: Density = field(repr=False)

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
    seed: int = 0,
    allow_unused: bool = False,
) -> tuple[BlockSummary, ...]:
    """Measure the curvature of each group of parameters, in the order of the groups.

    source is an Operator, or a loss(params, batch) whose Hessian is taken at params over batches. groups maps labels to names
    or globs, lists globs, or is a function of the names such as `by_layer`; None makes one per tensor. outputs (B, C) and
    criterion give the effective dimension of the exact Gauss-Newton spectrum instead of the positive eigenvalues'.
    Blocks of up to `dense` numbers are diagonalised; None does so where it takes no more products than iterating: `budget`
    for the trace, probes * steps for the density and about 25 for the ends, to the relative residual tol.
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
    sizes = {label: sum(math.prod(op.shapes[name]) for name in names) for label, names in wanted.items()}
    each = probes * steps + budget + ENDS
    matrices: list[tuple[Operator, Tensor]] = []
    found: dict[str, BlockSummary] = {}
    for label in sorted(wanted, key=lambda g: -sizes[g]):
        names, size = wanted[label], sizes[label]
        twin = next((other for other in found.values() if other.names == names), None)
        if twin is not None:
            found[label] = replace(twin, name=label, products=0)
            continue
        inside = sum(set(other) <= set(names) for other in wanted.values())
        gauss_newton = None
        if outputs is not None:
            rest, active = dict(params), {name: params[name] for name in names}
            gauss_newton = gauss_newton_spectrum(
                lambda z, batch, rest=rest: outputs(rest | z, batch), criterion, active, batches, weights=weights
            )
        holder = next((held for held in matrices if set(names) <= set(held[0].names)), None)
        if holder is not None:
            rows = columns(holder[0].shapes, names).to(holder[1].device)
            measured = _diagonalised(holder[1][rows][:, rows], "shared", 0)
        elif size <= (min(LARGEST, inside * each) if dense is None else dense):
            block = _block(op, names)
            matrices.append((block, block.dense()))
            measured = _diagonalised(matrices[-1][1], "dense", size)
        else:
            measured = _iterated(_block(op, names), gauss_newton, probes, steps, budget, tol, seed)
        found[label] = BlockSummary(
            name=label,
            names=names,
            size=size,
            **measured,
            negative_mass=measured["density"].negative_mass(),
            effective_dimension=_effective(measured["density"], gauss_newton, ridge),
            precision=str(op.precision).removeprefix("torch."),
            ridge=ridge,
            spectrum="positive part" if gauss_newton is None else "gauss-newton",
            gauss_newton_trace=None if gauss_newton is None else gauss_newton.trace,
        )
    return tuple(found[label] for label in wanted)


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


def _iterated(
    block: Operator, gauss_newton: Spectrum | None, probes: int, steps: int, budget: int, tol: float, seed: int
) -> dict:
    """Both ends by Lanczos, the trace of what the Gauss-Newton part leaves, the density by quadrature."""
    before = block.products
    ends = end_eigenpairs(block, tol=tol, seed=seed)
    parts = zip(ends.values.tolist(), ends.residuals.tolist(), ends.converged.tolist(), strict=True)
    high, low = (Extreme(*part) for part in parts)
    if high == low == Extreme(0.0, 0.0, True):  # a random vector was mapped to zero, so all are
        probes, steps, budget = 2, 1, 2
    known = None
    if gauss_newton is not None and gauss_newton.rank:
        values = gauss_newton.values
        leading = int((values.abs() > 1e-3 * values.abs()[0]).sum())  # small ones' vectors are rounding
        known = values[:leading], gauss_newton.vectors(leading)
    total = trace(block, budget=budget, deflate=known, seed=seed)
    spread = density(block, probes=probes, steps=steps, seed=seed)
    return {
        "largest": high,
        "smallest": low,
        "trace": total,
        "density": spread,
        "route": "iterative",
        "products": block.products - before,
    }


def _effective(found: Density, gauss_newton: Spectrum | None, ridge: float) -> Estimate:
    """sum_i lambda_i / (lambda_i + r) of the Gauss-Newton spectrum, else of the density's positive part."""
    if gauss_newton is not None:
        values = gauss_newton.values.clamp_min(0)
        exact = float((values / (values + ridge)).sum())
        return Estimate("effective dimension", exact, 0.0, (exact, exact), gauss_newton.examples)
    shares = np.maximum(found.nodes, 0)
    each = found.size * (found.weights * shares / (shares + ridge)).sum(1)
    value, n = float(each.mean()), len(each)
    if found.status == "exact":
        return Estimate("effective dimension", value, 0.0, (value, value), found.size)
    error = float(each.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    return student("effective dimension", value, error, n)
