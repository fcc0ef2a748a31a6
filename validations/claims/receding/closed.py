"""A network with an affine law at work at some ports: what it answers to further signals, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve_triangular
from torch import Tensor

from theory.receding import Gains, Loop
from theory.shared_gain import Ensemble, energy_price, reduced
from tuning.deltas import Combined, PortBias
from tuning.subjects import place_energy

from ..feedback.experiment import Seen, token_response
from ..shared.laws import with_law
from ..shared.setting import Params
from ..shared.training import cross_entropy, logits, taken


@dataclass(frozen=True, eq=False)
class Closed:
    """A batch of a network whose laws read what `seen` says, u = k + K B'(y - centre), under the price r of signal energy."""

    subject: Any
    ports: tuple[str, ...]
    seen: Seen
    batch: Any
    r: float

    @property
    def frame(self) -> Any:
        """Return the subject whose delta is a law."""
        return with_law(self.subject, self.ports)

    @property
    def _behind(self) -> Any:
        """The subject with a law and further vectors behind it, "law/..." and "push/..." of its parameters."""
        parts = (("law", self.frame.delta), ("push", PortBias(ports=self.ports)))
        return replace(self.subject, delta=Combined(parts))

    @cached_property
    def _roots(self) -> tuple[np.ndarray, ...]:
        return tuple(np.linalg.cholesky(S) for S in energy_price(self.seen.ensemble))

    @cached_property
    def _reading(self) -> Params:
        """What an adapter reads in coordinates in which the energy at rest is the square of its numbers."""
        made = {}
        for port, B, centre, L in zip(self.ports, self.seen.bases, self.seen.centres, self._roots, strict=True):
            down = solve_triangular(L, B.T, lower=True)
            made |= {f"{port}.down": self._own(down), f"{port}.down_bias": self._own(-down @ centre)}
        return made

    def _own(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=self.subject.dtype)

    def numbers(self, law: Gains) -> Params:
        """Return a law as (k, K L) of every port, S = L L' what is read at rest: its energy there is the square of the numbers."""
        made = {}
        for port, k, K, L in zip(self.ports, *law, self._roots, strict=True):
            made |= {f"{port}.up": self._own(K @ L), f"{port}.up_bias": self._own(k)}
        return made

    def law(self, numbers: Params) -> Gains:
        """Return the law of such numbers."""
        k = tuple(numbers[f"{port}.up_bias"].double().cpu().numpy() for port in self.ports)
        ups = (numbers[f"{port}.up"].double().cpu().numpy() for port in self.ports)
        return k, tuple(solve_triangular(L, Z.T, lower=True, trans="T").T for Z, L in zip(ups, self._roots, strict=True))

    def value(self, numbers: Params, rows: Tensor | None = None) -> Tensor:
        """Return the mean loss plus r/2 times the energy of the law of such numbers on some examples; differentiable."""
        batch = self.batch if rows is None else taken(self.batch, rows)
        return self.frame.priced_loss(self._reading | dict(numbers), batch, self.r)

    def told(self, numbers: Params, batch: Any) -> tuple[float, float]:
        """Return the mean loss and the accuracy of any batch under the law of such numbers."""
        outputs, labels = logits(self.frame.outputs, self._reading | dict(numbers), batch), batch.labels.cpu().numpy()
        return cross_entropy(outputs, labels), float(np.mean(outputs.argmax(-1) == labels))

    def _pushed(self, law: Gains, pushes: Params) -> Params:
        return {f"law/{name}": value for name, value in (self._reading | self.numbers(law)).items()} | {
            f"push/{port}.bias": value for port, value in pushes.items()
        }

    def objective(self, law: Gains) -> float:
        """Return the mean loss plus r/2 times the energy with the law installed in the network."""
        with torch.no_grad():
            return float(self.value(self.numbers(law)))

    def close(self, law: Gains) -> Loop:
        """Return the ensemble in the loop that the law closes, with the pull of later laws' energy."""
        subject, mask = self._behind, self.seen.ensemble.weights > 0.0
        (N, T), d, dtype = mask.shape, self.subject.width, self.subject.dtype
        G, y0 = token_response(
            lambda pushes, texts: subject.outputs(self._pushed(law, pushes), texts), subject, self.ports, self.batch
        )
        pushes = {port: torch.zeros(N, T, d, dtype=dtype, requires_grad=True) for port in self.ports}
        rolled = subject.rollout(self._pushed(law, pushes), self.batch)
        energy = sum(place_energy(rolled.signals[port] - pushes[port], self.batch.mask) for port in self.ports)
        slopes = torch.autograd.grad(0.5 * self.r * energy, list(pushes.values()), allow_unused=True)
        pull = tuple(np.zeros((N, T, d)) if s is None else s.double().cpu().numpy() * mask[..., None] for s in slopes)
        return Loop(Ensemble(G, self._read(rolled), y0, self.seen.ensemble.weights), *law, pull)

    def _read(self, rolled: Any) -> tuple[np.ndarray, ...]:
        """What laws read in a rollout, (N, T, q) per port."""
        states = (rolled.base[port].detach().double().cpu().numpy() for port in self.ports)
        return tuple((x - c) @ B for x, B, c in zip(states, self.seen.bases, self.seen.centres, strict=True))

    def cut(self, law: Gains, ranks: Sequence[int]) -> Gains:
        """Return the law with each gain cut to a rank in the price of what it reads while it works."""
        with torch.no_grad():
            phi = self._read(self.frame.rollout(self._reading | self.numbers(law), self.batch))
        weights, constants, gains = self.seen.ensemble.weights, [], []
        for f, k, K, rank in zip(phi, *law, ranks, strict=True):
            mean = np.einsum("nt,ntq->q", weights, f) / len(f)
            up, down = reduced(K, np.einsum("nt,ntq,ntp->qp", weights, f - mean, f - mean, optimize=True) / len(f), rank)
            constants.append(k + (K - up @ down) @ mean)
            gains.append(up @ down)
        return tuple(constants), tuple(gains)
