"""Lanczos with full reorthogonalisation: extreme eigenpairs of a symmetric operator, with their multiplicity.

One Krylov sequence meets each repeated eigenvalue once. What a sequence leaves out is bounded through the Schur
complement: with A = [[T, beta e'], [beta e, C]] in the basis of a sequence and its complement, A has as many
eigenvalues above t as T and C + F(t) e e' together have (Haynsworth 1968),

    F(t) = beta^2 [(t - T)^-1]_mm = sum_i rho_i^2 / (t - theta_i),      rho_i the residual of Ritz value theta_i,

so that a few steps with C from a random vector tell whether an eigenvalue above t was missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from probes.curvature.unit import Unit
from probes.layout import dense

ORDERS = {"magnitude": np.abs, "largest": lambda x: x, "smallest": lambda x: -x}
PROOF = 12  # steps after which a settled Ritz value may end a sequence that found nothing
PATIENCE = 24  # steps that a proof may be expected to take before it is left to a whole sequence
SOON = 4  # steps after which that is known well enough
RISK = 1e-6  # probability with which the bound on what a sequence has not seen may fail


class _Krylov:
    """One Krylov sequence orthogonal to the locked vectors: A Q = Q T + beta q e' + X C, all kept."""

    def __init__(self, op, start: Tensor, locked: Tensor):
        self.op, self.locked = op, locked
        self.basis = start[None].clone()  # rows: m + 1 unit vectors, then room for more
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.leak: list[Tensor] = []  # columns of C = X'AQ

    @property
    def exhausted(self) -> bool:
        """Return whether the sequence spans an invariant subspace."""
        return len(self.beta) > 0 and self.beta[-1] == 0

    def step(self) -> None:
        """Add one vector: w = A q, orthogonalised twice against everything before it."""
        m = len(self.alpha)
        q = self.basis[m]
        w = self.op @ q
        self.alpha.append(float(q @ w))
        self.leak.append(self.locked.T @ w)
        size = float(w.norm())
        past = self.basis[: m + 1]
        for _ in range(2):
            w = w - self.locked @ (self.locked.T @ w)
            w = w - past.T @ (past @ w)
        beta = float(w.norm())
        # what is left after two passes is rounding when it is this small: the space is invariant
        scale = max([size, *map(abs, self.alpha), *self.beta])
        spent = len(self.alpha) + self.locked.shape[1] >= len(w)
        if spent or beta <= 10 * torch.finfo(w.dtype).eps * scale or beta == 0:
            self.beta.append(0.0)
        else:
            self.beta.append(beta)
            if m + 1 == len(self.basis):
                self.basis = torch.cat([self.basis, torch.empty_like(self.basis)])
            self.basis[m + 1] = w / beta

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the Ritz values (m,), their coefficients (m, m) and the residuals |A x - theta x| (m,)."""
        values, s = eigh_tridiagonal(self.alpha, self.beta[:-1])
        leak = torch.stack(self.leak, dim=1).double().cpu().numpy() @ s
        return values, s, np.sqrt((self.beta[-1] * s[-1]) ** 2 + (leak**2).sum(0))

    def vectors(self, s: np.ndarray) -> Tensor:
        """Return the vectors with the given coefficients (m, j) in the basis, renormalised."""
        q = self.basis[: len(self.alpha)]
        x = q.T @ torch.as_tensor(s).to(q)
        return x / x.norm(dim=0)


def unseen(alpha: Sequence[float], beta: Sequence[float], at: float) -> float:
    """Return the largest share that the start of a Lanczos sequence can have in an eigenvector with eigenvalue `at`.

    The Christoffel function 1 / sum_j p_j(t)^2 of the start's spectral measure, p_j its orthonormal polynomials:
    whatever has the same coefficients alpha (m,), beta (m,) holds no more mass at t (Akhiezer 1965, sec. 2.5).
    """
    before, now, total = 0.0, 1.0, 1.0
    for a, b, last in zip(alpha, beta, [0.0, *beta][: len(beta)], strict=True):
        if b == 0 or total > 1e200:
            break
        before, now = now, ((at - a) * now - last * before) / b
        total += now * now
    return 1 / total


@dataclass
class _Search:
    """The k leading eigenpairs found so far, and the products spent on them."""

    op: object
    k: int
    which: str
    tol: float
    limit: int
    generator: torch.Generator
    vectors: Tensor  # (D, j)
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    residuals: np.ndarray = field(default_factory=lambda: np.zeros(0))
    products: int = 0
    extent: tuple[float, float] = (0.0, 0.0)

    def order(self, theta: np.ndarray) -> np.ndarray:
        return ORDERS[self.which](theta)

    def slack(self, theta: np.ndarray | float) -> np.ndarray | float:
        """Return how close to an eigenvalue theta must be: the tolerance, but not less than rounding."""
        return np.maximum(self.tol * np.abs(theta), 10 * torch.finfo(self.op.dtype).eps * max(map(abs, self.extent)))

    def met(self, theta: np.ndarray, residual: np.ndarray) -> np.ndarray:
        return residual <= self.slack(theta)

    @property
    def missing(self) -> int:
        return max(0, self.k - len(self.values))

    @property
    def bar(self) -> float:
        """Return what a further eigenvalue must exceed to count: the k-th, and a tolerance."""
        if self.missing:
            return -math.inf
        last = np.sort(self.order(self.values))[-self.k]
        return last + self.slack(last)

    @property
    def goal(self) -> float | None:
        """Return above what a missed copy lies: a sequence meets every other, so at one of the values found."""
        ranked = self.order(self.values)
        copies = ranked[ranked > self.bar + self.slack(self.bar)]
        return copies.min() - self.slack(copies.min()) if len(copies) else None

    @property
    def edges(self) -> tuple[float, ...]:
        """Return the goal, and for magnitudes its negative, as eigenvalues."""
        if self.goal is None:
            return ()
        return {"largest": (self.goal,), "smallest": (-self.goal,), "magnitude": (self.goal, -self.goal)}[self.which]

    def lacking(self, run: _Krylov, edges: Sequence[float]) -> float:
        """Return about how many more steps show an eigenvalue at the edges, at the risk RISK; 0 when it would have shown."""
        # with probability 1 - RISK a random start has this share in any one direction, so in what was missed
        size, m = run.locked.shape[0] - run.locked.shape[1], len(run.alpha)
        share, more = RISK**2 * math.pi / (2 * size), 0.0
        for t in edges:
            now, before = (unseen(run.alpha[:i], run.beta[:i], t) for i in (m, m // 2))
            if now >= share:
                fall = math.log(before / now) / (m - m // 2)
                more = max(more, math.log(now / share) / fall if fall > 0 else math.inf)
        return more

    def resume(self, known: Tensor) -> Tensor:
        """Take over the pairs that the span of known columns holds; what it holds nearly is returned as a hint."""
        basis = torch.linalg.qr(known)[0]
        image = self.op @ basis
        self.products += basis.shape[1]
        inner = (basis.T @ image).double().cpu().numpy()
        theta, s = np.linalg.eigh((inner + inner.T) / 2)
        s = torch.as_tensor(s).to(basis)
        vectors = basis @ s
        residual = (image @ s - vectors * torch.as_tensor(theta).to(vectors)).norm(dim=0).double().cpu().numpy()
        self.extent = (min(0.0, theta.min()), max(0.0, theta.max()))
        keep = self.met(theta, residual)
        self.vectors, self.values, self.residuals = vectors[:, keep], theta[keep], residual[keep]
        return vectors[:, ~keep]

    def advance(self, run: _Krylov) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return one more step: its Ritz values in the wanted order, their coefficients and residuals."""
        run.step()
        self.products += 1
        theta, s, residual = run.ritz()
        self.extent = (min(self.extent[0], theta.min()), max(self.extent[1], theta.max()))
        rank = np.argsort(-self.order(theta), kind="stable")
        return theta[rank], s[:, rank], residual[rank]

    def seek(self, hint: Tensor) -> tuple[_Krylov, bool]:
        """Return a sequence orthogonal to what is known, until its part of the wanted pairs converges: it, and if any did."""
        run = _Krylov(self.op, _start(self.op, self.generator, self.vectors, hint), self.vectors)
        while True:
            theta, s, residual = self.advance(run)
            m, met = len(run.alpha), self.met(theta, residual)
            wanted = np.arange(m) < self.missing if self.missing else self.order(theta) > self.bar
            spent = run.exhausted or self.products >= self.limit
            settled = (
                not wanted.any()
                and m >= PROOF
                and self.order(theta[0]) + residual[0] <= self.bar
                and self.lacking(run, self.edges) == 0
            )
            if spent or settled or (wanted.any() and m > wanted.sum() and (m > self.missing) and met[wanted].all()):
                break
        found = bool((wanted & (met | spent)).any())
        keep = met | (wanted & spent)  # what converged beside the wanted is out of the way of the sequences that follow
        if found:
            self.vectors = torch.cat([self.vectors, run.vectors(s[:, keep])], dim=1)
            self.values, self.residuals = np.append(self.values, theta[keep]), np.append(self.residuals, residual[keep])
        return run, found

    def check(self, run: _Krylov) -> tuple[bool, Tensor]:
        """Return whether nothing above the bar was missed, by steps in the complement of all that `run` spans; else hints."""
        nothing = self.vectors[:, :0]
        goal = self.goal
        if goal is None:
            return True, nothing
        up, down = {"largest": (goal, None), "smallest": (None, -goal), "magnitude": (goal, -goal)}[self.which]
        theta, s, _ = run.ritz()
        rho = (run.beta[-1] * s[-1]) ** 2
        raised = 0.0 if up is None else float(np.sum(rho[theta < up] / (up - theta[theta < up])))
        lowered = 0.0 if down is None else float(np.sum(rho[theta > down] / (down - theta[theta > down])))
        lift = raised if up is not None else lowered  # C + lift e e', e the vector that `run` would have come to
        known = torch.cat([run.locked, run.basis[: len(run.alpha)].T], dim=1)
        if known.shape[0] <= known.shape[1]:
            return True, nothing
        op = self.op if run.exhausted else _Lifted(self.op, lift, run.basis[len(run.alpha)])
        rest = _Krylov(op, _start(op, self.generator, known, nothing), known)
        edges = [t for t in (up, None if down is None else down + lift - lowered) if t is not None]
        while self.products < self.limit and not rest.exhausted:
            theta, s, _ = self.advance(rest)
            if (above := self.order(theta) > goal).any():
                return False, rest.vectors(s[:, above])
            more = self.lacking(rest, edges)
            if more == 0:
                return True, nothing
            if len(rest.alpha) >= SOON and len(rest.alpha) + more > PATIENCE:
                break
        return rest.exhausted, nothing


@dataclass(frozen=True)
class _Lifted:
    """A + lift e e'."""

    op: object
    lift: float
    e: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.op.shape

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.op @ v + self.lift * self.e * (self.e @ v)


def extreme(
    op, k: int, which: str, tol: float, seed: int, max_products: int, known: Tensor | None = None, proof: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Return (values, vectors, residuals, converged, products) of the k leading eigenpairs in the order `which`.

    known: independent columns (D, j) near the wanted eigenvectors, which cost a product each. Without the proof the
    search ends with the first k.
    """
    op = Unit(op)
    size, device = op.shape[0], op.device
    if size <= 2 * k + 2 * PROOF <= max_products:
        return _all(op, k, which)
    nothing = torch.zeros(size, 0, dtype=op.dtype, device=device)
    search = _Search(op, k, which, tol, max_products, torch.Generator().manual_seed(seed), nothing)
    hint, complete = nothing if known is None else search.resume(known.to(nothing)), False
    while not complete and len(search.values) < size and search.products < max_products:
        run, found = search.seek(hint)
        hint, complete = nothing, not found and not search.missing
        if found and not search.missing:
            complete, hint = search.check(run) if proof else (True, nothing)
    rank = np.argsort(-search.order(search.values), kind="stable")[:k]
    values, residuals = search.values[rank], search.residuals[rank]
    ready = search.met(values, residuals) & (complete or len(search.values) >= size)  # else the budget ended first
    at = {"dtype": torch.float64, "device": device}
    vectors = search.vectors[:, torch.as_tensor(rank.copy(), device=device)]
    numbers, errors = torch.as_tensor(values * op.factor, **at), torch.as_tensor(residuals * op.factor, **at)
    return numbers, vectors, errors, torch.as_tensor(ready, device=device), search.products


def _all(op: Unit, k: int, which: str) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """What `extreme` returns, from the matrix itself: the cheaper way for a small one."""
    matrix = dense(op).double()
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    rank = np.argsort(-ORDERS[which](values.cpu().numpy()), kind="stable")[:k]
    places = torch.as_tensor(rank.copy(), device=values.device)
    values, vectors = values[places], vectors[:, places]
    residuals = (matrix @ vectors - vectors * values).norm(dim=0)
    sure = torch.ones_like(values, dtype=torch.bool)
    return values * op.factor, vectors.to(op.dtype), residuals * op.factor, sure, op.shape[0]


def ends(op, tol: float, seed: int, max_products: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Return what `extreme` returns, for the largest and the smallest eigenvalue, by one sequence."""
    op = Unit(op)
    nothing = torch.zeros(op.shape[0], 0, dtype=op.dtype, device=op.device)
    search = _Search(op, 1, "largest", tol, max_products, torch.Generator().manual_seed(seed), nothing)
    run = _Krylov(op, _start(op, search.generator, nothing, nothing), nothing)
    while True:
        theta, s, residual = (x[..., [0, -1]] for x in search.advance(run))
        met = search.met(theta, residual)
        if (len(run.alpha) > 1 and met.all()) or run.exhausted or search.products >= max_products:
            break
    at = {"dtype": torch.float64, "device": nothing.device}
    numbers, errors = torch.as_tensor(theta * op.factor, **at), torch.as_tensor(residual * op.factor, **at)
    return numbers, run.vectors(s), errors, torch.as_tensor(met, device=nothing.device), search.products


def _start(op, generator: torch.Generator, locked: Tensor, hint: Tensor) -> Tensor:
    """A random unit vector orthogonal to the locked ones, with the hinted directions in it."""
    v = torch.randn(op.shape[0], generator=generator, dtype=torch.float64).to(locked)
    v = v / v.norm() + hint.sum(1)
    for _ in range(2):
        v = v - locked @ (locked.T @ v)
    return v / v.norm()
