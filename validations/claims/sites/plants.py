"""Plants of ports: each reaches some of the examples: the more of those that are wrong, the fewer of those that are right.

The first number of a port's control raises the true-class margin of every example that the port reaches. Ports reach 2 to 16
of 16 wrong examples, the more the weaker, so that their gradients differ by chance alone and yet those that reach more mend
more; of 48 examples that are right already they reach the fewer. Those lower no loss, but the energy that raises every margin
counts them. The second number moves one half of the right examples up and the other down: it adds to a port's trace only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..shared.network import BLOCKS, States, port_keys, tensor
from ..shared.setting import Setting

PORTS = 2 * BLOCKS
WRONG, RIGHT = 2 * PORTS, 6 * PORTS
MENDED, KEPT = np.arange(2, WRONG + 1, 2), np.arange(RIGHT - 2, 0, -6)  # examples that a port reaches: wrong ones, right ones
MARGINS = (-1.0, 6.0)  # of the wrong and the right examples
REACH, IDLE = 32.0, 8.0  # a port's strength times the wrong examples that it reaches; the typical strength of its second number


@dataclass(frozen=True)
class Reaching:
    """A subject of two classes that is affine in additive controls; gates (B, 2 P) say how each number moves an example."""

    width: int = 2
    dtype: torch.dtype = torch.float64

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(port_keys())

    def steered(self, signals: Mapping[str, Tensor], batch: States) -> Tensor:
        gates = batch.tokens[:, 1].unflatten(1, (PORTS, 2))
        margin = batch.tokens[:, 0, 0] + sum(gates[:, self.ports.index(port)] @ u for port, u in signals.items())
        return torch.stack([margin, -margin], dim=1) / 2


def reaching_setting(system: int, seed: int) -> Setting:
    """Return two numbers of control at each port of a system; which port reaches how many examples differs between systems."""
    rng = np.random.default_rng([61, system])
    order = rng.permutation(PORTS)
    strength = REACH / MENDED[order] * np.exp(0.1 * rng.standard_normal(PORTS))
    idle = IDLE * np.exp(rng.standard_normal(PORTS))

    def draw(split: int) -> States:
        own = np.random.default_rng([67, system, seed, split])
        gates, half = np.zeros((WRONG + RIGHT, PORTS, 2)), np.where(np.arange(RIGHT) % 2, 1.0, -1.0)
        for port, k in enumerate(order):
            gates[own.permutation(WRONG)[: MENDED[k]], port, 0] = strength[port]
            gates[WRONG + own.permutation(RIGHT)[: KEPT[k]], port, 0] = strength[port]
            gates[WRONG:, port, 1] = idle[port] * own.permutation(half)
        margins = np.repeat(MARGINS, (WRONG, RIGHT)) + 0.1 * own.standard_normal(WRONG + RIGHT)
        labels = own.integers(2, size=WRONG + RIGHT)
        moved = np.stack([np.repeat(margins[:, None], 2 * PORTS, axis=1), gates.reshape(len(gates), -1)], axis=1)
        sides = (1.0 - 2.0 * labels)[:, None, None]
        return States(tensor(sides * moved), torch.ones(len(labels), 1), torch.as_tensor(labels))

    return Setting({"bias": Reaching()}, draw(0), draw(1), seed, penalty=1e-3, tolerance=1e-4, evaluations=200)
