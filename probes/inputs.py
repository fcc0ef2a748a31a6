"""What every probe asks of the functions and batches that it is given, before it measures.

Functions are called as they are, but with activation checkpointing off, and a model's output is opened. Refused, with
the batch named: values that are not finite, functions that draw random numbers or keep a state between calls, and
batches whose labels could be counted by rows or by tokens where nothing says which.
"""

from __future__ import annotations

import math
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import checkpoint

from probes.layout import batch_size, open_batch

SLOPES = 0.25  # of their norm: what two equal gradients in half precision may differ by
IGNORED = -100  # the label that losses leave out, in torch and in Hugging Face's models
NOTHING = f"all its labels are {IGNORED}, so that its mean is over nothing: leave the batch out"
_lock, _depth, _put_back = threading.Lock(), 0, {}


def opened(function: Callable, name: str, what: str) -> Callable[..., Tensor]:
    """Return the function with activation checkpointing off and a tensor as its result, of float32 at least.

    A model's output gives what stands under `name` ("loss" or "logits"), a tuple its leading scalar or its only
    tensor with axes; raises ValueError, with the remedy, for anything else.
    """

    def call(*args) -> Tensor:
        with unchecked():
            y = _tensor(function(*args), name, what)
        return y.to(torch.promote_types(y.dtype, torch.float32)) if y.is_floating_point() else y

    return call


def _tensor(found: Any, name: str, what: str) -> Tensor:
    if isinstance(found, Tensor):
        return found
    if isinstance(found, Mapping):
        value, held = found.get(name), f" with {', '.join(map(str, found))}"
    elif isinstance(found, tuple | list):
        some = [x for x in found if isinstance(x, Tensor) and (x.ndim > 0) == (name == "logits")]
        value = some[0] if len(some) == 1 else None
        held = f" of {', '.join(type(x).__name__ for x in found)}"
    else:
        value, held = getattr(found, name, None), ""
    if isinstance(value, Tensor):
        return value
    hint = ", and a model gives a loss only where the batch has labels" if name == "loss" else ""
    raise ValueError(
        f"{what} must return a tensor or a model's output with .{name}, got {type(found).__name__}{held}; return the tensor{hint}"
    )


@contextmanager
def unchecked() -> Iterator[None]:
    """Return a context in which torch.utils.checkpoint runs its function plainly, in every thread.

    What it would compute again in the backward sweep it would compute with the module's own parameters, after
    functional_call has put them back; its reentrant form does not see parameters that are no arguments at all.
    """
    global _depth
    plain = {"CheckpointFunction": _Plain, "_checkpoint_without_reentrant_generator": _bare}
    with _lock:
        if _depth == 0:
            for name, stand_in in plain.items():
                if hasattr(checkpoint, name):
                    _put_back[name] = getattr(checkpoint, name)
                    setattr(checkpoint, name, stand_in)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            while _depth == 0 and _put_back:
                setattr(checkpoint, *_put_back.popitem())


class _Plain:
    """Stands in for CheckpointFunction."""

    @staticmethod
    def apply(function: Callable, preserve: bool, *args):
        return function(*args)


def _bare(*_, **__) -> Iterator[None]:
    """Stands in for what checkpoint does before and after the call of its function."""
    yield


@contextmanager
def named(i: int) -> Iterator[None]:
    """Return a context that says in which batch a ValueError came up."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"batches[{i}]: {error}") from error


def steady(call: Callable[[], Any], what: str) -> Any:
    """Return what the call returns; ValueError when it draws random numbers from torch, numpy or Python, whatever their seed.

    The generators' states before and after tell, not the values: one number in many that is dropped now and then does
    not show in a few calls. A call that moves them is made once more, for it may have seeded them itself.
    """
    before = _generators()
    found = call()
    after = _generators()
    if after != before:
        call()
        if _generators() != after:
            raise ValueError(f"{what} draws random numbers at every call; switch dropout and the like off with model.eval()")
    return found


def _generators() -> tuple:
    """The states of all global generators."""
    name, keys, *rest = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    if torch.backends.mps.is_available():
        devices.append(torch.mps.get_rng_state())
    torches = tuple(state.numpy().tobytes() for state in (torch.get_rng_state(), *devices))
    return torches, random.getstate(), keys.tobytes(), tuple(rest)


def check_repeats(
    first: Tensor, again: Tensor, once_more: Callable[[], Tensor], precision: torch.dtype, what: str, value: int | None = None
) -> float:
    """Return the relative gap of two equal calls, 0.0 where their bits agree, and refuse what is random.

    Each vector begins with the `value` entries of the function itself (None: all of them); its slopes follow. Equal bits
    pass. Others are compared once more under torch's deterministic algorithms, by two calls of one kind, as `chance` says.
    """
    if torch.equal(first, again):
        return 0.0
    value = len(first) if value is None else value
    with _deterministic():
        a, b = once_more(), once_more()
    sizes = [(float((a - b)[part].norm()), float(a[part].norm())) for part in (slice(value), slice(value, None))]
    said = chance(*sizes, a.dtype, precision, a.device.type)
    if said:
        raise ValueError(
            f"{what} is random: {float(a[0]):.8g}, then {float(b[0]):.8g}, the norm of all differences is "
            f"{float((a - b).norm()):.1e}. {said}"
        )
    part = slice(value, None) if len(first) > value else slice(None)
    gap, size = float((once_more() - again)[part].norm()), float(again[part].norm())
    return gap / size if gap > 0 else 0.0


def chance(
    value: tuple[float, float], slopes: tuple[float, float], dtype: torch.dtype, precision: torch.dtype, device: str
) -> str:
    """Return "" where the gaps of two equal calls are rounding, else what they are, as a sentence with the remedy.

    value and slopes are (norm of the differences, norm) of a function's value and of its slopes. On a CPU the bits must
    agree. Elsewhere kernels remain that add in any order: sums of 1e5 terms in `dtype`, or a rounding or two in `precision`.
    In bfloat16 and float16 the slopes gather more, 3e-2 to 1e-1 of their norm in language models of 1 to 7 billion
    parameters: they may differ by SLOPES of it where the value itself repeats.
    """
    gap, size = math.hypot(value[0], slopes[0]), math.hypot(value[1], slopes[1])
    if gap == 0:
        return ""
    if device != "cpu":
        rounding = max(1e3 * torch.finfo(dtype).eps, 4 * torch.finfo(precision).eps)
        half = torch.finfo(precision).bits == 16
        if gap <= rounding * size and (value[0] <= rounding * value[1] or not half):
            return ""
        if half and value[0] <= rounding * value[1]:
            if slopes[0] <= SLOPES * slopes[1]:
                return ""
            share = slopes[0] / slopes[1] if slopes[1] else math.inf
            return (
                f"The value repeats and its slopes change by {share:.0%} of their norm, more than the "
                f"{SLOPES:.0%} that rounding in {str(precision).removeprefix('torch.')} explains; load the model in float32"
            )
    return (
        "No generator of torch, numpy or Python moved: it has one of its own, or keeps a state "
        "between calls, such as a key-value cache that grows; make equal calls give equal values"
    )


@contextmanager
def _deterministic() -> Iterator[None]:
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)


def check_values(values: Sequence[Tensor], what: str, batch=None) -> None:
    """Refuse values (the first one's first entry is shown) with NaN or infinity."""
    if all(bool(torch.isfinite(x).all()) for x in values):
        return
    shown = values[0].detach().reshape(-1)
    bad = shown[~torch.isfinite(shown)]
    remedy = "it needs a finite point and finite data"
    if batch is not None and any(n == 0 for n, _ in _counts(batch)):
        remedy = NOTHING
    raise ValueError(f"{what} is not finite at these parameters ({float(bad[0] if len(bad) else shown[0])}); {remedy}")


def nodes(y: Tensor) -> Iterator:
    """Return every node of the graph behind y, once."""
    seen, waiting = set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
            yield node


def precision(y: Tensor) -> torch.dtype:
    """Return the coarsest floating dtype in the graph behind y, its own included."""
    found = {y.dtype}
    for node in nodes(y):
        found |= {given.dtype for given in node._input_metadata}
    return coarsest(found)


def coarsest(dtypes) -> torch.dtype:
    """Return the floating dtype with the largest eps."""
    return max((d for d in dtypes if d.is_floating_point), key=lambda d: torch.finfo(d).eps)


def standing(precision: torch.dtype, dtype: torch.dtype) -> str:
    """Return "exact" where derivatives round no more than numbers of this dtype (or float32) do, else the dtype that rounds."""
    fine = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return "exact" if torch.finfo(precision).eps <= fine else f"rounded in {str(precision).removeprefix('torch.')}"


def settle(
    batches: Sequence,
    weights: Sequence[float] | Callable[[Any], float] | str | None,
    *,
    group: dist.ProcessGroup | None = None,
    single: bool = True,
) -> list[float]:
    """Return how many items each batch's mean is over.

    weights says so by one number per batch, by a function of the batch, or by "rows", the leading length of its
    tensors, which None stands for where no other count is possible. Labels that hold -100, and labels of several
    tokens a row, can also be counted token by token: where that would give other shares and weights is None, the
    choice is asked for. single: one batch has a share of one however it is counted, so nothing needs to be asked.
    Raises ValueError for that, and for weights that are not one positive number per batch.
    """
    rows = [float(batch_size(b)) for b in batches]
    if isinstance(weights, str) and weights != "rows":
        raise ValueError(f'weights must be numbers, a function of a batch or "rows", got {weights!r}')
    if weights is None:
        _ask(batches, rows, group, single)
    if weights is None or isinstance(weights, str):
        return rows
    found = [float(w) for w in (map(weights, batches) if callable(weights) else weights)]
    if len(found) != len(rows) or not all(0 < w < float("inf") for w in found):
        raise ValueError(
            f"weights must be {len(rows)} positive numbers, one per batch, got {found}; leave out a batch that counts nothing"
        )
    return found


def _labels(batch) -> list[Tensor]:
    """The integer tensors of a batch that are labels: those that hold -100, and one that is called so."""
    integer = [x for x in open_batch(batch)[0] if isinstance(x, Tensor) and x.ndim and x.dtype in (torch.int64, torch.int32)]
    found = [x for x in integer if bool((x == IGNORED).any())]
    called = batch.get("labels") if isinstance(batch, Mapping) else getattr(batch, "labels", None)
    return found or [x for x in integer if x is called]


def _counts(batch) -> list[tuple[int, int]]:
    """For each tensor of labels, how many count, and how many do where each row's first is only read."""
    kept = [x != IGNORED for x in _labels(batch)]
    return [(int(x.sum()), int((x[:, 1:] if x.ndim > 1 else x).sum())) for x in kept]


def _ask(batches: Sequence, rows: list[float], group: dist.ProcessGroup | None, single: bool) -> None:
    """ValueError where tokens would give the batches other shares than rows do."""
    counts = [_counts(b) for b in batches]
    for i, some in enumerate(counts):
        if any(n == 0 for n, _ in some):
            raise ValueError(f"batches[{i}]: the loss is not finite, for {NOTHING}")
    shares = [(n / r, m / r) for some, r in zip(counts, rows, strict=True) for n, m in some or [(r, r)]]
    spread = torch.tensor(shares, dtype=torch.float64)
    ends = torch.stack([spread.max(0).values, -spread.min(0).values])
    if group is not None:
        ends = ends.cuda() if dist.get_backend(group) == "nccl" else ends
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=group)
    high, low = ends[0], -ends[1]
    if bool((low == high).all()) and (single or bool((high == 1).all())):
        return
    each = [some[0] if some else (int(r), int(r)) for some, r in zip(counts, rows, strict=True)]
    tokens, following = (_listed(column) for column in zip(*each, strict=True))
    after = f"weights={following} for a next-token loss, weights={tokens}" if following != tokens else f"weights={tokens}"
    raise ValueError(
        f"the batches have {tokens} labels other than {IGNORED} in {_listed(map(int, rows))} rows, so that a mean over labels "
        f'and one over rows weigh them differently: pass {after} for any other mean over labels, or weights="rows" for a '
        "mean over rows"
    )


def _listed(numbers) -> str:
    few = list(numbers)
    return f"[{', '.join(map(str, few[:8]))}{', ...' if len(few) > 8 else ''}]"
