"""SHiRA in PEFT's folder format: the trained entries with their rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor

from tuning.backbones import Backbone, transposed
from tuning.deltas.shira import SHiRA
from tuning.peft_folder import START, PeftFolder
from tuning.peft_modules import Wanted, check_shape, expression, groups_of, together, wanted_of
from tuning.subjects import Params

_LEAVES = ("shira_weight", "shira_indices")


def shira_out(backbone: Backbone, parts: list[tuple[SHiRA, Params]], inside: str) -> tuple[dict, dict[str, Tensor]]:
    """Return PEFT's settings and tensors; raises ValueError for several ranks, and for maps that PEFT cannot adapt so."""
    if len(ranks := {part.rank for part, _ in parts}) > 1:
        raise ValueError(f"expected SHiRA of one rank for PEFT, got {sorted(ranks)}; train all of it with one")
    tensors: dict[str, Tensor] = {}
    wanted: Wanted = {}
    for part, params in parts:
        for inner, blocks in wanted_of(backbone, part.roles, part.blocks).items():
            wanted.setdefault(inner, []).extend(blocks)
        for key, linear in part.maps(backbone):
            start = f"{START}{inside}{linear.path}"
            if linear.rows is not None or transposed(backbone.model.get_submodule(linear.path)):
                raise ValueError(
                    f"expected SHiRA on whole linear layers for PEFT, got {linear.path} of {backbone.name}; train LoRA"
                )
            if f"{start}.{_LEAVES[0]}" in tensors:
                raise ValueError(
                    f"expected one SHiRA of a map for PEFT, got several at {linear.path}; train one of a larger rank"
                )
            places = part.places(backbone, key, linear)
            tensors[f"{start}.{_LEAVES[0]}"] = params[f"{key}.values"]
            tensors[f"{start}.{_LEAVES[1]}"] = torch.stack([places // linear.d_in, places % linear.d_in]).to(torch.int32)
    seed = parts[0][0].mask_seed
    mask = {"mask_type": "magnitude"} if seed is None else {"mask_type": "random", "random_seed": seed}
    return {"peft_type": "SHIRA", "r": parts[0][0].rank, "target_modules": expression(backbone, wanted)} | mask, tensors


def shira_in(folder: PeftFolder, backbone: Backbone) -> tuple[object, Params]:
    """Return SHiRA and its values; raises ValueError for a mask that is neither of the largest entries nor of the seed."""
    rank, seed = folder.settings.get("r", 32), folder.settings.get("random_seed")
    made = []
    for (blocks,), roles in groups_of(folder, backbone, lambda path: ()).items():
        some = [SHiRA(rank, tuple(roles), blocks, mask) for mask in dict.fromkeys((None, seed))]
        delta = next((one for one in some if _masked_so(folder, backbone, one)), None)
        if delta is None:
            raise ValueError(
                f"expected SHiRA in {folder.path} on the largest entries of each map, or on those that random_seed={seed} draws, "
                "got others; train it with a random_seed"
            )
        made.append((delta, {f"{key}.values": _own(folder, key)[_LEAVES[0]] for key, _ in delta.maps(backbone)}))
    return together(made, "shira")


def _own(folder: PeftFolder, key: str) -> dict[str, Tensor]:
    block, _, place = key.partition(".")
    return folder.modules[int(block), place]


def _masked_so(folder: PeftFolder, backbone: Backbone, delta: SHiRA) -> bool:
    """Return whether the folder trains the entries that this delta does."""
    shapes = delta.shapes(backbone)
    for key, linear in delta.maps(backbone):
        values, indices = (_own(folder, key)[leaf] for leaf in _LEAVES)
        (count,) = shapes[f"{key}.values"]
        check_shape(folder, values, (count,), f"{linear.path}.{_LEAVES[0]}")
        check_shape(folder, indices, (2, count), f"{linear.path}.{_LEAVES[1]}")
        if not torch.equal(indices.long()[0] * linear.d_in + indices.long()[1], delta.places(backbone, key, linear)):
            return False
    return True
