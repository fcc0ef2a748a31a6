"""An operator in units in which its products are near one: squares of curvatures neither vanish nor overflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probes.layout import check_finite


class Unit:
    """A / factor for an operator A, with factor the power of two above the largest number of its first product.

    A power of two rounds nothing, so whatever is computed with A / factor is the same, bit for bit, for A and for
    2^k A. factor is 1 until a product is not zero. Raises ValueError for a product that is not finite.
    """

    def __init__(self, op):
        self.op, self.shape, self.dtype, self.device = op, op.shape, op.dtype, getattr(op, "device", "cpu")
        self.exponent: int | None = None

    @property
    def factor(self) -> float:
        """Return what values in these units are to be multiplied by."""
        return 2.0 ** (self.exponent or 0)

    def __matmul__(self, v: Tensor) -> Tensor:
        w = self.op @ v
        check_finite(w)
        if self.exponent is None and (largest := float(w.abs().max())) > 0:
            limit = int(math.log2(torch.finfo(self.dtype).max)) - 1  # the factor's inverse is to be a number too
            self.exponent = min(max(math.frexp(largest)[1], -limit), limit)
        return w if self.exponent is None else w * 2.0**-self.exponent
