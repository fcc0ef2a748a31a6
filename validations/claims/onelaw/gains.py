"""The law of an ensemble in what a delta reads and moves: one problem for adapters, LoRA and IA3, whose forms differ.

A delta adds at each of its places u = k + K (z - c). An adapter has the constant k and reads its sublayer's input or output; a LoRA
has none and reads what its map reads; of IA3, K is diagonal and z what its map puts out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.loss import CrossEntropy
from theory.multiplicative import balanced, factor_law, moment_price
from theory.shared_gain import Ensemble, shared_gain
from tuning.deltas import IA3, Adapter, LoRA
from tuning.own_signals import Function, functions, told

from ..shared.setting import Params
from ..shared.training import at_start

NOISE = 0.3  # of the price, over the root mean square of what is read: what training text hardly shows is not free

SHOWN = 4  # numbers of a diagonal gain that are kept for a figure


@dataclass(frozen=True)
class Form:
    """What a delta's laws are like: they read what `stood` there or what the place reads, have a constant, and a rank.

    A rank of None stands for a diagonal gain.
    """

    stood: bool
    constant: bool
    rank: int | None

    @classmethod
    def of(cls, delta: Any) -> "Form":
        """Return a delta's form; raises ValueError for a kind whose feedback is of another form."""
        match delta:
            case LoRA():
                return cls(False, False, delta.rank)
            case IA3():
                return cls(True, False, None)
            case Adapter():
                return cls(delta.placement == "sequential", True, delta.bottleneck)
        raise ValueError(f"expected a LoRA, IA3 or an adapter, got {delta.name}: name one of these")

    def size(self, m: int, q: int) -> int:
        """Return how many numbers a delta of this form has at a place that reads q and moves m."""
        return m if self.rank is None else self.rank * (m + q + self.constant) + m * self.constant


@dataclass(frozen=True, eq=False)
class Gain:
    """One place's law u = k + K (z - c): k (m,), K (m, q) as factors (m, rank), (rank, q), as its diagonal (m,), or itself."""

    k: np.ndarray
    parts: tuple[np.ndarray, ...]

    @property
    def K(self) -> np.ndarray:
        """Return the gain (m, q)."""
        if len(self.parts) == 2:
            return self.parts[0] @ self.parts[1]
        return np.diag(self.parts[0]) if self.parts[0].ndim == 1 else self.parts[0]


Gains = Sequence[Gain]  # one per place


@dataclass(frozen=True, eq=False)
class Seen:
    """What laws of a form read and move at a delta's places (`keys`): phi = z - c, c (q,) the mean where there is a constant.

    sizes: the mean square of phi's numbers, by place; prices: E phi phi' + NOISE^2 size I.
    """

    form: Form
    keys: tuple[str, ...]
    ensemble: Ensemble
    centres: tuple[np.ndarray, ...]
    sizes: tuple[float, ...] = field(init=False)
    prices: tuple[np.ndarray, ...] = field(init=False)

    def __post_init__(self):
        moments = moment_price(self.ensemble)
        object.__setattr__(self, "sizes", tuple(float(np.trace(S)) / len(S) for S in moments))
        object.__setattr__(self, "prices", moment_price(self.ensemble, NOISE))

    def law(self, loss: CrossEntropy, r: float) -> Gains:
        """Return the law that is best for all examples at once under r/2 of the price, cut to the form's rank in the price."""
        if self.form.rank is None:
            factors, _ = factor_law(self.ensemble, loss, r, noise=NOISE)
            return [Gain(np.zeros_like(x), (x - 1.0,)) for x in factors]
        law = shared_gain(self.ensemble, loss, r, self.prices, constant=self.form.constant)
        return [self._cut(k, K, S) for k, K, S in zip(law.k, law.K, self.prices, strict=True)]

    def _cut(self, k: np.ndarray, K: np.ndarray, price: np.ndarray) -> Gain:
        return Gain(k, (np.diag(K),) if self.form.rank is None else balanced(K, price, self.form.rank))

    def gradient(self, loss: CrossEntropy) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return by place the loss's slopes in k and K at the frozen network, E lambda' G and E G' lambda phi'."""
        costates = loss.gradient(self.ensemble.y0) / len(self.ensemble.y0)
        pulled = [np.einsum("nctm,nc->ntm", g, costates) for g in self.ensemble.G]
        return [
            (p.sum((0, 1)) * self.form.constant, np.einsum("ntm,ntq->mq", p, f, optimize=True))
            for p, f in zip(pulled, self.ensemble.phi, strict=True)
        ]

    def raw(self, loss: CrossEntropy) -> Gains:
        """Return the first gradient as a law, its direction alone: minus the slopes, cut to the form's rank."""
        return [self._cut(-k, -K, np.eye(K.shape[1])) for k, K in self.gradient(loss)]

    def first(self, loss: CrossEntropy, r: float) -> Gains:
        """Return the law of the open loop's costates, K = -(1/r) E G' lambda phi' S^-1, cut to the form's rank."""
        found = []
        for (k, K), S in zip(self.gradient(loss), self.prices, strict=True):
            white = K / np.diag(S) if self.form.rank is None else np.linalg.solve(S, K.T).T
            found.append(self._cut(-k / r, -white / r, S))
        return found

    def turned(self, gains: Gains, rng: np.random.Generator) -> Gains:
        """Return a law that reads other coordinates: turned at random or, where the gain is diagonal, in another order."""
        if self.form.rank is None:
            return [Gain(g.k, (rng.permutation(g.parts[0]),)) for g in gains]
        return [
            Gain(g.k, (g.parts[0], g.parts[1] @ np.linalg.qr(rng.standard_normal((g.parts[1].shape[1],) * 2))[0])) for g in gains
        ]

    def whitened(self, gains: Gains) -> np.ndarray:
        """Return all places' k and K S^1/2 in one vector: its length squared is the price, that of K diagonal likewise."""
        return np.concatenate([x for g, S in zip(gains, self.prices, strict=True) for x in (g.k, _rooted(g, S).ravel())])

    def along(self, law: Gains, other: Gains) -> tuple[np.ndarray, np.ndarray]:
        """Return a law's gains (places, rank) in its own leading directions, singular values in the price, and another's there.

        Where the gain is diagonal the directions are the SHOWN largest numbers.
        """
        own, met = [], []
        for g, o, S in zip(law, other, self.prices, strict=True):
            if self.form.rank is None:
                white, found = (np.sqrt(np.diag(S)) * np.diag(x.K) for x in (g, o))
                largest = np.argsort(-np.abs(white), kind="stable")[:SHOWN]
                own, met = [*own, white[largest]], [*met, found[largest]]
            else:
                U, s, Vt = np.linalg.svd(_rooted(g, S), full_matrices=False)
                kept = slice(self.form.rank)
                own, met = [*own, s[kept]], [*met, np.einsum("mi,mq,iq->i", U[:, kept], _rooted(o, S), Vt[kept])]
        return np.stack(own), np.stack(met)

    def reached(self, gains: Gains) -> np.ndarray:
        """Return the logits (N, C) that the linear response says a law reaches."""
        return self.ensemble.moved(self.ensemble.signals([g.k for g in gains], [g.K for g in gains]))

    def moves(self, gains: Gains, dtype: torch.dtype) -> dict[str, Function]:
        """Return a law as what it adds at each place of the real network."""
        made = {}
        for key, g, c in zip(self.keys, gains, self.centres, strict=True):
            k, K, centre = (torch.as_tensor(x, dtype=dtype) for x in (g.k, g.K, c))
            made[key] = partial(_added, self.form.stood, lambda z, k=k, K=K, c=centre: k + (z - c) @ K.T)
        return made


def _added(stood: bool, law: Callable[[Tensor], Tensor], read: Tensor, standing: Tensor) -> Tensor:
    return law(standing if stood else read)


def _rooted(gain: Gain, price: np.ndarray) -> np.ndarray:
    root = np.linalg.cholesky(price)
    return gain.K @ root


def observe(subject: Any, batch: Any) -> Seen:
    """Return what laws of a subject's delta read and move on some texts, from one forward pass and C backward sweeps.

    Raises ValueError for a delta of another form, and where it changes a part of a fused map, whose law would be another.
    """
    form, start = Form.of(subject.delta), at_start(subject)
    with torch.no_grad():
        still, _ = told(subject, start, batch)
    pushes = {key: torch.zeros_like(place.stood).requires_grad_() for key, place in still.items()}
    with torch.enable_grad():
        _, y = told(subject, start, batch, {key: partial(_pushed, push) for key, push in pushes.items()})
        rows = [torch.autograd.grad(y[:, c].sum(), list(pushes.values()), retain_graph=True) for c in range(y.shape[1])]
    mask = batch.mask.double().cpu().numpy()
    weights = mask / mask.sum(1, keepdims=True)
    G = [_array(torch.stack(own, 1)) * mask[:, None, :, None] for own in zip(*rows, strict=True)]
    z = [_array(place.stood if form.stood else place.read) * mask[..., None] for place in still.values()]
    sizes = [form.size(g.shape[-1], x.shape[-1]) for g, x in zip(G, z, strict=True)]
    if sum(sizes) != (own := sum(value.numel() for value in start.values())):
        raise ValueError(f"expected whole maps and {sum(sizes)} numbers of the delta, got {own}: a fused map is changed in part")
    centres = [np.einsum("nt,ntq->q", weights, x) / len(x) * form.constant for x in z]
    phi = [(x - c) * mask[..., None] for x, c in zip(z, centres, strict=True)]
    return Seen(form, tuple(still), Ensemble(tuple(G), tuple(phi), _array(y), weights), tuple(centres))


def _pushed(push: Tensor, read: Tensor, standing: Tensor) -> Tensor:
    return push


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def trained(subject: Any, params: Params, seen: Seen) -> list[tuple[Tensor, Tensor]]:
    """Return by place the k (m,) and K (m, q) of a delta's numbers, K by secants from the centre: exact where the delta is affine.

    The secants are as long as the noise of the price. Differentiable.
    """
    moved, found = functions(subject.delta, subject.backbone, params), []
    for key, c, size, g in zip(seen.keys, seen.centres, seen.sizes, seen.ensemble.G, strict=True):
        centre, step = torch.as_tensor(c, dtype=subject.dtype), NOISE * size**0.5
        z = torch.cat([centre[None], centre + step * torch.eye(len(c), dtype=subject.dtype)])[None]
        stood = z if seen.form.stood else z.new_zeros(1, z.shape[1], g.shape[-1])
        u = (moved[key](z, stood) - stood)[0]
        found.append((u[0], (u[1:] - u[0]).T / step))
    return found


def as_gains(found: Sequence[tuple[Tensor, Tensor]]) -> Gains:
    """Return what `trained` found as gains."""
    return [Gain(_array(k), (_array(K),)) for k, K in found]


def packed(name: str, gains: Gains) -> dict[str, np.ndarray]:
    """Return a law as named arrays for the store."""
    return {f"{name}/{t}/{i}": x for t, g in enumerate(gains) for i, x in enumerate((g.k, *g.parts))}


def unpacked(name: str, arrays: Mapping[str, np.ndarray], places: int) -> Gains:
    """Return the law that `packed` stored under a name."""
    own = [[arrays[key] for i in range(3) if (key := f"{name}/{t}/{i}") in arrays] for t in range(places)]
    return [Gain(k, tuple(parts)) for k, *parts in own]
