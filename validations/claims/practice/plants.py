"""Plants of tuning in practice: one linear layer before a readout, where learning keeps its features or must find them.

The readout reads h + U v, v what the layer sees: v = x, and the logits are linear in the delta's numbers U (linear in its
parameters); or v = E x with one row E that is tuned too and starts almost at right angles to the one that the labels need.
There the linearised problem moves U alone, on a feature that carries nothing, and training turns E first. Labels are drawn
from the logits of a teacher. What the labels need lies as much in directions in which x varies little as in others, so that
the first gradient, which weighs them by their variance, points elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.subjects import READOUT_PARAMETERS, Readout

from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Setting

WIDTH, SEEN, CLASSES, SIZE = 6, 48, 3, 256
SLANT = 0.1  # cosine of the row that is tuned, at the start, and the row that the labels need
RECIPE = {"steps": 240, "batch_size": 64, "rates": tuple(0.004 * 2.0**k for k in range(6)), "looks": 14, "head": "frozen"}
SLANTS = np.geomspace(0.15, 4.0, SYSTEMS)
# Half of the systems low and half high, so that what other systems say is far off; their partners are in the other half.
STRENGTHS = np.concatenate([np.geomspace(0.9, 1.1, SYSTEMS // 2), np.geomspace(3.5, 4.5, SYSTEMS // 2)])
LEVELS = np.concatenate([np.geomspace(0.03, 0.06, SYSTEMS // 2), np.geomspace(0.8, 1.6, SYSTEMS // 2)])
PACES = np.concatenate([np.geomspace(0.003, 0.004, SYSTEMS // 2), np.geomspace(0.06, 0.08, SYSTEMS // 2)])
MIXED = np.array([1.0, 2.8, 0.5, 4.0, 0.35, 2.0, 0.25, 0.7])  # units that do not go with the slants
UNITS = np.outer([0.035, 0.28], np.geomspace(0.7, 1.4, SYSTEMS // 2))  # partners differ eightfold
UNITS = np.concatenate([UNITS[0], UNITS[1][::-1]])


@dataclass(frozen=True, eq=False)
class Layer:
    """A subject on one layer: tokens (B, 1, WIDTH + SEEN) hold h and x; parameters are up (WIDTH, .), and down where it is tuned.

    level: at which the signal saturates. unit: what the numbers are measured in.
    """

    readout: Readout
    initial: Mapping[str, Tensor]
    level: float = np.inf
    unit: float = 1.0

    @property
    def backbone(self) -> SimpleNamespace:
        """Return the device that it is on."""
        return SimpleNamespace(device=self.readout.weight.device)

    def with_readout(self) -> "Layer":
        own = dict(zip(READOUT_PARAMETERS, (self.readout.weight, self.readout.bias), strict=True))
        return replace(self, initial={**self.initial, **own})

    def outputs(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        h, x = batch.tokens[:, 0].split([WIDTH, SEEN], dim=1)
        seen = self.unit * (x @ params["down"].T if "down" in params else x)
        signal = seen @ params["up"].T
        signal = signal if np.isinf(self.level) else self.level * torch.tanh(signal / self.level)
        weight, bias = (params.get(name, own) for name, own in zip(READOUT_PARAMETERS, self._head, strict=True))
        return F.linear(h + signal, weight, bias)

    @property
    def _head(self) -> tuple[Tensor, Tensor]:
        return self.readout.weight, self.readout.bias

    def loss(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        return F.cross_entropy(self.outputs(params, batch), batch.labels)


def _spread() -> np.ndarray:
    """Return the standard deviation of every number of x."""
    return np.geomspace(1.0, 0.1, SEEN)


def _row(system: int) -> np.ndarray:
    """Return the direction that the labels need, as much of it in each number's own unit."""
    signs = np.random.default_rng([31, system]).choice([-1.0, 1.0], SEEN)
    row = signs / _spread()
    return row / np.linalg.norm(row)


def _setting(
    system: int,
    seed: int,
    *,
    slant: float | None = None,
    level: float = np.inf,
    unit: float = 1.0,
    strength: float | None = None,
    like: int | None = None,
    dev: int = SIZE,
) -> Setting:
    """Return a system's texts on its own layer, or on that of the system it is `like`."""
    layer = system if like is None else like
    rng = np.random.default_rng([37, layer])
    readout = rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    strength = 1.5 + system / (SYSTEMS - 1) if strength is None else strength
    push = rng.standard_normal(WIDTH)
    row = _row(layer)
    push *= strength / (np.std(readout @ push) * np.linalg.norm(row * _spread()))

    def drawn(part: int, size: int = SIZE) -> Batch:
        own = np.random.default_rng([41, system, seed, part])
        h, x = own.standard_normal((size, WIDTH)), _spread() * own.standard_normal((size, SEEN))
        scores = (h + np.outer(x @ row, push)) @ readout.T + own.gumbel(size=(size, CLASSES))
        tokens = tensor(np.concatenate([h, x], axis=1))[:, None]
        return Batch(tokens, torch.ones(size, 1, dtype=torch.bool), torch.as_tensor(scores.argmax(1)))

    initial = {"up": torch.zeros(WIDTH, SEEN, dtype=torch.float64)}
    if slant is not None:
        across = np.random.default_rng([43, system, seed]).standard_normal(SEEN) / _spread()
        across -= (across @ (row * _spread() ** 2)) / (row @ (row * _spread() ** 2)) * row
        down = _unit(across) + slant * _unit(row)
        initial = {"down": tensor(down)[None], "up": torch.zeros(WIDTH, 1, dtype=torch.float64)}
    head = Readout(tensor(readout), torch.zeros(CLASSES, dtype=torch.float64))
    train, test = drawn(0), drawn(2)
    return Setting(
        subjects={"delta": Layer(head, initial, level, unit)},
        train=train,
        dev=drawn(1, dev),
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
    return _setting(system, seed)


def varied(system: int, seed: int) -> Setting:
    """Return the linear layer with little to learn in half of the systems and much in the others."""
    return _setting(system, seed, strength=STRENGTHS[system])


def learnt_features(system: int, seed: int) -> Setting:
    """Return the layer whose one row must turn by a right angle before anything is learnt."""
    return _setting(system, seed, slant=SLANT)


def saturating(system: int, seed: int) -> Setting:
    """Return the layer whose signal saturates, the sooner the earlier the system."""
    return _setting(system, seed, level=LEVELS[system])


def unlike(system: int, seed: int) -> Setting:
    """Return the same layer with dev texts on which the signal is ten times smaller and saturates as much later."""
    made = saturating(system, seed)
    tokens = made.dev.tokens.clone()
    tokens[..., WIDTH:] /= 10
    return replace(made, dev=made.dev._replace(tokens=tokens))


def scaled(system: int, seed: int) -> Setting:
    """Return the linear layer whose numbers are measured in another unit in every system, up to elevenfold."""
    made = _setting(system, seed, unit=UNITS[system], strength=2.0, like=4, dev=4 * SIZE)
    rates = tuple(0.03 * 2.0**k / UNITS[system] for k in range(8))
    return replace(made, options=made.options | {"steps": 4, "batch_size": 128, "rates": rates, "relinearisations": 0})


def paced(system: int, seed: int) -> Setting:
    """Return the linear layer that is trained at one rate, a slow one in half of the systems and a fast one in the others."""
    made = _setting(system, seed, strength=2.0, dev=4 * SIZE)
    return replace(made, options=made.options | {"rates": (PACES[system],), "relinearisations": 0})


def slanted(system: int, seed: int) -> Setting:
    """Return the layer whose one row must turn, in every system by another angle."""
    return _setting(system, seed, slant=SLANTS[system], unit=MIXED[system], strength=2.5)


def reversed_features(system: int, seed: int) -> Setting:
    """Return the same layer with held-out text on which the row that must be found points the other way."""
    made = slanted(system, seed)
    tokens = made.test.tokens.clone()
    tokens[..., WIDTH:] *= -1
    return replace(made, test=made.test._replace(tokens=tokens))


def hidden_features(system: int, seed: int) -> Setting:
    """Return the layer whose one row starts at a right angle to the one that the labels need, so that nothing points there."""
    return _setting(system, seed, slant=0.0)
