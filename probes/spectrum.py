"""Extreme eigenpairs, trace and density of symmetric operators; the exact Gauss-Newton spectrum.

An operator is anything with .shape (D, D), .dtype and `op @ v` for v of shape (D,) or (D, k), a tensor
included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import grad

from probes import lanczos
from probes.layout import batch_size, columns, group_names
from probes.records import Estimate, student
from probes.response import BUDGET, CHUNK, Response, response


@dataclass(frozen=True)
class Eigenpairs:
    """k eigenvalues of an operator in decreasing order of what was asked for, with multiplicity.

    values (k,), vectors (D, k) orthonormal, residuals (k,) = |A x - theta x|, converged (k,) where the
    residual meets the tolerance. An eigenvalue of A lies within residuals[i] of values[i]. status is
    "converged" or "not converged".
    """

    which: str
    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    products: int

    @property
    def status(self) -> str:
        """Whether every pair met the tolerance."""
        return "converged" if bool(self.converged.all()) else "not converged"


@dataclass(frozen=True)
class DensityCurve:
    """A smoothed spectral density on a grid, with the band of its mean over probes at level `confidence`."""

    grid: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    confidence: float


@dataclass(frozen=True)
class Density:
    """The spectral density of an operator as quadrature rules: nodes and weights (probes, steps).

    status is "exact" (one rule with every eigenvalue) or "sampled" (stochastic Lanczos quadrature). size is
    D.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    products: int
    status: str

    def on(self, grid: Sequence[float], width: float, *, confidence: float = 0.95) -> DensityCurve:
        """The density on a grid, each node a Gaussian of standard deviation `width` (one, or one per node).

        phi(t) = mean over probes of sum_j w_j N(t; node_j, width). The band is Student's, over probes; the
        exact density has a band of no width. Raises ValueError when width is not positive.
        """
        if np.any(np.asarray(width) <= 0):
            raise ValueError(f"width must be positive, got {width}")
        t = np.asarray(grid, dtype=np.float64)
        bumps = stats.norm.pdf(t, self.nodes[..., None], np.broadcast_to(width, self.nodes.shape)[..., None])
        curves = (self.weights[..., None] * bumps).sum(1)
        return DensityCurve(t, *self._band(curves, confidence), confidence)

    def cumulative(self, grid: Sequence[float], *, confidence: float = 0.95) -> DensityCurve:
        """The share of eigenvalues at or below each grid point, with its band; no smoothing."""
        t = np.asarray(grid, dtype=np.float64)
        curves = (self.weights[..., None] * (self.nodes[..., None] <= t)).sum(1)
        return DensityCurve(t, *self._band(curves, confidence), confidence)

    def moment(self, power: int) -> Estimate:
        """The mean of lambda^power over the spectrum, that is tr(A^power) / D, with its standard error."""
        each = (self.weights * self.nodes**power).sum(1)
        if self.status == "exact":
            value = float(each[0])
            return Estimate(f"moment {power}", value, 0.0, (value, value), self.size, products=self.products)
        error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else np.inf
        return student(f"moment {power}", float(each.mean()), error, len(each), products=self.products)

    def _band(self, curves: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean, n = curves.mean(0), len(curves)
        if self.status == "exact":
            return mean, mean, mean
        if n < 2:
            return mean, np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
        half = stats.t.ppf((1 + confidence) / 2, n - 1) * curves.std(0, ddof=1) / np.sqrt(n)
        return mean, mean - half, mean + half


@dataclass(frozen=True)
class Spectrum:
    """Every nonzero eigenvalue of a positive semidefinite matrix (D, D), in decreasing order.

    Eigenvalues below `resolution` cannot be told from zero at this precision and are left out; rank counts
    the rest. examples is the number of items averaged over. status is "exact", "not finite", or "indefinite"
    when the criterion is not convex in the outputs and negative eigenvalues occur (then values are ordered by
    magnitude).
    """

    values: Tensor
    size: int
    examples: int
    resolution: float
    status: str
    _lift: Callable[[int], Tensor] = field(repr=False)

    @property
    def rank(self) -> int:
        """The number of eigenvalues above the resolution."""
        return len(self.values)

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return float(self.values.sum())

    def vectors(self, k: int) -> Tensor:
        """The first k unit eigenvectors (D, k); ValueError when k exceeds the rank."""
        if not 0 < k <= self.rank:
            raise ValueError(f"k must be between 1 and the rank {self.rank}, got {k}")
        return self._lift(k)


def top_eigenpairs(op, k: int, *, which: str = "magnitude", tol: float = 1e-3, seed: int = 0,
                   max_products: int | None = None) -> Eigenpairs:
    """The k extreme eigenpairs of a symmetric operator, repeated eigenvalues as often as they occur.

    Lanczos with full two-pass reorthogonalisation (Parlett 1998, ch. 13), stopped when |A x - theta x| <= tol
    |theta|; then deflated restarts, because one Krylov sequence meets each repeated eigenvalue once, until a
    restart finds nothing beyond the k-th. which is "magnitude", "largest" or "smallest" (algebraic);
    max_products defaults to 20 k + 200. Raises ValueError unless 1 <= k <= D.
    """
    size = op.shape[0]
    if not 1 <= k <= size:
        raise ValueError(f"k must be between 1 and {size}, got {k}")
    if which not in lanczos.ORDERS:
        raise ValueError(f"which must be one of {', '.join(lanczos.ORDERS)}, got {which!r}")
    return Eigenpairs(which, *lanczos.extreme(op, k, which, tol, seed, max_products or 20 * k + 200))


def trace(op, *, budget: int = 32, groups: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
          control: tuple[object, float] | None = None, seed: int = 0) -> Estimate:
    """An unbiased estimate of tr A from at most `budget` products (Hutchinson 1989): mean v'Av, v = +-1.

    groups (globs or label -> globs; they must cover all parameters once) cancel the cross terms between
    groups: the mean of v'Av over all flips of the groups' signs is sum_g v_g'A v_g, which takes one product
    per group, and .parts holds each group's trace. control = (C, tr C) estimates tr(A - C) + tr C instead, at
    twice the products. Raises ValueError when the budget does not allow two probes.
    """
    size = op.shape[0]
    parts = {"all": torch.arange(size)}
    if groups is not None:
        parts = {label: columns(op.shapes, names) for label, names in group_names(op.names, groups).items()}
        found = torch.cat(list(parts.values()))
        if len(found) != size or len(found.unique()) != size:
            raise ValueError(f"groups must hold each of the {size} parameters once, got {len(found)} places")
    cost = len(parts) * (1 if control is None else 2)
    probes = budget // cost
    if probes < 2:
        raise ValueError(f"a standard error takes two probes of {cost} products each, got budget={budget}")
    generator = torch.Generator().manual_seed(seed)
    samples = torch.zeros(probes, len(parts), dtype=torch.float64)
    for i in range(probes):
        signs = torch.randint(2, (size,), generator=generator) * 2 - 1
        for j, places in enumerate(parts.values()):
            v = torch.zeros(size, dtype=op.dtype)
            v[places] = signs[places].to(op.dtype)
            v = v.to(getattr(op, "device", "cpu"))
            samples[i, j] = float(v @ (op @ v))
            if control is not None:
                samples[i, j] -= float(v @ (control[0] @ v))

    def estimate(name: str, values: Tensor, offset: float, **more) -> Estimate:
        error = float(values.std() / probes**0.5)
        return student(name, float(values.mean()) + offset, error, probes, **more)

    offset = 0.0 if control is None else float(control[1])
    each = {}
    if len(parts) > 1 and control is None:
        each = {label: estimate(f"trace of {label}", samples[:, j], 0.0, products=probes)
                for j, label in enumerate(parts)}
    return estimate("trace", samples.sum(1), offset, products=probes * cost, parts=each)


def density(op, *, probes: int = 10, steps: int = 50, seed: int = 0) -> Density:
    """The spectral density of an operator by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017).

    Each random unit vector v gives a Gauss rule for the measure sum_i (v'x_i)^2 delta(lambda_i); all probes
    advance in lockstep with full reorthogonalisation. Nodes and weights are kept, so the smoothing is chosen
    afterwards. When D <= probes * steps the matrix is diagonalised instead, for fewer products, and the
    result is exact. Raises ValueError for fewer than one probe or step.
    """
    if probes < 1 or steps < 1:
        raise ValueError(f"probes and steps must be at least 1, got {probes} and {steps}")
    size = op.shape[0]
    if size <= probes * steps:
        matrix = op @ torch.eye(size, dtype=op.dtype, device=getattr(op, "device", "cpu"))
        values = torch.linalg.eigvalsh((matrix + matrix.T).double() / 2).cpu().numpy()
        return Density(values[None], np.full((1, size), 1 / size), size, size, "exact")
    nodes, weights, products = lanczos.quadrature(op, probes, steps, seed)
    return Density(nodes, weights, size, products, "sampled")


def gauss_newton_spectrum(outputs: Callable, criterion: Callable, params: Mapping[str, Tensor],
                          batches: Sequence, *, weights: Sequence[float] | None = None, chunk: int = CHUNK,
                          budget: int = BUDGET, route: str | None = None) -> Spectrum:
    """All nonzero eigenvalues of the Gauss-Newton matrix sum_b (n_b / W) J_b' (d2 criterion / dy2) J_b.

    They are those of the Gram matrix S G G' S', where S'S is the criterion's curvature in the outputs; for
    softmax cross entropy it has N (C - 1) rows, so C reverse sweeps give the whole spectrum.
    criterion(outputs, batch) is a mean over the batch; outputs are (B, C) per example as in `response`, which
    may raise. Raises ValueError when the criterion couples the examples.
    """
    batches = list(batches)
    g = response(outputs, params, batches, chunk=chunk, budget=budget, route=route)
    items = [batch_size(b) for b in batches] if weights is None else list(weights)
    blocks, start = [], 0
    for batch, weight in zip(batches, items, strict=True):
        y = g.outputs[start:start + batch_size(batch)]
        blocks.append(_output_curvature(criterion, y, batch).double() * (weight / sum(items)))
        start += len(y)
    bend, turn = torch.linalg.eigh(torch.cat(blocks))                       # (N, C), (N, C, C)
    size, used = g.shape[2], bend.abs() > 1e-12 * bend.abs().max()         # softmax: one zero per example
    root, sign = turn * bend.abs().sqrt()[:, None, :], bend.sign()[used]
    gram, eps = _gram(g, root, used), torch.finfo(g.dtype).eps
    status = g.status
    if bool((sign < 0).any()):
        # S G G' S' times signs is similar to a symmetric matrix through the root of the Gram matrix
        status = "indefinite" if status == "exact" else status
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
        found = g.rmatvec((root @ spread).to(g.dtype))
        return found / found.norm(dim=0)

    return Spectrum(values[:rank], size, len(g.outputs), resolution, status, lift)


def _gram(g: Response, root: Tensor, used: Tensor) -> Tensor:
    """S G G' S' in float64 for S' = root, without the rows where the criterion is flat."""
    n, c, m = g.shape
    if g.matrix is None:
        whole = g.kernel().double().reshape(n, c, n, c)
        whole = torch.einsum("nac,namb,mbd->ncmd", root, whole, root)
        return whole[used][:, used]
    total = torch.zeros(int(used.sum()), int(used.sum()), dtype=torch.float64, device=root.device)
    for start in range(0, m, 4096):                     # a float64 copy of all of G would double the memory
        rows = (root.mT @ g.matrix[..., start:start + 4096].double())[used]
        total += rows @ rows.T
    return total


def _output_curvature(criterion: Callable, y: Tensor, batch) -> Tensor:
    """The blocks (B, C, C) of d2 criterion / dy2, by C products; one more checks that this is all."""
    leaf = y.detach().clone().requires_grad_()
    with torch.enable_grad():
        slope, = grad(criterion(leaf, batch).reshape(()), leaf, create_graph=True)

    def product(u: Tensor) -> Tensor:
        if not slope.requires_grad:
            return torch.zeros_like(u)
        second, = grad(slope, leaf, u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if second is None else second

    unit = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    blocks = torch.stack([product(row.expand_as(y).contiguous()) for row in unit], dim=-1)
    signs = torch.randint(2, y.shape, generator=torch.Generator().manual_seed(0)).to(y) * 2 - 1
    gap = (product(signs) - torch.einsum("ncd,nd->nc", blocks, signs)).abs().max()
    if gap > 1e3 * torch.finfo(y.dtype).eps * blocks.abs().max():
        raise ValueError("the criterion couples the examples of a batch, but the Gram route needs a mean of "
                         "theirs; use gauss_newton and top_eigenpairs instead")
    return (blocks + blocks.mT) / 2
