"""Plants of healing: orthogonal layers whose attacks leave the states' subspace, or stay on it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from theory.ensemble import ensemble_lq
from theory.loss import CrossEntropy

from ..shared.law_plants import LawPlant
from ..shared.network import CLASSES, LATENT, SEEDS, SYSTEMS, WIDTH, make_plant, plant_setting, port_keys, tensor
from ..shared.setting import Setting


@dataclass(frozen=True)
class OrthogonalPlant(LawPlant):
    """x <- theta_t (x + P w_t) + u_t with orthogonal theta_t: a disturbance acts through the projection P, a control in full."""

    P: Tensor | None = None

    def _run(self, params, batch, signals=None, disturbance=None):
        x = batch.tokens[:, 0]
        if "embedding" in (disturbance or {}):
            x = x + disturbance["embedding"][:, 0] @ self.P
        inputs, base, used = {}, {}, {}
        for port, theta in zip(self.ports, self.A, strict=True):
            push = (disturbance or {}).get(port, torch.zeros(()))
            inputs[port] = x
            base[port] = (x + (push[:, 0] if push.ndim == 3 else push) @ self.P) @ theta.T if push.ndim else x @ theta.T
            used[port] = self._signal(params, port, base[port])
            x = base[port] + used[port] + (signals or {}).get(port, 0.0)
        return x @ self.C.T, inputs, base, used


def perturbation_setting(system: int, seed: int, *, off: bool) -> Setting:
    """Return a prefix (here a bias at the first port) on orthogonal layers; attacks leave the states' subspace, or stay on it.

    The readout is fitted to the labels on the subspace, and reads the other directions too, at random: nothing there matters
    until an attack puts something there. The data are the last system's, whose labels depend on the state most.
    """
    first, theta = port_keys()[0], torch.linalg.qr(make_plant(system, {}).A).Q
    rng = np.random.default_rng([23, system])
    setting = plant_setting(SYSTEMS - 1, SEEDS * system + seed, {}, 0.03, {}, tolerance=1e-3)
    x = setting.train.tokens[:, 0].numpy()
    basis = np.linalg.svd(x)[2][:LATENT]
    on = basis.T @ basis
    G = np.einsum("cb,nk->ncbk", np.eye(CLASSES), x @ basis.T).reshape(len(x), CLASSES, -1)
    fitted = ensemble_lq(G, np.zeros((len(x), CLASSES)), CrossEntropy(setting.train.labels.numpy()), 0.01).z
    readout = fitted.reshape(CLASSES, -1) @ basis + rng.standard_normal((CLASSES, WIDTH)) / 2 @ (np.eye(WIDTH) - on)
    through = np.linalg.multi_dot(theta.numpy()[::-1])
    plant = OrthogonalPlant(
        theta,
        tensor(readout @ through.T),
        torch.ones(len(theta), WIDTH, dtype=torch.float64),
        {f"{first}.bias": torch.zeros(WIDTH, dtype=torch.float64)},
        P=tensor(np.eye(WIDTH) - on if off else on),
    )
    return replace(setting, subjects={"prefix": plant})
