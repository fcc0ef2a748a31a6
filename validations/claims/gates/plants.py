"""Plants of gates: one layer of heads with a slot each, whose gates decide the labels.

A token x gets sum_h lambda_h(x) v_h with lambda_h = sigmoid(q_h . k_h), q_h = Q_h x; the readout reads the mean over tokens. Labels
are drawn from a teacher with other keys. Where values are large, the first derivatives see which way the keys must turn;
where they start at next to nothing, at random, keys turn towards what the random values need, and training finds others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.subjects import Readout

from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Setting

HEADS, TOKENS, READ, WIDTH, CLASSES, SIZE = 4, 5, 8, 6, 3, 512
TURN = np.linspace(0.08, 0.12, SYSTEMS)  # of the teacher's keys from those at the start
STRENGTH = 150.0  # of the logits in what the heads put out
SPREAD = np.geomspace(2.0, 0.25, READ)  # of the numbers of a token: the first gradient weighs them by their variance
RECIPE = {"steps": 200, "batch_size": 64, "rates": tuple(0.002 * 2.0**k for k in range(8)), "looks": 12}


@dataclass(frozen=True, eq=False)
class Gated:
    """A subject of heads with one slot each; tokens (B, TOKENS, READ), parameters keys (HEADS, READ) and values (HEADS, WIDTH)."""

    queries: Tensor
    values: Tensor
    readout: Readout
    initial: Mapping[str, Tensor]

    @property
    def backbone(self) -> SimpleNamespace:
        """Return the device that it is on."""
        return SimpleNamespace(device=self.readout.weight.device)

    def log_odds(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return q_h . k_h at every token (B, T, HEADS)."""
        return torch.einsum("btr,hrs,hs->bth", batch.tokens, self.queries, params["keys"])

    def outputs(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        gates = torch.sigmoid(self.log_odds(params, batch))
        return F.linear((gates @ params.get("values", self.values)).mean(1), self.readout.weight, self.readout.bias)

    def loss(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        return F.cross_entropy(self.outputs(params, batch), batch.labels)


def _setting(system: int, seed: int, *, values: float | None = None) -> Setting:
    """Return a system whose values start at the teacher's, or at random ones of a size."""
    rng = np.random.default_rng([61, system])
    queries = np.repeat([np.linalg.qr(one)[0] for one in rng.standard_normal((HEADS // 2, READ, READ))], 2, 0)
    keys, turn = np.repeat(rng.standard_normal((HEADS // 2, READ)), 2, 0) / 2, rng.standard_normal((HEADS, READ))
    held = np.repeat(rng.standard_normal((HEADS // 2, WIDTH)), 2, 0) * np.array([[1.0], [-1.0]] * (HEADS // 2))
    readout = STRENGTH * rng.standard_normal((CLASSES, WIDTH)) / np.sqrt(WIDTH)
    teacher = keys + TURN[system] * turn
    initial = {"keys": tensor(keys)}
    if values is not None:
        initial["values"] = tensor(values * np.random.default_rng([67, system, seed]).standard_normal(held.shape))

    def drawn(part: int) -> Batch:
        own = np.random.default_rng([71, system, seed, part])
        x = SPREAD * own.standard_normal((SIZE, TOKENS, READ))
        gates = 1 / (1 + np.exp(-np.einsum("btr,hrs,hs->bth", x, queries, teacher)))
        scores = (gates @ held).mean(1) @ readout.T
        labels = (scores + own.gumbel(size=scores.shape)).argmax(1)
        return Batch(tensor(x), torch.ones(SIZE, TOKENS, dtype=torch.bool), torch.as_tensor(labels))

    head = Readout(tensor(readout), torch.zeros(CLASSES, dtype=torch.float64))
    return Setting(
        subjects={"delta": Gated(tensor(queries), tensor(held), head, initial)},
        train=drawn(0),
        dev=drawn(1),
        test=drawn(2),
        seed=seed,
        penalty=1.0,
        tolerance=1.0,
        evaluations=1,
        options=RECIPE,
    )


def told(system: int, seed: int) -> Setting:
    """Return the heads whose values are those that the labels need."""
    return _setting(system, seed, values=None)


def untold(system: int, seed: int) -> Setting:
    """Return the heads whose values start at next to nothing, at random."""
    return _setting(system, seed, values=1e-3)
