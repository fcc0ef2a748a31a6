"""Plants of ablation: ports that do the same thing, beside ports that do what no other can.

Each port's controls act along one direction, y = sum_p phi(x) T_p' (b_p . u_p), phi = (1, latent), b_p spread over all numbers
of the control. Four of eight ports share one map T, so each of them carries much control and alone matters little. The
others are irreplaceable and of unlike strength, and a strong one needs little control for what it does: neither the size of
a port's control nor the gradient there says what its loss would cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..shared.network import BLOCKS, CLASSES, LATENT, States, partner, port_keys, tensor
from ..shared.setting import Setting

WIDTH, SHARED = 6, 4  # numbers in a port's control; ports with the same map
GAINS = (1.0, 1.0, 3.0, 10.0, 30.0)  # squared, of a shared port and of the others; the last is the inverse of the penalty
PULLS = (0.55, 0.49, 0.45, 0.42)  # how much of the label each map but the shared one explains, in logits
SCALES = (1.6, 1.65, 1.7, 1.75, 1.8, 1.85, 1.9, 2.0)  # of the labels' dependence on the states, by system


@dataclass(frozen=True)
class Redundant:
    """A subject that is affine in additive controls: maps (P, C, F) of the ports, gains (P,)."""

    maps: Tensor
    gains: Tensor
    width: int = WIDTH
    dtype: torch.dtype = torch.float64

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(port_keys())

    def steered(self, signals: Mapping[str, Tensor], batch: States) -> Tensor:
        at = [self.ports.index(port) for port in signals]
        pushes = self.gains[at] * torch.stack(list(signals.values())).sum(1) / WIDTH**0.5
        return batch.tokens[:, 0] @ torch.tensordot(pushes, self.maps[at], 1).T


def ablation_setting(system: int, seed: int, *, pull: float = 1.3) -> Setting:
    """Return a system's plant with labels that its maps explain: 192 examples to train on, 64 held out.

    A system and its partner (0 and 7, 1 and 6 ...) have the same maps at exchanged ports: where one is redundant the other
    is not. pull: how much of the label the shared map explains; the less, the more each of the other ports matters beside one
    of those that share it.
    """
    rng = np.random.default_rng([23, min(system, partner(system))])
    ports, features, contrasts = 2 * BLOCKS, 1 + LATENT, CLASSES - 1
    axes = np.linalg.svd(np.eye(CLASSES) - 1 / CLASSES)[0][:, :contrasts]
    frame = np.linalg.qr(rng.standard_normal((contrasts * features, ports - SHARED + 1)))[0].T
    maps = np.einsum("ca,kaf->kcf", axes, frame.reshape(-1, contrasts, features))
    role = rng.permutation(ports)
    kind = np.maximum((role if system < partner(system) else ports - 1 - role) - SHARED + 1, 0)
    truth = SCALES[system] * np.einsum("k,kcf->cf", (pull, *PULLS), maps)

    def draw(split: int, size: int) -> States:
        noise = np.random.default_rng([29, system, seed, split])
        phi = np.hstack([np.ones((size, 1)), noise.standard_normal((size, LATENT))])
        score = phi @ truth.T + noise.gumbel(size=(size, CLASSES))
        return States(tensor(phi[:, None]), torch.ones(size, 1), torch.as_tensor(score.argmax(1)))

    plant = Redundant(tensor(maps[kind]), tensor(np.sqrt(np.array(GAINS)[kind])))
    return Setting({"bias": plant}, draw(0, 192), draw(1, 64), seed, 1 / GAINS[-1], 1e-2, 200)
