"""Gauss rules of a symmetric operator's spectrum from random vectors that advance in lockstep.

The Lanczos coefficients of a unit vector v give the Gauss rule of sum_i (v'x_i)^2 delta(lambda_i) (Golub &
Meurant 2010, sec. 6.2). Eigenvalues that every vector has found are settled: taken out of the rules and
counted. Rounding brings a further copy of a repeated eigenvalue into each sequence some steps after the first has
converged, as a node that passes through the spectrum; what was settled before that stays settled.

`probes.curvature.lanczos` is a second Lanczos, of one sequence at a time: it proves multiplicities in the complement of
the pairs locked so far, where this one takes many vectors to a product and keeps each one's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.curvature.unit import Unit

APART = 100  # a settled cluster is this many residuals away from every other node
STRIDE = 4  # steps between two looks at what has settled
FAINT = 0.02  # singular values below this share of the largest are no further direction


@dataclass(frozen=True)
class Rules:
    """Gauss rules of several vectors: nodes, weights and residuals |A x - theta x|, all (probes, steps)."""

    nodes: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray


class Lockstep:
    """Krylov sequences of several unit vectors, orthogonal to the locked columns, one step at a time.

    Full two-pass reorthogonalisation against the own past and the locked columns. A sequence that spans an
    invariant subspace takes no further products.
    """

    def __init__(self, op, probes: int, steps: int, generator: torch.Generator, locked: Tensor):
        size, device = op.shape[0], getattr(op, "device", "cpu")
        start = torch.randn(size, probes, generator=generator, dtype=torch.float64).to(device, op.dtype)
        for _ in range(2):
            start = start - locked @ (locked.T @ start)
        self.op, self.locked, self.taken, self.products = Unit(op), locked, 0, 0
        self.basis = torch.zeros(probes, steps + 1, size, dtype=op.dtype, device=device)
        self.basis[:, 0] = (start / start.norm(dim=0)).T
        self.alpha, self.beta = np.zeros((probes, steps)), np.zeros((probes, steps))
        self.length = np.zeros(probes, dtype=int)  # steps until each sequence was spent
        self.alive = torch.ones(probes, dtype=torch.bool, device=device)
        self.scale = torch.zeros(probes, 1, 1, dtype=op.dtype, device=device)

    def advance(self, steps: int) -> None:
        """Take up to `steps` steps in all; ValueError when a product is not finite."""
        while self.taken < steps and bool(self.alive.any()):
            self._step()

    def _step(self) -> None:
        j, going = self.taken, self.alive.nonzero()[:, 0]
        past = self.basis[going, : j + 1]
        q = past[:, j]
        w = (self.op @ q.T.contiguous()).T[..., None]
        self.products += len(going)
        here = going.cpu().numpy()
        alpha = (q * w[..., 0]).sum(1)
        self.alpha[here, j], self.length[here] = alpha.double().cpu().numpy(), j + 1
        self.scale[going] = torch.maximum(self.scale[going], w.norm(dim=1, keepdim=True))
        for _ in range(2):
            w = w - self.locked @ (self.locked.T @ w)
            w = w - past.mT @ (past @ w)
        norm = w.norm(dim=1, keepdim=True)
        # what is left after two passes is rounding when it is this small: the space is invariant
        left = norm > 10 * torch.finfo(w.dtype).eps * self.scale[going]
        if j + 1 + self.locked.shape[1] >= w.shape[1]:
            left = torch.zeros_like(left)
        self.beta[here, j] = (norm * left)[:, 0, 0].double().cpu().numpy()
        fresh = torch.where(left, w / norm.clamp_min(torch.finfo(w.dtype).tiny), torch.zeros_like(w))
        self.basis[going, j + 1] = fresh[..., 0]
        self.alive[going] = left[:, 0, 0]
        self.taken += 1

    def rules(self, steps: int | None = None) -> Rules:
        """Return the rules after the given number of steps (default: all taken); spent ones are padded, weight 0."""
        m = self.taken if steps is None else min(steps, self.taken)
        nodes, weights, residuals = np.zeros((3, len(self.alpha), m))
        for p, length in enumerate(np.minimum(self.length, m)):
            values, s = self._eigh(p, length)
            nodes[p], residuals[p, :length] = values[-1], abs(self.beta[p, length - 1] * s[-1])
            nodes[p, :length], weights[p, :length] = values, s[0] ** 2
        return Rules(nodes * self.op.factor, weights, residuals * self.op.factor)

    def vectors(self, p: int, places: np.ndarray, steps: int) -> Tensor:
        """Return the Ritz vectors (D, j) of one sequence at the given places of its rule after so many steps."""
        length = min(int(self.length[p]), steps)
        s = torch.as_tensor(self._eigh(p, length)[1][:, places]).to(self.basis)
        x = self.basis[p, :length].T @ s
        return x / x.norm(dim=0)

    def _eigh(self, p: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        off = self.beta[p, : length - 1]
        return np.linalg.eigh(np.diag(self.alpha[p, :length]) + np.diag(off, 1) + np.diag(off, -1))


def pool(runs: list[Lockstep], steps: int | None = None) -> Rules:
    """Return the rules of all runs below each other (after so many steps: default all), padded with weight 0 to one length."""
    found = [run.rules(steps) for run in runs]
    longest = max(r.nodes.shape[1] for r in found)

    def join(name: str, mode: str) -> np.ndarray:
        parts = [getattr(r, name) for r in found]
        return np.concatenate([np.pad(x, ((0, 0), (0, longest - x.shape[1])), mode) for x in parts])

    return Rules(join("nodes", "edge"), join("weights", "constant"), join("residuals", "constant"))


@dataclass(frozen=True)
class _Space:
    """A settled eigenspace: its eigenvalues (k,), the nodes it takes, low to high, and each probe's mass in it."""

    values: np.ndarray
    low: float
    high: float
    inside: np.ndarray


def settle(runs: list[Lockstep], rules: Rules, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues whose multiplicity needs no further product, and the rules' weights (probes, steps) without them.

    A cluster of nodes is settled once, at any number of steps so far, its eigenvalues are known to `tolerance`, every
    probe has a node in it, no other node is within APART residuals, and the Ritz vectors span fewer directions than
    there are probes: m random vectors show all of an eigenspace of dimension below m. Each probe must also have exactly
    the cluster's weight in that span, so nothing of the eigenspace is left outside.
    """
    longest, spaces = max(run.taken for run in runs), []
    starts = torch.cat([run.basis[:, 0] for run in runs]).double()
    for steps in [*range(STRIDE, longest, STRIDE), longest]:
        early = pool(runs, steps)
        for places in _clusters(early, tolerance):
            values = early.nodes[places]
            low, high = values.min() - APART * tolerance, values.max() + APART * tolerance
            if all(high < space.low or space.high < low for space in spaces):
                found = _eigenspace(runs, early, places, steps)
                if found is not None:
                    inside = ((starts @ found[1]) ** 2).sum(1).cpu().numpy()
                    weight = np.bincount(places[0], early.weights[places], len(starts))
                    if (abs(inside - weight) <= 1e-3 * weight + 1e-9).all():
                        spaces.append(_Space(found[0], low, high, inside))
    weights = rules.weights.copy()
    for space in spaces:
        _take(rules.nodes, weights, space)
    return np.concatenate([np.zeros(0), *[space.values for space in spaces]]), weights


def _clusters(rules: Rules, tolerance: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """The clusters of nodes (probe, place) in which every probe has one and eigenvalues are known to the tolerance.

    An eigenvalue lies within the residual r of its node, and within r^2 / gap where no other is closer than the gap
    (Kato 1949): there the nodes of all probes must agree, since unresolved eigenvalues show each probe another mean.
    """
    held = rules.weights > 0
    values, probe, place = rules.nodes[held], *np.nonzero(held)
    order = np.argsort(values)
    values, probe, place = values[order], probe[order], place[order]
    cuts = np.flatnonzero(np.diff(values) > APART * tolerance) + 1
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        at = probe[start:stop], place[start:stop]
        if stop - start < len(held) or len(set(at[0])) < len(held):
            continue
        residual, spread = rules.residuals[at].max(), values[stop - 1] - values[start]
        gap = min((values[i] - values[i - 1] for i in (start, stop) if 0 < i < len(values)), default=0.0)
        sharp = APART * residual <= gap and residual**2 <= tolerance * gap and spread <= tolerance
        if residual <= tolerance or sharp:
            found.append(at)
    return found


def _eigenspace(
    runs: list[Lockstep], rules: Rules, places: tuple[np.ndarray, np.ndarray], steps: int
) -> tuple[np.ndarray, Tensor] | None:
    """Eigenvalues (k,) and basis (D, k) of the span of a cluster's Ritz vectors; None where it has as many as probes."""
    owners = [(run, p) for run in runs for p in range(len(run.alpha))]
    parts = [run.vectors(p, places[1][places[0] == i], steps) for i, (run, p) in enumerate(owners)]
    q, size, turn = torch.linalg.svd(torch.cat(parts, 1).double(), full_matrices=False)
    rank = int((size > FAINT * size[0]).sum())
    if rank >= len(owners):
        return None
    # A x = theta x for every column, so Q'AQ follows from Q'x by least squares
    theta = torch.as_tensor(rules.nodes[places][np.argsort(places[0], kind="stable")]).to(q)
    square = (size[:rank, None] * turn[:rank] * theta) @ (turn[:rank].T / size[:rank])
    return torch.linalg.eigvalsh((square + square.T) / 2).cpu().numpy(), q[:, :rank]


def _take(nodes: np.ndarray, weights: np.ndarray, space: _Space) -> None:
    """Take an eigenspace's mass out of the weights: its own nodes, then, for what these lack, the nearest."""
    own = (nodes >= space.low) & (nodes <= space.high)
    lack = np.maximum(space.inside - np.where(own, weights, 0).sum(1), 0)
    weights[own] = 0
    order = np.argsort(abs(nodes - (space.low + space.high) / 2), axis=1)
    near = np.take_along_axis(weights, order, 1)
    taken = np.minimum(np.cumsum(near, 1), lack[:, None])
    np.put_along_axis(weights, order, near - np.diff(taken, axis=1, prepend=0), 1)


def known_pairs(op, deflate) -> tuple[np.ndarray, Tensor]:
    """Return eigenvalues (k,) and orthonormal vectors (D, k) from Eigenpairs (converged ones), a pair of them, or None.

    Raises ValueError for other shapes and for vectors that are not orthonormal.
    """
    size, at = op.shape[0], {"dtype": op.dtype, "device": getattr(op, "device", "cpu")}
    if deflate is None:
        return np.zeros(0), torch.zeros(size, 0, **at)
    if hasattr(deflate, "vectors"):
        ready = deflate.converged
        values, vectors = deflate.values[ready], deflate.vectors[:, ready]
    else:
        values, vectors = deflate
    values, vectors = torch.as_tensor(values).double().cpu().numpy(), torch.as_tensor(vectors).to(**at)
    if values.ndim != 1 or tuple(vectors.shape) != (size, len(values)):
        raise ValueError(f"deflate must hold values (k,) and vectors ({size}, k), got {values.shape} and {tuple(vectors.shape)}")
    gap = (vectors.T @ vectors - torch.eye(len(values), **at)).abs().max() if len(values) else 0.0
    if not gap <= torch.finfo(op.dtype).eps ** 0.5:
        raise ValueError("the vectors to deflate must be orthonormal; orthonormalise them first")
    return values, vectors
