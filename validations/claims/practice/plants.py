"""Plants of tuning in practice: one linear layer before a readout, where learning keeps its features or must find them.

The readout reads h + U v, v what the layer sees: v = x, and the logits are linear in the delta's numbers U (linear in its
parameters); or v = E x with one row E that is tuned too and starts almost at right angles to the one that the labels need.
There the linearised problem moves U alone, on a feature that carries nothing, and training turns E first. Labels are drawn
from the logits of a teacher. What the labels need lies as much in directions in which x varies little as in others, so that
the first gradient, which weighs them by their variance, points elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.subjects import READOUT_PARAMETERS, Readout

from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Setting

WIDTH, SEEN, CLASSES, SIZE = 6, 48, 3, 512
SLANT = 0.1  # cosine of the row that is tuned, at the start, and the row that the labels need
RECIPE = {"steps": 240, "batch_size": 64, "rates": (1e-2, 3e-2, 1e-1), "looks": 14, "head": "frozen"}


@dataclass(frozen=True, eq=False)
class Layer:
    """A subject on one layer: tokens (B, 1, WIDTH + SEEN) hold h and x; parameters are up (WIDTH, .), and down where it is tuned."""

    readout: Readout
    initial: Mapping[str, Tensor]

    def with_readout(self) -> "Layer":
        own = dict(zip(READOUT_PARAMETERS, (self.readout.weight, self.readout.bias), strict=True))
        return replace(self, initial={**self.initial, **own})

    def outputs(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        h, x = batch.tokens[:, 0].split([WIDTH, SEEN], dim=1)
        seen = x @ params["down"].T if "down" in params else x
        weight, bias = (params.get(name, own) for name, own in zip(READOUT_PARAMETERS, self._head, strict=True))
        return F.linear(h + seen @ params["up"].T, weight, bias)

    @property
    def _head(self) -> tuple[Tensor, Tensor]:
        return self.readout.weight, self.readout.bias

    def loss(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return F.cross_entropy(self.outputs(params, batch), batch.labels)


def _spread() -> np.ndarray:
    """Return the standard deviation of every number of x."""
    return np.geomspace(1.0, 0.1, SEEN)


def _row(system: int) -> np.ndarray:
    """Return the direction that the labels need, as much of it in each number's own unit."""
    signs = np.random.default_rng([31, system]).choice([-1.0, 1.0], SEEN)
    row = signs / _spread()
    return row / np.linalg.norm(row)


def _setting(system: int, seed: int, *, turns: bool) -> Setting:
    rng = np.random.default_rng([37, system])
    readout = rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    strength = 1.5 + system / (SYSTEMS - 1)
    push = rng.standard_normal(WIDTH)
    row = _row(system)
    push *= strength / (np.std(readout @ push) * np.linalg.norm(row * _spread()))

    def drawn(part: int) -> Batch:
        own = np.random.default_rng([41, system, seed, part])
        h, x = own.standard_normal((SIZE, WIDTH)), _spread() * own.standard_normal((SIZE, SEEN))
        scores = (h + np.outer(x @ row, push)) @ readout.T + own.gumbel(size=(SIZE, CLASSES))
        tokens = tensor(np.concatenate([h, x], axis=1))[:, None]
        return Batch(tokens, torch.ones(SIZE, 1, dtype=torch.bool), torch.as_tensor(scores.argmax(1)))

    initial = {"up": torch.zeros(WIDTH, SEEN, dtype=torch.float64)}
    if turns:
        across = np.random.default_rng([43, system, seed]).standard_normal(SEEN) / _spread()
        across -= (across @ (row * _spread() ** 2)) / (row @ (row * _spread() ** 2)) * row
        down = _unit(across) + SLANT * _unit(row)
        initial = {"down": tensor(down)[None], "up": torch.zeros(WIDTH, 1, dtype=torch.float64)}
    head = Readout(tensor(readout), torch.zeros(CLASSES, dtype=torch.float64))
    train, dev, test = map(drawn, range(3))
    return Setting(
        subjects={"delta": Layer(head, initial)},
        train=train,
        dev=dev,
        test=test,
        seed=seed,
        penalty=1.0,
        tolerance=1.0,
        evaluations=1,
        options=RECIPE,
    )


def _unit(row: np.ndarray) -> np.ndarray:
    """Return a row scaled so that what it reads of x has standard deviation one."""
    return row / np.linalg.norm(row * _spread())


def fixed_features(system: int, seed: int) -> Setting:
    """Return the layer whose logits are linear in what is tuned: training ends where the linearised problem does."""
    return _setting(system, seed, turns=False)


def learnt_features(system: int, seed: int) -> Setting:
    """Return the layer whose one row must turn by a right angle before anything is learnt."""
    return _setting(system, seed, turns=True)
