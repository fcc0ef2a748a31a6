"""Subspaces of a delta's numbers: solving in one, training in one, and where a curve over d crosses its threshold."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from probes.dimension.threshold import threshold_dimension
from theory.ensemble import Control, ensemble_lq
from tuning.training import Fit

from .linearisation import Linearisation
from .setting import Params, Setting
from .training import train

SHARE = 0.9


def shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {name: tuple(p.shape) for name, p in params.items()}


def solved_within(lin: Linearisation, subspace, like: Params, r: float) -> Control:
    """Return the optimum of the linearised problem with penalty r among z = P theta, by P' on the rows of G."""
    flat = torch.as_tensor(lin.G.reshape(-1, lin.G.shape[-1]))
    rows = dict(zip(like, flat.split([p.numel() for p in like.values()], dim=1), strict=True))
    rows = {name: part.reshape(-1, *like[name].shape) for name, part in rows.items()}
    G = subspace.adjoint(rows).double().cpu().numpy().reshape(*lin.y0.shape, -1)
    return ensemble_lq(G, lin.y0, lin.loss, r)


def trained_within(setting: Setting, objective: Callable[[Params], Tensor], origin: Params, subspace) -> Fit:
    """Return the full-batch optimum of objective(z0 + P theta) over theta, from theta = 0; `Fit.params` holds theta."""

    def restricted(theta: Params) -> Tensor:
        step = subspace.apply(theta["theta"])
        return objective({name: p + step[name] for name, p in origin.items()})

    first = next(iter(origin.values()))
    return train(setting, restricted, {"theta": first.new_zeros(subspace.dimension)})


def crossing(dimensions: Sequence[float], shares: Sequence[float], size: int, share: float = SHARE) -> float:
    """Return the dimension at which a predicted curve reaches the share, interpolated in log2 d and rising to 1 at D.

    Below the first dimension the curve is taken as proportional to d.
    """
    d, y = np.append(dimensions, size), np.append(np.maximum.accumulate(shares), 1.0)
    if y[0] >= share:
        return float(d[0] * share / y[0])
    i = int(np.argmax(y >= share))
    place = (share - y[i - 1]) / (y[i] - y[i - 1])
    return float(2 ** (np.log2(d[i - 1]) + place * np.log2(d[i] / d[i - 1])))


def estimate(
    dimensions: Sequence[float], scores: Sequence[float], baseline: Sequence[float], *, chance: float, confidence: float = 0.9
) -> dict:
    """Return a threshold dimension as plain numbers, a row per run; an end that is censored is None, `status` says which way.

    A baseline of one run is taken as known without noise. "no gain": full training does not exceed chance, so that no
    threshold exists.
    """
    full = np.asarray(baseline, dtype=float)
    if full.mean() <= chance:
        return {"status": "no gain", "baseline": float(full.mean()), "chance": chance}
    full = np.repeat(full, 2) if len(full) == 1 else full
    found = threshold_dimension(dimensions, scores, baseline=full, chance=chance, share=SHARE, confidence=confidence)

    def plain(x: float) -> float | None:
        return float(x) if np.isfinite(x) and x > 0 else None

    return {
        "status": found.status,
        "warning": found.warning,
        "value": plain(found.value),
        "low": plain(found.interval[0]),
        "high": plain(found.interval[1]),
        "isotonic": plain(found.isotonic),
        "not_reached": found.not_reached,
        "below": found.below,
        "threshold": float(found.threshold),
        "baseline": float(full.mean()),
        "chance": chance,
    }


def at_ends(fit: Mapping, smallest: float, largest: float) -> tuple[float, float, float]:
    """Return an estimate's value and interval with what is censored put at the end of the dimensions tried."""
    censored = smallest if fit["below"] > 0.5 else largest
    return float(fit["value"] or censored), float(fit["low"] or smallest), float(fit["high"] or largest)
