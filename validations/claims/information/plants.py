"""Plants of information: linear maps side by side whose signals may read a constant, gates and states.

The logits are linear in the signals and no signal moves what another port reads, so that the linear response is the network. What
the labels need depends on gates and states, more or less of it by system.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tuning.backbones import Batch

from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Params, Setting
from .network import Met

PORTS, READ, WRITTEN, SLOTS, CLASSES, SIZE = 3, 6, 4, 2, 3, 96
AMOUNTS = np.concatenate(
    [np.geomspace(0.2, 0.3, SYSTEMS // 2), np.geomspace(4.0, 6.0, SYSTEMS // 2)]
)  # of what labels need of the states; a system's partner has the other end
PENALTIES = np.geomspace(0.3, 0.1, SYSTEMS)


@dataclass(frozen=True, eq=False)
class Reading:
    """A subject whose ports read states x_t and gates sigmoid(A_t x_t); tokens (B, PORTS, READ) hold the states."""

    gates: Tensor
    readouts: Tensor
    slots: int = SLOTS
    width: int = WRITTEN
    dtype: torch.dtype = torch.float64

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(str(t) for t in range(PORTS))

    def run(self, gains: Params, batch: Batch, pushes: Mapping[str, Tensor] | None = None) -> Met:
        features, signals, total = {}, {}, torch.zeros(len(batch.labels), CLASSES, dtype=self.dtype)
        for t, port in enumerate(self.ports):
            x = batch.tokens[:, t : t + 1]
            features[port] = f = torch.cat([torch.ones_like(x[..., :1]), torch.sigmoid(x @ self.gates[t].T), x], -1)
            u = f[..., : gains[port].shape[1]] @ gains[port].T if port in gains else f.new_zeros(*f.shape[:2], WRITTEN)
            signals[port] = u
            total = total + ((u if pushes is None else u + pushes[port]) @ self.readouts[t].T).sum(1)
        return Met(total, features, signals)


def reading(system: int, seed: int) -> Setting:
    """Return a system's ports, its labels drawn from scores that gates and states tell in part."""
    rng = np.random.default_rng([113, system])
    gates, readouts = rng.standard_normal((PORTS, SLOTS, READ)), rng.standard_normal((PORTS, CLASSES, WRITTEN)) / np.sqrt(WRITTEN)
    linear = AMOUNTS[system] * rng.standard_normal((PORTS, READ, CLASSES)) / np.sqrt(PORTS * READ)
    gated = AMOUNTS[-1 - system] * rng.standard_normal((PORTS, SLOTS, CLASSES))
    prior = rng.standard_normal(CLASSES)

    def drawn(part: int, count: int) -> Batch:
        own = np.random.default_rng([127, system, seed, part])
        x = own.standard_normal((count, PORTS, READ))
        on = 1.0 / (1.0 + np.exp(-np.einsum("ntq,tpq->ntp", x, gates)))
        scores = np.einsum("ntq,tqc->nc", x, linear) + np.einsum("ntp,tpc->nc", on, gated) + prior
        labels = (scores + own.gumbel(size=scores.shape)).argmax(1)
        return Batch(tensor(x), torch.ones(count, 1, dtype=torch.bool), torch.as_tensor(labels))

    return Setting(
        subjects={"delta": Reading(tensor(gates), tensor(readouts))},
        train=drawn(0, SIZE),
        test=drawn(1, 4 * SIZE),
        seed=seed,
        penalty=float(PENALTIES[system]),
        tolerance=1e-4,
        evaluations=300,
    )
