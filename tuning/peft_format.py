"""Deltas in the folder format of the PEFT library, both ways.

LoRA, DoRA, VeRA, LoKr, IA3, SHiRA, LN-tuning, prefix and prompt exist there. PEFT wraps a fused query-key-value map as one, so
LoRA on single parts is written as one map of a larger rank with a block structure, and read back as the map "qkv", as PEFT holds
it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tuning.architectures import ROLES
from tuning.backbones import Backbone, transposed
from tuning.deltas import IA3, Combined, DoRA, IntrinsicPrompt, LNTuning, LoKr, LoRA, Prefix, ProjectedPrefix, Prompt
from tuning.deltas.on_maps import LowRank
from tuning.deltas.places import chosen_blocks
from tuning.deltas.shira import SHiRA
from tuning.deltas.vera import VeRA
from tuning.deltas.weights import Weights
from tuning.peft_folder import START, TABLE, PeftFolder, read
from tuning.peft_heads import head_of
from tuning.peft_lokr import lokr_in, lokr_out
from tuning.peft_modules import (
    Wanted,
    blocks_of,
    check_shape,
    expression,
    groups_of,
    inner_of,
    placed,
    sized,
    together,
    wanted_of,
)
from tuning.peft_norms import norms_in, norms_out
from tuning.peft_settings import rank_and_alpha
from tuning.peft_shira import shira_in, shira_out
from tuning.peft_vera import vera_in, vera_out
from tuning.subjects import READOUT_PARAMETERS, Params, Readout


def import_peft(folder: str | Path, backbone: Backbone) -> tuple[object, Params]:
    """Return the delta and its parameters from a PEFT adapter folder: PEFT's own function on the hidden states, as many numbers.

    Modules of different ranks, scales or blocks make a combination of deltas. What stands on the hidden states (a
    classifier) is left out with one warning; `import_peft_classifier` reads it. Raises ValueError, naming the setting or
    tensor, for a missing or damaged folder, another method, settings that this lab does not have
    (biases, PiSSA starts, ...), and tensors without a place.
    """
    found = read(folder, backbone)
    if found.top:
        count, first = sum(value.numel() for value in found.top.values()), sorted(found.top)[0]
        warnings.warn(
            f"{count} numbers of {folder} stand on the hidden states ({first}, ...) and are no part of the delta; "
            "import_peft_classifier reads the classifier of a SEQ_CLS folder",
            stacklevel=2,
        )
    return _delta_in(found, backbone)


def import_peft_classifier(folder: str | Path, backbone: Backbone) -> tuple[object, Params, Readout]:
    """Return the delta, its parameters and the classifier of a SEQ_CLS adapter folder: PEFT's own logits on padded texts.

    The classifier of a BERT comes with its layer on the first token's state, an adapter of that layer folded in. Raises
    ValueError as `import_peft` does, and for a folder whose classifier is missing or reads other tokens.
    """
    found = read(folder, backbone)
    return *_delta_in(found, backbone), head_of(found, backbone)


def export_peft(folder: str | Path, backbone: Backbone, delta: object, params: Params, *, inside: str = "") -> Path:
    """Write the delta as a PEFT adapter folder for the backbone's base model and return the folder.

    `inside` is the base model's name within a larger model ("bert." in a BERT classifier). Raises ValueError
    for a delta that PEFT does not have, and for prefix or prompt without `shift_positions`, which PEFT always
    does.
    """
    params = {name: value.detach() for name, value in params.items() if name not in READOUT_PARAMETERS}
    if isinstance(delta, ProjectedPrefix | IntrinsicPrompt):  # PEFT saves, or has only, what they make
        delta, params = delta.plain(backbone, params)
    parts = _parts(delta, params)
    kinds = {type(part) for part, _ in parts}
    if kinds in ({LoRA}, {DoRA}):
        config, tensors = _lora_out(backbone, parts, inside)
    elif kinds == {IA3}:
        config, tensors = _ia3_out(backbone, parts, inside)
    elif isinstance(delta, VeRA):
        config, tensors = vera_out(backbone, delta, params, inside)
    elif kinds == {LoKr}:
        config, tensors = lokr_out(backbone, parts, inside)
    elif kinds == {SHiRA}:
        config, tensors = shira_out(backbone, parts, inside)
    elif isinstance(delta, Weights):
        config, tensors = norms_out(backbone, delta, params, inside)
    elif isinstance(delta, Prefix | Prompt):
        config, tensors = _context_out(backbone, delta, params)
    else:
        raise ValueError(
            f"expected LoRA, DoRA, VeRA, LoKr, IA3, SHiRA, LN-tuning, a prefix or a prompt for PEFT, got {delta.name}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    common = {
        "base_model_name_or_path": backbone.name,
        "task_type": "FEATURE_EXTRACTION",
        "inference_mode": True,
    }
    text = json.dumps(common | config, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file(
        {name: value.cpu().contiguous() for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def peft_line(backbone: Backbone, delta: object) -> str | None:
    """Return the line of Python that makes PEFT train this delta of the backbone, as many numbers; None where PEFT has none.

    PEFT has no biases, no bottleneck adapters, no prefix of some blocks, no parts of a fused map, and in an encoder-decoder
    other prefixes and prompts. It moves the text behind a prefix or prompt, and wants a task_type for these; SEQ_CLS instead
    trains a classifier beside them.
    """
    if isinstance(delta, LowRank) and _whole(backbone, delta.roles):
        wanted, alpha = wanted_of(backbone, delta.roles, delta.blocks), _plain(delta.scale * delta.rank)
        dora = ", use_dora=True" if isinstance(delta, DoRA) else ""
        return f"LoraConfig(r={delta.rank}, lora_alpha={alpha}, target_modules={_said(backbone, wanted)}{dora})"
    if isinstance(delta, VeRA) and _whole(backbone, delta.roles):
        wanted = wanted_of(backbone, delta.roles, delta.blocks)
        return f"VeraConfig(r={delta.rank}, target_modules={_said(backbone, wanted)}, projection_prng_key={delta.projection})"
    if isinstance(delta, LoKr) and _whole(backbone, delta.roles) and not _turned(backbone):
        wanted, size = wanted_of(backbone, delta.roles, delta.blocks), f"r={delta.rank}, alpha={_plain(delta.scale * delta.rank)}"
        return f"LoKrConfig({size}, target_modules={_said(backbone, wanted)}, decompose_factor={delta.factor})"
    if isinstance(delta, SHiRA) and delta.mask_seed is not None and _whole(backbone, delta.roles) and not _turned(backbone):
        wanted = wanted_of(backbone, delta.roles, delta.blocks)
        return f"ShiraConfig(r={delta.rank}, target_modules={_said(backbone, wanted)}, random_seed={delta.mask_seed})"
    if isinstance(delta, IA3) and _whole(backbone, delta.targets):
        targets, inputs = (
            _said(backbone, wanted_of(backbone, [r for r in ROLES if r in roles], delta.blocks))
            for roles in (set(delta.targets), set(delta.targets) & set(delta.inputs))
        )
        return f"IA3Config(target_modules={targets}, feedforward_modules={inputs})"
    if isinstance(delta, LNTuning):
        return (
            f"LNTuningConfig(target_modules={norms_out(backbone, delta, delta.initial(backbone, 0), '')[0]['target_modules']!r})"
        )
    if backbone.layout.second is not None:
        return None
    if isinstance(delta, Prefix) and delta.blocks is None:
        return f'PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens={delta.length})'
    if isinstance(delta, ProjectedPrefix):
        more = "" if delta.hidden is None else f", encoder_hidden_size={delta.hidden}"
        return (
            f'PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens={delta.length}, prefix_projection=True{more})'
        )
    if isinstance(delta, Prompt):
        return f'PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens={delta.length})'
    return None


def _parts(delta: object, params: Params) -> list[tuple[object, Params]]:
    """Return the deltas of a combination, or the one, each with its own parameters."""
    if not isinstance(delta, Combined):
        return [(delta, params)]
    return [
        (part, {name.removeprefix(f"{label}/"): v for name, v in params.items() if name.startswith(f"{label}/")})
        for label, part in delta.parts
    ]


def _whole(backbone: Backbone, roles: Iterable[str]) -> bool:
    return all(backbone.linear(0, role).rows is None for role in roles)


def _plain(alpha: float) -> float:
    return int(alpha) if alpha == int(alpha) else alpha


def _turned(backbone: Backbone) -> bool:
    """Return whether the maps store their weights as (inputs, outputs)."""
    return transposed(backbone.model.get_submodule(backbone.linear(0, "o").path))


def _said(backbone: Backbone, wanted: Wanted) -> str:
    """Return the modules as PEFT's users write them: a list of endings where these match nothing else, an expression if not."""
    paths = [path for path, _ in backbone.model.named_modules()]
    endings = []
    for inner, blocks in wanted.items():
        meant, words = {backbone.path(block, inner) for block in blocks}, inner.split(".")
        for start in reversed(range(len(words))):
            ending = ".".join(words[start:])
            if {path for path in paths if path == ending or path.endswith(f".{ending}")} == meant:
                endings.append(ending)
                break
        else:
            return f'r"{expression(backbone, wanted)}"'
    return json.dumps(endings)


def _delta_in(folder: PeftFolder, backbone: Backbone) -> tuple[object, Params]:
    readers: dict[str, Callable] = {
        "LORA": _lora_in,
        "IA3": _ia3_in,
        "LOKR": lokr_in,
        "VERA": vera_in,
        "SHIRA": shira_in,
        "LN_TUNING": norms_in,
        "PREFIX_TUNING": _prefix_in,
        "PROMPT_TUNING": _prompt_in,
    }
    return readers[folder.method](folder, backbone)


def _lora_out(backbone: Backbone, parts: list, inside: str) -> tuple[dict, dict[str, Tensor]]:
    modules: dict[tuple[int, str], list[tuple]] = {}
    for part, params in parts:
        for block in chosen_blocks(backbone, part.blocks):
            for role, site in [(own, site) for own in part.roles for site in backbone.sites(block, own)]:
                a, b = (params[f"{block}.{site}.{role}.{what}"] for what in "AB")
                found = modules.setdefault((block, inner_of(backbone, block, role, site)), [])
                found.append((backbone.linear(block, role, site), a, b, part.scale))
    tensors, sizes = _magnitudes_out(backbone, parts, inside), {}
    for (block, inner), found in modules.items():
        scale, columns = found[0][3], []
        for linear, a, b, own in found:
            if linear.rows is not None:
                whole = torch.zeros(linear.whole, len(a), dtype=b.dtype, device=b.device)
                b = whole.index_add(0, linear.rows, b)
            columns.append(b if own == scale else b * (own / scale))
        rank = sum(len(a) for _, a, _, _ in found)
        start = f"{START}{inside}{backbone.path(block, inner)}"
        tensors[f"{start}.lora_A.weight"] = torch.cat([a for _, a, _, _ in found])
        tensors[f"{start}.lora_B.weight"] = torch.cat(columns, dim=1)
        sizes.setdefault((rank, scale * rank), {}).setdefault(inner, []).append(block)
    first = parts[0][0]
    settings, alpha = sized(backbone, sizes, (first.rank, first.scale * first.rank))
    config = {
        "peft_type": "LORA",
        "lora_alpha": alpha,
        "fan_in_fan_out": _turned(backbone),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": isinstance(first, DoRA),
    }
    return config | settings, tensors


def _magnitudes_out(backbone: Backbone, parts: list, inside: str) -> dict[str, Tensor]:
    """Return DoRA's magnitudes of whole modules: of rows that no part trains, the norms of their frozen weights."""
    made: dict[str, Tensor] = {}
    taken: set[str] = set()
    for part, params in parts:
        for key, linear in part.maps(backbone) if isinstance(part, DoRA) else ():
            module, name = backbone.model.get_submodule(linear.path), f"{START}{inside}{linear.path}.lora_magnitude_vector"
            rows = torch.arange(linear.whole) if linear.rows is None else linear.rows.cpu()
            if taken & (own := {f"{name}{row}" for row in rows.tolist()}):
                raise ValueError(f"expected one DoRA of a map for PEFT, got several at {linear.path}; train one of a larger rank")
            taken |= own
            whole = module.weight.detach().T if transposed(module) else module.weight.detach()
            trained = params[f"{key}.magnitude"]
            start = made.get(name, torch.linalg.vector_norm(whole, dim=1).to(trained))
            made[name] = start.index_copy(0, rows.to(start.device), trained)
    return made


def _lora_in(folder: PeftFolder, backbone: Backbone) -> tuple[object, Params]:
    dora = bool(folder.settings.get("use_dora"))
    leaves = {"A": "lora_A.weight", "B": "lora_B.weight"} | ({"magnitude": "lora_magnitude_vector"} if dora else {})
    for (block, role, site), pair in placed(folder):
        linear = backbone.linear(block, role, site)
        rank, _ = rank_and_alpha(folder.settings, folder.inside + linear.path)
        check_shape(folder, pair["lora_A.weight"], (rank, linear.d_in), f"{linear.path}.lora_A")
        check_shape(folder, pair["lora_B.weight"], (linear.d_out, rank), f"{linear.path}.lora_B")
        if dora:
            check_shape(folder, pair["lora_magnitude_vector"], (linear.d_out,), f"{linear.path}.lora_magnitude_vector")
    groups = groups_of(folder, backbone, lambda path: rank_and_alpha(folder.settings, path))
    made = []
    for (rank, alpha, blocks), roles in groups.items():
        delta = (DoRA if dora else LoRA)(rank, None if alpha == rank else alpha, tuple(roles), blocks)
        named = {
            f"{block}.{site}.{role}.{what}": folder.modules[block, f"{site}.{role}"][leaf]
            for block in chosen_blocks(backbone, blocks)
            for role in roles
            for site in backbone.sites(block, role)
            for what, leaf in leaves.items()
        }
        made.append((delta, {name: named[name] for name in delta.shapes(backbone)}))
    return together(made, "lora")


def _ia3_out(backbone: Backbone, parts: list, inside: str) -> tuple[dict, dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    wanted: dict[bool, Wanted] = {True: {}, False: {}}
    for part, params in parts:
        for name, factor in params.items():
            number, site, role = name.split(".")
            block, enters = int(number), role in part.inputs
            linear = backbone.linear(block, role, site)
            if linear.rows is not None:
                factor = factor.new_ones(linear.whole).index_copy(0, linear.rows, factor)
            factor = factor[None] if enters else factor[:, None]
            key = f"{START}{inside}{linear.path}.ia3_l"
            if key in tensors and tensors[key].shape != factor.shape:
                raise ValueError(f"expected IA3 on one side of a map for PEFT, got both at {linear.path}")
            tensors[key] = tensors[key] * factor if key in tensors else factor
            blocks = wanted[enters].setdefault(inner_of(backbone, block, role, site), [])
            if block not in blocks:
                blocks.append(block)
    down = backbone.model.get_submodule(backbone.path(0, backbone.layout.roles["down"]))
    said = [expression(backbone, side) for side in wanted.values() if side]
    config = {
        "peft_type": "IA3",
        "target_modules": "|".join(said),
        "feedforward_modules": expression(backbone, wanted[True]) if wanted[True] else [],
        "fan_in_fan_out": transposed(down),
    }
    return config, tensors


def _ia3_in(folder: PeftFolder, backbone: Backbone) -> tuple[object, Params]:
    places: dict[tuple[str, bool], list[tuple[int, str]]] = {}
    for (block, role, site), found in placed(folder):
        linear, factor = backbone.linear(block, role, site), found["ia3_l"]
        enters = factor.ndim == 2 and factor.shape[0] == 1
        check_shape(folder, factor, (1, linear.d_in) if enters else (linear.d_out, 1), linear.path)
        places.setdefault((role, enters), []).append((block, site))
    groups: dict[tuple[int, ...] | None, list[tuple[str, bool]]] = {}
    for place in sorted(places, key=lambda place: (ROLES.index(place[0]), place[1])):
        groups.setdefault(blocks_of(folder, backbone, place[0], places[place]), []).append(place)
    made = []
    for blocks, chosen in groups.items():
        delta = IA3(tuple(role for role, _ in chosen), tuple(role for role, enters in chosen if enters), blocks)
        names = [(name, (int(name.partition(".")[0]), name.partition(".")[2])) for name in delta.shapes(backbone)]
        made.append((delta, {name: folder.modules[place]["ia3_l"].flatten() for name, place in names}))
    return together(made, "ia3")


def _check_context(method: str, backbone: Backbone) -> None:
    """Raise ValueError for an encoder-decoder, where PEFT's prefixes and prompts stand in front of other attentions than here."""
    if backbone.layout.second is not None:
        raise ValueError(
            f"expected LoRA or IA3 of {backbone.name}, an {backbone.kind}, in PEFT's format, got {method}: PEFT puts it in "
            "front of other attentions there"
        )


def _context_out(backbone: Backbone, delta: Prefix | Prompt, params: Params) -> tuple[dict, dict[str, Tensor]]:
    _check_context(delta.name, backbone)
    if not delta.shift_positions:
        raise ValueError(f"expected shift_positions=True, as PEFT moves the text behind the slots, got {delta}")
    width = backbone.width
    if isinstance(delta, Prefix):
        if delta.blocks is not None:
            raise ValueError(f"expected a prefix in every block for PEFT, got blocks {delta.blocks}")
        width = backbone.key_value_heads * backbone.head_width
        pairs = [params[f"{i}.attention.{what}"].flatten(1) for i in range(backbone.blocks) for what in ("keys", "values")]
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
    return config, {TABLE: table}


def _agree(folder: PeftFolder, expected: Mapping[str, int]) -> None:
    """Raise ValueError where a setting says something else of the table than the backbone does."""
    for name, value in expected.items():
        if folder.settings.get(name) not in (None, value):
            raise ValueError(
                f"expected {name}={value} in {folder.path} for this backbone, got {folder.settings[name]}; was it made "
                "for another model?"
            )


def _prefix_in(folder: PeftFolder, backbone: Backbone) -> tuple[Prefix, Params]:
    _check_context(folder.method, backbone)
    heads, width, length = backbone.key_value_heads, backbone.head_width, len(folder.table)
    _agree(
        folder,
        {"num_virtual_tokens": length, "num_layers": backbone.blocks, "num_attention_heads": heads, "token_dim": heads * width},
    )
    check_shape(folder, folder.table, (length, 2 * backbone.blocks * heads * width), TABLE)
    parts = folder.table.view(length, 2 * backbone.blocks, heads, width)
    params = {
        f"{block}.attention.{what}": parts[:, 2 * block + i].contiguous()
        for block in range(backbone.blocks)
        for i, what in enumerate(("keys", "values"))
    }
    return Prefix(length, shift_positions=True), params


def _prompt_in(folder: PeftFolder, backbone: Backbone) -> tuple[Prompt, Params]:
    _check_context(folder.method, backbone)
    length = len(folder.table)
    _agree(folder, {"num_virtual_tokens": length, "token_dim": backbone.width})
    check_shape(folder, folder.table, (length, backbone.width), TABLE)
    return Prompt(length, shift_positions=True), {"embedding.prompt": folder.table}
