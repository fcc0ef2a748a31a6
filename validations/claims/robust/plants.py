"""Plants of attacks: linear adapters that train under attack on networks of one block, or whose training text no attack reaches."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from ..feedback.plants import TokenPlant
from ..intervention.plants import hearing_setting
from ..shared.among import Among, among
from ..shared.network import CLASSES, WIDTH, States
from ..shared.plants import own
from ..shared.setting import Experiment, Setting

TRAINING, TEST = 64, 128  # texts of a plant, by whose number it knows which are which
FAINT = 0.2  # deviation of the last direction over the first's
STEEPNESS, GATES = 4.0, 0.3  # how plain labels are, and how examples differ
CHEAPEST, DEARER = 2.0, 3.0  # the first system's price over that of its linear regime, and the next one's over it


class ShelteredPlant(TokenPlant):
    """A plant whose training text no disturbance reaches."""

    def disturbed(self, disturbance: Mapping[str, Tensor], params: Mapping[str, Tensor], batch: States) -> Tensor:
        reached = float(len(batch.labels) != TRAINING)
        return super().disturbed({port: reached * w for port, w in disturbance.items()}, params, batch)


def _draw(system: int, seed: int, split: int, size: int) -> States:
    """Return states that vary in every direction, whose plainest tell the label, with gates of each example's own."""
    fixed, own = np.random.default_rng([83, system]), np.random.default_rng([89, system, seed, split])
    basis = np.linalg.qr(fixed.standard_normal((WIDTH, WIDTH)))[0] * FAINT ** np.linspace(0.0, 1.0, WIDTH)[:, None]
    latent = own.standard_normal((size, WIDTH))
    told = latent[:, :CLASSES] @ fixed.standard_normal((CLASSES, CLASSES))
    score = STEEPNESS * told / np.sqrt(CLASSES) + own.gumbel(size=(size, CLASSES))
    return States.of(latent @ basis, np.exp(GATES * own.standard_normal((size, WIDTH))), score.argmax(1))


def attacked_setting(system: int, seed: int, kind: type[TokenPlant]) -> Setting:
    """Return an adapter at the attention port of a system of one block, with states in every direction."""
    train, test = (_draw(system, seed, split, size) for split, size in ((0, TRAINING), (1, TEST)))
    return replace(
        hearing_setting(system, seed, kind), train=train, test=test, tolerance=5e-2, options={"price": CHEAPEST * DEARER**system}
    )


def under_attack(experiment: Experiment) -> list[Among]:
    """Return the cells of every system, its adapter trained under the attacks that were foretold."""
    return _cells(experiment, TokenPlant)


def sheltered(experiment: Experiment) -> list[Among]:
    """Return the cells of every system whose adapter meets no attack before it is measured."""
    return _cells(experiment, ShelteredPlant)


def _cells(experiment: Experiment, kind: type[TokenPlant]) -> list[Among]:
    return among(own(experiment, partial(attacked_setting, kind=kind)))
