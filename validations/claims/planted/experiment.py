"""A problem of known dimension planted on the frozen network: does the whole chain of measurement find it?"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor

from probes.dimension.projection import random_subspace
from theory.kernel import participation_ratio
from theory.subspace import projected_gain, threshold_dimension

from ...store import Record
from ..shared.linearisation import Linearisation, linearise, off
from ..shared.setting import Experiment, Params, Setting, own_rng, own_seed
from ..shared.subspaces import SHARE, at_ends, crossing, estimate, shapes, trained_within
from ..shared.training import at_start, cost, logits, shifted, summed, train

KNOWN = (8, 16)
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 1, 5 / 4, 2, 4)  # dimensions tried, in units of k
DRAWS = 3
REGIME = 0.1  # the teacher's departure from linearity, where the study does not say
HALVINGS = 10


@dataclass(frozen=True)
class Plant:
    """Numbers x of which the frozen network sees w = S'x only, as a step B w of its delta: k dimensions matter, all alike.

    seen: S (D, k), orthonormal columns times sqrt(D / k), drawn. steps: B (D, k), along which the linearised training logits
    move by orthonormal directions times `scale`. teacher: w* (k,). targets: the network's own logits (N, C) at z0 + B w*.
    eta: their median departure from linearity over texts. values: the k curvatures that B would have had as it was found.
    """

    origin: Params
    seen: np.ndarray
    steps: np.ndarray
    scale: np.ndarray
    teacher: np.ndarray
    start: np.ndarray
    targets: np.ndarray
    values: np.ndarray
    eta: float

    @property
    def known(self) -> int:
        """Return k."""
        return len(self.teacher)

    @property
    def dimensions(self) -> list[int]:
        """Return the dimensions to train in, from far below k to far above."""
        return sorted({min(max(1, round(f * self.known)), len(self.seen)) for f in FRACTIONS})

    def share(self, subspace) -> float:
        """Return the share of the gain among x = P theta in the linearised problem, by least squares."""
        rows = torch.as_tensor(self.seen.T).split([p.numel() for p in self.origin.values()], dim=1)
        rows = {name: part.reshape(-1, *p.shape) for (name, p), part in zip(self.origin.items(), rows, strict=True)}
        columns = self.scale[:, None] * subspace.adjoint(rows).double().cpu().numpy()
        goal = self.scale * self.teacher
        left = goal - columns @ np.linalg.lstsq(columns, goal, rcond=None)[0]
        return float(1.0 - left @ left / (goal @ goal))

    def objective(self, outputs, batch, targets: np.ndarray):
        """Return the squared error over targets, as a function of x, in units of its value at x = 0."""
        like = next(iter(self.origin.values()))
        seen, steps, goal = (torch.as_tensor(a, dtype=like.dtype, device=like.device) for a in (self.seen, self.steps, targets))
        size = float(np.sum((targets - self.start) ** 2))
        lengths = [p.numel() for p in self.origin.values()]

        def value(x: Params) -> Tensor:
            w = torch.cat([part.flatten() for part in x.values()]) @ seen
            moved = zip(self.origin.items(), (steps @ w).split(lengths), strict=True)
            return (outputs({name: p + s.view_as(p) for (name, p), s in moved}, batch) - goal).square().sum() / size

        return value


def typical_dimension(k: int, share: float = SHARE) -> float:
    """Return the dimension at which a random subspace is as likely as not to make a share of the gain, k directions being alike.

    The share made among d random dimensions is |P w|^2 / |w|^2 with P the projection of R^k on a uniform d-dimensional
    subspace: a Beta(d / 2, (k - d) / 2) variate, whose median is `share` at the d returned. Its mean d / k is the share at
    `share` k, above the median's d by about 0.53, since for d near k most subspaces do better than the mean.
    """
    return float(optimize.brentq(lambda d: stats.beta.median(d / 2, (k - d) / 2) - share, 1e-3 * k, k - 1e-9 * k))


def plant(setting: Setting, lin: Linearisation, k: int) -> Plant:
    """Return the problem of dimension k on a cell's frozen network and training text.

    The steps are the k right singular vectors v_i of the response G that move the training logits most, over their singular
    values, so that the logits' Jacobian in w has equal singular values (spread over `decades` of curvature, if that option
    asks for it). w* is Gaussian, normalised; the steps' size is the largest on a grid of halvings, from a shift of one
    logit a text, at which the teacher's departure from linearity is within the study's regime. Raises ValueError when the
    response has fewer than k directions.
    """
    subject = setting.subjects["delta"]
    origin = at_start(subject)
    flat = lin.G.reshape(-1, lin.G.shape[-1])
    _, sigma, found = np.linalg.svd(flat, full_matrices=False)
    if not 1 <= k <= int(np.sum(sigma > 1e-6 * sigma[0])):
        raise ValueError(f"expected a known dimension within the response's rank, got {k}: lower `known` or add training text")
    rng = own_rng(setting, 157, k)
    seen = np.linalg.qr(rng.standard_normal((flat.shape[1], k)))[0] * np.sqrt(flat.shape[1] / k)
    teacher = rng.standard_normal(k)
    teacher /= np.linalg.norm(teacher)
    scale = np.logspace(0.0, -0.5 * setting.options.get("decades", 0.0), k)
    scale *= np.sqrt(len(lin.y0)) / np.linalg.norm(scale * teacher)
    steps = found[:k].T / sigma[:k] * scale
    for halving in range(HALVINGS):
        size = 0.5**halving
        targets = logits(subject.outputs, shifted(origin, size * steps @ teacher), setting.train)
        shift = size * lin.G @ (steps @ teacher)
        eta = off(targets - lin.y0, shift)
        if eta <= (setting.regime or REGIME):
            break
    return Plant(origin, seen, size * steps, size * scale, teacher, lin.y0, targets, sigma[:k] ** 2, eta)


def _plants(setting: Setting) -> list[Plant]:
    subject = setting.subjects["delta"]
    lin = linearise(subject.outputs, subject.initial, setting.train)
    known = setting.options.get("known", KNOWN)
    return [plant(setting, lin, int(k)) for k in ([known] if isinstance(known, int) else known)]


def _subspaces(setting: Setting, problem: Plant):
    """Yield (d, draw, subspace) over dimensions and draws."""
    like = next(iter(problem.origin.values()))
    for d in problem.dimensions:
        for draw in range(DRAWS):
            seed = own_seed(setting, 163, problem.known, d, draw)
            yield d, draw, random_subspace(shapes(problem.origin), d, seed=seed, dtype=like.dtype, device=like.device)


def _unwhitened(problem: Plant, k: int) -> float:
    """Return the dimension predicted for the same directions and teacher at the curvatures the directions were found with."""
    values, size = problem.values, len(problem.seen)
    dimensions = [d for d in problem.dimensions if d < size]
    shares = projected_gain(values, values * problem.teacher, size, dimensions, ridge=1e-9 * values[0])
    return crossing(dimensions, np.median(shares, axis=0), size)


def _first(dimensions: list[int], shares: list[float]) -> int:
    """Return the first dimension whose share reaches the threshold, or the last one tried."""
    return next((d for d, share in zip(dimensions, shares, strict=True) if share >= SHARE), dimensions[-1])


def predict(setting: Setting) -> Record:
    """Return the known dimension of each planted problem, the predictions of theory for it, and its rivals.

    known: `typical_dimension`. mean: 0.9 k, at which the mean share is 0.9. larsen: the sublevel set's dimension (Larsen et
    al. 2022) at the k curvatures. shares, curve: the linearised problem solved by least squares in the very subspaces that will
    be trained in, and where the median over draws crosses 0.9. Rivals: the numbers D, the dimension of a teacher twice as wide,
    and, for the curvatures as the directions were found with, their participation ratio and the dimension they would give.
    """
    rows = []
    for problem in _plants(setting):
        k, size = problem.known, len(problem.seen)
        drawn = [(d, draw, problem.share(subspace)) for d, draw, subspace in _subspaces(setting, problem)]
        dimensions, draws, shares = (list(column) for column in zip(*drawn, strict=True))
        middle = np.median(np.reshape(shares, (-1, DRAWS)), axis=1)
        curvatures = 2.0 * problem.scale**2 / np.sum((problem.scale * problem.teacher) ** 2)
        rows.append(
            {
                "k": k,
                "eta": problem.eta,
                "known": typical_dimension(k),
                "mean": SHARE * k,
                "larsen": threshold_dimension(curvatures, 1.0, 1.0 - SHARE, size, ridge=0.0),
                "curve": crossing(problem.dimensions, middle, size),
                "parameters": size,
                "other": typical_dimension(2 * k),
                "participation": float(participation_ratio(problem.values)),
                "unwhitened": _unwhitened(problem, k),
                "dimensions": dimensions,
                "draws": draws,
                "shares": shares,
            }
        )
    return Record({"eta": max(row["eta"] for row in rows), "plants": rows}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the share of the gain that training makes in every subspace, and the threshold dimension of each problem.

    first: for every draw, the first dimension whose one run reaches the threshold. permuted: the share of the loss that full
    training removes when the teacher's changes of the logits are permuted over the texts.
    """
    subject, rows = setting.subjects["delta"], []
    for problem in _plants(setting):
        zero = {name: torch.zeros_like(p) for name, p in problem.origin.items()}
        order = own_rng(setting, 167).permutation(len(problem.targets))
        objective = problem.objective(subject.outputs, setting.train, problem.targets)
        shifts = problem.start + (problem.targets - problem.start)[order]
        null = problem.objective(subject.outputs, setting.train, shifts)
        full, lost = train(setting, objective, zero), train(setting, null, zero)
        drawn = [(d, draw, trained_within(setting, objective, zero, part)) for d, draw, part in _subspaces(setting, problem)]
        dimensions = [d for d, _, _ in drawn]
        shares = [(1.0 - fitted.value) / (1.0 - full.value) for _, _, fitted in drawn]
        found = estimate(dimensions, shares, [1.0], chance=0.0)
        value, low, high = at_ends(found, min(dimensions), max(dimensions))
        costs = [cost(fitted) for fitted in (full, *(fitted for _, _, fitted in drawn))]
        rows.append(
            {
                "k": problem.known,
                "value": value,
                "low": low,
                "high": high,
                "isotonic": found["isotonic"],
                "censored": found["value"] is None,
                "status": found["status"],
                "first": [_first(dimensions[j::DRAWS], shares[j::DRAWS]) for j in range(DRAWS)],
                "reached": 1.0 - full.value,
                "permuted": 1.0 - lost.value,
                "shares": shares,
                **summed(costs),
                "converged": all(c["converged"] for c in costs),
            }
        )
    return Record({"plants": rows}, {})


EXPERIMENT = Experiment(
    "planted", "planted problems of known dimension", ("delta",), predict, measure, weight=12.0, per_delta=True
)
