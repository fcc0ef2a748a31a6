"""Plants of healed states: layers that turn them, or stretch some, and attacks that leave the clean states' subspace, or do not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.ensemble import ensemble_lq
from theory.loss import CrossEntropy

from ..shared.among import Among, among
from ..shared.laws import Law
from ..shared.network import BLOCKS, CLASSES, LATENT, SEEDS, SYSTEMS, WIDTH, Plant, States, make_plant, plant_setting, tensor
from ..shared.plants import own
from ..shared.setting import Experiment, Params, Setting

LITTLE = 0.1  # of an attack on the states' subspace, where attacks are to leave it
ALL, SOME, VARIED = (1.0, 1.0), (LITTLE, 1.0), (LITTLE, 2.0)  # of an attack on the subspace, in the first system and in the last
READ = 0.5  # size of the readout off the subspace, where clean states have nothing
SHARPNESS = 3.0  # of the labels on the plainest direction


@dataclass(frozen=True)
class Chain(Plant):
    """x_(t+1) = theta_t (x_t + u_t), from x_0 = s + b + P w: state s, trained bias b, an attack w through the map P, laws u."""

    P: Tensor | None = None
    law: Law | None = None

    @property
    def places(self) -> tuple[str, ...]:
        return ("embedding", *(f"{t}.end" for t in range(len(self.A))))

    def healed(self, law: Law) -> "Chain":
        return replace(self, law=law)

    def visited(self, params: Params, batch: States, pushed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x, met = batch.tokens[:, 0] + params["bias"], {}
        if "embedding" in pushed:
            x = x + pushed["embedding"][:, 0] @ self.P.T
        for place, theta in zip(self.places, (*self.A, None), strict=True):
            own = (self.law or {}).get(place)
            if own is not None:
                x = x + x @ tensor(own.up @ own.down).T + tensor(own.bias)
            met[place] = x[:, None]
            x = x if theta is None else x @ theta.T
        return met

    def _run(self, params, batch, signals=None, disturbance=None):
        met = self.visited(params, batch, disturbance or {})
        return met[self.places[-1]][:, 0] @ self.C.T, {}, {}, {}


def chain_setting(
    system: int, seed: int, *, stretch: float = 1.0, off: float = 1.0, on: tuple[float, float] = (LITTLE, LITTLE)
) -> Setting:
    """Return a bias of the first state of a chain of layers whose clean states stay on a subspace of their own.

    Layers are rotations times a stretch of what is on the subspace and the same shrinkage of what is off it. The readout tells the
    labels on the subspace, and reads the other directions at random. off, on: how much passes of an attack off the subspace, and on it
    in the first system and in the last.
    """
    rng = np.random.default_rng([97, system])
    axes = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    here = axes[:, :LATENT] @ axes[:, :LATENT].T
    rest, theta = np.eye(WIDTH) - here, np.linalg.qr(rng.standard_normal((BLOCKS, WIDTH, WIDTH)))[0]
    layers, through = [], np.eye(WIDTH)
    for turn in theta:  # the subspace turns with the layers
        kept = through @ here @ through.T
        layers.append(turn @ (stretch * kept + (np.eye(WIDTH) - kept) / stretch))
        through = turn @ through
    basis = axes[:, :LATENT].T

    def draw(split: int, size: int) -> States:
        own = np.random.default_rng([101, system, seed, split])
        latent = own.standard_normal((size, LATENT))
        score = np.pad(SHARPNESS * latent[:, : CLASSES - 1], ((0, 0), (0, 1))) + own.gumbel(size=(size, CLASSES))
        return States.of(latent @ basis, np.ones((size, WIDTH)), score.argmax(1))

    train, test = draw(0, 64), draw(1, 128)
    x, labels = train.tokens[:, 0].numpy(), train.labels.numpy()
    G = np.einsum("cb,nk->ncbk", np.eye(CLASSES), x @ basis.T).reshape(len(x), CLASSES, -1)
    told = ensemble_lq(G, np.zeros((len(x), CLASSES)), CrossEntropy(labels), 0.01).z.reshape(CLASSES, -1) @ basis
    reads = told / stretch**BLOCKS + READ * stretch**BLOCKS * rng.standard_normal((CLASSES, WIDTH)) @ rest
    made = make_plant(system, {})
    plant = Chain(
        tensor(np.array(layers)),
        tensor(reads @ through.T),
        made.strength,
        {"bias": torch.zeros(WIDTH, dtype=torch.float64)},
        P=tensor(off * rest + np.linspace(*on, SYSTEMS)[system] * here),
    )
    return replace(
        plant_setting(SYSTEMS - 1, SEEDS * system + seed, {"prefix": plant}, 0.03, {}, tolerance=1e-3), train=train, test=test
    )


def chained(experiment: Experiment, **chain: Any) -> list[Among]:
    """Return the cells of the chains of every system."""
    return among(own(experiment, partial(chain_setting, **chain)))
