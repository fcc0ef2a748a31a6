"""A curvature matrix known through its products, and its blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from probes.inputs import standing
from probes.layout import columns, match, unflatten

DENSE = 2 << 30  # bytes above which .dense() refuses


@dataclass
class _Count:
    """How many products an operator has made."""

    value: int = 0


@dataclass(frozen=True)
class Operator:
    """A symmetric curvature matrix (D, D) known through its products; D numbers in the named parameters.

    kind says which matrix; examples is the number of items it averages over; kept and rebuilt count the batches
    whose graphs are held in memory, in `held` bytes, and those whose graphs are rebuilt for each product.
    Derivatives are by double backward, with rounding as the only error: that of `precision`, the coarsest dtype in
    the graph (bfloat16 for a base in it, whatever the parameters' own). Products are of dtype, float32 at least.
    noise is the relative gap of two equal evaluations of the first batch's gradient (of its outputs and the criterion's
    slope there, for a matrix made of outputs): 0.0 where the bits agree, more where kernels add in any order.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype
    device: torch.device
    precision: torch.dtype
    noise: float
    examples: float
    kept: int
    rebuilt: int
    held: int
    _apply: Callable[[Tensor], Tensor] = field(repr=False)
    _narrow: Callable[[tuple[str, ...]], Operator] = field(repr=False)
    _count: _Count = field(repr=False, default_factory=_Count)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the parameters, in the order of the rows."""
        return tuple(self.shapes)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape (D, D)."""
        size = sum(math.prod(s) for s in self.shapes.values())
        return size, size

    @property
    def status(self) -> str:
        """Return "exact" (to the rounding of dtype), or what rounds coarser: "rounded in bfloat16, repeats to 3e-02"."""
        found = standing(self.precision, self.dtype)
        return found if found == "exact" or self.noise == 0 else f"{found}, repeats to {self.noise:.0e}"

    @property
    def products(self) -> int:
        """Return how many matrix-vector products were made so far, one per column."""
        return self._count.value

    def __matmul__(self, v: Tensor) -> Tensor:
        """The product with a vector (D,) or the columns of (D, k); ValueError for another shape and if it is not finite."""
        if v.ndim not in (1, 2) or v.shape[0] != self.shape[0]:
            d = self.shape[0]
            raise ValueError(f"the vector must have shape ({d},) or ({d}, k), got {tuple(v.shape)}")
        matrix = v.to(dtype=self.dtype, device=self.device).reshape(self.shape[0], -1)
        self._count.value += matrix.shape[1]
        return self._apply(matrix).reshape(v.shape)

    def product_error(self, fine: Operator, *, probes: int = 1, seed: int = 0) -> float:
        """Return |(A - F) V| / |F V| for Gaussian V (D, probes): the relative error of this operator's products against F.

        fine is the same matrix in a finer precision, or built from the same items; its error is to be small beside this
        one's. The norm is Frobenius'. Raises ValueError for other parameters and where F V is zero.
        """
        if fine.shapes != self.shapes:
            raise ValueError(f"both operators must have the same parameters, got {self.shapes} and {fine.shapes}")
        v = torch.randn(self.shape[0], probes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        true = (fine @ v.to(fine.device, fine.dtype)).cpu().double()
        if not float(true.norm()) > 0:
            raise ValueError("the finer operator's product is zero, so that no error is relative to it")
        return float(((self @ v.to(self.device, self.dtype)).cpu().double() - true).norm() / true.norm())

    def dense(self) -> Tensor:
        """Return the matrix (D, D) itself, by D products; ValueError, with the size, when it would not fit."""
        size = self.shape[0] ** 2 * torch.finfo(self.dtype).bits // 8
        if size > DENSE:
            raise ValueError(f"the dense matrix {self.shape} needs {size >> 30} GiB; take a .block(names)")
        return self @ torch.eye(self.shape[0], dtype=self.dtype, device=self.device)

    def block(self, names: str | Sequence[str]) -> Operator:
        """Return the diagonal block of some parameters (names or shell globs), the others held fixed.

        Its graphs are built for those parameters alone, so that layers below the lowest of them cost nothing.
        """
        return self._narrow(match(self.names, names))

    def between(self, rows: str | Sequence[str], cols: str | Sequence[str]) -> Block:
        """Return the block of rows and columns of two sets of parameters, A against B say; they may overlap."""
        above, beside = match(self.names, rows), match(self.names, cols)
        both = self._narrow(tuple(n for n in self.names if n in above or n in beside))
        return Block(both, columns(both.shapes, above), columns(both.shapes, beside))

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """Return a vector (D,) as a dict of tensors with the parameters' names and shapes."""
        return unflatten(v, self.shapes)


@dataclass(frozen=True)
class Block:
    """The rows and columns (index vectors) of a curvature operator, as a rectangular operator with its transpose."""

    whole: Operator
    rows: Tensor = field(repr=False)
    columns: Tensor = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape (rows, columns)."""
        return len(self.rows), len(self.columns)

    @property
    def T(self) -> Block:
        """Return the transposed block."""
        return replace(self, rows=self.columns, columns=self.rows)

    def __matmul__(self, v: Tensor) -> Tensor:
        """The product with a vector (columns,) or matrix (columns, k); ValueError for another shape."""
        if v.ndim not in (1, 2) or v.shape[0] != self.shape[1]:
            d = self.shape[1]
            raise ValueError(f"the vector must have shape ({d},) or ({d}, k), got {tuple(v.shape)}")
        spread = torch.zeros(self.whole.shape[0], *v.shape[1:], dtype=self.whole.dtype, device=self.whole.device)
        spread[self.columns] = v.to(spread)
        return (self.whole @ spread)[self.rows]

    def dense(self) -> Tensor:
        """Return the block itself (rows, columns), by as many products as its shorter side."""
        if self.shape[0] < self.shape[1]:
            return self.T.dense().T
        return self @ torch.eye(self.shape[1], dtype=self.whole.dtype, device=self.whole.device)
