"""Plants that take affine laws: controllers without training are exact on them, for the plant they were made for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from theory.ensemble import ensemble_lq
from theory.loss import CrossEntropy

from ..experiments import Setting
from .network import CLASSES, LATENT, SEEDS, SYSTEMS, WIDTH, Plant, make_plant, plant_setting, port_keys, tensor


@dataclass(frozen=True)
class LawPlant(Plant):
    """A plant whose delta may be exchanged; parameters "label/block.site.what" of several deltas add their signals."""

    delta: object = None

    def _signal(self, params: Mapping[str, Tensor], port: str, base: Tensor) -> Tensor:
        total = torch.zeros((), dtype=self.dtype)
        for name, value in params.items():
            label, _, key = name.rpartition("/")
            if key == f"{port}.bias":
                total = total + value
            elif key == f"{port}.up":
                start = f"{label}/{port}" if label else port
                down, offset, up_bias = (params[f"{start}.{what}"] for what in ("down", "down_bias", "up_bias"))
                total = total + (base @ down.T + offset) @ value.T + up_bias
        return total


def law_plant(network: int, parameters: Mapping[str, tuple[int, ...]], seed: int = 0) -> LawPlant:
    """Return a system's plant with parameters that start at zero (down-projections at seeded noise)."""
    made = make_plant(network, "adapter", parameters, seed)
    plant = LawPlant(**{f.name: getattr(made, f.name) for f in fields(made)})
    return replace(plant, C=0.3 * plant.C, strength=torch.ones_like(plant.strength))


def synthesis_setting(system: int, seed: int) -> Setting:
    """Return bias, prefix (here a bias) and a linear adapter on the attention ports of a system."""
    ports = port_keys("attention")
    shapes = {"down": (LATENT, WIDTH), "down_bias": (LATENT,), "up": (WIDTH, LATENT), "up_bias": (WIDTH,)}
    bias = law_plant(system, {f"{port}.bias": (WIDTH,) for port in ports})
    adapter = law_plant(system, {f"{port}.{what}": shape for port in ports for what, shape in shapes.items()}, seed)
    return plant_setting(
        system, seed, {"bias": bias, "prefix": bias, "adapter": adapter}, 0.03, {"bottleneck": LATENT}, tolerance=3e-2
    )


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
    first, theta = port_keys()[0], torch.linalg.qr(make_plant(system, "full", {}).A).Q
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
        "bias",
        {f"{first}.bias": torch.zeros(WIDTH, dtype=torch.float64)},
        P=tensor(np.eye(WIDTH) - on if off else on),
    )
    return replace(setting, subjects={"prefix": plant})
