"""How a dictionary of tensors is laid out as one vector, and how a batch is cut along its leading axis."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import SUPPORTED_NODES, tree_flatten, tree_unflatten

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
    """Return the tensors of a dict as one vector (M,), in dict order, each in row-major order."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unflatten(vector: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the inverse of `flatten`: views of `vector` (M,) with the given shapes, in their order."""
    parts = vector.split([math.prod(shape) for shape in shapes.values()])
    return {k: part.reshape(tuple(shape)) for (k, shape), part in zip(shapes.items(), parts, strict=True)}


def columns(shapes: Mapping[str, Sequence[int]], names: Sequence[str]) -> Tensor:
    """Return the positions in the flat vector of the named tensors, in the dict's order: a vector of int64."""
    wanted, start, parts = set(names), 0, []
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        if name in wanted:
            parts.append(torch.arange(start, stop))
        start = stop
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def by_layer(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return groups of parameters by layer: the path up to its first number, else the path without its last part.

    "encoder.layer.3.attention.query.weight" belongs to "encoder.layer.3" and "embeddings.norm.bias" to
    "embeddings.norm"; what stands before a slash ("lora/3.attention.q.A") is not part of the path.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        path = name.rpartition("/")[2].split(".")
        numbers = [i for i, part in enumerate(path) if part.isdigit()]
        place = path[: numbers[0] + 1] if numbers else path[:-1] or path
        found.setdefault(".".join(place), []).append(name)
    return {place: tuple(some) for place, some in found.items()}


def dense(op) -> Tensor:
    """Return the matrix (D, D) of anything with .shape, .dtype and `op @ v`, by D products; ValueError when it is not finite."""
    found = op @ torch.eye(op.shape[0], dtype=op.dtype, device=getattr(op, "device", "cpu"))
    check_finite(found)
    return found


def check_finite(product: Tensor) -> None:
    """Refuse a product with NaN or infinity."""
    if not bool(torch.isfinite(product).all()):
        raise ValueError("a product of the operator is not finite; make it at a finite point")


def match(names: Sequence[str], pattern: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names that equal or match (shell glob) a pattern, in their own order; ValueError if none does."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    found = tuple(n for n in names if any(n == p or fnmatch.fnmatchcase(n, p) for p in patterns))
    for p in patterns:
        if not any(n == p or fnmatch.fnmatchcase(n, p) for n in names):
            raise ValueError(f"no parameter matches {p!r}; the names are {', '.join(names)}")
    return found


def group_names(names: Sequence[str], groups) -> dict[str, tuple[str, ...]]:
    """Return groups of names: a mapping label -> glob(s) or names, or a sequence of globs that label themselves."""
    if not isinstance(groups, Mapping):
        groups = {g: g for g in ([groups] if isinstance(groups, str) else groups)}
    return {label: match(names, pattern) for label, pattern in groups.items()}


def batch_size(batch) -> int:
    """Return the common leading length of the batch's tensors; scalars and non-tensors belong to all examples."""
    sizes = {leaf.shape[0] for leaf in open_batch(batch)[0] if isinstance(leaf, Tensor) and leaf.ndim}
    if len(sizes) != 1:
        found = f"leading lengths {sorted(sizes)}" if sizes else f"no tensor in {type(batch).__name__}"
        raise ValueError(f"a batch must hold tensors with one leading example axis in a dict, tuple or dataclass, got {found}")
    return sizes.pop()


def open_batch(batch) -> tuple[list, Callable[[Sequence], object]]:
    """Return the leaves of a batch in order, and the function that puts as many others in their places.

    Beside tensors, dicts, lists, tuples and named tuples, nested as they may be, a batch may be or hold any other
    mapping (such as a tokenizer's UserDict) and any dataclass. The container that comes back is of the same type; a
    mapping that cannot be changed comes back as a dict.
    """
    leaves, spec = tree_flatten(batch, is_leaf=lambda x: _fields(x) is not None)
    parts = [(1, None) if _fields(leaf) is None else _open_fields(leaf) for leaf in leaves]
    flat = [x for leaf, (_, inner) in zip(leaves, parts, strict=True) for x in ([leaf] if inner is None else inner[0])]

    def rebuild(values: Sequence):
        values, filled = list(values), []
        for size, inner in parts:
            part, values = values[:size], values[size:]
            filled.append(part[0] if inner is None else inner[1](part))
        return tree_unflatten(filled, spec)

    return flat, rebuild


def _fields(x) -> dict | None:
    """What a container holds that torch does not open by itself: a mapping's items or a dataclass's fields."""
    if isinstance(x, Tensor | dict | list | tuple):  # a subclass of dict that torch does not know is opened here
        return dict(x) if isinstance(x, dict) and type(x) not in SUPPORTED_NODES else None
    if isinstance(x, Mapping):
        return dict(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
    return None


def _open_fields(x) -> tuple[int, tuple[list, Callable[[Sequence], object]]]:
    """How many leaves such a container has, and (leaves, rebuild) of it."""
    leaves, inside = open_batch(_fields(x))

    def rebuild(values: Sequence):
        if isinstance(x, Mapping) and not isinstance(x, MutableMapping):
            return inside(values)
        made = copy.copy(x)
        for name, value in inside(values).items():
            if isinstance(x, Mapping):
                made[name] = value
            else:
                object.__setattr__(made, name, value)  # the dataclass may be frozen
        return made

    return len(leaves), (leaves, rebuild)


def split_batch(batch):
    """Return the batch's per-example tensors, and the function that puts such tensors back in their places."""
    leaves, fill = open_batch(batch)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim]

    def rebuild(tensors: Sequence[Tensor]):
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return fill(filled)

    return [leaves[i] for i in places], rebuild


def check_batches(batches) -> list:
    """Return the batches as a non-empty list, each checked to have one leading example axis."""
    if isinstance(batches, Mapping) or hasattr(batches, "_fields") or dataclasses.is_dataclass(batches):
        raise ValueError(f"batches must be a list of batches, got one {type(batches).__name__}; pass [batch]")
    found = list(batches)
    if not found:
        raise ValueError("batches must hold at least one batch, got none; pass a list of batches of tensors")
    for batch in found:
        if batch_size(batch) == 0:
            raise ValueError("a batch has no examples; leave empty batches out")
    return found
