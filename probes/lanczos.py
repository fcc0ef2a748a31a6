"""Lanczos with full reorthogonalisation: extreme eigenpairs with multiplicity, quadrature in lockstep."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ORDERS = {"magnitude": np.abs, "largest": lambda x: x, "smallest": lambda x: -x}
CHECK = 4                   # steps between two looks at the Ritz values
PROOF = 12                  # steps that a restart makes at least before it may say that nothing was missed


class _Krylov:
    """One Krylov sequence orthogonal to the locked vectors: A Q = Q T + beta q e' + X C, all kept."""

    def __init__(self, op, start: Tensor, locked: Tensor):
        self.op, self.locked = op, locked
        self.basis = start[None].clone()                # rows: m + 1 unit vectors, then room for more
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.leak: list[Tensor] = []                    # columns of C = X'AQ

    @property
    def exhausted(self) -> bool:
        """Whether the sequence spans an invariant subspace."""
        return len(self.beta) > 0 and self.beta[-1] == 0

    def step(self) -> None:
        """Add one vector: w = A q, orthogonalised twice against everything before it."""
        m = len(self.alpha)
        q = self.basis[m]
        w = self.op @ q
        self.alpha.append(float(q @ w))
        self.leak.append(self.locked.T @ w)
        size = float(w.norm())
        past = self.basis[:m + 1]
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
        """Ritz values (m,), their coefficients (m, m) and the residuals |A x - theta x| (m,)."""
        t = np.diag(self.alpha) + np.diag(self.beta[:-1], 1) + np.diag(self.beta[:-1], -1)
        values, s = np.linalg.eigh(t)
        leak = torch.stack(self.leak, dim=1).double().cpu().numpy() @ s
        return values, s, np.sqrt((self.beta[-1] * s[-1]) ** 2 + (leak**2).sum(0))

    def vectors(self, s: np.ndarray) -> Tensor:
        """The vectors with the given coefficients (m, j) in the basis, renormalised."""
        q = self.basis[:len(self.alpha)]
        x = q.T @ torch.as_tensor(s).to(q)
        return x / x.norm(dim=0)


def extreme(op, k: int, which: str, tol: float, seed: int,
            max_products: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """(values, vectors, residuals, converged, products) of the k leading eigenpairs in the order `which`."""
    order = ORDERS[which]
    size, generator = op.shape[0], torch.Generator().manual_seed(seed)
    device, eps = getattr(op, "device", "cpu"), torch.finfo(op.dtype).eps
    locked = torch.zeros(size, 0, dtype=op.dtype, device=device)
    values, residuals, products, scale = np.zeros(0), np.zeros(0), 0, 0.0

    def met(theta: np.ndarray, residual: np.ndarray) -> np.ndarray:
        return residual <= np.maximum(tol * np.abs(theta), 10 * eps * scale)

    done = False
    while not done and len(values) < size and products < max_products:
        run = _Krylov(op, _start(size, op.dtype, device, generator, locked), locked)
        bar = np.sort(order(values))[-k] if len(values) >= k else -np.inf       # what a newcomer must beat
        missing = max(0, k - len(values))
        while True:
            run.step()
            products += 1
            stop = run.exhausted or products >= max_products
            if not stop and len(run.alpha) % CHECK:
                continue
            theta, s, residual = run.ritz()
            scale = max(scale, np.abs(theta).max())
            rank = np.argsort(-order(theta), kind="stable")
            theta, s, residual = theta[rank], s[:, rank], residual[rank]
            slack = tol * abs(bar) if np.isfinite(bar) else 0.0
            better = order(theta) > bar + slack
            wanted = np.arange(len(theta)) < missing if missing else better
            settled = met(theta, residual) | (order(theta) + residual <= bar + slack)
            head = int(max(wanted.sum(), missing))
            enough = len(theta) >= (missing or PROOF) and settled[:head + (0 if missing else 1)].all()
            if stop or (enough and len(theta) > head):
                break
        good = met(theta, residual) | run.exhausted
        keep = wanted & (good | (products >= max_products))
        done = not missing and not keep.any()
        if keep.any():
            fresh = run.vectors(s[:, keep])
            locked = torch.cat([locked, fresh], dim=1)
            values, residuals = np.append(values, theta[keep]), np.append(residuals, residual[keep])
    rank = np.argsort(-order(values), kind="stable")[:k]
    values, residuals = values[rank], residuals[rank]
    places = torch.as_tensor(rank.copy(), device=locked.device)
    complete = done or locked.shape[1] == size          # else the budget ended before the last restart could
    ready = met(values, residuals) & complete
    at = {"dtype": torch.float64, "device": locked.device}
    found, error = torch.as_tensor(values, **at), torch.as_tensor(residuals, **at)
    return found, locked[:, places], error, torch.as_tensor(ready, device=locked.device), products


def quadrature(op, probes: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(nodes, weights, products) of the Gauss rules of random unit vectors; the first two (probes, steps)."""
    size, device = op.shape[0], getattr(op, "device", "cpu")
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, probes, generator=generator, dtype=torch.float64).T.to(device, op.dtype)
    basis = torch.zeros(probes, steps, size, dtype=op.dtype, device=device)
    basis[:, 0] = start / start.norm(dim=1, keepdim=True)
    alpha = torch.zeros(steps, probes, dtype=torch.float64)
    beta = torch.zeros(steps, probes, dtype=torch.float64)
    for j in range(steps):
        w = (op @ basis[:, j].T).T[..., None]
        alpha[j] = (basis[:, j] * w[..., 0]).sum(1).double().cpu()
        if j + 1 == steps:
            break
        before = w.norm(dim=1)
        past = basis[:, :j + 1]
        for _ in range(2):
            w = w - past.mT @ (past @ w)
        norm = w.norm(dim=1)
        alive = norm > 10 * torch.finfo(op.dtype).eps * before
        beta[j] = (norm * alive)[:, 0].double().cpu()
        basis[:, j + 1] = torch.where(alive, w[..., 0] / norm.clamp_min(torch.finfo(op.dtype).tiny), 0)
    nodes, weights = np.zeros((probes, steps)), np.zeros((probes, steps))
    for p in range(probes):
        b = beta[:-1, p].numpy()
        m = int(np.argmin(b > 0)) + 1 if (b <= 0).any() else steps     # spent: a shorter, exact rule
        t = np.diag(alpha[:m, p].numpy()) + np.diag(b[:m - 1], 1) + np.diag(b[:m - 1], -1)
        values, s = np.linalg.eigh(t)
        nodes[p, :m], weights[p, :m] = values, s[0] ** 2
        nodes[p, m:] = values[-1]
    return nodes, weights, probes * steps


def _start(size: int, dtype: torch.dtype, device, generator: torch.Generator, locked: Tensor) -> Tensor:
    """A random unit vector orthogonal to the locked ones."""
    v = torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)
    for _ in range(2):
        v = v - locked @ (locked.T @ v)
    return v / v.norm()
