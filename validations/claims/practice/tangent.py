"""What a frozen model's first derivatives say of tuning: the tangent model's optimum, its path under AdamW, and cheap rivals.

No penalty is given. Whoever forecasts may choose a few constants on dev text, as whoever trains chooses a rate and a step there:
the optimum its ridge and the gradient its scale, each with the weight of the head's numbers in the metric; the refit of the head
alone its ridge, the constant shift itself, the path its rate and step.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from probes.reach.response import response
from theory.adam import EPSILON, adamw_path
from theory.ensemble import ensemble_lq, kernel_lq, roots
from theory.loss import CrossEntropy
from tuning.practice import Recipe
from tuning.subjects import READOUT_PARAMETERS
from tuning.training import draws

from ..shared.setting import Params, Setting
from ..shared.training import cross_entropy, logits

RIDGES = tuple(float(x) for x in 10.0 ** np.arange(0.0, -6.01, -0.5))  # over the largest curvature
FREE = 1e-9  # a ridge that only keeps a fit of so few numbers on dev text finite, over its largest curvature
HEAD_WEIGHTS = (1.0, 30.0, 1000.0)  # of the head's numbers in the metric, over the delta's: a head at weight 1 moves first
PATIENCE = 2  # ridges on which the dev loss may rise before smaller ones are left out
PIECE, BLOCK = 64, 1024  # texts whose responses are taken, and columns that are multiplied, at once


@dataclass(frozen=True)
class Tangent:
    """The first-order model on one set of texts, y(z) ~ y0 + E G z: G (N, c, M) in the c = C - 1 contrasts E of the softmax."""

    G: np.ndarray
    y0: np.ndarray
    labels: np.ndarray

    @property
    def loss(self) -> CrossEntropy:
        """Return the cross-entropy of these texts' labels."""
        return CrossEntropy(self.labels)

    @property
    def flat(self) -> np.ndarray:
        """Return G as a matrix (N c, M)."""
        return self.G.reshape(-1, self.G.shape[-1])

    @property
    def basis(self) -> np.ndarray:
        """Return the contrasts E (C, c)."""
        return self.loss.basis(self.y0.shape[1])

    def shifted(self, shift: np.ndarray) -> np.ndarray:
        """Return y0 moved by shifts (..., N, c) in the contrasts."""
        return self.y0 + shift @ self.basis.T


def tangent(outputs: Callable[[Params, Any], Tensor], params: Params, batch: Any) -> Tangent:
    """Return the exact first-order model of some logits at some parameters, in their own precision."""
    labels, start = batch.labels.cpu().numpy(), 0
    y0 = np.concatenate([logits(outputs, params, piece) for piece in pieces(batch)])
    E = torch.as_tensor(CrossEntropy(labels).basis(y0.shape[1])).to(next(iter(params.values())))
    size = sum(value.numel() for value in params.values())
    G = np.empty((*y0.shape[:1], E.shape[1], size), np.dtype(str(E.dtype).removeprefix("torch.")))
    for piece in pieces(batch):
        measured = response(lambda p, b: outputs(p, b) @ E, params, [piece], budget=1 << 40)
        G[start : start + len(measured.matrix)] = measured.matrix.detach().cpu().numpy()
        start += len(measured.matrix)
    return Tangent(G, y0, labels)


def pieces(batch: Any, size: int = PIECE) -> list[Any]:
    """Return a batch in batches of at most `size` examples."""
    return [type(batch)(*(x[i : i + size] for x in batch)) for i in range(0, len(batch.labels), size)]


def products(left: np.ndarray, right: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Return left diag(scale) right', summed in float64 over blocks of columns."""
    total = np.zeros((len(left), len(right)))
    for i in range(0, left.shape[1], BLOCK):
        block = left[:, i : i + BLOCK]
        total += (block if scale is None else block * scale[i : i + BLOCK]) @ right[:, i : i + BLOCK].T
    return total


@dataclass(frozen=True)
class Found:
    """A forecast whose constants dev text chose: its dev loss, its held-out shift (N, c), the numbers' displacement behind it."""

    dev_loss: float
    shift: np.ndarray
    z: np.ndarray | None = None
    ridge: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Path:
    """AdamW on the tangent model from the rates R, looked at at the steps L.

    z (R, L, M): displacements; dev, test (R, L, N, c): shifts; losses (R, L): on dev text; dose (L,): the sum of the rates so far
    over the highest, which times the highest bounds how far a number has moved; second (M,): Adam's second moments of the slowest
    run at the end of the first epoch.
    """

    steps: tuple[int, ...]
    dose: np.ndarray
    z: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    losses: np.ndarray
    second: np.ndarray

    @property
    def chosen(self) -> tuple[int, int]:
        """Return the indices of rate and look with the lowest dev loss."""
        return tuple(int(i) for i in np.unravel_index(np.argmin(self.losses), self.losses.shape))


@dataclass(frozen=True)
class Texts:
    """The tangent models on three texts: where the optimum is found, its constants chosen, and its forecast held to account.

    origin: the numbers where they were taken (M,). heads: how many of the last of them are the readout's.
    """

    train: Tangent
    dev: Tangent
    test: Tangent
    origin: np.ndarray
    heads: int

    @classmethod
    def of(cls, setting: Setting, outputs: Callable[[Params, Any], Tensor], initial: Params) -> "Texts":
        """Return the tangent models of some logits at some numbers."""
        params = {name: value.detach() for name, value in initial.items()}
        made = [tangent(outputs, params, batch) for batch in (setting.train, setting.dev, setting.test)]
        heads = sum(value.numel() for name, value in params.items() if name in READOUT_PARAMETERS)  # a readout stands last
        origin = np.concatenate([value.cpu().numpy().ravel() for value in params.values()])
        return cls(*made, origin, heads)

    @property
    def own(self) -> slice:
        """Return the delta's columns."""
        return slice(0, len(self.origin) - self.heads)

    @property
    def head(self) -> slice:
        """Return the readout's columns."""
        return slice(len(self.origin) - self.heads, None)

    @functools.cached_property
    def weights(self) -> tuple[float, ...]:
        """Return the weights of the head's numbers that are tried."""
        return HEAD_WEIGHTS if self.heads else HEAD_WEIGHTS[:1]

    @functools.cached_property
    def _kernels(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return G G_train' of the delta's numbers and of the head's, by part."""
        return {part: self._products(getattr(self, part)) for part in ("train", "dev", "test")}

    def _products(self, part: Tangent) -> tuple[np.ndarray, np.ndarray]:
        return tuple(products(part.flat[:, columns], self.train.flat[:, columns]) for columns in (self.own, self.head))

    def kernel(self, part: str, weight: float | None) -> np.ndarray:
        """Return G R^-1 G_train', R one for the delta's numbers and `weight` for the head's; None: that of the head alone."""
        own, head = self._kernels[part]
        return head if weight is None else own + head / weight

    def curvature(self, kernel: np.ndarray) -> float:
        """Return the largest curvature of the training loss at the start, from the kernel of the training text."""
        E, loss, y = self.train.basis, self.train.loss, self.train.y0
        S = roots(E.T @ loss.hessian(y) @ E / len(y))
        n, c = S.shape[:2]
        half = (np.swapaxes(S, 1, 2) @ kernel.reshape(n, c, n * c)).reshape(n * c, n, c).swapaxes(0, 1)
        return float(eigsh((half @ S).swapaxes(0, 1).reshape(n * c, n * c), 1, v0=np.ones(n * c), return_eigenvectors=False)[0])

    def displacement(self, costates: np.ndarray, ridge: float, weight: float) -> np.ndarray:
        """Return z = -R^-1 G' costates / ridge."""
        z = -(costates.ravel().astype(self.train.G.dtype) @ self.train.flat).astype(float) / ridge
        z[self.head] /= weight
        return z

    def ridges(self, weight: float | None) -> Iterator[tuple[float, np.ndarray]]:
        """Yield (ridge, costates) of the tangent optima of the training text, from the largest ridge on."""
        kernel, found = self.kernel("train", weight), None
        loss, top = self.train.loss, self.curvature(kernel)
        last = 1.0
        for share in RIDGES:
            start = None if found is None else found * (share / last)  # the outputs of the last ridge
            last, found = share, kernel_lq(kernel / (share * top), self.train.y0, loss, start=start, tolerance=1e-4)
            yield share * top, found

    def shift(self, part: str, costates: np.ndarray, ridge: float, weight: float | None) -> np.ndarray:
        """Return a part's shifts (N, c) by the optimum with these costates."""
        return -(self.kernel(part, weight) @ costates.ravel()).reshape(-1, costates.shape[1]) / ridge

    def optimum(self) -> Found:
        """Return the tangent optimum under the ridge, and the weight of the head, of the lowest dev loss."""
        loss, ridge, costates, weight = min((self._best(weight) for weight in self.weights), key=lambda one: one[0])
        return Found(loss, self.shift("test", costates, ridge, weight), self.displacement(costates, ridge, weight), ridge, weight)

    def refit(self) -> Found:
        """Return the refit of the head alone under the ridge of the lowest dev loss."""
        loss, ridge, costates, _ = self._best(None)
        return Found(loss, self.shift("test", costates, ridge, None), None, ridge)

    def _best(self, weight: float | None) -> tuple[float, float, np.ndarray, float | None]:
        """Return (dev loss, ridge, costates, weight) of the best ridge, searched from the largest."""
        tried = []
        for ridge, costates in self.ridges(weight):
            tried.append((self._dev_loss(self.shift("dev", costates, ridge, weight)), ridge, costates, weight))
            best = int(np.argmin([one[0] for one in tried]))
            if len(tried) - 1 - best >= PATIENCE:
                break
        return tried[best]

    def gradient(self) -> Found:
        """Return the step along the first gradient of the training loss whose scale, and weight of the head, are best on dev."""
        costates = self.train.loss.gradient(self.train.y0) @ self.train.basis
        found = []
        for weight in self.weights:
            steps = {part: self.shift(part, costates, 1.0, weight) for part in ("dev", "test")}
            size = max(float(np.sqrt(np.mean(steps["dev"] ** 2))), 1e-300)
            scale = self._fitted((steps["dev"] / size @ self.dev.basis.T)[..., None])
            found.append(Found(self._dev_loss(steps["dev"] / size * scale), steps["test"] / size * scale, weight=weight))
        return min(found, key=lambda one: one.dev_loss)

    def constant(self) -> np.ndarray:
        """Return the one shift (N, c) of the logits that is best on dev, for every held-out text."""
        E = self.dev.basis
        found = self._fitted(np.broadcast_to(E, (len(self.dev.y0), *E.shape)))
        return np.broadcast_to(found, (len(self.test.y0), E.shape[1]))

    def path(self, recipe: Recipe, seed: int, columns: slice = slice(None)) -> Path:
        """Return AdamW's path on the tangent model, of all numbers or some, over the texts that training will draw."""
        train, dev, test = (part.G[..., columns] for part in (self.train, self.dev, self.test))
        rows = [own.numpy() for own in draws(len(train), recipe.batch_size, recipe.steps, seed)]
        E, steps = self.train.basis, recipe.looked_at

        def slopes(taken: np.ndarray, shift: np.ndarray) -> np.ndarray:
            y = (self.train.y0[taken] + shift @ E.T).reshape(-1, len(E))
            loss = CrossEntropy(np.tile(self.train.labels[taken], len(shift)))
            return (loss.gradient(y) @ E).reshape(shift.shape)

        run = adamw_path(train, slopes, self.origin[columns], rows, recipe.rates, recipe.shares, decay=recipe.decay, clip=1.0)
        looked, epoch, slowest = [], -(-len(train) // recipe.batch_size), int(np.argmin(recipe.rates))
        second = np.zeros(0)
        for step, (z, moments) in enumerate(run, 1):
            looked += [z] * (step in steps)
            second = moments[slowest] if step <= epoch else second
        z = np.stack(looked, axis=1)
        flat = z.reshape(-1, z.shape[-1])
        shifts = [(flat @ G.reshape(-1, G.shape[-1]).T).reshape(*z.shape[:2], *G.shape[:2]).astype(float) for G in (dev, test)]
        losses = np.array([[self._dev_loss(one) for one in run] for run in shifts[0]])
        dose = np.cumsum(recipe.shares)[np.array(steps) - 1]
        return Path(steps, dose, z, *shifts, losses, second)

    def adaptive_sharpness(self, path: Path) -> float:
        """Return the largest eigenvalue of D^-1/2 G'HG D^-1/2, D the roots of the path's second moments.

        Adam with steady moments is stable on a quadratic below the rate 2 (1 + b) / (1 - b) = 38 over it, b = 0.9 (Cohen et al.
        2022, section 2).
        """
        scale = (1.0 / (np.sqrt(path.second) + EPSILON)).astype(self.train.G.dtype)
        return self.curvature(products(self.train.flat, self.train.flat, scale))

    def _dev_loss(self, shift: np.ndarray) -> float:
        return cross_entropy(self.dev.shifted(shift), self.dev.labels)

    def _fitted(self, G: np.ndarray) -> np.ndarray:
        """Return the few numbers z that minimise the dev loss at y0 + G z."""
        ridge = FREE * max(float(np.mean(np.sum(G**2, axis=(1, 2)))), 1e-300)
        return ensemble_lq(G, self.dev.y0, self.dev.loss, ridge).z
