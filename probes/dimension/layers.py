"""Intrinsic dimension of the representations layer by layer: the states of every layer in, one record per layer out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.dimension.representation import ScaleCurve, gride, local_pca, mle, participation_ratio, two_nn
from probes.inputs import check_values, named, steady
from probes.layout import check_batches
from probes.records import Estimate


@dataclass(frozen=True)
class LayerRepresentation:
    """The dimension of one layer's states (n, width) by every estimator; their docstrings say what each one counts.

    estimates holds "two_nn", "mle" (pooled), "mle_mean", "gride r" for each rank r, "local_pca",
    "participation_ratio" and "effective_rank". One that a cloud does not allow (repeated or too few points) is nan
    with the reason as its status. dropped counts the repeated points and near duplicates.
    """

    name: str
    n: int
    width: int
    dropped: int
    estimates: Mapping[str, Estimate]

    @property
    def status(self) -> str:
        """Return "ok", or the first reason why an estimate is missing."""
        return next((e.status for e in self.estimates.values() if e.status != "ok"), "ok")


def layer_representations(
    states: Callable[[object], Mapping[str, Tensor]],
    batches: Sequence,
    *,
    k: int = 20,
    neighbourhood: int | None = None,
    ranks: Sequence[int] = (1, 2, 4, 8, 16),
    seed: int = 0,
) -> tuple[LayerRepresentation, ...]:
    """Measure the intrinsic dimension of every layer's states, in the order in which states(batch) names them.

    states maps a batch to {layer: tensor (items, width)}, pooled so that a row is an example, and is called without
    gradients. k neighbours serve `mle` and `neighbourhood` of them `local_pca` (default a quarter of the points, at
    most 100); both are cut to what the number of points allows. Raises ValueError for no batch and, with the batch, for
    states that are no matrices, random or not finite, or whose layers differ from the first batch's.
    """
    parts: dict[str, list[Tensor]] = {}
    for i, batch in enumerate(check_batches(batches)):
        with named(i), torch.no_grad():
            found = steady(lambda batch=batch: states(batch), "a layer's state")
        if i and list(found) != list(parts):
            raise ValueError(f"every batch must give the same layers, got {list(found)} after {list(parts)}")
        for name, value in found.items():
            if value.ndim != 2:
                raise ValueError(f"states of {name} must be (items, width), got shape {tuple(value.shape)}; pool the tokens")
            with named(i):
                check_values([value], f"a state of {name}")
            parts.setdefault(name, []).append(value.detach())
    return tuple(_layer(name, torch.cat(some), k, neighbourhood, ranks, seed) for name, some in parts.items())


def _layer(name: str, x: Tensor, k: int, neighbourhood: int | None, ranks: Sequence[int], seed: int) -> LayerRepresentation:
    n, cloud = len(x), x.double().cpu().numpy()
    around = min(100, n // 4) if neighbourhood is None else min(neighbourhood, n - 1)
    curve = _allowed("gride", lambda: gride(cloud, ranks))
    local = _allowed("mle", lambda: mle(cloud, min(k, n - 1)))
    linear = _allowed("participation_ratio", lambda: participation_ratio(cloud))
    if isinstance(curve, ScaleCurve):
        held = dict(zip(curve.ranks, curve.estimates, strict=True))
        scales = {r: held.get(r) or _missing("gride", f"rank {r} needs more than {2 * r} distinct points") for r in ranks}
    else:
        scales = dict.fromkeys(ranks, curve)
    estimates = {
        "two_nn": _allowed("two_nn", lambda: two_nn(cloud)),
        "mle": local,
        "mle_mean": local.parts.get("mean", local),
        **{f"gride {rank}": e for rank, e in scales.items()},
        "local_pca": _allowed("local_pca", lambda: local_pca(cloud, around, seed=seed)),
        "participation_ratio": linear,
        "effective_rank": linear.parts.get("effective_rank", linear),
    }
    dropped = max(n - len(torch.unique(x, dim=0)), *(e.dropped for e in estimates.values()))
    return LayerRepresentation(name, n, x.shape[1], dropped, estimates)


def _allowed(quantity: str, estimate: Callable):
    """What the estimator returns, or nan with its refusal as the status."""
    try:
        return estimate()
    except ValueError as error:
        return _missing(quantity, str(error))


def _missing(quantity: str, reason: str) -> Estimate:
    return Estimate(quantity, math.nan, math.inf, (-math.inf, math.inf), 0, status=reason)
