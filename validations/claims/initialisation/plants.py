"""Plants of a LoRA's start: linear maps side by side whose labels are drawn from themselves with a change of low rank.

The logits are linear in the change B A of every map, so that the law of the linear response is the answer as far as training text
tells it; training gets there from any start, in more steps. The readout does not see what the frozen maps put out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.initialisations import Readings, Start
from tuning.subjects import Readout

from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Setting

MAPS, READ, WRITTEN, CLASSES, RANK, SIZE = 2, 16, 12, 2, 2, 192
RECIPE = {"steps": 96, "batch_size": 64, "rates": (1e-3, 2e-3, 4e-3), "looks": 10}
SPREAD = np.geomspace(2.0, 0.5, READ)  # standard deviation of every number that a map reads


@dataclass(frozen=True, eq=False)
class SideBySide:
    """A subject of maps W (MAPS, WRITTEN, READ) side by side; tokens (B, MAPS, READ) hold what each of them reads."""

    weights: Tensor
    readouts: Tensor
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    delta: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(rank=RANK, scale=1.0))
    backbone: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(device=torch.device("cpu")))

    @property
    def readout(self) -> Readout:
        return Readout(self.readouts[0], torch.zeros(CLASSES, dtype=torch.float64))

    def outputs(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for t, (W, R) in enumerate(zip(self.weights, self.readouts, strict=True)):
            x = batch.tokens[:, t]
            put = x @ W.T + (x @ params[f"{t}.A"].T @ params[f"{t}.B"].T if f"{t}.A" in params else 0.0)
            total = total + put @ R.T
        return total

    def loss(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        return F.cross_entropy(self.outputs(params, batch), batch.labels)

    def readings(self, batch: Batch) -> Readings:
        keys, N = [str(t) for t in range(MAPS)], len(batch.labels)
        return Readings(
            dict(zip(keys, self.weights, strict=True)),
            {key: batch.tokens[:, t : t + 1] for t, key in enumerate(keys)},
            {key: R[None, :, None].expand(N, -1, -1, -1) for key, R in zip(keys, self.readouts, strict=True)},
            self.outputs({}, batch),
            batch.mask[:, :1],
            batch.labels,
        )

    def started(self, start: Start, *, subtracted: bool = False) -> "SideBySide":
        initial = {f"{key}.{name}": value for key, pair in start.items() for name, value in zip("BA", pair, strict=True)}
        change = torch.stack([B @ A for B, A in start.values()]) if subtracted else 0.0
        return replace(self, weights=self.weights - change, initial=initial)


def taught(system: int, seed: int) -> Setting:
    """Return a system's maps, the labels of its texts drawn from their logits after a change of rank one of each."""
    rng = np.random.default_rng([103, system])
    readouts = rng.standard_normal((MAPS, CLASSES, WRITTEN)) / np.sqrt(WRITTEN)
    weights = rng.standard_normal((MAPS, WRITTEN, READ)) / np.sqrt(READ)
    weights -= np.linalg.pinv(readouts) @ (readouts @ weights)
    rows = rng.standard_normal((MAPS, READ)) / SPREAD
    size = (2.0 + 2.0 * system / (SYSTEMS - 1)) / np.sqrt(np.sum((rows * SPREAD) ** 2))
    subject = SideBySide(tensor(weights), tensor(readouts))

    def drawn(part: int, count: int) -> Batch:
        own = np.random.default_rng([107, system, seed, part])
        x = SPREAD * own.standard_normal((count, MAPS, READ))
        score = size * np.einsum("ntq,tq->n", x, rows)
        labels = (score + own.logistic(size=count) > 0).astype(int)
        return Batch(tensor(x), torch.ones(count, MAPS, dtype=torch.bool), torch.as_tensor(labels))

    return Setting(
        subjects={"delta": subject},
        train=drawn(0, SIZE),
        dev=drawn(1, SIZE),
        test=drawn(2, 4 * SIZE),
        seed=seed,
        penalty=1.0,
        tolerance=1.0,
        evaluations=1,
        options=RECIPE,
    )
