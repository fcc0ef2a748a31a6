"""Deltas in the folder format of the PEFT library, both ways.

LoRA, IA3, prefix and prompt exist there. PEFT wraps fused query-key-value maps as one, so LoRA on single
parts is written as one map of a larger rank with a block structure, and read back as parts that share their
A.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tuning.backbones import SITES, Backbone, transposed
from tuning.deltas import IA3, LoRA, Prefix, Prompt
from tuning.subject import READOUT, Params

_START = "base_model.model."
_ROLES = ("q", "k", "v", "o", "up", "down")


def export_peft(
    folder: str | Path, backbone: Backbone, delta: object, params: Params, *, inside: str = ""
) -> Path:
    """Writes the delta as a PEFT adapter folder for the backbone's base model and returns the folder.

    `inside` is the base model's name within a larger model ("bert." in a BERT classifier). Raises ValueError
    for a delta that PEFT does not have, and for prefix or prompt without `shift_positions`, which PEFT always
    does.
    """
    params = {name: value.detach() for name, value in params.items() if name not in READOUT}
    if isinstance(delta, LoRA):
        config, tensors = _lora_out(backbone, delta, params, inside)
    elif isinstance(delta, IA3):
        config, tensors = _ia3_out(backbone, delta, params, inside)
    elif isinstance(delta, Prefix | Prompt):
        config, tensors = _context_out(backbone, delta, params)
    else:
        raise ValueError(f"expected LoRA, IA3, a prefix or a prompt for PEFT, got {delta.name}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    common = {
        "base_model_name_or_path": backbone.name,
        "task_type": "FEATURE_EXTRACTION",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(common | config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(
        {name: value.cpu().contiguous() for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def import_peft(folder: str | Path, backbone: Backbone) -> tuple[object, Params]:
    """The delta and its parameters from a PEFT adapter folder.

    The model's name inside a larger one is ignored. Raises ValueError for a missing or damaged folder, a
    method other than the four, and settings that this lab does not have (biases, DoRA, other modules). LoRA
    of several ranks or scales is read as one rank, filled up with zeros, with the scales moved into B.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors", device=str(backbone.device))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"expected a PEFT folder with configuration and safetensors at {folder}: {error}"
        ) from error
    kinds = {"LORA": _lora_in, "IA3": _ia3_in, "PREFIX_TUNING": _prefix_in, "PROMPT_TUNING": _prompt_in}
    if config.get("peft_type") not in kinds:
        raise ValueError(f"expected a PEFT method among {', '.join(kinds)}, got {config.get('peft_type')!r}")
    return kinds[config["peft_type"]](backbone, config, {n: v.to(backbone.dtype) for n, v in tensors.items()})


def _expression(backbone: Backbone, inners: list[str]) -> str:
    """The expression that matches these modules of every block, whatever the base model is part of."""
    return rf"(.*\.)?{re.escape(backbone.layout.blocks)}\.\d+\.({'|'.join(map(re.escape, inners))})"


def _lora_out(backbone: Backbone, delta: LoRA, params: Params, inside: str) -> tuple[dict, dict[str, Tensor]]:
    groups: dict[str, list[str]] = {}
    for role in _ROLES:
        if f"0.{_site(role)}.{role}.A" in params:
            path = backbone.linear(0, role).path.removeprefix(f"{backbone.layout.blocks}.0.")
            groups.setdefault(path, []).append(role)
    tensors = {}
    for block in range(backbone.blocks):
        for inner, roles in groups.items():
            a = torch.cat([params[f"{block}.{_site(r)}.{r}.A"] for r in roles])
            linears = [backbone.linear(block, r) for r in roles]
            b = params[f"{block}.{_site(roles[0])}.{roles[0]}.B"]
            if linears[0].rows is not None:
                whole = torch.zeros(3 * linears[0].d_out, len(a), dtype=a.dtype, device=a.device)
                for i, (role, linear) in enumerate(zip(roles, linears, strict=True)):
                    columns = slice(i * delta.rank, (i + 1) * delta.rank)
                    whole[linear.rows, columns] = params[f"{block}.{_site(role)}.{role}.B"]
                b = whole
            start = f"{_START}{inside}{backbone.path(block, inner)}"
            tensors |= {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b}
    several = {inner: len(roles) for inner, roles in groups.items() if len(roles) > 1}
    alpha = delta.scale * delta.rank
    config = {
        "peft_type": "LORA",
        "r": delta.rank,
        "lora_alpha": alpha,
        "target_modules": _expression(backbone, list(groups)),
        "rank_pattern": {re.escape(inner): n * delta.rank for inner, n in several.items()},
        "alpha_pattern": {re.escape(inner): n * alpha for inner, n in several.items()},
        "fan_in_fan_out": backbone.architecture == "gpt2",
        "lora_dropout": 0.0,
        "bias": "none",
    }
    return config, tensors


def _site(role: str) -> str:
    return SITES[1] if role in ("up", "down") else SITES[0]


def _find(tensors: dict[str, Tensor], path: str, leaf: str) -> str | None:
    """The name of a module's tensor, whatever stands before its path."""
    return next((name for name in tensors if name.endswith(f".{path}.{leaf}")), None)


def _lora_in(backbone: Backbone, config: dict, tensors: dict[str, Tensor]) -> tuple[LoRA, Params]:
    odd = [key for key in ("use_dora", "use_rslora", "modules_to_save") if config.get(key)]
    if odd or config.get("bias", "none") != "none":
        raise ValueError(
            f"expected plain LoRA without biases, got {odd or 'bias ' + config['bias']}; merge it first"
        )
    common = config["lora_alpha"] / config["r"]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    read = set()
    for block in range(backbone.blocks):
        for role in _ROLES:
            linear = backbone.linear(block, role)
            names = [_find(tensors, linear.path, f"lora_{part}.weight") for part in "AB"]
            if None in names:
                continue
            read.update(names)
            a, b = tensors[names[0]], tensors[names[1]]
            alpha = _pattern(config.get("alpha_pattern"), linear.path, config["lora_alpha"])
            scaled = b * (alpha / len(a) / common)
            found[f"{block}.{_site(role)}.{role}"] = (
                a,
                scaled if linear.rows is None else scaled[linear.rows],
            )
    if not found or read != set(tensors):
        foreign = sorted(set(tensors) - read)[:1] or "no tensor at all"
        raise ValueError(f"expected LoRA on the linear maps of the blocks, got {foreign}")
    rank = max(len(a) for a, _ in found.values())
    roles = {key.rpartition(".")[2] for key in found}
    delta = LoRA(rank, alpha=common * rank, targets=tuple(role for role in _ROLES if role in roles))
    params = {
        name: torch.zeros(s, dtype=backbone.dtype, device=backbone.device)
        for name, s in delta.shapes(backbone).items()
    }
    for key, (a, b) in found.items():
        params[f"{key}.A"][: len(a)] = a
        params[f"{key}.B"][:, : len(a)] = b
    return delta, params


def _pattern(patterns: dict | None, path: str, default: float) -> float:
    """PEFT's look-up of a module in its patterns."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _ia3_out(backbone: Backbone, delta: IA3, params: Params, inside: str) -> tuple[dict, dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    for name, factor in params.items():
        block, role = int(name.partition(".")[0]), name.rpartition(".")[2]
        linear = backbone.linear(block, role)
        key = f"{_START}{inside}{linear.path}.ia3_l"
        if role == "down":
            tensors[key] = factor[None]
        elif linear.rows is None:
            tensors[key] = factor[:, None]
        else:
            whole = tensors.setdefault(
                key, torch.ones(3 * linear.d_out, 1, dtype=factor.dtype, device=factor.device)
            )
            whole[linear.rows, 0] = factor
    inners = list(
        dict.fromkeys(backbone.linear(0, r).path.removeprefix(f"{backbone.layout.blocks}.0.") for r in "kv")
    )
    down = backbone.layout.roles["down"]
    config = {
        "peft_type": "IA3",
        "target_modules": _expression(backbone, [*inners, down]),
        "feedforward_modules": _expression(backbone, [down]),
        "fan_in_fan_out": transposed(backbone.model.get_submodule(backbone.path(0, down))),
    }
    return config, tensors


def _ia3_in(backbone: Backbone, config: dict, tensors: dict[str, Tensor]) -> tuple[IA3, Params]:
    delta, params = IA3(), {}
    for name, shape in delta.shapes(backbone).items():
        block, role = int(name.partition(".")[0]), name.rpartition(".")[2]
        linear = backbone.linear(block, role)
        found = _find(tensors, linear.path, "ia3_l")
        if found is None:
            raise ValueError(
                f"expected IA3 on keys, values and the second map of the mlp, found none at {linear.path}"
            )
        flat = tensors[found].reshape(-1)
        params[name] = flat if linear.rows is None else flat[linear.rows]
        if params[name].shape != shape:
            raise ValueError(f"expected {shape[0]} factors at {linear.path}, got {found.numel()}")
    return delta, params


def _context_out(
    backbone: Backbone, delta: Prefix | Prompt, params: Params
) -> tuple[dict, dict[str, Tensor]]:
    if not delta.shift_positions:
        raise ValueError(
            f"expected shift_positions=True, as PEFT moves the text behind the slots, got {delta}"
        )
    width = backbone.width
    if isinstance(delta, Prefix):
        if delta.blocks is not None:
            raise ValueError(f"expected a prefix in every block for PEFT, got blocks {delta.blocks}")
        width = backbone.key_value_heads * backbone.head_width
        pairs = [
            params[f"{i}.attention.{what}"].flatten(1)
            for i in range(backbone.blocks)
            for what in ("keys", "values")
        ]
        table = torch.cat(pairs, dim=1)
    else:
        table = params["embedding.prompt"]
    config = {
        "peft_type": "PREFIX_TUNING" if isinstance(delta, Prefix) else "PROMPT_TUNING",
        "num_virtual_tokens": delta.length,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": backbone.key_value_heads if isinstance(delta, Prefix) else backbone.heads,
        "num_layers": backbone.blocks,
    }
    if isinstance(delta, Prefix):
        config |= {"encoder_hidden_size": width, "prefix_projection": False}
    return config, {"prompt_embeddings": table}


def _prefix_in(backbone: Backbone, config: dict, tensors: dict[str, Tensor]) -> tuple[Prefix, Params]:
    table = tensors["prompt_embeddings"]
    shape = (len(table), 2 * backbone.blocks, backbone.key_value_heads, backbone.head_width)
    if table.numel() != torch.Size(shape).numel():
        raise ValueError(
            f"expected prefix numbers for {shape[1:]}, got {tuple(table.shape)}; was it for another model?"
        )
    parts = table.view(shape)
    params = {
        f"{block}.attention.{what}": parts[:, 2 * block + i].contiguous()
        for block in range(backbone.blocks)
        for i, what in enumerate(("keys", "values"))
    }
    return Prefix(len(table), shift_positions=True), params


def _prompt_in(backbone: Backbone, config: dict, tensors: dict[str, Tensor]) -> tuple[Prompt, Params]:
    table = tensors["prompt_embeddings"]
    if table.shape[1] != backbone.width:
        raise ValueError(f"expected prompt rows of width {backbone.width}, got {table.shape[1]}")
    return Prompt(len(table), shift_positions=True), {"embedding.prompt": table}
