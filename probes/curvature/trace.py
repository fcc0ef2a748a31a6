"""Trace and Frobenius norm of a symmetric operator from a budget of products, with honest intervals.

For independent signs v the blocks of a partition of the parameters are seen one at a time: v_g'A v_g, v_g = v
on group g and 0 elsewhere, is what remains of v'Av when the group's signs are flipped by the rows of a
Hadamard matrix and averaged. The cross terms between groups, which carry variance but no trace, cancel
exactly. In each block the trace is Hutchinson's mean or Hutch++ (Meyer, Musco, Musco & Woodruff 2021), of what
known eigenpairs and a control variate leave. XTrace (Epperly, Tropp & Webber 2024) is left out: it spreads as
little, but the standard error of its dependent leave-one-out values comes out up to 1.5 times too small.

    >>> A = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    >>> trace(A).value, frobenius(A).value
    (7.0, 5.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probes.curvature.quadrature import known_pairs
from probes.layout import check_finite, columns, dense, group_names
from probes.records import Estimate, student

METHODS = ("hutchinson", "hutch++")
SHARE = 3  # one product in SHARE is a sketch; Hutch++ takes as many again for its range
LEAST = 8  # products per group, on average, below which no partition is tried
FLOOR = 6  # products that each group of a partition gets at least; a quarter of the mean share too

Groups = Sequence[str] | Mapping[str, str | Sequence[str]]
Product = Callable[[Tensor], Tensor]


def trace(
    op,
    *,
    budget: int = 32,
    groups: Groups | None = None,
    control: object | None = None,
    deflate=None,
    method: str | None = None,
    seed: int = 0,
) -> Estimate:
    """Measure tr A without bias from at most `budget` products, with Student's interval; exact if D <= budget.

    groups (globs or label -> globs, each parameter once) fix the partition whose cross terms cancel. By default it is that of
    op.shapes' names, their last components, or none, whichever has the least sum of s_g = |offdiag A_gg|_F by a pilot;
    products are shared out in proportion to s_g (Neyman 1934).
    method is "hutchinson" (1989) or "hutch++"; by default each block takes what has the smaller variance.
    deflate (Eigenpairs, or values (k,) and orthonormal vectors (D, k)) is subtracted first and keeps the estimate unbiased.
    control is (C, tr C) at twice the products, or an object with .trace and `@` at none (a Spectrum), used where it lowers
    the variance.
    .parts holds each group's trace unless there is a control; degrees of freedom are Welch and Satterthwaite's. Raises
    ValueError for a budget below two probes, groups that do not hold each parameter once, an operator that is not square, and
    products that are not finite.
    """
    size = _square(op)
    if method not in (None, *METHODS):
        raise ValueError(f"method must be one of {', '.join(METHODS)} or None, got {method!r}")
    rest = _Rest(op, deflate, control)
    partitions = [_partition(op, groups)] if groups is not None else _candidates(op, budget // rest.cost)
    if size <= budget:
        return _dense(op, partitions[0] if groups is not None else partitions[-1])
    parts, most = partitions[0], budget // rest.cost
    if most < 2 * len(parts):
        raise ValueError(f"a standard error takes two probes of {len(parts) * rest.cost} products each, got budget={budget}")
    generator = torch.Generator().manual_seed(seed)
    pilot = 2 if most >= 2 * LEAST * len(parts) else 1
    signs = _signs(size, pilot, generator, rest.at)
    seen = rest.decide(signs, {k: rest.sketch(_masked(signs, places)) for k, places in parts.items()}, parts)
    chosen = min(partitions, key=lambda p: sum(_energies(signs, _merge(seen, parts, p), p)))
    spent = _merge(seen, parts, chosen)
    shares = _share(most - pilot * (len(parts) - len(chosen)), _energies(signs, spent, chosen))
    judged = pilot if len(parts) > 1 and min(shares) >= FLOOR else 0  # else the pilot has decided nothing
    blocks = {}
    for (label, places), share in zip(chosen.items(), shares, strict=True):
        sketches = max(pilot, share // SHARE)
        more = _signs(size, sketches - pilot, generator, rest.at)
        omega = torch.cat([signs, more], 1)[places]
        first = torch.cat([spent[label], rest(_masked(more, places))], 1)[places]

        def inside(v: Tensor, places: Tensor = places) -> Tensor:
            whole = torch.zeros(size, v.shape[1], **rest.at)
            whole[places] = v
            return rest(whole)[places]

        blocks[label] = _block(f"trace of {label}", inside, omega, first, share - sketches, method, generator, judged)
    words = " and ".join(sorted({e.method for e in blocks.values()}))
    words += f" with sign flips of {len(chosen)} groups" if len(chosen) > 1 else ""
    words += f", deflated by {len(rest.values)} directions" if len(rest.values) else ""
    words += ", with a control variate" if rest.control is not None else ""
    each = {}
    if len(chosen) > 1 and rest.control is None:
        each = {label: _shift(e, rest.known(chosen[label])) for label, e in blocks.items()}
    whole = _shift(_total("trace", list(blocks.values())), rest.offset)
    return replace(whole, products=rest.products, parts=each, method=words)


def frobenius(op, *, budget: int = 32, deflate=None, seed: int = 0) -> Estimate:
    """Measure the Frobenius norm |A|_F from at most `budget` products, by E |Av|^2 = |A|_F^2; exact if D <= budget.

    As Hutch++ of A'A: Q spans a third of the budget's sketches, |AQ|_F^2 is exact and |A(I - QQ')v|^2 sampled, with Student's
    interval for its logarithm and the delta method's standard error. .parts["square"] holds the square.
    deflate takes Ritz pairs, for which X'AX = diag(theta). Raises ValueError as `trace` does.
    """
    size, rest = _square(op), _Rest(op, deflate, None)
    if size <= budget:
        return _root(_exact("square", float((dense(op).double() ** 2).sum()), size))
    if budget < 2:
        raise ValueError(f"a standard error takes two probes, got budget={budget}")
    generator, k = torch.Generator().manual_seed(seed), budget // SHARE if budget >= LEAST else 0
    q = _range(rest(_signs(size, k, generator, rest.at)))[0]
    sure = float((rest(q) ** 2).sum()) + float((rest.values**2).sum())
    probes = _signs(size, budget - 2 * k, generator, rest.at)
    left = (rest(probes - q @ (q.T @ probes)) ** 2).sum(0)
    words = "Hutch++" if k else "Hutchinson"
    words += f", deflated by {len(rest.values)} directions" if len(rest.values) else ""
    e = student("square", float(left.mean()), float(left.std() / len(left) ** 0.5), len(left))
    factor = math.exp((e.interval[1] - e.value) / e.value) if e.value > 0 else 1.0
    return _root(
        replace(
            e,
            value=sure + e.value,
            interval=(sure + e.value / factor, sure + e.value * factor),
            products=rest.products,
            method=words,
        )
    )


class _Rest:
    """What known eigenpairs and a control variate leave of an operator, in float64, with its products counted."""

    def __init__(self, op, deflate, control):
        self.op, self.products = op, 0
        self.at = {"dtype": torch.float64, "device": getattr(op, "device", "cpu")}
        self.values, vectors = known_pairs(op, deflate)
        self.vectors, self.theta = vectors.double(), torch.as_tensor(self.values).to(vectors.device)[:, None]
        self.free = control is not None and not isinstance(control, tuple)
        self.control, self.traced = (control, control.trace) if self.free else control or (None, 0.0)
        self.traced = float(self.traced() if callable(self.traced) else self.traced)
        self.cost = 1 if control is None or self.free else 2
        if self.control is not None and tuple(getattr(self.control, "shape", op.shape)) != tuple(op.shape):
            raise ValueError(f"the control must have the operator's shape {tuple(op.shape)}, got {tuple(self.control.shape)}")

    @property
    def offset(self) -> float:
        """Return the trace of what is known."""
        return float(self.values.sum()) + (0.0 if self.control is None else self.traced)

    def known(self, places: Tensor) -> float:
        """Return the part of the known eigenpairs' trace that lies in some places."""
        return float((self.theta.T * self.vectors[places] ** 2).sum())

    def sketch(self, v: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the product without the known eigenpairs, and the control's."""
        if not v.shape[1]:
            return torch.zeros_like(v), 0.0
        self.products += v.shape[1] * self.cost
        found = (self.op @ v.to(self.op.dtype)).double()
        check_finite(found)
        less = 0.0
        if self.control is not None:
            less = (self.control @ v.to(getattr(self.control, "dtype", self.op.dtype))).double()
        return found - self.vectors @ (self.theta * (self.vectors.T @ v)), less

    def __call__(self, v: Tensor) -> Tensor:
        found, less = self.sketch(v)
        return found - less

    def decide(self, signs: Tensor, seen: Mapping[str, tuple], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the pilot's products; a control whose products are free is dropped where it adds variance."""
        without = {label: found for label, (found, _) in seen.items()}
        less = {label: found - c for label, (found, c) in seen.items()}
        if self.free and sum(_energies(signs, without, parts)) < sum(_energies(signs, less, parts)):
            self.control = None
            return without
        return less


def _block(
    name: str,
    product: Product,
    omega: Tensor,
    first: Tensor,
    more: int,
    method: str | None,
    generator: torch.Generator,
    pilot: int,
) -> Estimate:
    """The trace of one block from its sketches `first` = A omega (D_g, k) and `more` further products.

    The pilot's sketches are no probes where there are others: they have set the block's share of the
    products, and a mean whose weight depends on its own terms is biased.
    """
    size, k = omega.shape
    if size <= more:
        return _exact(name, float(product(torch.eye(size, dtype=omega.dtype, device=omega.device)).trace()), k)
    q, residual = _range(first)
    if method is None:
        gain = k > 1 and more - k > 1 and residual / (more - k) < _off_diagonal(omega, first) / (k + more)
        method = "hutch++" if gain else "hutchinson"
    elif method == "hutch++" and more < k + 2:
        raise ValueError("hutch++ takes at least 4 products per group; raise the budget or use fewer groups")
    fresh = _signs(
        size, more - (q.shape[1] if method == "hutch++" else 0), generator, {"dtype": omega.dtype, "device": omega.device}
    )
    if method == "hutch++":
        inner = (q * product(q)).sum()
        fresh = fresh - q @ (q.T @ fresh)
        samples = inner + (fresh * product(fresh)).sum(0)
    else:
        samples = torch.cat([(omega * first).sum(0)[pilot:], (fresh * product(fresh)).sum(0)])
    words = {"hutch++": "Hutch++", "hutchinson": "Hutchinson"}[method]
    return student(name, float(samples.mean()), float(samples.std() / len(samples) ** 0.5), len(samples), method=words)


def _range(y: Tensor) -> tuple[Tensor, float]:
    """(Q, r): Q spans the columns of y, r is the mean square of what each column has beyond the others.

    r_i^2 = 1 / (R'R)^-1_ii for y = QR; it shows what A Omega leaves of A without a product.
    """
    u, size, turn = torch.linalg.svd(y, full_matrices=False)
    if not size.numel():
        return u, 0.0
    rank = int((size > max(y.shape) * torch.finfo(y.dtype).eps * size[0]).sum())
    if rank < y.shape[1]:
        return u[:, :rank], 0.0
    return u, float((1 / ((turn.T / size) ** 2).sum(1)).mean())


def _off_diagonal(omega: Tensor, y: Tensor) -> float:
    """sum_{i != j} A_ij^2 from sketches y = A omega; one sketch alone cannot tell the diagonal, and keeps it."""
    k, whole = omega.shape[1], float((y**2).sum(0).mean())
    if k == 1:
        return whole
    return max(0.0, whole - float(((omega * y).mean(1) ** 2).sum())) * k / (k - 1)


def _energies(signs: Tensor, seen: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> list[float]:
    """|offdiag A_gg|_F of each group."""
    return [math.sqrt(_off_diagonal(signs[places], seen[label][places])) for label, places in parts.items()]


def _share(products: int, spreads: Sequence[float]) -> list[int]:
    """Products per group in proportion to its spread, but for a floor, since a pilot knows spreads badly."""
    floor = min(max(FLOOR, products // (4 * len(spreads))), products // len(spreads))
    left, total = products - floor * len(spreads), sum(spreads)
    wish = [s / total if total > 0 else 1 / len(spreads) for s in spreads]
    ideal = [max(0.0, products * w - floor) for w in wish]
    scale = left / sum(ideal) if sum(ideal) > 0 else 0.0
    found = [floor + int(scale * x) for x in ideal]
    found[max(range(len(found)), key=lambda i: ideal[i])] += products - sum(found)
    return found


def _merge(seen: Mapping[str, Tensor], fine: Mapping[str, Tensor], coarse: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The products of a partition's masked probes as those of a coarser one."""
    return {
        label: sum(seen[f] for f, inner in fine.items() if bool(torch.isin(inner[:1], places).any()))
        for label, places in coarse.items()
    }


def _candidates(op, most: int) -> list[dict[str, Tensor]]:
    """Partitions from the finest affordable to none: each tensor, the last components of the names, all."""
    names = tuple(getattr(op, "shapes", ()))  # a Tensor's own .names, where torch has them, are of its axes
    whole = {"all": torch.arange(op.shape[0])}
    last: dict[str, list[str]] = {}
    for name in names:
        last.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    each = {name: columns(op.shapes, [name]) for name in names}
    roles = {f"*.{role}": columns(op.shapes, some) for role, some in last.items()}
    return [p for p in (each, roles) if 1 < len(p) <= most // LEAST] + [whole]


def _partition(op, groups: Groups) -> dict[str, Tensor]:
    """The places of each group, which must hold every parameter once."""
    shapes = getattr(op, "shapes", None)
    if shapes is None:
        raise ValueError(f"groups need an operator whose .shapes names its parameters, got {type(op).__name__}; leave groups out")
    parts = {label: columns(shapes, names) for label, names in group_names(tuple(shapes), groups).items()}
    found, size = torch.cat(list(parts.values())), op.shape[0]
    if len(found) != size or len(found.unique()) != size:
        raise ValueError(f"groups must hold each of the {size} parameters once, got {len(found)} places")
    return parts


def _masked(v: Tensor, places: Tensor) -> Tensor:
    """v on some rows, 0 elsewhere."""
    found = torch.zeros_like(v)
    found[places] = v[places]
    return found


def _signs(size: int, k: int, generator: torch.Generator, at: Mapping) -> Tensor:
    return (torch.randint(2, (size, k), generator=generator) * 2 - 1).to(**at)


def _square(op) -> int:
    """D; ValueError for an operator that is not square."""
    if len(op.shape) != 2 or op.shape[0] != op.shape[1]:
        raise ValueError(f"the operator must be square, got shape {tuple(op.shape)}")
    return op.shape[0]


def _exact(name: str, value: float, n: int, **more) -> Estimate:
    return Estimate(name, value, 0.0, (value, value), n, method="dense", **more)


def _dense(op, parts: Mapping[str, Tensor]) -> Estimate:
    """The exact trace and each group's, by D products."""
    diagonal = dense(op).double().diagonal()
    each = {k: _exact(f"trace of {k}", float(diagonal[places].sum()), len(places)) for k, places in parts.items()}
    size = len(diagonal)
    return _exact("trace", float(diagonal.sum()), size, products=size, parts=each if len(each) > 1 else {})


def _total(name: str, parts: Sequence[Estimate]) -> Estimate:
    """The sum of independent estimates, on Welch and Satterthwaite's degrees of freedom."""
    spread = [e.stderr**2 for e in parts]
    spare = sum(v**2 / (e.n - 1) for v, e in zip(spread, parts, strict=True) if v > 0)
    n = min(e.n for e in parts)
    degrees = int(sum(spread) ** 2 / spare) if spare > 0 else n - 1
    return student(name, sum(e.value for e in parts), math.sqrt(sum(spread)), n, degrees=max(degrees, 1))


def _shift(e: Estimate, by: float) -> Estimate:
    return replace(e, value=e.value + by, interval=(e.interval[0] + by, e.interval[1] + by))


def _root(square: Estimate) -> Estimate:
    """The root of an estimate, by the delta method."""
    value = math.sqrt(max(square.value, 0.0))
    interval = tuple(math.sqrt(max(x, 0.0)) for x in square.interval)
    error = square.stderr / (2 * value) if value else 0.0
    return replace(square, quantity="Frobenius norm", value=value, stderr=error, interval=interval, parts={"square": square})
