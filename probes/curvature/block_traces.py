"""Traces of all diagonal blocks from the same random probes.

For independent signs v and a group g of parameters, E v_g' (A v)_g = tr A_gg, so that one product with the whole is a probe
of every block. What couples g to other tensors carries variance and no trace. Each probe is repeated with the signs of whole
tensors flipped by the rows of a Hadamard matrix of 4 rows, in the order of the names, and the mean over them is one sample:
the cross terms of any 4 neighbouring tensors (the A and B of a low-rank product among them) cancel exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from probes.layout import check_finite, columns
from probes.records import Estimate, student

FLIPS = 4  # sign patterns of the tensors, each a product


def block_traces(
    op,
    shapes: Mapping[str, tuple[int, ...]],
    groups: Mapping[str, tuple[str, ...]],
    *,
    budget: int,
    root: Tensor | None = None,
    sign: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return tr A_gg of every group, without bias, from at most `budget` products with A, with Student's intervals.

    shapes are the parameters in the order of A's rows. root (D, k) and sign (k,) give a known part root diag(sign) root' of
    A, which is taken out of the probes and enters with its exact trace. Raises ValueError for a budget below 2 products and
    for products that are not finite.
    """
    if budget < 2:
        raise ValueError(f"a standard error takes two products, got budget={budget}")
    flips = 2 ** int(math.log2(min(FLIPS, budget // 2)))
    generator, place = torch.Generator().manual_seed(seed), _tensor_of(shapes)
    turns = _hadamard(flips)[:, torch.arange(len(shapes)) % flips][:, place].T.double()  # (D, flips)
    samples = []
    for _ in range(budget // flips):
        signs = (torch.randint(2, (len(place), 1), generator=generator) * 2 - 1).double()
        v = (signs * turns).to(op.device)
        found = (op @ v.to(op.dtype)).double()
        check_finite(found)
        if root is not None:
            found = found - root @ (sign[:, None] * (root.T @ v))
        each = torch.zeros(len(shapes), dtype=torch.float64).index_add_(0, place, (v * found).mean(1).cpu())
        samples.append(each)
    drawn, at = torch.stack(samples), {name: i for i, name in enumerate(shapes)}
    made = {}
    for label, names in groups.items():
        known = 0.0 if root is None else float((root[columns(shapes, names).to(root.device)] ** 2 @ sign).sum())
        values = drawn[:, [at[name] for name in names]].sum(1) + known
        error = float(values.std() / math.sqrt(len(values)))
        words = f"Hutchinson with {flips} sign flips, on probes shared by {len(groups)} blocks"
        made[label] = student("trace", float(values.mean()), error, len(values), products=len(drawn) * flips, method=words)
    return made


def _tensor_of(shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """The index of the tensor that each number belongs to (D,)."""
    sizes = torch.tensor([math.prod(shape) for shape in shapes.values()])
    return torch.repeat_interleave(torch.arange(len(sizes)), sizes)


def _hadamard(n: int) -> Tensor:
    """The signs (n, n) with orthogonal rows, n a power of two."""
    found = torch.ones(1, 1)
    while len(found) < n:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found
