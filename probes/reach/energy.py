"""What it costs to move a network's outputs by a delta: least energies of a shift, and reach against size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.reach.controllability import OutputGramian, output_gramian
from probes.reach.response import Response


@dataclass(frozen=True, eq=False)
class LeastEnergy:
    """The least control energy |z|_R^2 of a shift of the outputs, and what it leaves undone.

    value is that of one control shared by all examples, examples (N,) that of a control per example; miss and
    example_miss (N,) are |d - G z| / |d|. costate (N, C) is nu = (K + ridge I)^-1 d, which gives the shared
    control z = R^-1 G' nu (`OutputGramian.control`). Where no shift is asked for, energy and miss are zero.
    resolution bounds, at first order, the relative change of the shared control that the rounding of G makes: at 1
    the control is not known.
    """

    value: float
    examples: Tensor
    miss: float
    example_miss: Tensor
    costate: Tensor
    resolution: float


def least_energy(gramian: OutputGramian, shift: Tensor, *, ridge: float = 0.0) -> LeastEnergy:
    """Return the least energy that moves the outputs by d = shift (N, C), at first order, by the singular values of G.

    E = d' (G R^-1 G' + ridge I)^-1 d = min_z |z|_R^2 + |d - G z|^2 / ridge for ridge > 0, in squared units of the
    outputs. For ridge = 0 it is the energy of reaching the point nearest to d in the reachable space, the
    singular values above the resolution, and miss says how far that is. Raises ValueError for another shape or a
    negative ridge.
    """
    n, c, _ = gramian.outputs.shape
    if tuple(shift.shape) != (n, c) or ridge < 0:
        raise ValueError(f"shift must have shape ({n}, {c}) and ridge be >= 0, got {tuple(shift.shape)} and {ridge}")
    d = shift.to(gramian.outputs)
    value, miss, costate = _energy(gramian.outputs.reshape(n * c, -1), gramian.values, d.reshape(-1), ridge, gramian.resolution)
    u, s, _ = torch.linalg.svd(gramian.outputs * gramian.values, full_matrices=False)
    own, left, _ = _energy(u, s, d, ridge, gramian.resolution)
    return LeastEnergy(
        float(value), own, float(miss), left, costate.reshape(n, c), _sensitivity(gramian, costate, float(miss * d.norm()), ridge)
    )


def _sensitivity(gramian: OutputGramian, costate: Tensor, left: float, ridge: float) -> float:
    """The relative change of z = (S'S + ridge)^-1 S'd by a change of S of the size of its rounding, at first order.

    |dz| <= |dS| (|d - Sz| max 1 / (s^2 + ridge) + |z| max s / (s^2 + ridge)), the first over the controls' directions.
    """
    u, s = gramian.outputs.reshape(costate.numel(), -1), gramian.values
    size = float((s * (u.T @ costate.reshape(-1))).norm())
    if not size > 0:
        return 0.0
    s = s if ridge > 0 else s[s > gramian.resolution]
    least = 0.0 if ridge > 0 and gramian.size > len(s) else float(s.min())
    return gramian.resolution * (left / (least**2 + ridge) / size + float((s / (s**2 + ridge)).max()))


def _energy(u: Tensor, s: Tensor, d: Tensor, ridge: float, resolution: float) -> tuple[Tensor, Tensor, Tensor]:
    """(energy, relative miss, costate) of moving d (..., p) by a map with left vectors u (..., p, k), values s."""
    along = (u.mT @ d[..., None])[..., 0]
    rest = d - (u @ along[..., None])[..., 0]  # what no control reaches
    if ridge > 0:
        weight = 1 / (s**2 + ridge)
        outside = rest / ridge
    else:
        reached = s > resolution
        weight = torch.where(reached, 1 / torch.where(reached, s, 1.0) ** 2, 0.0)
        outside = torch.zeros_like(rest)
    costate = (u @ (weight * along)[..., None])[..., 0] + outside
    left = (((1 - weight * s**2) * along) ** 2).sum(-1) + (rest**2).sum(-1)
    size = d.norm(dim=-1)
    miss = torch.where(size > 0, left.sqrt() / torch.where(size > 0, size, 1.0), 0.0)
    return (d * costate).sum(-1), miss, costate


def margin_shift(outputs: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Return the smallest shift of the logits (N, C) after which every label leads every other class by `margin`.

    argmin |d| subject to (y + d)_label - (y + d)_j >= margin for j != label: the label rises by t and each rival
    above y_label + t - margin is lowered to it, with t = max_k (sum of the k largest gaps) / (k + 1) and gaps
    y_j - y_label + margin. Zero where the margin is there already; every row sums to zero.
    """
    n, c = outputs.shape
    if tuple(labels.shape) != (n,) or c < 2:
        raise ValueError(f"outputs (N, C) with C >= 2 and labels (N,) must fit, got {n, c} and {tuple(labels.shape)}")
    own = torch.nn.functional.one_hot(labels, c).bool()
    gaps = (outputs - outputs[own][:, None] + margin).masked_fill(own, -torch.inf)
    ordered = gaps.sort(dim=1, descending=True).values[:, :-1].clamp_min(0)
    counts = torch.arange(1, c, device=outputs.device, dtype=outputs.dtype)
    rise = (ordered.cumsum(1) / (counts + 1)).max(1).values[:, None]
    return torch.where(own, rise, -(gaps - rise).clamp_min(0))


def departure(response: Response, control: Tensor, outputs: Tensor) -> Tensor:
    """Measure eta_i = |y_i(z) - y_i(0) - G_i z| / |G_i z| (N,): how far a control is from the linear regime.

    control is z (M,), relative to the response's point; outputs (N, C) are the network's own at z. Infinite where
    the control moves an example's outputs at second order only.
    """
    shift = response.matvec(control.to(response.outputs)).double()
    rest = (outputs.double() - response.outputs.double() - shift).norm(dim=1)
    return torch.where(rest > 0, rest / shift.norm(dim=1), 0.0)


@dataclass(frozen=True)
class Reachability:
    """What one delta reaches at first order: one row of the table of reachable rank against size.

    size is its number of parameters, live those that move an output at first order, rank, effective_rank and
    participation_ratio count output directions, largest is sigma_1 of the stacked map, share the place's part of
    the whole map's tr K, energy the least energy of the target shift for one shared control with its relative
    miss, example_energy the median of that of a control per example over the examples asked to move.
    """

    name: str
    size: int
    live: int
    rank: int
    effective_rank: float
    participation_ratio: float
    largest: float
    share: float
    energy: float
    miss: float
    example_energy: float


def reachability(name: str, gramian: OutputGramian, shift: Tensor, *, ridge: float = 0.0) -> Reachability:
    """Measure the row of one Gramian, of a delta or of one of its places; shift and ridge as in `least_energy`."""
    cost = least_energy(gramian, shift, ridge=ridge)
    asked = cost.examples[(shift != 0).any(1).to(cost.examples.device)]
    return Reachability(
        name,
        gramian.size,
        gramian.live,
        gramian.rank,
        gramian.effective_rank,
        gramian.participation_ratio,
        float(gramian.values[0]),
        gramian.share,
        cost.value,
        cost.miss,
        float(asked.median()) if len(asked) else 0.0,
    )


def reach_table(
    responses: Mapping[str, Response], shift: Callable[[Tensor], Tensor] | Tensor, *, ridge: float = 0.0, metric=None
) -> tuple[Reachability, ...]:
    """Measure the reachable rank and energy against the size of a delta, one row per named response, in their order.

    The deltas (of growing rank or length, say) act on the same outputs of the same examples. shift (N, C) is the
    target, or a function that makes it from a response's outputs where the deltas do not start at one point.
    """
    rows = []
    for name, response in responses.items():
        d = shift(response.outputs) if callable(shift) else shift
        rows.append(reachability(name, output_gramian(response, metric=metric), d, ridge=ridge))
    return tuple(rows)
