"""The frozen matrices of a live model cut over processes, each of them gathered for as long as one product takes.

A frozen map y = x W' is linear in x, and so is its derivative g W in g: a node that knows where the rows of W are, and
saves nothing, has derivatives of every order, each of which gathers W anew. A kept graph holds no gathered matrix.

Processes need not go in step. In every round each says which matrix it needs, and all gather what all need, in one order;
who is through with its part serves until all are. So batches may differ between processes in number, in shape and in whether
their graphs are kept, and where one process raises, all do.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import linear

from probes.curvature.operators import Operator

_DONE, _FAILED = -1, -2  # what a process says in place of a matrix's number


class _Stopped(BaseException):
    """Another process has raised; no handler of errors on the way out is to take it for one of its own."""


class Shards:
    """This process's rows of every matrix, and the rounds in which they are gathered."""

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.ranks = group, dist.get_world_size(group)
        self.slices: list[nn.Parameter] = []
        self.rows: list[int] = []
        self._inside = False
        self._gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
        self._control = group  # for what is said, which needs no device
        if dist.get_backend(group) != "gloo":
            ranks = dist.get_process_group_ranks(group)
            self._control = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)

    def cut(self, weight: Tensor, device: torch.device) -> int:
        """Take this process's rows of a matrix, zeros behind the last, and return the matrix's number."""
        each = -(-len(weight) // self.ranks)
        mine = weight.detach()[dist.get_rank(self.group) * each :][:each]
        held = torch.zeros(each, *weight.shape[1:], dtype=weight.dtype, device=device)
        held[: len(mine)] = mine
        self.slices.append(nn.Parameter(held, requires_grad=False))
        self.slices[-1].whole_size = weight.numel()
        self.rows.append(len(weight))
        return len(self.rows) - 1

    def whole(self, number: int) -> Tensor:
        """Return a matrix, gathered."""
        return self._round(number)[number]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Return a context that all processes enter and leave together; RuntimeError in all where one of them raises."""
        if self._inside:
            yield
            return
        self._inside = True
        try:
            yield
            while self._round(_DONE) is not None:
                pass
        except _Stopped:
            raise RuntimeError("another of the processes that share this model has raised an error: see its own") from None
        except BaseException:
            self._asked(_FAILED)
            raise
        finally:
            self._inside = False

    def told(self, what: Any) -> list:
        """Return what every process says here, by rank."""
        found = [None] * self.ranks
        dist.all_gather_object(found, what, group=self._control)
        return found

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum over all processes of a tensor of one shape and dtype in each; the tensor itself holds it then."""
        dist.all_reduce(values, group=self._control if values.device.type == "cpu" else self.group)
        return values

    def check_same(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        """Refuse tensors that are not the same, bit for bit, in every process."""
        digest = hashlib.sha256()
        for x in tensors.values():
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        if len(set(self.told(digest.digest()))) > 1:
            raise ValueError(
                f"expected the same {what} in every process, got others: load one checkpoint in all of them, or call "
                "torch.manual_seed with one seed before the adapter is made"
            )

    def _asked(self, number: int) -> list[int]:
        """What every process asks for in this round."""
        said = torch.empty(self.ranks, dtype=torch.int64)
        self._gather(said, torch.tensor([number]), group=self._control)
        return said.tolist()

    @torch.no_grad()
    def _round(self, number: int) -> dict[int, Tensor] | None:
        """The matrix asked for, by its number, once those of all processes are gathered; None when all are through."""
        asked = set(self._asked(number))
        if _FAILED in asked:
            raise _Stopped
        if asked == {_DONE}:
            return None
        found = {}
        for i in sorted(asked - {_DONE}):
            own = self.slices[i].detach()
            full = own.new_empty(self.ranks * len(own), *own.shape[1:])
            # as bytes, which every backend carries whatever the numbers' format
            self._gather(full.view(torch.uint8), own.view(torch.uint8), group=self.group)
            if i == number:
                found[i] = full[: self.rows[i]]
        return found


class _Map(torch.autograd.Function):
    """x W', or x W if straight, of a matrix that is known by its number; only where to gather it is held."""

    @staticmethod
    def forward(ctx, x: Tensor, shards: Shards, number: int, straight: bool) -> Tensor:
        ctx.held = shards, number, straight
        weight = shards.whole(number).to(x.dtype)
        return x @ weight if straight else linear(x, weight)

    @staticmethod
    def backward(ctx, g: Tensor):
        shards, number, straight = ctx.held
        return _Map.apply(g, shards, number, not straight), None, None, None


class _Cut(nn.Module):
    """A module whose weight is this process's rows alone."""

    shards: Shards
    number: int


class _CutMap(_Cut):
    """A linear map with a weight (outputs, inputs), or (inputs, outputs) if straight."""

    straight = False

    def forward(self, x: Tensor) -> Tensor:
        y = _Map.apply(x, self.shards, self.number, self.straight)
        return y if self.bias is None else y + self.bias


class _CutConvolution(_CutMap):
    straight = True


class _CutTable(_Cut):
    """An embedding, whose own forward has the whole table for the length of the call; no derivative goes through it."""

    def forward(self, *args, **named):
        own = self._parameters["weight"]
        try:
            self._parameters["weight"] = self.shards.whole(self.number).to(own.dtype)
            return super().forward(*args, **named)
        finally:
            self._parameters["weight"] = own


@functools.cache
def _made(cut: type, kind: type) -> type:
    return type(f"Sharded{kind.__name__}", (cut, kind), {})


def _cut_of(module: nn.Module) -> type | None:
    """How a module is called with its weight cut; None for kinds whose forward is not known."""
    if type(module) is nn.Linear:
        return _CutMap
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2's, a linear map
        return _CutConvolution
    return _CutTable if isinstance(module, nn.Embedding) and module.max_norm is None else None


def shard(model: nn.Module, group: dist.ProcessGroup | None = None, *, device: torch.device | str | None = None) -> nn.Module:
    """Put the model's frozen matrices in parts on the processes of a group, in place, and return the model.

    Of every linear map and embedding that requires no gradient this process keeps its share of the rows, on `device` (its own
    by default), where all the rest of the model goes too; the matrix is gathered for each product. To be called in every
    process, on the same whole model, on the CPU say, with its adapter in place. `attach` then takes the model: `.hessian()`,
    `.gauss_newton()` and `.mean_loss()` are means over the batches of all processes. state_dict() holds the slices.
    Raises ValueError without a process group, for a model that is sharded already, has nothing to train or other weights
    in other processes, for DoRA, which reads the weights, and where half of the frozen numbers are in modules of other kinds.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError("expected a process group, got none: call torch.distributed.init_process_group, by torchrun say")
    if shards_of(model) is not None:
        raise ValueError("expected a whole model, got one that shard has cut already")
    refuse_elsewhere(model)
    if not any(x.requires_grad for x in model.parameters()):
        raise ValueError(
            "expected a model with its trainable numbers marked, got none that requires gradients: load the adapter with "
            "is_trainable=True, or set requires_grad, before the rest is cut"
        )
    if any(len(getattr(part, "lora_magnitude_vector", None) or ()) for part in model.modules()):
        raise ValueError("expected an adapter that leaves the base's weights to the base, got DoRA, which takes their norms")
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for part in model.modules():
        for name, x in part._parameters.items():
            if x is not None and not x.requires_grad:
                places.setdefault(id(x), []).append((part, name))
    chosen = [some for some in places.values() if all(n == "weight" and _cut_of(part) for part, n in some)]
    _check_share(places, chosen)
    shards = Shards(group or dist.group.WORLD)
    _check_bases(shards, {name: x for name, x in model.named_parameters() if not x.requires_grad})
    for some in chosen:
        weight = some[0][0].weight
        number = shards.cut(weight, weight.device if device is None else torch.device(device))
        for part, _ in some:
            part.__class__ = _made(_cut_of(part), type(part))
            part.shards, part.number = shards, number
            part._parameters["weight"] = shards.slices[number]
    return model if device is None else model.to(device)


def _check_share(places: Mapping[int, list], chosen: list[list]) -> None:
    """Refuse a model most of whose frozen numbers would stay whole in every process."""
    kept, cut, kinds = 0, sum(some[0][0].weight.numel() for some in chosen), {}
    known = {id(some[0][0].weight) for some in chosen}
    for key, some in places.items():
        if key not in known:
            part, name = some[0]
            size = part._parameters[name].numel()
            kept += size
            kinds[type(part).__name__] = kinds.get(type(part).__name__, 0) + size
    if kept > cut:
        most = max(kinds, key=kinds.get)
        raise ValueError(
            f"expected frozen numbers in linear maps and embeddings, got {kept} of {kept + cut} elsewhere, most of them in "
            f"{most}, which cannot be cut"
        )


def _check_bases(shards: Shards, frozen: Mapping[str, Tensor]) -> None:
    """Refuse slices of different models."""
    sizes = {name: float(x.detach().abs().sum(dtype=torch.float64)) for name, x in frozen.items()}
    for other in shards.told(sizes):
        if other.keys() != sizes.keys() or any(not math.isclose(other[k], x, rel_tol=1e-9) for k, x in sizes.items()):
            raise ValueError("expected one base model in all processes, got other weights: load one checkpoint in all of them")


def refuse_elsewhere(model: nn.Module) -> None:
    """Refuse parameters that are not here, or not on one device: sharded by FSDP or DeepSpeed, or placed by a device_map."""
    values = dict(model.named_parameters())
    for name, x in values.items():
        if hasattr(x, "full_tensor") or hasattr(x, "ds_numel"):
            raise ValueError(
                f"expected whole parameters, got {name} as a shard of FSDP's or DeepSpeed's, whose hooks gather it for one "
                "backward and not for a second: load the model whole and cut it with probes.shard(model)"
            )
        if x.device.type == "meta":
            raise ValueError(
                f"expected parameters in memory, got {name} offloaded or on the meta device: load the model without "
                "offloading, or cut it over several processes with probes.shard(model)"
            )
    found = sorted({str(x.device) for x in values.values()})
    if len(found) > 1:
        raise ValueError(
            f"expected a model on one device, got one on {', '.join(found)}: load it without device_map, or with one process "
            "per device and probes.shard(model)"
        )


def shards_of(model: nn.Module) -> Shards | None:
    """Return what a model's matrices are gathered by; None for a model that is whole."""
    return next((part.shards for part in model.modules() if isinstance(part, _Cut)), None)


def turn_of(model: nn.Module) -> AbstractContextManager:
    """Return the context in which a sharded model is called; one that does nothing for a model that is whole."""
    shards = shards_of(model)
    return nullcontext() if shards is None else shards.turn()


def averaged(model: nn.Module, make: Callable[..., Operator], options: Mapping[str, Any]) -> Operator:
    """Return make(**options), an operator of this process's batches; of a sharded model its mean over all processes' items.

    Raises ValueError where a sharded model's options name a group, ask for compiled products, or leave weights open.
    """
    shards = shards_of(model)
    if shards is None:
        return make(**options)
    if options.get("group") is not None or options.get("compiled"):
        raise ValueError(
            "expected a sharded model without group= and compiled=, got them: its products are means over the processes that "
            "share it, and what they gather cannot be compiled"
        )
    if options.get("weights") is None:
        raise ValueError('expected weights= with a given loss of a sharded model, got none; pass "rows" for a mean over rows')
    with shards.turn():
        own = make(**options)
    examples, noise = zip(*shards.told((own.examples, own.noise)), strict=True)
    return _mean(replace(own, noise=max(noise)), shards, own.examples / sum(examples), sum(examples))


def _mean(own: Operator, shards: Shards, share: float, examples: float) -> Operator:
    """The mean over all processes of an operator that has `share` of the items."""

    def apply(vectors: Tensor) -> Tensor:
        with shards.turn():
            found = own._apply(vectors)
        return shards.summed(found.mul_(share))

    def narrow(names: tuple[str, ...]) -> Operator:
        with shards.turn():
            part = own._narrow(names)
        return _mean(replace(part, noise=own.noise), shards, share, examples)

    return replace(own, examples=examples, _apply=apply, _narrow=narrow)
