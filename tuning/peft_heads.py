"""The classifier in a PEFT adapter folder (task_type SEQ_CLS) as a readout of this lab."""

from __future__ import annotations

import torch
from torch import Tensor

from tuning.backbones import Backbone, check_one_stack
from tuning.peft_folder import PROMPTED, PeftFolder
from tuning.peft_settings import named, rank_and_alpha
from tuning.subjects import Readout


def head_of(folder: PeftFolder, backbone: Backbone) -> Readout:
    """Return the readout with which PEFT's classifier gives the same logits; its layer of the first token is frozen.

    Raises ValueError for a folder without a classifier of sequences, for one whose inner layer stands neither there nor
    in the base model (a BERT without pooler), and where PEFT reads another token than this lab (encoders with a prompt).
    """
    check_one_stack(backbone, f"the classifier in {folder.path}")
    where, classifier = folder.path, backbone.layout.classifier
    made_for = (folder.settings.get("auto_mapping") or {}).get("base_model_class")
    if folder.settings.get("task_type") != "SEQ_CLS" and not str(made_for).endswith("ForSequenceClassification"):
        raise ValueError(
            f"expected a PEFT folder with a classifier (task_type SEQ_CLS) at {where}, got task_type="
            f"{folder.settings.get('task_type')!r}; read the delta with import_peft and fit a readout"
        )
    if classifier is None and backbone.kind == "encoder":
        raise ValueError(
            f"expected a classifier of one layer on the first token, PEFT's {backbone.architecture} classifier at {where} has a "
            "normalisation more; read the delta with import_peft and fit a readout"
        )
    pooled = classifier is not None and classifier[0].startswith("pooler.")
    if folder.method in PROMPTED and classifier and (folder.method == "PROMPT_TUNING" or not pooled):
        raise ValueError(
            f"expected a classifier on the text's own tokens, PEFT's {backbone.architecture} classifier with {folder.method} "
            f"at {where} does not read them; read the delta with import_peft and fit a readout"
        )
    taken: set[str] = set()
    first, outer = None, "score"
    if classifier is not None:
        inner, activation, outer = classifier
        first = (*_layer(folder, backbone, inner, taken), activation)
    weight, bias = (_tensor(folder, f"{outer}.{what}", taken, needed=what == "weight") for what in ("weight", "bias"))
    if weight.ndim != 2 or weight.shape[1] != backbone.width:
        raise ValueError(f"expected {outer}.weight over {backbone.width} features in {where}, got {tuple(weight.shape)}")
    if left := sorted(set(folder.top) - taken):
        raise ValueError(f"expected nothing but the classifier on the hidden states in {where}, got {left[0]}; train without")
    return Readout(weight, weight.new_zeros(len(weight)) if bias is None else bias, first)


def _tensor(folder: PeftFolder, name: str, taken: set[str], *, needed: bool) -> Tensor | None:
    if name in folder.top:
        taken.add(name)
        return folder.top[name]
    if needed:
        raise ValueError(
            f"expected {name} in {folder.path}, where PEFT left it out, and the base model has none; add "
            f"{name.partition('.')[0]!r} to modules_to_save, or read the delta with import_peft and fit a readout"
        )
    return None


def _layer(folder: PeftFolder, backbone: Backbone, path: str, taken: set[str]) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of the inner layer: the folder's own, or the base model's pooler, with its adapter folded in."""
    pooler = backbone.pooler if path.startswith("pooler.") and f"{path}.weight" not in folder.top else None
    if pooler is None:
        weight, bias = (_tensor(folder, f"{path}.{what}", taken, needed=True) for what in ("weight", "bias"))
    else:
        dense = pooler.get_submodule(path.removeprefix("pooler."))
        weight, bias = (value.detach().to(backbone.device, backbone.fine) for value in (dense.weight, dense.bias))
    leaves = [f"{path}.{leaf}" for leaf in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "ia3_l")]
    a, b, magnitude, factor = map(folder.top.get, leaves)
    taken.update(leaves)
    if a is not None and b is not None:
        rank, alpha = rank_and_alpha(folder.settings, folder.inside + path)
        if a.shape != (rank, weight.shape[1]) or b.shape != (weight.shape[0], rank):
            raise ValueError(f"expected LoRA of rank {rank} at {path} in {folder.path}, got {tuple(a.shape)}; save it anew")
        weight = weight + alpha / rank * b @ a
        if magnitude is not None:
            weight = weight * (magnitude / torch.linalg.vector_norm(weight, dim=1))[:, None]
    if factor is not None:
        if factor.shape not in ((len(weight), 1), (1, weight.shape[1])):
            raise ValueError(f"expected one factor per row or column at {path} in {folder.path}, got {tuple(factor.shape)}")
        weight = weight * factor
        if not named(folder.settings.get("feedforward_modules"), folder.inside + path):
            bias = bias * factor.flatten()
    return weight, bias
