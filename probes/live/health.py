"""The health of an adapter in a live model: how much it changes each module, in how many directions, and whether at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from probes.inputs import check_values, coarsest, named, opened, steady
from probes.live.adapters import Adapted, base_parameters, holders, read, squares
from probes.live.sharded import shards_of

_SHOWN = 4  # modules that a sentence names
_ASIDE = ("trained whole", "token rows")  # kinds that are used in place of weights, merged or not


@dataclass(frozen=True)
class AdaptedModule:
    """One adapter on one module; name: the module's path in the base model, as PEFT's patterns match it.

    norm: Frobenius norm of the change of the weight (of a prompt: of its rows), share: its part of the total squared norm,
    ratio: norm over that of the base weight, None where that is not read. Of the singular values s (scaling included;
    of DoRA those of the low-rank part), effective_rank is (sum s^2)^2 / sum s^4 and entropy_rank exp(H) of
    s^2 / sum s^2; both are 0 where all s are 0, None where there are none. untrained: the change is exactly zero.
    """

    name: str
    kind: str
    adapter: str
    r: int | None
    scaling: float | None
    parameters: int
    norm: float
    share: float
    ratio: float | None
    effective_rank: float | None
    entropy_rank: float | None
    singular_values: tuple[float, ...]
    untrained: bool


@dataclass(frozen=True)
class Health:
    """rows: one per adapted module; norm: of all changes, base_norm: of the weights below them, each matrix once;
    parameters of the adapters and base_parameters of the whole base model, as many as packed or shared ones stand for."""

    rows: tuple[AdaptedModule, ...]
    adapters: tuple[str, ...]
    norm: float
    base_norm: float
    parameters: int
    base_parameters: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MergedDifference:
    """difference: largest change of a logit by merging; rounding: eps of `dtype`, the coarsest of the merged weights, times
    the largest logit; effect: largest change of a logit by what is merged; notes: what that means."""

    difference: float
    rounding: float
    effect: float
    logit: float
    dtype: torch.dtype
    notes: tuple[str, ...]


def health(model: nn.Module, adapter: str | None = None) -> Health:
    """Return what an adapter (None: all that are active) changes in each module of a live model.

    Read are LoRA (also rsLoRA, DoRA, AdaLoRA, on embeddings and convolutions), VeRA, LoHa, IA3, modules trained whole,
    token rows, prompts and prefixes, as PEFT holds them; other kinds are named in the notes. Norms come from the factors,
    |B A|^2 = tr(B'B A A'), so that no change is formed; the model is only read. A matrix that several modules share
    is counted once in base_norm; a model that `probes.shard` cut is read in all its processes together. Raises
    ValueError for a model without adapters, without one of that name, or with kinds that are not read alone, and for
    numbers that are not finite.
    """
    known, active = _adapters(model)
    chosen = (adapter,) if adapter is not None else tuple(name for name in known if name in active)
    if not known:
        raise ValueError("expected a model with adapters, found none in its modules; give the live PeftModel, not its base")
    if not set(chosen) <= set(known) or not chosen:
        asked = f"adapter {adapter!r}" if adapter is not None else "an active adapter"
        raise ValueError(f"expected {asked} in the model, found {', '.join(known)}, of which {len(active)} active; name one")
    found, strange = read(model, chosen)
    unread = [f"{kind} is not read, on {_modules(names)}" for kind, names in strange.items()]
    if not found:
        raise ValueError(f"{'; '.join(unread)}: merge the adapter, or probe the model as it is")
    total = sum(one.squared for one in found)
    lengths = _lengths(model, found)
    rows = tuple(_row(one, total, None if one.weight is None else lengths.get(_key(one.weight))) for one in found)
    return Health(
        rows,
        chosen,
        math.sqrt(total),
        math.sqrt(sum(lengths.values())),
        sum(row.parameters for row in rows),
        base_parameters(model),
        (*_verdict(rows, whole=not strange), *unread, *_state(model, chosen, active), *_shared(model, found), *_packed(found)),
    )


def rank_pattern(found: Health, share: float = 0.9) -> dict[str, int]:
    """Return, for LoraConfig(rank_pattern=...), the smallest rank of each module that keeps a share of its squared norm.

    Keys match as PEFT matches them, each one module of those adapted; a module that is untrained gets rank 1, the
    least there is. PEFT scales by alpha / r, so that alpha_pattern must follow where the scaling is to stay. Raises
    ValueError where no module has singular values, where all are untrained, and for several adapters at once.
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected a share of the squared norm above 0 and at most 1, got {share}")
    if len(found.adapters) > 1:
        raise ValueError(f"expected the health of one adapter, got {', '.join(found.adapters)}; call health with one's name")
    rows = [row for row in found.rows if row.singular_values and "LoRA" in row.kind]
    if not rows or all(row.untrained for row in rows):
        what = "whose factors are all untrained, so that no rank can be told" if rows else "without low-rank factors"
        raise ValueError(f"expected a trained LoRA adapter, got one {what}")
    names = [row.name for row in found.rows]
    return {_pattern(row.name, names): _rank(row.singular_values, share) for row in rows}


def merged_difference(
    model: nn.Module, batches: Sequence[Any], forward: Callable[[nn.Module, Any], Any] | None = None
) -> MergedDifference:
    """Compare the model's logits with those after its active adapters are merged, W + s B A in the weights' own dtype.

    forward(model, batch) gives logits or a model's output (default: model(**batch)); where a batch has an
    attention_mask of the logits' leading shape, masked places are left out. Merged weights and adapters at rest
    stand in for the model's own during its calls, module by module, so that a matrix that two modules share is merged
    for each; the model itself stays as it is. Modules trained whole stay. Needs memory for one copy of the adapted
    weights. Raises ValueError for adapters that are merged, switched off or cannot be merged (prompts, quantised or
    sharded weights, kinds that are not read), and for a forward that draws random numbers.
    """
    _, active = _adapters(model)
    found, strange = read(model, active)
    _check_mergeable(model, found, strange)
    places: dict[str, list[Adapted]] = {}
    for one in found:
        if one.kind not in _ASIDE:
            places.setdefault(one.below, []).append(one)
    merged, off = {}, {}
    with torch.no_grad():
        for below, several in places.items():
            weight = fine = several[0].weight
            for one in several:
                fine = one.merged(fine)
            merged[f"{below}.weight"] = whole = fine.to(weight.dtype)
            for one in several:
                merged |= {f"{one.path}.{name}": value for name, value in one.off(whole).items()}
                off |= {f"{one.path}.{name}": value for name, value in one.off(weight).items()}
        host = _Host(model, opened(forward or _called, "logits", "forward"))
        ends = [_compared(host, batch, i, (merged, off)) for i, batch in enumerate(batches)]
    difference, effect, logit = (max(column, default=0.0) for column in zip(*ends, strict=True))
    dtype = coarsest(one.weight.dtype for several in places.values() for one in several)
    rounding = torch.finfo(dtype).eps * logit
    return MergedDifference(difference, rounding, effect, logit, dtype, (_precision(difference, rounding, effect, dtype),))


class _Host(nn.Module):
    """The model under a name, so that functional_call can put tensors in its place and call it in any way."""

    def __init__(self, model: nn.Module, call: Callable):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, batch: Any) -> Tensor:
        return self.call(self.model, batch)


def _called(model: nn.Module, batch: Mapping) -> Any:
    return model(**batch)


def _compared(host: _Host, batch: Any, i: int, places: Sequence[Mapping[str, Tensor]]) -> tuple[float, float, float]:
    """The largest differences of the logits with these tensors in the model's place, and the largest logit."""
    with named(i):
        plain = steady(lambda: host(batch), "forward")
        check_values([plain], "forward")
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        kept = ... if mask is None or mask.shape != plain.shape[:2] or plain.ndim < 3 else mask.bool()
        others = [functional_call(host, {f"model.{k}": x for k, x in of.items()}, (batch,), tie_weights=False) for of in places]
        check_values(others, "forward of the merged model")
    gaps = [float((plain[kept] - other[kept]).abs().max()) for other in others]
    return gaps[0], gaps[1], float(plain[kept].abs().max())


def _precision(difference: float, rounding: float, effect: float, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    times = difference / rounding if rounding else 0.0
    said = (
        f"merging in {name} moves a logit by at most {difference:.2g}, {times:.2g} times the rounding of {name} at the largest "
        f"logit; the adapter itself moves one by {effect:.2g}"
    )
    if dtype in (torch.float32, torch.float64):
        return said
    return f"{said}, so the difference is the precision of {name} and no effect of the adapter"


def _check_mergeable(model: nn.Module, found: Sequence[Adapted], strange: Mapping[str, Sequence[str]]) -> None:
    if not found and not strange:
        raise ValueError("expected a model with an active adapter, found none; set one active")
    for kind, names in strange.items():
        raise ValueError(f"{kind} is not read, on {_modules(names)}, so that its merging cannot be compared")
    for one in found:
        module = model.get_submodule(one.path)
        if getattr(module, "merged_adapters", None):
            raise ValueError(f"expected adapters beside the weights, got merged ones at {one.name}; call unmerge_adapter first")
        if getattr(module, "disable_adapters", False) is True:
            raise ValueError(f"expected adapters that are switched on, got one that is off at {one.name}; enable it first")
        if one.kind in _ASIDE:
            continue
        if one.unread:
            raise ValueError(
                f"expected weights in floating point to merge into, got {one.unread} ones at {one.name}; load the base model "
                "whole and unquantised for this comparison"
            )
        if one.merged is None or one.weight is None:
            raise ValueError(
                f"the change that {one.kind} makes at {one.name} is not that of one weight, so it cannot be merged here"
            )
    if all(one.kind in _ASIDE for one in found):
        raise ValueError("expected an adapter that changes weights, got one of modules trained whole, which are used as they are")
    crowded = [one.name for one in found if one.kind == "DoRA" and sum(other.below == one.below for other in found) > 1]
    if crowded:
        raise ValueError(f"expected DoRA alone on a module, got several active adapters at {crowded[0]}; set one active")


def _adapters(model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All adapters in the order of the modules, and those that are active somewhere."""
    known: dict[str, None] = {}
    active: dict[str, None] = {}
    for _, module, held in holders(model):
        known |= dict.fromkeys(held)
        now = getattr(module, "active_adapters", None)
        now = now() if callable(now) else now
        now = [now] if isinstance(now, str) else now or ()
        active |= dict.fromkeys(name for name in now if name in held)
    return tuple(known), tuple(active)


def _lengths(model: nn.Module, found: Sequence[Adapted]) -> dict:
    """The squared norms of the matrices that are read, by key: of those that are cut, summed over the processes."""
    weights = {_key(one.weight): one for one in found if one.weight is not None and one.unread in ("", "cut")}
    squared = {key: float(squares(one.weight).sum()) for key, one in weights.items()}
    cut = [key for key, one in weights.items() if one.unread]
    if cut:
        parts = torch.tensor([squared[key] for key in cut], dtype=torch.float64)
        squared |= zip(cut, shards_of(model).summed(parts).tolist(), strict=True)
    return squared


def _row(one: Adapted, total: float, base: float | None) -> AdaptedModule:
    """The record of one module; base: the squared norm of its weight."""
    s = one.singular
    power = None if s is None else s.square()
    mass = 0.0 if power is None else float(power.sum())
    p = None if not mass else power / mass
    return AdaptedModule(
        one.name,
        one.kind,
        one.adapter,
        one.r,
        one.scaling,
        one.parameters,
        math.sqrt(one.squared),
        one.squared / total if total else 0.0,
        None if not base else math.sqrt(one.squared / base),
        None if s is None else 0.0 if p is None else float(1 / p.square().sum()),
        None if s is None else 0.0 if p is None else float(torch.special.entr(p).sum().exp()),
        () if s is None else tuple(s.tolist()),
        one.untrained,
    )


def _verdict(rows: Sequence[AdaptedModule], *, whole: bool) -> list[str]:
    """What the modules that are untrained mean; whole: no others are adapted."""
    still = [row.name for row in rows if row.untrained]
    if not still:
        return []
    if len(still) == len(rows) and whole:
        return [f"{len(rows)} of {len(rows)} modules untrained: equal to the base model, no verdict can be given"]
    return [f"{len(still)} of {len(rows)} modules untrained: {_listed(still)}"]


def _state(model: nn.Module, chosen: Sequence[str], active: Sequence[str]) -> list[str]:
    """Whether what is read is what the model computes now."""
    said = [f"adapter {name} is not active: the model computes without it" for name in chosen if name not in active]
    modules = [module for _, module, held in holders(model) if set(held) & set(chosen)]
    if any(getattr(module, "disable_adapters", False) is True for module in modules):
        said.append("the adapters are switched off: the model computes as its base does")
    if any(set(getattr(module, "merged_adapters", None) or ()) & set(chosen) for module in modules):
        said.append("the adapter is merged: the base weights hold its change, and ratios are to their sum")
    return said


def _shared(model: nn.Module, found: Sequence[Adapted]) -> list[str]:
    """What merging would do to matrices that more than one module uses."""
    adapted: dict[int, list[str]] = {}
    for one in found:
        if one.kind not in _ASIDE and one.weight is not None:
            adapted.setdefault(_key(one.weight), []).append(one.name)
    users: dict[int, set[int]] = {}
    for module in model.modules():
        for x in module._parameters.values():
            if x is not None and _key(x) in adapted:
                users.setdefault(_key(x), set()).add(id(module))
    said = []
    for key, names in adapted.items():
        several = list(dict.fromkeys(names))
        if len(several) > 1:
            said.append(
                f"{' and '.join(several)} share one base matrix, which is counted once: merging would add the changes of all to "
                "it, so untie them first (a copy for each)"
            )
        elif len(users[key]) > 1:
            said.append(f"the base matrix of {several[0]} has another user, which is not adapted: untie them before merging")
    return said


def _packed(found: Sequence[Adapted]) -> list[str]:
    said = []
    for state in dict.fromkeys(one.unread for one in found if one.unread not in ("", "cut")):
        names = [one.name for one in found if one.unread == state]
        said.append(f"the base weights of {_modules(names)} are {state}: their norms are not read and have no ratio")
    return said


def _rank(values: Sequence[float], share: float) -> int:
    power = torch.tensor(values, dtype=torch.float64).square()
    kept = power.cumsum(0) >= share * power.sum() * (1 - 1e-12)  # rounding of the sum
    return int(kept.nonzero()[0]) + 1


def _pattern(name: str, names: Sequence[str]) -> str:
    """A key that PEFT matches with this module and no other: its path, marked as a whole one where others end alike."""
    alike = [other for other in names if re.match(rf"(.*\.)?({name})$", other)]
    return name if set(alike) == {name} else f"^{re.escape(name)}"


def _key(weight: Tensor | None) -> int:
    return id(weight)


def _modules(names: Sequence[str]) -> str:
    return f"{len(names)} module{'s' * (len(names) > 1)} ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
