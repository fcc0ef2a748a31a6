"""Plants of the limits of prefixes: one attention head, whose reach under a prefix is provable.

At each of n positions the head sees two tokens, which carry the signs a and b in directions of their own, with frozen
attention weights w and 1 - w; its readout, which also sees a one, reads a. A prefix turns the head's output t into
(1 - lambda) t + lambda v, with lambda and v the same for every example, so the answer at a position stays a function of a
alone: asked for b, which is independent of a, no prefix is right at one position more than half the time, nor on a whole
sequence more than 2^-n of it. A rank-1 change of the readout from a to b is right always. Asked for a constant, a prefix is
right always, as full tuning and LoRA are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.subjects import Readout

from ..shared.setting import Setting

POSITIONS, SLOTS = 10, 2
WEIGHTS = (0.6, 0.64, 0.68, 0.72, 0.76, 0.8, 0.85, 0.9)  # the attention that the token carrying a gets, by system
STEPS = {"full": 40, "prefix": 400, "lora": 40}
SIZE = 32


@dataclass(frozen=True, eq=False)
class Head:
    """A subject on one head: tokens (B, n, 2) hold the signs a and b; parameters are those of full, prefix or LoRA."""

    weight: float
    readout: Readout
    initial: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        return sum(value.numel() for value in self.initial.values())

    def outputs(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the logits (B, n, 2)."""
        context = torch.tensor([self.weight, 1 - self.weight]).log() + params.get("scores", 0.0)
        keys = params.get("keys", torch.zeros(0, POSITIONS))
        attention = torch.softmax(torch.cat([keys.T, context.expand(POSITIONS, 2)], dim=1), dim=1)
        slots = len(keys)
        state = attention[:, slots:] * batch.tokens
        if slots:
            state = state + attention[:, :slots] @ params["values"]
        state = torch.cat([state, torch.ones_like(state[..., :1])], dim=-1)
        matrix = self.readout.weight + params.get("matrix", 0.0)
        if "B" in params:
            matrix = matrix + params["B"] @ params["A"]
        return F.linear(state, matrix, self.readout.bias)

    def loss(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        return F.cross_entropy(self.outputs(params, batch).flatten(0, 1), batch.labels.flatten())

    def solved(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        with torch.no_grad():
            return (self.outputs(params, batch).argmax(-1) == batch.labels).all(-1)


def _batch(size: int, seed: int, *, constant: bool) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (size, POSITIONS, 2), generator=generator)
    labels = torch.ones(size, POSITIONS, dtype=torch.long) if constant else signs[..., 1]
    return Batch(2.0 * signs - 1.0, torch.ones(size, POSITIONS, dtype=torch.bool), labels)


def _setting(system: int, seed: int, *, constant: bool) -> Setting:
    generator = torch.Generator().manual_seed(100 * system + seed)
    readout = Readout(torch.tensor([[-4.0, 0.0, 0.0], [4.0, 0.0, 0.0]]), torch.zeros(2))

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    initial = {
        "full": {"scores": torch.zeros(2), "matrix": torch.zeros(2, 3)},
        "prefix": {"keys": draw(SLOTS, POSITIONS), "values": draw(SLOTS, 2)},
        "lora": {"A": draw(1, 3), "B": torch.zeros(2, 1)},
    }
    test = _batch(1024, 7000 + 100 * system + seed, constant=constant)
    return Setting(
        subjects={role: Head(WEIGHTS[system], readout, start) for role, start in initial.items()},
        train=_batch(SIZE * max(STEPS.values()), 100 * system + seed, constant=constant),
        test=test,
        seed=seed,
        penalty=1e-3,
        tolerance=0.0,
        evaluations=max(STEPS.values()),
        options={
            "steps": STEPS,
            "rates": {role: (0.3,) for role in STEPS},
            "batch_size": SIZE,
            "dev": _batch(256, 9000 + 100 * system + seed, constant=constant),
            "groups": torch.zeros(len(test.labels), dtype=torch.long),
        },
    )


def other_token(system: int, seed: int) -> Setting:
    """Return the head asked for what its other token carries: out of the reach of every prefix."""
    return _setting(system, seed, constant=False)


def constant_answer(system: int, seed: int) -> Setting:
    """Return the head asked for the same answer everywhere: a prefix can bias the readout to it."""
    return _setting(system, seed, constant=True)
