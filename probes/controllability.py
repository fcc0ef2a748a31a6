"""Controllability of a discrete time-varying system along a trajectory: linearisation, Gramian, reach map.

    x_{t+1} = step(t, x_t, u_t)      A_t = d step / dx,  B_t = d step / du      at (x_t, u_t), t = 0 .. T-1
    reach = [A_{T-1} ... A_1 B_0, ..., A_{T-1} B_{T-2}, B_{T-1}]     x_T = Phi(T, 0) x_0 + reach u     W =
    reach reach'

Ranks and energies come from the singular values of the reach map: an eigenvalue of W is their square, and in
float32 the square of anything below 3e-4 of the largest is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearSystem:
    """x_{t+1} = A_t x_t + B_t u_t for t < T: A a tuple of (n, n), B of (n, m_t)."""

    A: tuple[Tensor, ...]
    B: tuple[Tensor, ...]

    @property
    def horizon(self) -> int:
        """T, the number of steps."""
        return len(self.A)

    @property
    def status(self) -> str:
        """Whether all entries are finite."""
        return "exact" if all(bool(torch.isfinite(M).all()) for M in (*self.A, *self.B)) else "not finite"


@dataclass(frozen=True)
class Reach:
    """The leading singular triples of the reach map (n, sum m_t).

    values (k,) in decreasing order; states (n, k) are the directions that are reached, each with gain
    values[i] per unit of control energy's root; controls (k, sum m_t) are the inputs that reach them, u_0
    first. rank counts all singular values above `resolution`, the rounding level of the map; energy is the
    sum of all their squares, tr W.
    """

    values: Tensor
    states: Tensor
    controls: Tensor
    rank: int
    resolution: float
    energy: float
    status: str


def linearize(step: Callable[[int, Tensor, Tensor], Tensor], states: Sequence[Tensor],
              controls: Sequence[Tensor]) -> LinearSystem:
    """The Jacobians A_t = d step / dx and B_t = d step / du along a trajectory, by reverse mode.

    states holds x_0 .. x_{T-1} (a final x_T is allowed and ignored), controls u_0 .. u_{T-1}; tensors of any
    shape are flattened, and the sizes may change from step to step. The rows are made by vmap over the
    outputs. Raises ValueError when the lengths do not fit.
    """
    states, controls = list(states), list(controls)
    if not controls or len(states) not in (len(controls), len(controls) + 1):
        found = f"{len(states)} and {len(controls)}"
        raise ValueError(f"states must hold one tensor per control, or one more, got {found}")
    A, B = [], []
    for t, (x, u) in enumerate(zip(states[:len(controls)], controls, strict=True)):
        x, u = x.detach(), u.detach()
        with torch.no_grad():
            a, b = torch.func.jacrev(lambda p, q, t=t: step(t, p, q).reshape(-1), argnums=(0, 1))(x, u)
        A.append(a.reshape(len(a), -1))
        B.append(b.reshape(len(b), -1))
    return _system((A, B))


def gramian(system: LinearSystem | tuple[Sequence[Tensor], Sequence[Tensor]]) -> Tensor:
    """The controllability Gramian W = sum_t Phi(T, t+1) B_t B_t' Phi(T, t+1)', by W <- A W A' + B B'; (n, n).

    For plots and traces only: take ranks and smallest energies from `reachable`. system is a LinearSystem or
    a pair of lists (A, B). Raises ValueError when the shapes do not chain.
    """
    system = _system(system)
    n = system.A[0].shape[1]
    W = system.A[0].new_zeros(n, n)
    for A, B in zip(system.A, system.B, strict=True):
        W = A @ W @ A.T + B @ B.T
    return (W + W.T) / 2


def reachable(system: LinearSystem | tuple[Sequence[Tensor], Sequence[Tensor]], rank: int) -> Reach:
    """The `rank` leading singular values and vectors of the reach map, from the map itself and never from W.

    Where the map is wider than tall it is first reduced by QR of its transpose, which squares nothing. system
    is a LinearSystem or a pair of lists (A, B). Raises ValueError unless 1 <= rank <= min(n, sum m_t).
    """
    system = _system(system)
    blocks, phi = [], None
    for A, B in zip(reversed(system.A), reversed(system.B), strict=True):
        blocks.append(B if phi is None else phi @ B)
        phi = A if phi is None else phi @ A
    reach = torch.cat(blocks[::-1], dim=1)
    n, m = reach.shape
    if not 1 <= rank <= min(n, m):
        raise ValueError(f"rank must lie between 1 and the reach map's smaller side {min(n, m)}, got {rank}")
    if system.status != "exact":
        nothing = reach.new_full((rank,), torch.nan)
        return Reach(nothing, reach.new_full((n, rank), torch.nan), reach.new_full((rank, m), torch.nan), 0,
                     float("nan"), float("nan"), system.status)
    if m > n:
        q, r = torch.linalg.qr(reach.T)                 # reach = r' q'
        u, s, vt = torch.linalg.svd(r.T, full_matrices=False)
        vt = vt @ q.T
    else:
        u, s, vt = torch.linalg.svd(reach, full_matrices=False)
    resolution = float(s[0]) * max(n, m) * torch.finfo(reach.dtype).eps
    return Reach(s[:rank], u[:, :rank], vt[:rank], int((s > resolution).sum()), resolution,
                 float((s.double() ** 2).sum()), "exact")


def _system(system: LinearSystem | tuple[Sequence[Tensor], Sequence[Tensor]]) -> LinearSystem:
    """The system with its shapes checked: A_t maps the state of step t to that of step t + 1."""
    A, B = (system.A, system.B) if isinstance(system, LinearSystem) else system
    A, B = tuple(map(torch.as_tensor, A)), tuple(map(torch.as_tensor, B))
    if not A or len(A) != len(B) or any(M.ndim != 2 for M in (*A, *B)):
        raise ValueError(f"A and B must be lists of matrices, one pair per step, got {len(A)} and {len(B)}")
    for t, (a, b) in enumerate(zip(A, B, strict=True)):
        if len(a) != len(b) or (t and a.shape[1] != len(A[t - 1])):
            before = len(A[t - 1]) if t else a.shape[1]
            raise ValueError(f"step {t} does not chain: A is {tuple(a.shape)}, B is {tuple(b.shape)}, the "
                             f"state before has {before} entries")
    return LinearSystem(A, B)
