"""Plants of the facts: a linear layer under each delta, which sees a part of what the labels need, in a unit of its own.

The layer is that of `practice.plants`, on texts that all deltas share: a base h and numbers x, of which a delta sees the first few.
Labels are drawn from the log odds of a teacher that reads all of them alike, so that the more a delta sees the more it gains.
AdamW moves every number by its rate, so that a delta whose numbers are in a larger unit arrives sooner.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from tuning.backbones import Batch
from tuning.subjects import Readout

from ..practice.plants import SEEN, WIDTH, Layer
from ..shared.claim import Cell, side_by_side
from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Experiment, Setting

FULL = "full"
PUBLISHED_ORDER = (FULL, "lora", "adapter", "prefix", "prompt")
USED = 16  # of the numbers x, that carry what the labels need where a plant says nothing else
SIZES = (512, 256, 1024)  # texts to train on, of dev, and held out
RECIPE = {"steps": 240, "batch_size": 32, "rates": (0.01,), "looks": 16}


@dataclass(frozen=True)
class Kind:
    """What makes a plant: how many numbers each delta sees, the unit of its own, and how many carry what labels need."""

    seen: Mapping[str, int]
    units: Mapping[str, float] = field(default_factory=dict)
    used: int = USED

    def reversed(self) -> "Kind":
        """Return the same with what belongs to the first delta given to the last, and so on."""
        return Kind(
            *({name: one[other] for name, other in zip(one, [*one][::-1], strict=True)} for one in (self.seen, self.units))
        )


APART = Kind(dict(zip(PUBLISHED_ORDER, (16, 12, 9, 6, 3), strict=True)))
ALIKE = Kind(dict(zip(PUBLISHED_ORDER, (16, 15, 15, 15, 14), strict=True)))
SHORT = Kind(dict(zip(PUBLISHED_ORDER, (16, 4, 4, 3, 2), strict=True)))
PACED = Kind(dict.fromkeys(PUBLISHED_ORDER, USED), dict(zip(PUBLISHED_ORDER, (2.0, 0.8, 0.8, 0.35, 0.15), strict=True)))


def settings(kind: Kind, system: int) -> dict[str, Setting]:
    """Return the setting of every delta of a plant on a system: the same texts, and of x what the delta sees."""
    rng = np.random.default_rng([71, system])
    teacher = np.zeros(SEEN)
    teacher[: kind.used] = rng.choice([-1.0, 1.0], kind.used) * (2.0 + 0.5 * system / (SYSTEMS - 1)) / np.sqrt(kind.used)
    batches: list[tuple[np.ndarray, np.ndarray, torch.Tensor]] = []
    for part, size in enumerate(SIZES):
        own = np.random.default_rng([73, system, part])
        h, x = own.standard_normal((size, WIDTH)) / np.sqrt(WIDTH), own.standard_normal((size, SEEN))
        odds = h.sum(1) + x @ teacher
        batches.append((h, x, torch.as_tensor((odds + own.logistic(size=size) > 0).astype(int))))
    head = Readout(tensor(np.outer([-0.5, 0.5], np.ones(WIDTH))), torch.zeros(2, dtype=torch.float64))
    made = {}
    for name, count in kind.seen.items():
        mask = np.arange(SEEN) < count
        train, dev, test = (_batch(h, x * mask, labels) for h, x, labels in batches)
        layer = Layer(head, {"up": torch.zeros(WIDTH, SEEN, dtype=torch.float64)}, unit=kind.units.get(name, 1.0))
        made[name] = Setting(
            subjects={"delta": layer},
            train=train,
            dev=dev,
            test=test,
            seed=0,
            penalty=1.0,
            tolerance=1.0,
            evaluations=1,
            options=RECIPE,
        )
    return made


def _batch(h: np.ndarray, x: np.ndarray, labels: torch.Tensor) -> Batch:
    tokens = tensor(np.concatenate([h, x], axis=1))[:, None]
    return Batch(tokens, torch.ones(len(labels), 1, dtype=torch.bool), labels)


def compared(
    experiment: Experiment,
    kind: Kind,
    deltas: tuple[str, ...] = (FULL,),
    given: Callable[[str, Setting], Setting] = lambda name, setting: setting,
    **options: object,
) -> list[Cell]:
    """Return the cells of some deltas on every system, each beside those of the others.

    given: what a delta is given of its setting. options: over those of the recipe.
    """
    cells = []
    for system in range(SYSTEMS):
        for name, setting in settings(kind, system).items():
            setting = given(name, replace(setting, options=setting.options | options))
            predicted = experiment.predict(setting)
            cells.append(Cell(f"system {system}", name, 0, predicted, experiment.measure(setting, predicted)))
    return [cell for cell in side_by_side(cells) if cell.delta in deltas]
