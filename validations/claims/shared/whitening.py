"""Adapters trained in coordinates in which what they read is white: the same optima for fewer evaluations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuning.training import Fit

from .setting import Params, Setting
from .training import at_start, train

RIDGE = 1e-4  # of the mean variance of a direction, added to every direction's


@dataclass(frozen=True, eq=False)
class Whitening:
    """Coordinates of adapters at ports: z = L^-1 (y - centre) in the place of what each reads, y (d,), with L (d, d) by port.

    The up-projection is counted over `sizes`, the root mean variance of its inputs at the adapter's start, which is small where
    states are: as many units of it move the output as far at every port. A port without a size counts it as it is.
    """

    centres: Params
    roots: Params
    sizes: Params = field(default_factory=dict)

    @classmethod
    def of(cls, subject: Any, batch: Any, ports: Sequence[str], sigmas: Sequence[float] = ()) -> "Whitening":
        """Return the coordinates in which the frozen network's states at some ports are white on a batch.

        L L' is their covariance, weighted equally within an example, plus sigma^2 and `RIDGE` of its mean on the diagonal; sigmas:
        the deviation by port of noise on what is read, none by default.
        """
        with torch.no_grad():
            base = subject.rollout(at_start(subject), batch).base
        mask = batch.mask.double().cpu().numpy()
        weights, centres, roots, sizes = mask / mask.sum(1, keepdims=True) / len(mask), {}, {}, {}
        for port, sigma in zip(ports, sigmas or [0.0] * len(ports), strict=True):
            y = base[port].double().cpu().numpy()
            centre = np.einsum("nt,ntd->d", weights, y)
            rows = (np.sqrt(weights)[..., None] * (y - centre)).reshape(-1, y.shape[-1])
            covariance = rows.T @ rows
            added = sigma**2 + RIDGE * np.trace(covariance) / len(covariance)
            centres[port] = torch.as_tensor(centre).to(base[port])
            roots[port] = torch.as_tensor(np.linalg.cholesky(covariance + added * np.eye(len(covariance)))).to(base[port])
            sizes[port] = (at_start(subject)[f"{port}.down"] @ roots[port]).square().sum(1).mean().sqrt()
        return cls(centres, roots, sizes)

    def coordinates(self, params: Params) -> Params:
        """Return an adapter's numbers in these coordinates: down L, down_bias + down centre, up times its size; others stay."""
        made = dict(params)
        for port, L in self.roots.items():
            down = params[f"{port}.down"]
            made |= {f"{port}.down": down @ L, f"{port}.down_bias": params[f"{port}.down_bias"] + down @ self.centres[port]}
            made[f"{port}.up"] = params[f"{port}.up"] * self.sizes.get(port, 1.0)
        return made

    def params(self, coordinates: Params) -> Params:
        """Return the adapter of such coordinates, differentiable."""
        made = dict(coordinates)
        for port, L in self.roots.items():
            down = torch.linalg.solve_triangular(L, coordinates[f"{port}.down"], upper=False, left=False)
            bias = coordinates[f"{port}.down_bias"] - down @ self.centres[port]
            made |= {
                f"{port}.down": down,
                f"{port}.down_bias": bias,
                f"{port}.up": coordinates[f"{port}.up"] / self.sizes.get(port, 1.0),
            }
        return made


def train_in(setting: Setting, objective: Callable[[Params], Tensor], subject: Any, white: Whitening) -> Fit:
    """Return the full-batch optimum of an adapter, searched in some coordinates by L-BFGS from the adapter's start as in `train`.

    Gradient norms, and with them the tolerance, are those in these coordinates.
    """
    fitted = train(setting, lambda z: objective(white.params(z)), white.coordinates(at_start(subject)))
    return replace(fitted, params=white.params(fitted.params))


def train_white(
    setting: Setting, objective: Callable[[Params], Tensor], subject: Any, ports: Sequence[str], sigmas: Sequence[float] = ()
) -> Fit:
    """Return `train_in` the coordinates that are white on training text (`Whitening.of`)."""
    return train_in(setting, objective, subject, Whitening.of(subject, setting.train, ports, sigmas))
