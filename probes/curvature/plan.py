"""What a table of curvature costs before it is measured: its parts, and the products that each will take.

A product with the block of some parameters runs back through the network to the lowest of them only, so that with L
layers a block whose lowest layer is the i-th (from 0) takes about the share 1 - i / L of a product with the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.curvature.operators import DENSE, Operator
from probes.layout import by_layer

FULL = 25  # products for both ends that the choice between diagonalising and iterating reckons with
LARGEST = 4096  # the most numbers in a block that is diagonalised unasked
GRAPH = 1.5  # what building a block's graph costs, in products with it
COLUMNS = 64  # of a matrix that is formed, between two reports


@dataclass(frozen=True)
class Part:
    """One row's share of a measurement, or the probes that the traces of all rows share.

    route is "dense" (diagonalised), "shared" (cut from the matrix of the part `of`), "same" (the parameters of the part
    `of`), "iterative", "traces" or "top". ends, density and products are the products expected, `share` the cost of one in
    those of the whole, and graph says whether a graph of its own is built.
    """

    label: str
    names: tuple[str, ...]
    size: int
    route: str
    of: str = ""
    ends: int = 0
    density: int = 0
    others: int = 0
    share: float = 1.0
    graph: bool = False

    @property
    def products(self) -> int:
        """Return the products expected."""
        return self.ends + self.density + self.others

    @property
    def cost(self) -> float:
        """Return the expected cost in products with the whole, graphs included."""
        return self.share * (self.products + GRAPH * (self.graph and self.products > 0))


Tell = Callable[[Part, int], None]  # the part, and the products it has just made; 0 when it ends


def plan(
    op: Operator,
    groups: Mapping[str, tuple[str, ...]],
    *,
    ends: Collection[str] | None = None,
    densities: Collection[str] | None = None,
    probes: int = 10,
    steps: int = 50,
    budget: int = 32,
    dense: int | None = None,
    tol: float = 1e-3,
) -> tuple[Part, ...]:
    """Return the parts of `probes.summaries` with these options, in the order in which they are measured.

    groups maps labels to the names of parameters; ends and densities are the labels for which both ends and a density are
    wanted where a block is not diagonalised, None for all. Nothing is computed.
    """
    sizes = {label: sum(math.prod(op.shapes[name]) for name in names) for label, names in groups.items()}
    with_ends, with_density = ({groups[label] for label in groups if some is None or label in some} for some in (ends, densities))
    each = probes * steps + budget + FULL
    found: list[Part] = []
    for label in sorted(groups, key=lambda g: -sizes[g]):
        names, size = groups[label], sizes[label]
        twin = next((part for part in found if part.names == names), None)
        holder = next((part for part in found if part.route == "dense" and set(names) <= set(part.names)), None)
        more = {"share": share(op.names, names), "graph": names != op.names}
        inside = sum(set(other) <= set(names) for other in groups.values())
        if twin is not None:
            found.append(Part(label, names, size, "same", of=twin.label))
        elif holder is not None:
            found.append(Part(label, names, size, "shared", of=holder.label))
        elif size <= (min(LARGEST, inside * each) if dense is None else dense):
            found.append(Part(label, names, size, "dense", others=size, **more))
        else:
            end = min(size, ends_products(tol)) if names in with_ends else 0
            spread = min(size, probes * steps) if names in with_density else 0
            found.append(Part(label, names, size, "iterative", ends=end, density=spread, **more))
    some = {name for part in found if part.route == "iterative" for name in part.names}
    if some:
        names = tuple(name for name in op.names if name in some)
        size = sum(math.prod(op.shapes[name]) for name in names)
        found.append(Part("traces", names, size, "traces", others=budget, share=share(op.names, names), graph=names != op.names))
    return tuple(found)


def share(names: Collection[str], some: Collection[str]) -> float:
    """Return what a product with the block of some parameters costs, as a share of one with the block of all names."""
    layers = list(by_layer(names).values())
    lowest = next(i for i, layer in enumerate(layers) if set(layer) & set(some))
    return 1 - lowest / len(layers)


def ends_products(tol: float) -> int:
    """Return about how many products both ends of a spectrum take to a relative residual."""
    return round(3 - 3 * math.log10(tol))


def top_part(op: Operator, k: int) -> Part:
    """Return the part in which the k leading eigenpairs of the whole are found, with the proof that none was missed."""
    return Part("leading eigenvalues", op.names, op.shape[0], "top", others=min(op.shape[0], 24 + 5 * k))


class Watched:
    """An operator that tells of the products it makes."""

    def __init__(self, op, part: Part, tell: Tell | None):
        self.op, self.part, self.tell, self.products = op, part, tell, 0
        self.shape, self.dtype, self.device, self.precision = op.shape, op.dtype, op.device, op.precision

    def __matmul__(self, v: Tensor) -> Tensor:
        found, made = self.op @ v, 1 if v.ndim == 1 else v.shape[1]
        self.products += made
        if self.tell is not None:
            self.tell(self.part, made)
        return found

    def dense(self) -> Tensor:
        """Return the matrix (D, D), by D products; ValueError, with the size, when it would not fit."""
        size = self.shape[0]
        if size**2 * torch.finfo(self.dtype).bits // 8 > DENSE:
            return self.op.dense()  # refuses
        unit = torch.eye(size, dtype=self.dtype, device=self.device)
        return torch.cat([self @ some for some in unit.split(COLUMNS, dim=1)], dim=1)

    def finish(self) -> int:
        """Return the products made, and tell that the part has ended."""
        if self.tell is not None:
            self.tell(self.part, 0)
        return self.products
