"""Subspaces of all parameters that are found, not drawn: from trained deltas, from curvature, from reach.

Each is z = z0 + P theta with P'P = I, so that whatever trains in a random subspace trains in these; their columns
are ordered, and the first d of them are the found subspace of dimension d.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.curvature.spectrum import gauss_newton_spectrum
from probes.dimension.projection import Projection
from probes.layout import Params, check_params, flatten
from probes.reach.controllability import output_gramian
from probes.reach.response import Response


@dataclass(frozen=True)
class FoundSubspace:
    """An orthonormal basis of d found directions as a projection, P theta with theta (d,), and what ranks them.

    values (d,) decrease: squared lengths along a principal direction, eigenvalues of the Gauss-Newton matrix, or
    squared singular values of the response. total is the sum of all there are, found or not.
    """

    projection: Projection
    values: Tensor
    total: float

    @property
    def kind(self) -> str:
        """Return how the directions were found."""
        return self.projection.kind

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that are moved, in their order."""
        return self.projection.shapes

    @property
    def dimension(self) -> int:
        """Return d, the number of directions."""
        return self.projection.dimension

    @property
    def size(self) -> int:
        """Return D, the numbers moved."""
        return self.projection.size

    @property
    def share(self) -> float:
        """Return the part of the total that the directions hold."""
        return float(self.values.sum()) / self.total

    def apply(self, theta: Tensor) -> dict[str, Tensor]:
        """Return P theta as a dict of tensors (..., *shape); ValueError unless theta ends in d numbers."""
        return self.projection.apply(theta)

    def adjoint(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return P' applied to tensors (..., *shape), the coordinates (..., d) of their projection."""
        return self.projection.adjoint(tensors)

    def first(self, dimension: int) -> FoundSubspace:
        """Return the subspace of the leading d directions; ValueError unless 1 <= d <= this dimension."""
        return replace(self, projection=self.projection.first(dimension), values=self.values[:dimension])

    def orthonormality_error(self) -> float:
        """Return the largest entry of |P'P - I|."""
        return self.projection.orthonormality_error(self.dimension)


def principal_directions(
    points: Sequence[Params], dimension: int | None = None, *, origin: Params | None = None
) -> FoundSubspace:
    """Return the principal directions of points in parameter space: deltas trained on several tasks, or one run's trajectory.

    The left singular vectors of the displacements [z_1 - z0, ..., z_n - z0] (D, n), by their Gram matrix (n, n), so
    that with d at the rank every point lies in z0 + span P. origin z0 is the common start; None takes the points'
    mean, the usual principal components, whose rank is one less. dimension defaults to the rank. Raises ValueError
    for fewer than 2 points, points of different shapes and a dimension above the rank.
    """
    if len(points) < 2:
        raise ValueError(f"principal directions need at least 2 points, got {len(points)}")
    shapes = {name: tuple(x.shape) for name, x in points[0].items()}
    for point in [*points, *([] if origin is None else [origin])]:
        check_params(point)
        if (found := {name: tuple(x.shape) for name, x in point.items()}) != shapes:
            raise ValueError(f"points and origin must hold the same tensors in the same order, {shapes}, got {found}")
    x = torch.stack([flatten(p).detach().double() for p in points])
    x = x - (x.mean(0) if origin is None else flatten(origin).detach().double())
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    # a Gram matrix squares the points' rounding: what lies below it is no direction
    rank = int((values > values[0] * max(len(x), 8) * torch.finfo(torch.float64).eps).sum()) if values[0] > 0 else 0
    d = _dimension(dimension, rank, "the points span")
    return _subspace("principal", x.T @ vectors[:, :d] / values[:d].sqrt(), values[:d], float(values.sum()), shapes, points[0])


def gauss_newton_directions(
    outputs: Callable,
    criterion: Callable,
    params: Params,
    batches: Sequence,
    dimension: int | None = None,
    *,
    weights: Sequence[float] | Callable | str | None = None,
) -> FoundSubspace:
    """Return the leading eigenvectors of the Gauss-Newton matrix G' H G at params: where the loss bends most.

    outputs, criterion, batches and weights are those of `gauss_newton_spectrum`. dimension defaults to the rank, which is at
    most the number of items times (classes - 1). Raises ValueError for a dimension above the rank.
    """
    found = gauss_newton_spectrum(outputs, criterion, params, batches, weights=weights)
    d = _dimension(dimension, found.rank, "the Gauss-Newton matrix has")
    shapes = {name: tuple(x.shape) for name, x in params.items()}
    return _subspace("gauss-newton", found.vectors(d), found.values[:d], found.trace, shapes, params)


def reachable_directions(response: Response, dimension: int | None = None) -> FoundSubspace:
    """Return the leading right singular vectors of the response G: the parameter steps that move the outputs most.

    Unlike the Gauss-Newton directions they do not weigh the outputs by the loss. dimension defaults to the number of
    singular values above rounding. Raises ValueError for a dimension above it.
    """
    gramian = output_gramian(response)
    d = _dimension(dimension, gramian.rank, "the response has")
    steps = gramian.control(response, gramian.outputs[..., :d] / gramian.values[:d])
    return _subspace("reachable", steps, gramian.values[:d] ** 2, gramian.energy, response.shapes, {"outputs": response.outputs})


def _dimension(asked: int | None, rank: int, of: str) -> int:
    d = rank if asked is None else asked
    if not 1 <= d <= rank:
        raise ValueError(f"dimension must lie between 1 and the {rank} directions that {of}, got {d}")
    return d


def _subspace(
    kind: str, vectors: Tensor, values: Tensor, total: float, shapes: Mapping[str, Sequence[int]], like: Params
) -> FoundSubspace:
    """The subspace of nearly orthonormal columns (D, d), made orthonormal without changing the span of the first k."""
    one = next(iter(like.values()))
    q, r = torch.linalg.qr(vectors.double())
    p = (q * r.diagonal().sign()).to(one.device, one.dtype)
    held = {name: tuple(s) for name, s in shapes.items()}
    projection = Projection(kind, held, p.shape[1], 0, p.dtype, p.device, p.shape[1], lambda x: x @ p.T, lambda y: y @ p, (p,))
    return FoundSubspace(projection, values.detach().double().cpu(), total)
