"""A floor under the price of what a law reads: directions in which states hardly vary are not free to read.

Without one, the price tr K Sigma K' of a gain is next to nothing where training text hardly varies, and a law puts its gain there.
White noise on what is read, met by the price alone, makes it tr K (Sigma + sigma^2 I) K'.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.shared_gain import Ensemble, energy_price
from tuning.deltas.adapter import ACTIVATIONS
from tuning.subjects import place_energy

from ..shared.setting import Params


def deviations(ensemble: Ensemble, level: float) -> list[float]:
    """Return sigma by port: a level times the root mean variance of the directions read there.

    Raises ValueError for a level below 0.
    """
    if not (np.isfinite(level) and level >= 0.0):
        raise ValueError(f"expected the option floor to be finite and at least 0, got {level}: correct the study")
    return [level * float(np.sqrt(np.trace(S) / len(S))) for S in energy_price(ensemble)]


def floored_loss(subject: Any, params: Params, batch: Any, r: float, sigmas: Mapping[str, float]) -> Tensor:
    """Return the mean cross-entropy + (r/2) sum_t E (|pi_t|^2 + sigma_t^2 |d pi_t / d y|_F^2) over the ports t; differentiable.

    pi_t: what an adapter adds to the sublayer's output y; E: the mean over examples of the mean over real tokens. To second order
    in sigma it is the energy of an adapter that reads y through white noise of that deviation (Bishop 1995, Neural Computation 7,
    section 2); of an affine one it is exactly that, tr K (Sigma + sigma^2 I) K'.
    """
    rolled = subject.rollout(params, batch)
    energy = sum(place_energy(u, batch.mask) for u in rolled.signals.values())
    passed = sum(s**2 * _steepness(subject, params, port, rolled.base[port], batch.mask) for port, s in sigmas.items() if s)
    return torch.nn.functional.cross_entropy(rolled.outputs, batch.labels) + r / 2 * (energy + passed)


def _steepness(subject: Any, params: Params, port: str, y: Tensor, mask: Tensor) -> Tensor:
    """E |d pi / d y|_F^2 of pi = s U act(D y + b), whose slopes a = act'(D y + b) make it s^2 a' (U'U o DD') a at a token."""
    down, up = params[f"{port}.down"], params[f"{port}.up"]
    z = y @ down.T + params[f"{port}.down_bias"]
    act = ACTIVATIONS[getattr(subject.delta, "activation", "identity")]
    a = torch.func.jvp(act, (z,), (torch.ones_like(z),))[1]
    size = ((a @ ((up.T @ up) * (down @ down.T))) * a).sum(-1)
    real = mask.to(size.dtype)
    return getattr(subject.delta, "scale", 1.0) ** 2 * ((size * real).sum(-1) / real.sum(-1)).mean()
