"""What the settings of a PEFT adapter mean for its function, and which modules they name.

Every setting is read, without effect on a saved adapter's function, or refused when it is set: also one that is not
known here, because a later PEFT may give it any meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# No effect on the function of an adapter that is loaded to be evaluated: names, provenance, initial values, dropout,
# and the storage order of weights, which PEFT itself corrects to that of the module.
_IDLE = {
    "": {"base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"},
    "LORA": {"eva_config", "fan_in_fan_out", "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config"},
    "IA3": {"fan_in_fan_out", "init_ia3_weights"},
    "LOKR": {"init_weights", "module_dropout", "rank_dropout", "rank_dropout_scale", "use_effective_conv2d"},
    "VERA": {"d_initial", "fan_in_fan_out", "init_weights", "vera_dropout"},
    "SHIRA": {"fan_in_fan_out", "init_weights", "mask_type"},
    "LN_TUNING": set(),
    # A folder of a projected prefix holds what the projection makes of it, and PEFT reads it without one.
    "PREFIX_TUNING": {"encoder_hidden_size", "init_weights", "prefix_projection"},
    "PROMPT_TUNING": {
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_kwargs",
        "tokenizer_name_or_path",
        # which describe the attention and say nothing of rows in front of the text
        "num_attention_heads",
        "num_layers",
    },
}
_NAMES, _NUMBER = (str, list), (int, float)
# Read, and of these kinds when set.
_READ: dict[str, dict[str, tuple[type, ...]]] = {
    "": {"auto_mapping": (dict,), "modules_to_save": (list,)},
    "LORA": {
        "r": (int,),
        "lora_alpha": _NUMBER,
        "use_rslora": (bool,),
        "use_dora": (bool,),
        "rank_pattern": (dict,),
        "alpha_pattern": (dict,),
        "target_modules": _NAMES,
        "exclude_modules": _NAMES,
        "layers_to_transform": (int, list),
        "layers_pattern": _NAMES,
        "init_lora_weights": (bool, str),
    },
    "IA3": {"target_modules": _NAMES, "exclude_modules": _NAMES, "feedforward_modules": _NAMES},
    "LOKR": {
        "r": (int,),
        "alpha": _NUMBER,
        "rank_pattern": (dict,),
        "alpha_pattern": (dict,),
        "target_modules": _NAMES,
        "exclude_modules": _NAMES,
        "layers_to_transform": (int, list),
        "layers_pattern": _NAMES,
        "decompose_factor": (int,),
    },
    "VERA": {
        "r": (int,),
        "target_modules": _NAMES,
        "projection_prng_key": (int,),
        "save_projection": (bool,),
        "layers_to_transform": (int, list),
        "layers_pattern": _NAMES,
    },
    "SHIRA": {"r": (int,), "random_seed": (int,), "target_modules": _NAMES},
    "LN_TUNING": {"target_modules": _NAMES, "exclude_modules": _NAMES},
    "PREFIX_TUNING": {
        name: (int,)
        for name in ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")
    },
    "PROMPT_TUNING": {name: (int,) for name in ("num_virtual_tokens", "token_dim", "num_transformer_submodules")},
}
PROMPTED = ("PREFIX_TUNING", "PROMPT_TUNING")
_ALPHA = {"LORA": "lora_alpha", "LOKR": "alpha"}  # what a method calls the alpha by which, over the rank, its change is scaled
METHODS = tuple(filter(None, _READ))
# Initial values of A and B that leave the base weights as they are.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_WHY = {
    "bias": "it trains biases of the base model beside the adapter",
    "lora_bias": "it trains biases beside the factors",
    "target_parameters": "it adapts parameters that are no linear maps",
    "trainable_token_indices": "it trains rows of the embedding",
    "layer_replication": "it repeats blocks of the base model",
}
_MERGE = "merge it in PEFT (merge_and_unload) and load the result as a backbone, or train it without"


def checked(config: object) -> dict:
    """Return the settings, if this lab can hold what they say; raises ValueError naming setting, value and remedy if not."""
    method = config.get("peft_type") if isinstance(config, dict) else None
    if method not in METHODS:
        raise ValueError(f"expected a PEFT method among {', '.join(METHODS)}, got {method!r}; train one of these")
    idle, read = _IDLE[""] | _IDLE[method], _READ[""] | _READ[method]
    for name, value in config.items():
        if name in read:
            if value is not None and (not isinstance(value, read[name]) or isinstance(value, bool) > (bool in read[name])):
                kinds = " or ".join(kind.__name__ for kind in read[name])
                raise ValueError(f"expected {name} of a PEFT {method} adapter to be {kinds}, got {value!r}; save it anew")
        elif name not in idle and value and value != "none":
            why = f" ({_WHY[name]})" if name in _WHY else ""
            remedy = "train it without" if method in PROMPTED else _MERGE
            raise ValueError(f"expected a PEFT {method} adapter without {name}, got {name}={value!r}{why}; {remedy}")
    if method == "LORA":
        _check_start(config)
    if method in _ALPHA:
        _check_sizes(config)
    if config.get("num_transformer_submodules") not in (None, 1):
        raise ValueError(
            f"expected a PEFT adapter of one stack of blocks, got num_transformer_submodules="
            f"{config['num_transformer_submodules']}; models with encoder and decoder are not read"
        )
    return config


def _check_start(config: Mapping) -> None:
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise ValueError(
            f"expected LoRA on unchanged base weights, got init_lora_weights={start!r}, which changes them or freezes a "
            "factor; save it in PEFT with path_initial_model_for_weight_conversion, which makes it plain LoRA, or merge it"
        )


def _check_sizes(config: Mapping) -> None:
    alpha = _ALPHA[config["peft_type"]]
    numbers = {"r": config.get("r", 8), alpha: config.get(alpha, 8)}
    for name, pattern in (("r", "rank_pattern"), (alpha, "alpha_pattern")):
        for value in (numbers[name], *(config.get(pattern) or {}).values()):
            if isinstance(value, bool) or not isinstance(value, _NUMBER) or not value > 0 or (name == "r" and value % 1):
                raise ValueError(f"expected positive {name} and {pattern} in a PEFT adapter, got {value!r}; save it anew")


def rank_and_alpha(config: Mapping, path: str) -> tuple[int, float]:
    """Return the rank r of a module and the alpha with which alpha / r times the product of factors is what PEFT adds there.

    With use_rslora PEFT adds (alpha / sqrt(r)) B A, which is this with sqrt(r) alpha for alpha.
    """
    rank = int(_matching(config.get("rank_pattern"), path, config.get("r", 8)))
    alpha = _matching(config.get("alpha_pattern"), path, config.get(_ALPHA[config["peft_type"]], 8))
    return rank, alpha * (rank**0.5 if config.get("use_rslora") else 1)


def _matching(patterns: Mapping | None, path: str, default: float) -> float:
    """Return PEFT's look-up of a module in its patterns: the first that matches the end of its path."""
    for pattern, value in (patterns or {}).items():
        if _match(re.match, rf"(.*\.)?({pattern})$", path):
            return value
    return default


def named(names: str | Iterable[str] | None, path: str) -> bool:
    """Return whether an expression matches a module's whole path, or one of several names is the end of it."""
    if isinstance(names, str):
        return bool(_match(re.fullmatch, names, path))
    return any(path == name or path.endswith(f".{name}") for name in names or ())


def targeted(config: Mapping, path: str) -> bool:
    """Return whether the settings put an adapter on the module with this path in the whole model, as PEFT decides it."""
    wanted = config.get("target_modules")
    if named(config.get("exclude_modules"), path):
        return False
    if any(_match(re.match, rf"(^|.*\.){name}($|\..*)", path) for name in config.get("modules_to_save") or ()):
        return False
    if wanted == "all-linear":
        return True
    if not named(wanted, path):
        return False
    layers = config.get("layers_to_transform")
    if isinstance(wanted, str) or layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    expressions = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    found = next(filter(None, (_match(re.match, expression, path) for expression in expressions)), None)
    return found is not None and int(found[1]) in ([layers] if isinstance(layers, int) else layers)


def _match(how, pattern: str, path: str) -> re.Match | None:
    try:
        return how(pattern, path)
    except re.error as error:
        raise ValueError(f"expected a regular expression in the PEFT settings, got {pattern!r} ({error})") from error
