"""How a dictionary of tensors is laid out as one vector, and how a batch is cut along its leading axis."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Params = Mapping[str, Tensor]


def check_params(params: Params) -> None:
    """Refuse anything but a non-empty dict of real floating tensors of one dtype on one device."""
    if not isinstance(params, Mapping) or not params:
        kind = type(params).__name__
        raise TypeError(f"params must be a non-empty dict of tensors, got {kind}; pass name -> tensor")
    for name, value in params.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"params[{name!r}] must be a floating tensor, got {kind}; leave it out of params")
    kinds = {(value.dtype, value.device) for value in params.values()}
    if len(kinds) > 1:
        found = sorted(map(str, kinds))
        raise ValueError(f"params must share one dtype and device, got {found}; convert them first")


def flatten(params: Params) -> Tensor:
    """The tensors of a dict as one vector (M,), in dict order, each in row-major order."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unflatten(vector: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The inverse of `flatten`: views of `vector` (M,) with the given shapes, in their order."""
    parts = vector.split([math.prod(shape) for shape in shapes.values()])
    return {k: part.reshape(tuple(shape)) for (k, shape), part in zip(shapes.items(), parts, strict=True)}


def columns(shapes: Mapping[str, Sequence[int]], names: Sequence[str]) -> Tensor:
    """The positions in the flat vector of the named tensors, in the dict's order: a vector of int64."""
    wanted, start, parts = set(names), 0, []
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        if name in wanted:
            parts.append(torch.arange(start, stop))
        start = stop
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def dense(op) -> Tensor:
    """The matrix (D, D) of anything with .shape, .dtype and `op @ v`, by D products; ValueError when it is not finite."""
    found = op @ torch.eye(op.shape[0], dtype=op.dtype, device=getattr(op, "device", "cpu"))
    check_finite(found)
    return found


def check_finite(product: Tensor) -> None:
    """Refuse a product with NaN or infinity."""
    if not bool(torch.isfinite(product).all()):
        raise ValueError("a product of the operator is not finite; make it at a finite point")


def match(names: Sequence[str], pattern: str | Sequence[str]) -> tuple[str, ...]:
    """The names that equal or match (shell glob) a pattern, in their own order; ValueError if none does."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    found = tuple(n for n in names if any(n == p or fnmatch.fnmatchcase(n, p) for p in patterns))
    for p in patterns:
        if not any(n == p or fnmatch.fnmatchcase(n, p) for n in names):
            raise ValueError(f"no parameter matches {p!r}; the names are {', '.join(names)}")
    return found


def group_names(names: Sequence[str], groups) -> dict[str, tuple[str, ...]]:
    """Groups of names: a mapping label -> glob(s) or names, or a sequence of globs that label themselves."""
    if not isinstance(groups, Mapping):
        groups = {g: g for g in ([groups] if isinstance(groups, str) else groups)}
    return {label: match(names, pattern) for label, pattern in groups.items()}


def batch_size(batch) -> int:
    """The common leading length of the batch's tensors; scalars and non-tensors belong to all examples."""
    sizes = {leaf.shape[0] for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.ndim}
    if len(sizes) != 1:
        found = f"leading lengths {sorted(sizes)}" if sizes else f"no tensor in {type(batch).__name__}"
        raise ValueError(f"a batch must hold tensors with one leading example axis, got {found}")
    return sizes.pop()


def split_batch(batch):
    """The batch's per-example tensors, and the function that puts such tensors back in their places."""
    leaves, spec = tree_flatten(batch)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim]

    def rebuild(tensors: Sequence[Tensor]):
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return tree_unflatten(filled, spec)

    return [leaves[i] for i in places], rebuild


def check_batches(batches) -> list:
    """The batches as a non-empty list, each checked to have one leading example axis."""
    found = list(batches)
    if not found:
        raise ValueError("batches must hold at least one batch, got none; pass a list of batches of tensors")
    for batch in found:
        if batch_size(batch) == 0:
            raise ValueError("a batch has no examples; leave empty batches out")
    return found
