"""Extreme eigenpairs of symmetric operators and the exact Gauss-Newton spectrum.

An operator is anything with .shape (D, D), .dtype and `op @ v` for v of shape (D,) or (D, k), a tensor
included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probes.curvature import lanczos
from probes.curvature.output_curvature import output_curvature
from probes.inputs import check_values, named, opened, settle
from probes.layout import batch_size, check_batches
from probes.reach.response import BUDGET, CHUNK, Response, response


@dataclass(frozen=True)
class Eigenpairs:
    """k eigenvalues of an operator in decreasing order of what was asked for, with multiplicity.

    values (k,), vectors (D, k) orthonormal, residuals (k,) = |A x - theta x|, converged (k,) where the
    search met the tolerance. An eigenvalue of A lies within residuals[i] of values[i]. Products that round coarser than
    their dtype (a base in bfloat16) leave larger residuals than a search can see: they are taken by one more product a pair,
    and rounded is the largest of them over |theta|; 0.0 elsewhere.
    status is "converged", "converged, rounded to 2e-02" or "not converged".
    """

    which: str
    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    products: int
    rounded: float = 0.0

    @property
    def status(self) -> str:
        """Return whether every pair met the tolerance, and how coarsely the products round."""
        found = "converged" if bool(self.converged.all()) else "not converged"
        return f"{found}, rounded to {self.rounded:.0e}" if self.rounded else found


@dataclass(frozen=True)
class Spectrum:
    """Every nonzero eigenvalue of a positive semidefinite matrix (D, D), in decreasing order.

    Eigenvalues below `resolution` cannot be told from zero at this precision and are left out; rank counts
    the rest. examples is the number of items averaged over. status is that of the response, "exact" or the dtype
    that rounds, with "indefinite" when the criterion is not convex in the outputs and negative eigenvalues occur
    (then values are ordered by magnitude).
    """

    values: Tensor
    size: int
    examples: int
    resolution: float
    status: str
    _lift: Callable[[int], Tensor] = field(repr=False)
    _times: Callable[[Tensor], Tensor] = field(repr=False)

    def __matmul__(self, v: Tensor) -> Tensor:
        """The matrix times (D,) or (D, k), from the response that is held: no further model products if it fits."""
        return self._times(v)

    @property
    def rank(self) -> int:
        """Return the number of eigenvalues above the resolution."""
        return len(self.values)

    @property
    def trace(self) -> float:
        """Measure the sum of the eigenvalues."""
        return float(self.values.sum())

    def vectors(self, k: int) -> Tensor:
        """Return the first k unit eigenvectors (D, k); ValueError when k exceeds the rank."""
        if not 0 < k <= self.rank:
            raise ValueError(f"k must be between 1 and the rank {self.rank}, got {k}")
        return self._lift(k)


def top_eigenpairs(
    op,
    k: int,
    *,
    which: str = "magnitude",
    tol: float = 1e-3,
    seed: int = 0,
    max_products: int | None = None,
    start: Eigenpairs | Tensor | None = None,
    proof: bool = True,
) -> Eigenpairs:
    """Return the k extreme eigenpairs of a symmetric operator, repeated eigenvalues as often as they occur.

    Lanczos with full two-pass reorthogonalisation (Parlett 1998, ch. 13), stopped when |A x - theta x| <= tol |theta|, and
    further sequences until the Schur complement shows, at a risk below 1e-6, that no copy was missed
    (`probes.curvature.lanczos`). proof=False leaves the latter out: exact copies may then be missing.
    which is "magnitude", "largest" or "smallest" (algebraic). start: pairs or vectors (D, j) near the wanted ones. When
    max_products (default 20 k + 200) ends the search, what was found is returned as not converged. Raises ValueError unless 1
    <= k <= D, and for products that are not finite.
    """
    size = op.shape[0]
    if not 1 <= k <= size:
        raise ValueError(f"k must be between 1 and {size}, got {k}")
    if which not in lanczos.ORDERS:
        raise ValueError(f"which must be one of {', '.join(lanczos.ORDERS)}, got {which!r}")
    known = start.vectors if isinstance(start, Eigenpairs) else start
    if known is not None and (known.ndim != 2 or known.shape[0] != size):
        raise ValueError(f"start must hold vectors ({size}, j), got {tuple(known.shape)}")
    limit = 20 * k + 200 if max_products is None else max_products
    if limit < 1:
        raise ValueError(f"max_products must be at least 1, got {limit}")
    return _pairs(op, which, *lanczos.extreme(op, k, which, tol, seed, limit, known, proof))


def end_eigenpairs(op, *, tol: float = 1e-3, seed: int = 0, max_products: int = 200) -> Eigenpairs:
    """Return the largest and the smallest eigenpair of a symmetric operator, in this order, by one Lanczos sequence."""
    return _pairs(op, "ends", *lanczos.ends(op, tol, seed, max_products))


def _pairs(op, which: str, values: Tensor, vectors: Tensor, residuals: Tensor, converged: Tensor, products: int) -> Eigenpairs:
    """The pairs of a search, which takes its products for a matrix's; where they round coarser, with residuals measured anew."""
    if torch.finfo(getattr(op, "precision", op.dtype)).eps <= torch.finfo(op.dtype).eps:
        return Eigenpairs(which, values, vectors, residuals, converged, products)
    residuals = ((op @ vectors).double() - vectors.double() * values).norm(dim=0)
    rounded = float((residuals / values.abs().clamp_min(torch.finfo(values.dtype).tiny)).max())
    return Eigenpairs(which, values, vectors, residuals, converged, products + len(values), rounded)


def gauss_newton_spectrum(
    outputs: Callable,
    criterion: Callable,
    params: Mapping[str, Tensor],
    batches: Sequence,
    *,
    weights: Sequence[float] | Callable | str | None = None,
    chunk: int = CHUNK,
    budget: int = BUDGET,
    route: str | None = None,
) -> Spectrum:
    """Return all nonzero eigenvalues of the Gauss-Newton matrix sum_b (n_b / W) J_b' (d2 criterion / dy2) J_b.

    They are those of the Gram matrix S G G' S', where S'S is the criterion's curvature in the outputs; for
    softmax cross entropy it has N (C - 1) rows, so C reverse sweeps give the whole spectrum.
    criterion(outputs, batch) is a mean over the batch, of as many items as `weights` says (as for `hessian`); outputs
    are (B, C) per example as in `response`, which may raise. Raises ValueError when the criterion couples the examples
    or is not finite.
    """
    batches, function = check_batches(batches), opened(criterion, "loss", "criterion")
    items = settle(batches, weights)
    g = response(outputs, params, batches, chunk=chunk, budget=budget, route=route)
    blocks, start = [], 0
    for i, (batch, weight) in enumerate(zip(batches, items, strict=True)):
        y = g.outputs[start : start + batch_size(batch)]
        with named(i):
            check_values([function(y, batch)], "the criterion", batch)
            blocks.append(output_curvature(function, y, batch) * (weight / sum(items)))
        start += len(y)
    whole = torch.cat(blocks)
    bend, turn = torch.linalg.eigh(whole)  # (N, C), (N, C, C)
    # softmax: one zero per example, whose size against the others' curvature says nothing
    size, used = g.shape[2], bend.abs() > 1e-12 * bend.abs().amax(1, keepdim=True)
    root, sign = turn * bend.abs().sqrt()[:, None, :], bend.sign()[used]
    gram, eps = _gram(g, root, used), torch.finfo(g.dtype).eps
    status = g.status
    if bool((sign < 0).any()):
        # S G G' S' times signs is similar to a symmetric matrix through the root of the Gram matrix
        status = "indefinite" if status == "exact" else f"indefinite, {status}"
        values, vectors = torch.linalg.eigh(gram)
        half = vectors * values.clamp_min(0).sqrt()
        values, inner = torch.linalg.eigh((half.T * sign) @ half)
        vectors = sign[:, None] * (half @ inner)
    else:
        values, vectors = torch.linalg.eigh(gram)
    order = values.abs().argsort(descending=True)
    values, vectors = values[order], vectors[:, order]
    # G itself is rounded: sigma is known to eps * sigma_max; a Gram matrix summed in G's dtype is worse
    fine = max((max(g.shape) * eps) ** 2, max(g.shape) * torch.finfo(torch.float64).eps)
    resolution = float(values[:1].abs().sum()) * (fine if g.matrix is not None else max(g.shape) * eps)
    rank = int((values.abs() > resolution).sum())

    def lift(k: int) -> Tensor:
        spread = torch.zeros(*bend.shape, k, dtype=root.dtype, device=root.device)
        spread[used] = vectors[:, :k]
        pushed = root @ spread
        found = g.rmatvec((pushed / pushed.norm(dim=(0, 1))).to(g.dtype))
        return found / found.norm(dim=0)

    def times(v: Tensor) -> Tensor:
        pushed = g.matvec(v)
        return g.rmatvec(torch.einsum("ncd,nd...->nc...", whole.to(pushed), pushed))

    return Spectrum(values[:rank], size, len(g.outputs), resolution, status, lift, times)


def _gram(g: Response, root: Tensor, used: Tensor) -> Tensor:
    """S G G' S' in float64 for S' = root, without the rows where the criterion is flat."""
    n, c, m = g.shape
    if g.matrix is None:
        whole = g.kernel().double().reshape(n, c, n, c)
        whole = torch.einsum("nac,namb,mbd->ncmd", root, whole, root)
        return whole[used][:, used]
    total = torch.zeros(int(used.sum()), int(used.sum()), dtype=torch.float64, device=root.device)
    for start in range(0, m, 4096):  # a float64 copy of all of G would double the memory
        rows = (root.mT @ g.matrix[..., start : start + 4096].double())[used]
        total += rows @ rows.T
    return total
