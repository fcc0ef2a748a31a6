"""Trained normalisations in PEFT's folder format: PEFT holds the weights themselves, the lab what they are moved by."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from tuning.backbones import Backbone
from tuning.deltas.full import Full
from tuning.deltas.ln_tuning import LNTuning, norms_of
from tuning.deltas.weights import Weights
from tuning.peft_folder import START, PeftFolder
from tuning.peft_modules import check_shape, either
from tuning.subjects import Params

_LEAF = "ln_tuning_layers"


def norms_out(backbone: Backbone, delta: Weights, params: Params, inside: str) -> tuple[dict, dict[str, Tensor]]:
    """Return PEFT's settings and tensors; raises ValueError for a delta of other weights, or of a part of a normalisation."""
    changes, norms = delta.weight_changes(backbone, params), _norms(backbone)
    meant = [path for path, leaves in norms.items() if any(f"{path}.{leaf}" in changes for leaf in leaves)]
    wanted = {f"{path}.{leaf}": f"{path}.{_LEAF}.{leaf}" for path in meant for leaf in norms[path]}
    if set(changes) != set(wanted):
        raise ValueError(
            f"expected whole normalisations and no other weights for PEFT, got {delta.name} of {len(changes)} weights; "
            "train ln-tuning"
        )
    tensors = {f"{START}{inside}{wanted[name]}": _weight(backbone, name) + change for name, change in changes.items()}
    return {"peft_type": "LN_TUNING", "target_modules": rf"(.*\.)?{either(map(re.escape, meant))}"}, tensors


def norms_in(folder: PeftFolder, backbone: Backbone) -> tuple[Weights, Params]:
    """Return the delta of these normalisations: LN-tuning of the blocks where it is that, else their weights by name."""
    values = {
        f"{path}.{leaf.rpartition('.')[2]}": value for (_, path), own in folder.modules.items() for leaf, value in own.items()
    }
    for name, value in values.items():
        check_shape(folder, value, tuple(_weight(backbone, name).shape), name)
    blocks = {int(first) for name in values if (first := backbone.key_of(name).partition(".")[0]).isdigit()}
    named = Full(tuple(name for name, _ in backbone.model.named_parameters() if name in values))
    some = [LNTuning(), LNTuning(tuple(sorted(blocks)))] if blocks else []
    delta = next((one for one in some if set(one.parameters(backbone).values()) == set(values)), named)
    return delta, {key: values[name] - _weight(backbone, name) for key, name in delta.parameters(backbone).items()}


def _norms(backbone: Backbone) -> Mapping[str, tuple[str, ...]]:
    """Return {path of a normalisation: its weights}."""
    return {path: tuple(leaf for leaf, _ in backbone.model.get_submodule(path).named_parameters()) for path in norms_of(backbone)}


def _weight(backbone: Backbone, name: str) -> Tensor:
    return backbone.model.get_parameter(name).detach().to(backbone.fine)
