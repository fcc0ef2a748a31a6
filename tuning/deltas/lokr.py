"""Kronecker products on linear maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Backbone, WeightMap
from tuning.deltas.delta import Shapes, zeros
from tuning.deltas.maps import add_rows, grouped, weight_change
from tuning.deltas.on_maps import OnMaps
from tuning.edits import Edits
from tuning.taxonomy import Taxon


@dataclass(frozen=True)
class LoKr(OnMaps):
    """W + (alpha / rank) W1 x W2 on the target linear maps, a Kronecker product (Yeh et al. 2024, LyCORIS).

    d_out = l k and d_in = m n with l and m the divisors that `factored` finds; W1 is (l, m), zero at the start, and W2 (k, n) is
    drawn uniform in +-1/sqrt(columns), or a product of (k, rank) and (rank, n) where the rank is below half of the larger.
    """

    taxon = Taxon(
        family="reparameterisation",
        does="weight change, a Kronecker product",
        numbers="2 L (p^2 + 2 r q)",
        peft="LoKrConfig",
    )

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None
    factor: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 1 and self.factor != -1:
            raise ValueError(f"expected LoKr with a positive factor, or -1 for the nearest two, got {self.factor}")

    @property
    def scale(self) -> float:
        """Return alpha / rank; alpha is the rank where none is given."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def shapes(self, backbone: Backbone) -> Shapes:
        """Return the shapes w1 (l, m) and w2 (k, n), or w2_a (k, rank) and w2_b (rank, n), of every target."""
        made: dict[str, tuple[int, ...]] = {}
        for key, linear in self.maps(backbone):
            (out, out_rest), (into, into_rest) = factored(linear.d_out, self.factor), factored(linear.d_in, self.factor)
            made[f"{key}.w1"] = (out, into)
            if self.rank < max(out_rest, into_rest) / 2:
                made |= {f"{key}.w2_a": (out_rest, self.rank), f"{key}.w2_b": (self.rank, into_rest)}
            else:
                made[f"{key}.w2"] = (out_rest, into_rest)
        return made

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Return W1 zero and the others drawn with the seed."""
        generator, made = torch.Generator().manual_seed(seed), {}
        for name, shape in self.shapes(backbone).items():
            made[name] = zeros(shape, backbone)
            if not name.endswith(".w1"):
                drawn = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * shape[1] ** -0.5
                made[name] = drawn.to(made[name])
        return made

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Return the product, added to what each target computes; the full matrix is never formed."""

        def at(key: str, linear: WeightMap) -> Callable:
            w1, w2 = _factors(key, params)

            def edit(x: Tensor, y: Tensor) -> Tensor:
                parts = F.linear(x.unflatten(-1, (w1.shape[1], w2.shape[1])), w2)
                return add_rows(y, linear.rows, self.scale * (w1 @ parts).flatten(-2))

            return edit

        return Edits(outputs=grouped((linear.path, at(key, linear)) for key, linear in self.maps(backbone)))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {model parameter: (alpha / rank) W1 x W2}, the same function written as a change of the weights."""
        made: dict[str, Tensor] = {}
        for key, linear in self.maps(backbone):
            name, change = weight_change(backbone, linear, self.scale * torch.kron(*_factors(key, params)))
            made[name] = made[name] + change if name in made else change
        return made


def factored(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Return (a, b), a b = dimension, as PEFT factors it: a is `factor` where that divides it, else its largest divisor below.

    With factor = -1 it is the largest divisor up to the root of the dimension, so that the two are nearest.
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    most = int(dimension**0.5) if factor == -1 else min(factor, int(dimension**0.5))
    a = max(d for d in range(1, max(most, 1) + 1) if dimension % d == 0)
    return a, dimension // a


def _factors(key: str, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    whole = params.get(f"{key}.w2")
    return params[f"{key}.w1"], params[f"{key}.w2_a"] @ params[f"{key}.w2_b"] if whole is None else whole
