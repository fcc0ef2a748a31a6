"""A frozen network with a prefix whose heads take signals u = V f: f = (1), (1, gates) or (1, gates, states), in the closed loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.shared_gain import Ensemble
from tuning.backbones import Batch, frame, hidden
from tuning.edits import Edits, merge

from ..shared.heads import check_readable, scores
from ..shared.setting import Params


@dataclass(frozen=True, eq=False)
class Met:
    """One pass: logits (N, C), and by port the features f (N, T, n) that were met and the signals (N, T, m) that were added."""

    outputs: Tensor
    features: dict[str, Tensor]
    signals: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads of a subject whose delta is a prefix, as ports "block.head".

    bases: by block, what of the state a head's law reads: phi = B'(h - centre), B (d, q), centre (d,).
    """

    subject: Any
    bases: Mapping[int, tuple[Tensor, Tensor]] = field(repr=False)

    @classmethod
    def of(cls, subject: Any, batch: Batch, count: int) -> "Heads":
        """Return the heads with laws that read the leading directions in which a batch's examples differ.

        Raises ValueError for attention that is not a plain encoder's (`shared.heads`).
        """
        check_readable(subject.backbone)
        with torch.no_grad():
            inputs = subject.rollout(subject.initial, batch).inputs
        weight = batch.mask.to(subject.dtype) / batch.mask.sum(1, keepdim=True)
        bases = {}
        for block in range(subject.backbone.blocks):
            examples = torch.einsum("nt,ntd->nd", weight, inputs[f"{block}.attention"])
            centre = examples.mean(0)
            bases[block] = (torch.linalg.svd(examples - centre, full_matrices=False)[2][:count].T, centre)
        return cls(subject, bases)

    @property
    def slots(self) -> int:
        """Return how many slots the prefix has, and so how many gates a head."""
        return self.subject.delta.length

    @property
    def width(self) -> int:
        """Return how many numbers a head's signal has."""
        return self.subject.backbone.head_width

    @cached_property
    def ports(self) -> tuple[str, ...]:
        """Return the ports in the order of the forward pass."""
        backbone = self.subject.backbone
        return tuple(f"{block}.{head}" for block in range(backbone.blocks) for head in range(backbone.heads))

    def run(self, gains: Params, batch: Batch, pushes: Mapping[str, Tensor] | None = None) -> Met:
        """Return a pass with u = V f at every port that has a gain V (m, n), of the first n features, and with pushes (N, T, m)."""
        backbone, features, signals, reads = self.subject.backbone, {}, {}, {}

        def keep(name: str):
            def edit(x: Tensor, y: Tensor) -> Tensor:
                reads[name] = (x, y)
                return y

            return edit

        def enter(block: int):
            def edit(put: Tensor) -> Tensor:
                found = self._features(block, reads, batch)
                added = []
                for head in range(backbone.heads):
                    port = f"{block}.{head}"
                    features[port] = f = found[head]
                    u = f.new_zeros(*f.shape[:2], backbone.head_width)
                    if port in gains:
                        u = f[..., : gains[port].shape[1]] @ gains[port].T
                    signals[port] = u
                    added.append(u if pushes is None else u + pushes[port])
                return put + torch.cat(added, -1)

            return edit

        blocks = range(backbone.blocks)
        path = {(block, role): backbone.linear(block, role).path for block in blocks for role in "qko"}
        listening = Edits(
            outputs={path[block, role]: (keep(f"{block}.{role}"),) for block in blocks for role in "qk"},
            inputs={path[block, "o"]: (enter(block),) for block in blocks},
        )
        subject = self.subject
        states = hidden(backbone, batch, frame(backbone, merge([subject.edits(subject.initial), listening])))
        read = subject.readout.features(backbone, states, batch.mask)
        return Met(torch.nn.functional.linear(read, subject.readout.weight, subject.readout.bias), features, signals)

    def _features(self, block: int, reads: Mapping[str, tuple[Tensor, Tensor]], batch: Batch) -> list[Tensor]:
        """The features (1, gates, phi) of every head of a block: its attention on the slots, and what it reads of the state."""
        h, q = reads[f"{block}.q"]
        slots = self.subject.initial[f"{block}.attention.keys"]
        met = torch.cat(scores(self.subject.backbone, q, reads[f"{block}.k"][1], slots, batch.mask), -1)
        gates = torch.softmax(met, -1)[..., : self.slots]
        B, centre = self.bases[block]
        phi, one = (h - centre) @ B, torch.ones_like(h[..., :1])
        return [torch.cat([one, gates[:, head], phi], -1) for head in range(gates.shape[1])]


def observed(network: Any, batch: Any) -> Ensemble:
    """Return the response of the logits to a signal at every port and token, and the features there, without control.

    One forward pass and C backward sweeps; a response at padding is 0, as is the weight there.
    """
    mask = batch.mask.double()
    with torch.no_grad():
        still = network.run({}, batch)
    pushes = {port: torch.zeros_like(u).requires_grad_() for port, u in still.signals.items()}
    with torch.enable_grad():
        y = network.run({}, batch, pushes).outputs
        rows = [torch.autograd.grad(y[:, c].sum(), list(pushes.values()), retain_graph=True) for c in range(y.shape[1])]
    G = [(torch.stack(own, 1).double() * mask[:, None, :, None]).numpy() for own in zip(*rows, strict=True)]
    phi = [still.features[port].double().numpy() for port in network.ports]
    weights = (mask / mask.sum(1, keepdim=True)).numpy()
    return Ensemble(tuple(G), tuple(phi), y.detach().double().numpy(), weights)


def objective(network: Any, gains: Params, batch: Any, r: float) -> Tensor:
    """Return the mean cross-entropy + r/2 energy in the closed loop: the mean over tokens of |u|^2, summed over ports."""
    met = network.run(gains, batch)
    weight = batch.mask.to(met.outputs.dtype)
    weight = weight / weight.sum(1, keepdim=True)
    energy = sum((weight * u.square().sum(-1)).sum() for u in met.signals.values()) / len(weight)
    return torch.nn.functional.cross_entropy(met.outputs, batch.labels) + r / 2 * energy


def whitening(ensemble: Ensemble, noise: float) -> list[np.ndarray]:
    """Return by port the lower triangular L^-1 that makes the first features orthonormal among themselves, however many.

    E f f' + noise^2 I on all but the constant = L L'; E as in `theory.shared_gain.energy_price`.
    """
    found: list[np.ndarray] = []
    for f in ensemble.phi:
        moment = np.einsum("nt,ntp,ntq->pq", ensemble.weights, f, f, optimize=True) / len(f)
        heard = np.full(len(moment), noise**2)
        heard[0] = 0.0
        found.append(np.linalg.inv(np.linalg.cholesky(moment + np.diag(heard))))
    return found


def stacked(ensemble: Ensemble, white: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Return dy_i / dV (N, C, sum of m n) in whitened coordinates, for laws that read the first `counts` features of each port."""
    parts = []
    for g, f, L, n in zip(ensemble.G, ensemble.phi, white, counts, strict=True):
        read = f @ L[:n].T
        parts.append(np.einsum("nctm,ntq->ncmq", g, read, optimize=True).reshape(*g.shape[:2], -1))
    return np.concatenate(parts, -1)
