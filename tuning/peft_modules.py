"""Which modules of a backbone a PEFT folder names, and where the lab's deltas have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from tuning.architectures import ROLES
from tuning.backbones import Backbone
from tuning.deltas.combined import Combined
from tuning.deltas.places import chosen_blocks
from tuning.peft_folder import PeftFolder
from tuning.subjects import Params

Wanted = dict[str, list[int]]


def wanted_of(backbone: Backbone, roles: Iterable[str], blocks: tuple[int, ...] | None) -> Wanted:
    """Return {path inside a block: blocks} of these roles."""
    made: Wanted = {}
    for role in roles:
        for block in chosen_blocks(backbone, blocks):
            for site in backbone.sites(block, role):
                made.setdefault(inner_of(backbone, block, role, site), []).append(block)
    return made


def inner_of(backbone: Backbone, block: int, role: str, site: str) -> str:
    """Return the path inside its block of the linear map with a role."""
    return backbone.linear(block, role, site).path.removeprefix(backbone.path(block, ""))


def expression(backbone: Backbone, wanted: Mapping[str, list[int]]) -> str:
    """Return the expression that matches these modules of these blocks and no others, whatever the base model is part of."""
    stacks = []
    for row, whole in backbone.stacks:
        groups: dict[tuple[int, ...], list[str]] = {}
        for inner, blocks in wanted.items():
            if own := tuple(block - whole.start for block in blocks if block in whole):
                groups.setdefault(own, []).append(inner)
        chosen = []
        for blocks, inners in groups.items():
            numbers = r"\d+" if len(blocks) == len(whole) else either(map(str, blocks))
            chosen.append(rf"{numbers}\.{either(map(re.escape, inners))}")
        if chosen:
            stacks.append(rf"{re.escape(row.blocks)}\.{either(chosen)}")
    return rf"(.*\.)?{either(stacks)}"


def either(words: Iterable[str]) -> str:
    """Return the expression that matches each of these expressions."""
    words = list(words)
    return words[0] if len(words) == 1 else f"({'|'.join(words)})"


def placed(folder: PeftFolder) -> list[tuple[tuple[int, str, str], dict[str, Tensor]]]:
    """Return ((block, role, sublayer), tensors) of the folder's modules."""
    return sorted(
        (((block, *reversed(place.split("."))), found) for (block, place), found in folder.modules.items()),
        key=lambda placed: placed[0],
    )


def blocks_of(folder: PeftFolder, backbone: Backbone, role: str, places: Iterable[tuple[int, str]]) -> tuple[int, ...] | None:
    """Return the blocks of one role's places, None for all; raises ValueError where it is one attention of two."""
    places = set(places)
    blocks = tuple(sorted({block for block, _ in places}))
    for block in blocks:
        if missing := [site for site in backbone.sites(block, role) if (block, site) not in places]:
            raise ValueError(
                f"expected {folder.method} of one kind on both attentions of a decoder's block, {folder.path} has none like the "
                f"other on {backbone.linear(block, role, missing[0]).path}; train both alike"
            )
    return None if blocks == tuple(range(backbone.blocks)) else blocks


def check_shape(folder: PeftFolder, tensor: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Raise ValueError unless a tensor of the folder has this shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"expected numbers of shape {shape} at {where} in {folder.path}, got {tuple(tensor.shape)}; was it made for "
            "another model?"
        )


def sized(backbone: Backbone, sizes: Mapping[tuple[int, float], Wanted], own: tuple[int, float]) -> tuple[dict, float]:
    """Return PEFT's settings of modules whose (rank, alpha) differ, and the alpha of those that no pattern names."""
    wanted: Wanted = {}
    for modules in sizes.values():
        for inner, blocks in modules.items():
            wanted.setdefault(inner, []).extend(blocks)
    patterns = [(expression(backbone, modules), size) for size, modules in sizes.items() if size != own]
    settings = {
        "r": own[0],
        "target_modules": expression(backbone, {inner: sorted(blocks) for inner, blocks in wanted.items()}),
        "rank_pattern": {pattern: rank for pattern, (rank, _) in patterns},
        "alpha_pattern": {pattern: alpha for pattern, (_, alpha) in patterns},
    }
    return settings, own[1]


def groups_of(folder: PeftFolder, backbone: Backbone, setting: Callable[[str], tuple]) -> dict[tuple, list[str]]:
    """Return {(*setting of a module's path, blocks): roles that have it there}, roles in forward order."""
    places: dict[tuple, list[tuple[int, str]]] = {}
    for (block, role, site), _ in placed(folder):
        path = backbone.linear(block, role, site).path
        places.setdefault((role, setting(folder.inside + path)), []).append((block, site))
    groups: dict[tuple, list[str]] = {}
    for role in ROLES:
        for (own, value), where in places.items():
            if own == role:
                groups.setdefault((*value, blocks_of(folder, backbone, role, where)), []).append(role)
    return groups


def together(parts: list[tuple[object, Params]], name: str) -> tuple[object, Params]:
    """Return one delta as it is, several as a combination."""
    if len(parts) == 1:
        return parts[0]
    labelled = [(f"{name}-{i}", *part) for i, part in enumerate(parts)]
    return Combined(tuple((label, part) for label, part, _ in labelled)), {
        f"{label}/{key}": value for label, _, params in labelled for key, value in params.items()
    }
