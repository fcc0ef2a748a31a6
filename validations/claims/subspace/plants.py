"""Plants of one subspace: deltas that act on one signal through maps of their own, on tasks that need the same signals or others.

The logits are linear in the signal, x' M_t z for delta t with numbers z, and M_t has orthonormal rows. What a task's labels need
lies in two directions: the same for all tasks, or the task's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.subjects import Readout

from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Params, Setting

SIGNALS, NEEDED, CLASSES = 32, 2, 2
NUMBERS = {"prefix": 32, "adapter": 40, "lora": 48}
STRENGTH, FAINT = 4.0, 0.4  # of the labels' dependence; standard deviation of what is not prominent
RECIPE = {"steps": 50, "batch_size": 32, "rates": (0.1,), "looks": 4, "code_steps": 40, "code_rates": (0.2,)}
OPTIONS = (
    RECIPE
    | {"joint_steps": 300, "joint_rate": 0.1, "sources": SYSTEMS - 1}
    | {"dimensions": (NEEDED,), "tested": NEEDED, "pooled": (NEEDED,)}
)


@dataclass(frozen=True, eq=False)
class Signalled:
    """A subject whose numbers z (n,) make one signal M z, M (SIGNALS, n); tokens (B, 1, SIGNALS) hold x."""

    map: Tensor
    width: int = SIGNALS
    dtype: torch.dtype = torch.float64
    ports: tuple[str, ...] = ("0.mlp",)
    backbone: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(device=torch.device("cpu")))

    @property
    def initial(self) -> Params:
        return {"z": torch.zeros(self.map.shape[1], dtype=self.dtype)}

    @property
    def readout(self) -> Readout:
        return Readout(torch.zeros(CLASSES, SIGNALS, dtype=self.dtype), torch.zeros(CLASSES, dtype=self.dtype))

    def steered(self, signals: Mapping[str, Tensor], batch: Batch) -> Tensor:
        score = batch.tokens[:, 0] @ signals[self.ports[0]]
        return torch.stack([-score / 2, score / 2], -1)

    def outputs(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        return self.steered({self.ports[0]: self.map @ params["z"]}, batch)

    def loss(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        return F.cross_entropy(self.outputs(params, batch), batch.labels)


def together(system: int, seed: int) -> Setting:
    """Return a task whose labels need a mixture of the same two signals as the other tasks'."""
    return _among(system, seed, lambda task: 0, 1.0)


def apart(system: int, seed: int) -> Setting:
    """Return a task whose labels need two signals that no other task needs, the ones that move its outputs most."""
    return _among(system, seed, lambda task: task, 1.0)


def faint(system: int, seed: int) -> Setting:
    """Return a task whose labels need two signals that move its outputs less than others do."""
    return _among(system, seed, lambda task: task, -1.0)


def _among(system: int, seed: int, place: Callable[[int], int], sign: float) -> Setting:
    tasks = [_setting(task, seed, place(task), sign) for task in range(SYSTEMS)]
    return replace(tasks[system], other_tasks=tuple(tasks[:system] + tasks[system + 1 :]))


def _setting(task: int, seed: int, place: int, sign: float) -> Setting:
    basis = np.linalg.qr(np.random.default_rng(281).standard_normal((SIGNALS, SIGNALS)))[0]
    needed = basis[:, NEEDED * place : NEEDED * (place + 1)]
    spread = np.ones(SIGNALS)
    rest = np.arange(SIGNALS) // NEEDED != place
    spread[rest if sign > 0 else ~rest] = FAINT
    angle = 2.0 * np.pi * task / SYSTEMS
    row = needed @ np.array([np.cos(angle), np.sin(angle)])

    def drawn(part: int, size: int) -> Batch:
        own = np.random.default_rng([293, task, seed, part])
        x = (spread * own.standard_normal((size, SIGNALS))) @ basis.T
        score = STRENGTH / (1.0 if sign > 0 else FAINT) * x @ row
        labels = (score + own.logistic(size=size) > 0).astype(int)
        return Batch(tensor(x)[:, None], torch.ones(size, 1, dtype=torch.bool), torch.as_tensor(labels))

    maps = {name: np.linalg.qr(np.random.default_rng([307, n]).standard_normal((n, SIGNALS)))[0].T for name, n in NUMBERS.items()}
    return Setting(
        subjects={name: Signalled(tensor(M)) for name, M in maps.items()},
        train=drawn(0, 128),
        dev=drawn(1, 128),
        test=drawn(2, 256),
        seed=seed,
        penalty=1.0,
        tolerance=1.0,
        evaluations=1,
        options=OPTIONS,
    )
