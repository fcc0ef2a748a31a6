"""What the adapters of a live model do to its modules, read from their tensors by kind, without the library that made them.

A module is known by its dictionaries of tensors, one entry per adapter, as PEFT names them. Where the change of a weight
W (out, in) is a product L R of two thin factors it is never formed: with triangular S, T of L = P S and R' = Q T its
singular values are those of the small S T'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PEFT = "base_model.model."  # what PEFT puts before a module's path
_CHUNK = 2**22  # numbers that are widened to float64 at once
_TABLES = ("embedding", "transform", "mlp_head")  # parts of a prompt's encoder that are read


@dataclass(frozen=True, eq=False)
class Adapted:
    """One adapter on one module.

    path: in the live model, name: in the base model; below, weight: the path and matrix of the module under it, None where
    it has none; unread: why that matrix is not read as it stands ("quantised", "sharded", "offloaded", or "cut": each process
    has some of its rows), or "". squared: the squared Frobenius norm of the change; singular: its singular values where it is
    a thin product (of DoRA, those of the product). off: the adapter's tensors with which a module with this matrix ignores
    it; merged: the matrix with the change in it, None where that is not one matrix.
    """

    path: str
    name: str
    adapter: str
    kind: str
    r: int | None
    scaling: float | None
    parameters: int
    below: str
    weight: Tensor | None
    unread: str
    squared: float
    singular: Tensor | None
    untrained: bool
    off: Callable[[Tensor], Mapping[str, Tensor]] | None = None
    merged: Callable[[Tensor], Tensor] | None = None


def read(model: nn.Module, adapters: tuple[str, ...]) -> tuple[list[Adapted], dict[str, list[str]]]:
    """Return what these adapters do to each module they are on, and the modules of kinds that are not read, by kind.

    Raises ValueError for an adapter's numbers that are not finite.
    """
    found: list[Adapted] = []
    strange: dict[str, list[str]] = {}
    for path, module, held in holders(model):
        name = path.removeprefix(_PEFT).removesuffix(".token_adapter") or "prompt_encoder"
        for adapter in [a for a in adapters if a in held]:
            tensors = [x for attribute in held[adapter] for x in _tensors(getattr(module, attribute)[adapter])]
            for x in tensors:
                if not bool(torch.isfinite(x).all()):
                    raise ValueError(
                        f"expected finite numbers in adapter {adapter} at {name}, got NaN or infinity; train it anew"
                    )
            base, below = _below(module, path)
            weight = getattr(base, "weight", None)
            unread = _unread(base, weight)
            reader = next((reader for attribute, reader in _READERS.items() if attribute in held[adapter]), None)
            change = reader(module, adapter, None if unread else weight) if reader else None
            if change is None:
                strange.setdefault(_kind(model, adapter, held[adapter]), []).append(name)
                continue
            numbers = sum({id(x): logical(x) for x in tensors}.values())
            found.append(Adapted(path, name, adapter, parameters=numbers, below=below, weight=weight, unread=unread, **change))
    return found, strange


def holders(model: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, list[str]]]]:
    """Yield (path, module, {adapter: names of its dictionaries that hold the adapter's tensors}), each module once."""
    for path, module in model.named_modules():
        names = getattr(module, "adapter_layer_names", None)
        names = [*names, *_ASIDE] if isinstance(names, tuple | list) else list(_READERS)
        held: dict[str, list[str]] = {}
        for attribute in dict.fromkeys(names):
            part = vars(module).get(attribute, module._modules.get(attribute))
            if not isinstance(part, nn.Module) or not hasattr(part, "keys"):
                continue
            for adapter in part.keys():  # noqa: SIM118 - PEFT's dictionaries of buffers are no mappings
                held.setdefault(adapter, []).append(attribute)
        if held and getattr(module, "tied_adapter", None) is None:
            yield path, module, held


def base_parameters(model: nn.Module) -> int:
    """Return how many numbers the base model has: shared matrices once, quantised ones as many as they stand for."""
    own = set()
    for _, module, held in holders(model):
        aside = getattr(module, "other_param_names", ())
        parts = [getattr(module, name, None) for name in {*aside, *(name for names in held.values() for name in names)}]
        own |= {id(x) for part in parts if isinstance(part, nn.Module) for x in part.parameters()}
    total = sum(logical(x) for x in model.parameters() if id(x) not in own)
    packed = [m for m in model.modules() if isinstance(getattr(m, "qweight", None), Tensor)]
    return total + sum(m.in_features * m.out_features - _parameter(m, "qweight") for m in packed)


def logical(x: Tensor) -> int:
    """Return how many numbers a tensor stands for: as many as were packed (4-bit) into it or as it has in all processes."""
    state = getattr(x, "quant_state", None)
    shape = getattr(state, "shape", None)
    if shape is not None:
        return int(torch.Size(shape).numel())
    return int(getattr(x, "whole_size", getattr(x, "ds_numel", x.numel())))


def squares(weight: Tensor) -> Tensor:
    """Return the sums of squares of a matrix's rows in float64, a piece of it at a time."""
    flat = weight.detach().flatten(1)
    return torch.cat([_wide(part).square().sum(1) for part in flat.split(max(1, _CHUNK // flat.shape[1]))])


def _parameter(module: nn.Module, name: str) -> int:
    return module._parameters[name].numel() if name in module._parameters else 0


def _below(module: nn.Module, path: str = "") -> tuple[nn.Module | None, str]:
    """The base model's own module under one that adapts it, and its path."""
    for name in ("original_module", "base_layer"):
        while isinstance(getattr(module, name, None), nn.Module):
            module, path = getattr(module, name), f"{path}.{name}"
    return (module, path) if path.endswith(("original_module", "base_layer")) else (None, path)


def _unread(base: nn.Module | None, weight: Any) -> str:
    if base is None or (weight is None and not hasattr(base, "qweight")):
        return ""
    packed = [getattr(of, name, None) is not None for of in (base, weight) for name in ("quant_state", "SCB", "qweight")]
    if any(packed) or (isinstance(weight, Tensor) and weight.element_size() == 1):
        return "quantised"
    if hasattr(weight, "full_tensor") or hasattr(weight, "ds_numel"):
        return "sharded"
    if hasattr(weight, "whole_size"):
        return "cut"
    return "offloaded" if weight.device.type == "meta" else ""


def _kind(model: nn.Module, adapter: str, held: list[str]) -> str:
    """The method's name in the model's own settings, or that of its tensors."""
    settings = getattr(model, "peft_config", None)
    method = getattr(settings[adapter], "peft_type", None) if isinstance(settings, Mapping) and adapter in settings else None
    return str(getattr(method, "value", method) or held[0])


def _tensors(part: Any) -> list[Tensor]:
    return [part] if isinstance(part, Tensor) else list(part.parameters())


def _wide(x: Tensor) -> Tensor:
    """The tensor whole and in float64, on the CPU where its device has none."""
    x = x.detach()
    x = x.full_tensor() if hasattr(x, "full_tensor") else x
    return (x.cpu() if x.device.type == "mps" else x).double()


def _singular(left: Tensor, right: Tensor) -> Tensor:
    """The singular values of left @ right, (out, r) and (r, in)."""
    first, second = (torch.linalg.qr(x, mode="r").R for x in (left, right.T))
    return torch.linalg.svdvals(first @ second.T)


def _product(
    kind: str,
    r: int,
    scaling: float,
    left: Tensor,
    right: Tensor,
    turned: bool,
    off: Mapping[str, Tensor],
    mergeable: bool = True,
) -> dict[str, Any]:
    """The change left @ right, (out, in), of a weight that is stored so, or `turned` as (in, out)."""
    singular = _singular(left, right)

    def merged(weight: Tensor) -> Tensor:
        fine = torch.promote_types(weight.dtype, torch.float32)
        change = left.to(weight.device, fine) @ right.to(weight.device, fine)
        return weight.to(fine) + (change.T if turned else change.reshape(weight.shape))

    return {
        "kind": kind,
        "r": r,
        "scaling": scaling,
        "squared": float(singular.square().sum()),
        "singular": singular,
        "untrained": not bool(left.any()) or not bool(right.any()),
        "off": lambda weight: off,
        "merged": merged if mergeable else None,
    }


def _lora(module: nn.Module, adapter: str, weight: Tensor | None) -> dict[str, Any] | None:
    if hasattr(module, "parameter_name"):  # on a tensor of several matrices
        return None
    embedded = adapter in getattr(module, "lora_embedding_A", ())
    names = [f"lora_{'embedding_' * embedded}{side}" for side in "AB"]
    factors = [getattr(module, name)[adapter] for name in names]
    a, b = (x if isinstance(x, Tensor) else x.weight for x in factors)
    last = 0 if embedded else 1  # the factor that is zero before training
    ending = "" if isinstance(factors[last], Tensor) else ".weight"
    zero = {f"{names[last]}.{adapter}{ending}": torch.zeros_like((a, b)[last])}
    scaling, r = float(module.scaling[adapter]), int(a.shape[0])
    kind = "rsLoRA" if getattr(module, "use_rslora", {}).get(adapter) else "LoRA"
    left, right = _wide(b).flatten(1), _wide(a).flatten(1)
    if adapter in getattr(module, "lora_E", ()):
        kind, right = "AdaLoRA", right * _wide(module.lora_E[adapter])
        scaling /= float(module.ranknum[adapter]) + 1e-5
    turned = embedded or bool(getattr(module, "fan_in_fan_out", False))
    magnitude = getattr(module, "lora_magnitude_vector", {})
    variant = getattr(module, "lora_variant", {}).get(adapter)
    bias = getattr(factors[1], "bias", None)
    groups = getattr(_below(module)[0], "groups", 1)
    plain = bias is None and groups == 1 and (variant is None or adapter in magnitude)
    if adapter not in magnitude:
        kind = kind if variant is None else f"{kind} ({type(variant).__name__})"
        found = _product(kind, r, scaling, scaling * left, right, turned, zero, plain)
        if bias is None:
            return found
        return found | {"kind": f"{kind} with a bias", "untrained": found["untrained"] and not bool(bias.any())}
    if weight is None:
        return None
    product = _product("DoRA", r, scaling, scaling * left, right, turned, zero, plain)
    return _dora(adapter, product, scaling * left, right, weight, magnitude[adapter].weight, turned)


def _dora(
    adapter: str, product: dict[str, Any], left: Tensor, right: Tensor, weight: Tensor, magnitude: Tensor, turned: bool
) -> dict[str, Any]:
    """The change m / |W + L R| (W + L R) - W, rows of unit length times magnitudes m, from |W|, W R' and the factors alone."""
    flat = (weight.T if turned else weight).detach().flatten(1)
    size = max(1, _CHUNK // flat.shape[1])
    of, inner = squares(flat), torch.cat([(_wide(part) @ right.T) for part in flat.split(size)])
    crossed, added = (left * inner).sum(1), (left @ (right @ right.T) * left).sum(1)
    length, m = (of + 2 * crossed + added).clamp(min=0).sqrt(), _wide(magnitude).flatten()
    squared = float((m.square() - 2 * m / length * (of + crossed) + of).clamp(min=0).sum())
    # where nothing was trained m is |W|, summed in float32 and rounded once in the coarser of the two numbers' formats
    coarse = max(torch.finfo(magnitude.dtype).eps, torch.finfo(weight.dtype).eps)
    slack = (2 * coarse + 16 * torch.finfo(torch.float32).eps) * of.sqrt()
    still = product["untrained"] and bool(((m - of.sqrt()).abs() <= slack).all())

    def merged(weight: Tensor) -> Tensor:
        summed = product["merged"](weight)
        flat = (summed.T if turned else summed).flatten(1)
        scale = m.to(flat.device, flat.dtype) / flat.norm(dim=1)
        scaled = scale[:, None] * flat
        return scaled.T if turned else scaled.reshape(weight.shape)

    def off(weight: Tensor) -> dict[str, Tensor]:
        now = squares(weight.T if turned else weight).sqrt().to(magnitude.device, magnitude.dtype)
        return {**product["off"](weight), f"lora_magnitude_vector.{adapter}.weight": now.reshape(magnitude.shape)}

    return product | {
        "squared": 0.0 if still else squared,
        "untrained": still,
        "off": off,
        "merged": merged if product["merged"] else None,
    }


def _vera(module: nn.Module, adapter: str, weight: Tensor | None) -> dict[str, Any] | None:
    outer, inner = (module.vera_lambda_b[adapter], module.vera_lambda_d[adapter])
    left = _wide(outer)[:, None] * _wide(module.vera_B[adapter])[: module.out_features]
    right = _wide(inner)[:, None] * _wide(module.vera_A[adapter])[:, : module.in_features]
    turned = bool(getattr(module, "fan_in_fan_out", False))
    return _product("VeRA", len(inner), 1.0, left, right, turned, {f"vera_lambda_b.{adapter}": torch.zeros_like(outer)})


def _loha(module: nn.Module, adapter: str, weight: Tensor | None) -> dict[str, Any] | None:
    """The product, entry by entry, of two products of rank r: one of rank r^2."""
    if adapter in module.hada_t1:
        return None
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    first, right, second, other = (_wide(getattr(module, name)[adapter]) for name in names)
    scaling = float(module.scaling[adapter])
    left = scaling * (first[:, :, None] * second[:, None, :]).flatten(1)
    both = (right[:, None] * other[None]).flatten(0, 1)
    zero = {f"hada_w2_b.{adapter}": torch.zeros_like(module.hada_w2_b[adapter])}
    return _product("LoHa", len(right), scaling, left, both, False, zero)


def _ia3(module: nn.Module, adapter: str, weight: Tensor | None) -> dict[str, Any] | None:
    if weight is None or weight.ndim != 2:
        return None
    factor = module.ia3_l[adapter]
    turned = bool(getattr(module, "fan_in_fan_out", False))
    placed = factor.detach().T if turned else factor.detach()  # as the weight is stored
    sums = squares(weight if placed.shape[1] == 1 else weight.T)
    bias = getattr(_below(module)[0], "bias", None)
    return {
        "kind": "IA3",
        "r": None,
        "scaling": None,
        "squared": float((sums * (_wide(placed).flatten() - 1).square()).sum()),
        "singular": None,
        "untrained": bool((factor == 1).all()),
        "off": lambda weight: {f"ia3_l.{adapter}": torch.ones_like(factor)},
        # outputs are scaled with their biases
        "merged": None if bias is not None and not module.is_feedforward else lambda weight: weight * placed,
    }


def _saved(module: nn.Module, adapter: str, weight: Tensor | None) -> dict[str, Any] | None:
    """A module that is trained whole, as a copy beside the original."""
    copy, original = module.modules_to_save[adapter], module.original_module
    pairs = [(x, original.get_parameter(name)) for name, x in copy.named_parameters()]
    if any(_unread(original, y) for _, y in pairs):
        return None
    return _whole("trained whole", pairs)


def _rows(module: nn.Module, adapter: str, weight: Tensor | None) -> dict[str, Any] | None:
    """Rows of an embedding that replace the original's."""
    new, old = module.trainable_tokens_delta[adapter], module.trainable_tokens_original[adapter]
    return _whole("token rows", [(new, old)])


def _whole(kind: str, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """New numbers beside old ones, which stay beside the weights and take no part in merging them."""
    parts = [zip(x.flatten().split(_CHUNK), y.flatten().split(_CHUNK), strict=True) for x, y in pairs]
    squared = sum(float((_wide(x) - _wide(y)).square().sum()) for part in parts for x, y in part)
    return {"kind": kind, "r": None, "scaling": None, "squared": squared, "singular": None, "untrained": squared == 0}


def _prompt(module: nn.Module, adapter: str, weight: Tensor | None) -> dict[str, Any] | None:
    """The rows in front of a text, or of its keys and values."""
    encoder = module.prompt_encoder[adapter]
    if {name.partition(".")[0] for name, _ in encoder.named_parameters()} - set(_TABLES):
        return None
    with torch.no_grad():
        table = encoder.embedding.weight.detach()
        for name in _TABLES[1:]:
            table = getattr(encoder, name, lambda x: x)(table)
    settings = getattr(module, "peft_config", {}).get(adapter)
    method = getattr(settings, "peft_type", "prompt")
    kind = str(getattr(method, "value", method)).lower().replace("_", " ")
    rows = _wide(table)
    singular = _singular(torch.eye(len(rows), dtype=rows.dtype, device=rows.device), rows)
    return {"kind": kind, "r": len(rows), "scaling": None, "squared": float(rows.square().sum()), "singular": singular,
            "untrained": not bool(rows.any())}  # fmt: skip


_READERS: dict[str, Callable[[nn.Module, str, Tensor | None], dict[str, Any] | None]] = {
    "lora_A": _lora,
    "lora_embedding_A": _lora,
    "vera_lambda_b": _vera,
    "hada_w1_a": _loha,
    "ia3_l": _ia3,
    "modules_to_save": _saved,
    "trainable_tokens_delta": _rows,
    "prompt_encoder": _prompt,
}
_ASIDE = ("lora_magnitude_vector",)
