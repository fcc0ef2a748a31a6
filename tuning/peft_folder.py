"""A PEFT adapter folder, read and sorted: what adapts the blocks, what stands on top of them; anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.ln_tuning import norms_of
from tuning.peft_settings import PROMPTED, checked, targeted

Place = tuple[int | None, str]
START = "base_model.model."
SHARED = ("base_model.vera_A", "base_model.vera_B")
TABLE = "prompt_embeddings"
# Modules that stand on the last hidden states: they change the logits of a model, never its hidden states.
_ON_TOP = (
    "classifier",
    "score",
    "pre_classifier",
    "pooler",
    "lm_head",
    "embed_out",
    "qa_outputs",
    "cls",
    "vocab_transform",
    "vocab_layer_norm",
    "vocab_projector",
)
_LEAVES = {
    "LORA": ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"),
    "IA3": ("ia3_l",),
    "LOKR": ("lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    "VERA": ("vera_lambda_d", "vera_lambda_b"),
    "SHIRA": ("shira_weight", "shira_indices"),
    "LN_TUNING": ("ln_tuning_layers.weight", "ln_tuning_layers.bias"),
}


@dataclass(frozen=True)
class PeftFolder:
    """settings; inside: the base model's name in the model adapted ("bert."); modules: {(block, role): {leaf: tensor}}, where a
    normalisation is (None, path); top: {name: tensor} of what stands on the hidden states; table: the rows of a prompt or
    prefix; shared: {name: tensor} of VeRA's frozen matrices."""

    path: Path
    settings: dict
    inside: str
    modules: dict[Place, dict[str, Tensor]]
    top: dict[str, Tensor]
    table: Tensor | None
    shared: dict[str, Tensor]

    @property
    def method(self) -> str:
        """Return PEFT's name of the method."""
        return self.settings["peft_type"]


def read(folder: str | Path, backbone: Backbone) -> PeftFolder:
    """Return the folder's content for this backbone; raises ValueError unless every setting and every tensor has its place."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors", device=str(backbone.device))
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"expected a PEFT folder with configuration and safetensors at {folder}: {error}") from error
    settings = checked(config)
    tensors = {name: value.to(backbone.fine) for name, value in tensors.items()}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"expected finite numbers in {folder}, got NaN or infinity in {name}; train it anew")
    prompted = settings["peft_type"] in PROMPTED
    table = tensors.pop(TABLE, None) if prompted else None
    if prompted and table is None:
        raise ValueError(f"expected {TABLE} in {folder}, found {sorted(tensors)[:1] or 'nothing'}; save it anew")
    shared = {name: tensors.pop(name) for name in SHARED if settings["peft_type"] == "VERA" and name in tensors}
    start = START.removesuffix("model.") if prompted else START
    prefix = f"{backbone.model.base_model_prefix}."
    inside = prefix if any(name.startswith(start + prefix) for name in tensors) else ""
    known = _known(settings["peft_type"], backbone)
    modules: dict[Place, dict[str, Tensor]] = {}
    top: dict[str, Tensor] = {}
    for name, value in tensors.items():
        within = name.removeprefix(start + inside)
        path, leaf = next(
            (
                (within.removesuffix(f".{leaf}"), leaf)
                for leaf in _LEAVES.get(settings["peft_type"], ())
                if within.endswith(f".{leaf}")
            ),
            ("", ""),
        )
        above = within.removeprefix(start)
        if path in known and name.startswith(start + inside):
            modules.setdefault(known[path], {})[leaf] = value
        elif name.startswith(start) and above.partition(".")[0] in _ON_TOP:
            top[above] = value
        else:
            raise ValueError(
                f"expected tensors of {settings['peft_type']} on the {_meant(settings['peft_type'])} of {backbone.architecture}, "
                f"got {name} in {folder}; was it made for another model, or for its embeddings or normalisations?"
            )
    found = PeftFolder(folder, settings, inside, modules, top, table, shared)
    if not prompted:
        _check_complete(found, known, backbone)
    return found


def _known(method: str, backbone: Backbone) -> dict[str, Place]:
    """Return {path: place} of the modules that a method can act on: the linear maps of the blocks, or the normalisations."""
    if method == "LN_TUNING":
        return {path: (None, path) for path in norms_of(backbone)}
    return {
        backbone.path(block, inner): (block, f"{site}.{role}")
        for block in range(backbone.blocks)
        for (site, role), inner in backbone.row(block).maps.items()
    }


def _meant(method: str) -> str:
    return "normalisations" if method == "LN_TUNING" else "linear maps of the blocks"


def _leaves(folder: PeftFolder, backbone: Backbone, path: str, own: Iterable[str]) -> set[str]:
    """Return the tensors that the folder has to have at a module: those of a normalisation are copies of its own."""
    if folder.method == "LN_TUNING":
        return {f"ln_tuning_layers.{leaf}" for leaf, _ in backbone.model.get_submodule(path).named_parameters()}
    if folder.method == "LOKR":  # whose second factor is one matrix or a product, by its size
        return {"lokr_w1"} | ({"lokr_w2"} if "lokr_w2" in own else {"lokr_w2_a", "lokr_w2_b"})
    return set(_LEAVES[folder.method]) - (set() if folder.settings.get("use_dora") else {"lora_magnitude_vector"})


def _check_complete(folder: PeftFolder, known: dict[str, Place], backbone: Backbone) -> None:
    """Raise ValueError unless the folder has all tensors of the modules that its settings name, and of no others."""
    if not folder.modules:
        raise ValueError(f"expected {folder.method} on the {_meant(folder.method)}, got none in {folder.path}; train some")
    wanted = "target_modules={target_modules!r}".format(**{"target_modules": None} | folder.settings)
    for path, place in known.items():
        whole = folder.inside + path
        meant, found = targeted(folder.settings, whole), place in folder.modules
        if meant != found or (found and set(folder.modules[place]) != _leaves(folder, backbone, path, folder.modules[place])):
            state = "found none or a part" if meant else "found some"
            raise ValueError(
                f"expected {'the' if meant else 'no'} tensors of {whole} in {folder.path} by its settings ({wanted[:200]}), "
                f"{state}; PEFT would compute something else: was it made for another model, or damaged?"
            )
