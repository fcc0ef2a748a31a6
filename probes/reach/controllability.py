"""Controllability: of a time-varying system along a trajectory, and of a network's outputs by a delta.

    x_{t+1} = step(t, x_t, u_t)      A_t = d step / dx,  B_t = d step / du      at (x_t, u_t), t = 0 .. T-1
    reach = [A_{T-1} ... A_1 B_0, ..., A_{T-1} B_{T-2}, B_{T-1}]     x_T = Phi(T, 0) x_0 + reach u     W =
    reach reach'

For a whole network the reach map to its outputs is the response G = dy/dz (see `probes.response`), one row per
example and output, and the output Gramian is K = G R^-1 G'. Ranks and energies come from the singular values of
the reach map: an eigenvalue of W is their square, and in float32 the square of anything below 3e-4 of the
largest is noise.

    >>> step = lambda t, x, u: torch.stack([x[0] + x[1], x[1] + u[0]])  # a double integrator
    >>> system = linearize(step, [torch.zeros(2)] * 2, [torch.zeros(1)] * 2)
    >>> gramian(system).tolist(), reachable(system, 2).values.shape
    ([[1.0, 1.0], [1.0, 2.0]], torch.Size([2]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from probes.layout import columns, group_names
from probes.reach.response import Response

Places = Sequence[str] | Mapping[str, str | Sequence[str] | Tensor]


@dataclass(frozen=True)
class LinearSystem:
    """x_{t+1} = A_t x_t + B_t u_t for t < T: A a tuple of (n, n), B of (n, m_t)."""

    A: tuple[Tensor, ...]
    B: tuple[Tensor, ...]

    @property
    def horizon(self) -> int:
        """Return T, the number of steps."""
        return len(self.A)

    @property
    def status(self) -> str:
        """Return whether all entries are finite."""
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


def linearize(
    step: Callable[[int, Tensor, Tensor], Tensor], states: Sequence[Tensor], controls: Sequence[Tensor]
) -> LinearSystem:
    """Return the Jacobians A_t = d step / dx and B_t = d step / du along a trajectory, by reverse mode.

    states holds x_0 .. x_{T-1} (a final x_T is allowed and ignored), controls u_0 .. u_{T-1}; tensors of any
    shape are flattened, and the sizes may change from step to step. The rows are made by vmap over the
    outputs. Raises ValueError when the lengths do not fit.
    """
    states, controls = list(states), list(controls)
    if not controls or len(states) not in (len(controls), len(controls) + 1):
        found = f"{len(states)} and {len(controls)}"
        raise ValueError(f"states must hold one tensor per control, or one more, got {found}")
    A, B = [], []
    for t, (x, u) in enumerate(zip(states[: len(controls)], controls, strict=True)):
        x, u = x.detach(), u.detach()
        with torch.no_grad():
            a, b = torch.func.jacrev(lambda p, q, t=t: step(t, p, q).reshape(-1), argnums=(0, 1))(x, u)
        A.append(a.reshape(len(a), -1))
        B.append(b.reshape(len(b), -1))
    return _system((A, B))


def gramian(system: LinearSystem | tuple[Sequence[Tensor], Sequence[Tensor]]) -> Tensor:
    """Return the controllability Gramian W = sum_t Phi(T, t+1) B_t B_t' Phi(T, t+1)', by W <- A W A' + B B'; (n, n).

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
    """Return the `rank` leading singular values and vectors of the reach map, from the map itself and never from W.

    Where the map is wider than tall it is first reduced by QR of its transpose, which squares nothing. system
    is a LinearSystem or a pair of lists (A, B). Raises ValueError unless 1 <= rank <= min(n, sum m_t).
    """
    system = _system(system)
    reach = _reach(system)
    n, m = reach.shape
    if not 1 <= rank <= min(n, m):
        raise ValueError(f"rank must lie between 1 and the reach map's smaller side {min(n, m)}, got {rank}")
    if system.status != "exact":
        nothing = reach.new_full((rank,), torch.nan)
        return Reach(
            nothing,
            reach.new_full((n, rank), torch.nan),
            reach.new_full((rank, m), torch.nan),
            0,
            float("nan"),
            float("nan"),
            system.status,
        )
    if m > n:
        q, r = torch.linalg.qr(reach.T)  # reach = r' q'
        u, s, vt = torch.linalg.svd(r.T, full_matrices=False)
        vt = vt @ q.T
    else:
        u, s, vt = torch.linalg.svd(reach, full_matrices=False)
    resolution = float(s[0]) * max(n, m) * torch.finfo(reach.dtype).eps
    return Reach(
        s[:rank], u[:, :rank], vt[:rank], int((s > resolution).sum()), resolution, float((s.double() ** 2).sum()), "exact"
    )


def _reach(system: LinearSystem) -> Tensor:
    """The reach map, by moving its columns forwards or the transition backwards, whichever is fewer products."""
    reach, width, forwards = system.B[0], system.B[0].shape[1], 0
    for A, B in zip(system.A[1:], system.B[1:], strict=True):
        forwards, width = forwards + A.numel() * width, width + B.shape[1]
    if forwards < len(system.A[-1]) * sum(A.numel() for A in system.A):
        for A, B in zip(system.A[1:], system.B[1:], strict=True):
            reach = torch.cat([A @ reach, B], dim=1)
        return reach
    blocks, phi = [], None
    for A, B in zip(reversed(system.A), reversed(system.B), strict=True):
        blocks.append(B if phi is None else phi @ B)
        phi = A if phi is None else phi @ A
    return torch.cat(blocks[::-1], dim=1)


def _system(system: LinearSystem | tuple[Sequence[Tensor], Sequence[Tensor]]) -> LinearSystem:
    """The system with its shapes checked: A_t maps the state of step t to that of step t + 1."""
    A, B = (system.A, system.B) if isinstance(system, LinearSystem) else system
    A, B = tuple(map(torch.as_tensor, A)), tuple(map(torch.as_tensor, B))
    if not A or len(A) != len(B) or any(M.ndim != 2 for M in (*A, *B)):
        raise ValueError(f"A and B must be lists of matrices, one pair per step, got {len(A)} and {len(B)}")
    for t, (a, b) in enumerate(zip(A, B, strict=True)):
        if len(a) != len(b) or (t and a.shape[1] != len(A[t - 1])):
            before = len(A[t - 1]) if t else a.shape[1]
            raise ValueError(
                f"step {t} does not chain: A is {tuple(a.shape)}, B is {tuple(b.shape)}, the state before has {before} entries"
            )
    return LinearSystem(A, B)


@dataclass(frozen=True, eq=False)
class OutputGramian:
    """The output Gramian K = G R^-1 G' of N examples' C outputs, by the singular triples of G R^-1/2, in float64.

    values (k,) in decreasing order, k = min(N C, M); outputs (N, C, k), the output directions, each reached with gain
    values[i] per root of control energy. examples (N, C, C): every example's G_i R^-1 G_i'; example_values (N, min(C, k)):
    the singular values of G_i R^-1/2. size is the number M of controls, live how many move any output at first order,
    resolution the rounding level of G, share the part of the whole map's tr K, places the Gramians of the parts, status that
    of the response.
    """

    values: Tensor
    outputs: Tensor
    examples: Tensor
    example_values: Tensor
    size: int
    live: int
    resolution: float
    share: float
    status: str
    places: dict[str, OutputGramian] = field(default_factory=dict)
    _inverse: Tensor | None = field(default=None, repr=False)

    @property
    def energy(self) -> float:
        """Return tr K, the mean squared reach of a random control of unit energy times the number of controls."""
        return float((self.values**2).sum())

    @property
    def rank(self) -> int:
        """Return the number of output directions reached at first order: singular values above the resolution."""
        return int((self.values > self.resolution).sum())

    @property
    def effective_rank(self) -> float:
        """Return exp of the entropy of the eigenvalues of K over their sum (Roy & Vetterli 2007); 0 for a zero map."""
        if not self.energy > 0:
            return 0.0
        p = self.values**2 / self.energy
        return float(torch.exp(torch.special.entr(p).sum()))

    @property
    def participation_ratio(self) -> float:
        """Return (sum l)^2 / sum l^2 of the eigenvalues l of K; 0 for a zero map."""
        return self.energy**2 / float((self.values**4).sum()) if self.energy > 0 else 0.0

    def control(self, response: Response, costate: Tensor) -> Tensor:
        """Return the control R^-1 G' nu (M,) that a costate nu (N, C) asks of this place, zero elsewhere; (M, k) for (N, C, k).

        nu = (K + ridge I)^-1 d from `least_energy` gives the control of least energy, nu = outputs[..., i] / values[i] the
        i-th leading control, of unit energy. response is the one that the Gramian was made from. Only the part of nu in the
        range of G is pulled back: in float64 where G was formed, else in the response's precision along the directions above
        the resolution, with an error of about `resolution` |nu|.
        """
        n, c, k = self.outputs.shape
        u = self.outputs.reshape(n * c, k)
        if response.matrix is None:
            u = u[:, self.values > self.resolution]
        nu = costate.to(u).reshape(n * c, -1)
        nu = (u @ (u.T @ nu)).reshape(costate.shape)
        if response.matrix is None or response.dtype == torch.float64:
            pulled = response.rmatvec(nu).double()
        else:
            pulled = sum(rows.double().T @ part for rows, part in zip(response.matrix, nu, strict=True))
        return pulled * (self._inverse if pulled.ndim == 1 else self._inverse[:, None])


def output_gramian(response: Response, groups: Places | None = None, *, metric=None) -> OutputGramian:
    """Return the output Gramian of a response and of its parts, per example and for the ensemble.

    Its values are the singular values of the stacked map G R^-1/2 (N C, M), never the roots of the eigenvalues of
    a product: blocks of columns are folded into one triangular factor by QR, so G need not have been formed.
    Everything after G is float64. groups are globs, or a mapping label -> globs, names or a mask (M,) of columns
    such as `axis_places` makes. metric is R as in `Response.kernel`. Raises ValueError for a group without
    columns.
    """
    m, root = response.shape[2], response._inverse_root(metric)
    root = torch.ones(m, dtype=torch.float64, device=response.outputs.device) if root is None else root.double()
    whole = _place(response, root, 1.0)
    masks: dict[str, Tensor] = {}
    named = groups if isinstance(groups, Mapping) else {label: label for label in groups or ()}
    for label, chosen in named.items():
        if isinstance(chosen, Tensor):
            mask = chosen.to(root.device)
            if tuple(mask.shape) != (m,) or mask.dtype != torch.bool or not bool(mask.any()):
                raise ValueError(
                    f"group {label!r} must be a mask ({m},) with a column in it, got "
                    f"{mask.dtype} of shape {tuple(mask.shape)} with {int(mask.sum())}"
                )
        else:
            names = group_names(response.names, {label: chosen})[label]
            mask = torch.zeros(m, dtype=torch.bool, device=root.device)
            mask[columns(response.shapes, names).to(root.device)] = True
        masks[label] = mask
    parts = {label: _place(response, torch.where(mask, root, 0.0), whole.energy) for label, mask in masks.items()}
    return replace(whole, places=parts, share=1.0)


def _place(response: Response, root: Tensor, total: float) -> OutputGramian:
    """The Gramian of the columns where root = R^-1/2 is positive; root is zero at all others."""
    n, c, m = response.shape
    size, live, triangle = int((root > 0).sum()), 0, root.new_zeros(0, n * c)
    for block in _blocks(response, root):
        live += int((block != 0).any(1).sum())
        triangle = torch.linalg.qr(torch.cat([triangle, block]), mode="r").R
    if not bool(torch.isfinite(triangle).all()):
        k = min(n * c, size)
        nothing = triangle.new_full((n, c, k), torch.nan)
        return OutputGramian(
            nothing[0, 0],
            nothing,
            triangle.new_full((n, c, c), torch.nan),
            nothing[:, 0, :c],
            size,
            live,
            math.nan,
            math.nan,
            "not finite",
            {},
            root**2,
        )
    u, s, _ = torch.linalg.svd(triangle.T, full_matrices=False)
    factors = triangle.T.reshape(n, c, -1)  # F_i F_i' = G_i R^-1 G_i'
    energy = float((s**2).sum())
    # rounding moves G by about 8 eps sigma_1 in a network of four blocks, and by eps sqrt(size) at random
    resolution = float(s[0]) * torch.finfo(response.dtype).eps * max(32.0, math.sqrt(max(n * c, size)))
    return OutputGramian(
        s,
        u.reshape(n, c, -1),
        factors @ factors.mT,
        torch.linalg.svdvals(factors),
        size,
        live,
        resolution,
        energy / total if total > 0 else 0.0,
        response.status,
        {},
        root**2,
    )


def _blocks(response: Response, root: Tensor) -> Iterator[Tensor]:
    """(G R^-1/2)' in blocks of rows (m, N C), one per parameter, without the columns where root is zero."""
    start = 0
    for name, shape in response.shapes.items():
        weight = root[start : start + math.prod(shape)]
        used = weight > 0
        if bool(used.any()):
            part = response.by_group({name: [name]})[name]
            rows = part.matrix if part.matrix is not None else torch.stack(list(part.per_example()))
            yield (rows[..., used].double() * weight[used]).flatten(0, 1).T
        start += len(weight)


def axis_places(
    shapes: Mapping[str, Sequence[int]], axes: Mapping[str, tuple[int, int]], labels: Callable[[int], str] = str
) -> dict[str, Tensor]:
    """Return groups of columns that share an index along one axis of their tensors: label -> mask (M,).

    axes maps a parameter's name to (axis, parts): that axis is cut into `parts` equal ranges, and range i goes to
    the group labels(i); ranges with one label are joined. Parameters that are not named belong to no group.
    Heads of prefix keys (length, heads, width) are (1, heads), heads of a LoRA factor (d_out, rank) are
    (0, heads), token slots of signals (T, d) are (0, T). Raises ValueError where an axis does not divide.
    """
    size = sum(math.prod(shape) for shape in shapes.values())
    found: dict[str, Tensor] = {}
    start = 0
    for name, shape in shapes.items():
        width = math.prod(shape)
        if name in axes:
            axis, parts = axes[name]
            if not 0 <= axis < len(shape) or parts < 1 or shape[axis] % parts:
                raise ValueError(f"axis {axis} of {name!r}, of shape {tuple(shape)}, does not divide into {parts}")
            index = torch.arange(shape[axis]) // (shape[axis] // parts)
            index = index.reshape([-1 if a == axis else 1 for a in range(len(shape))]).expand(*shape).reshape(-1)
            for i in range(parts):
                mask = found.setdefault(labels(i), torch.zeros(size, dtype=torch.bool))
                mask[start : start + width] |= index == i
        start += width
    return found


def token_slots(mask: Tensor) -> Tensor:
    """Return which of T slots of a signal (T, d) acts at each position: (B, T) indices for a mask (B, T) of real tokens.

    The first token takes slot 0, the last real one slot T - 1 and the content between them slots 1 .. T - 2 in
    order, so that one slot is the last token of every text whatever its length. A text of one token has only a
    first. Padding gets slot 0 and must be masked out.
    """
    position = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    last = (position == mask.sum(1, keepdim=True) - 1) & (position > 0)
    return torch.where(mask.bool(), torch.where(last, mask.shape[1] - 1, position), 0)
