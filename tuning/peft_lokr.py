"""LoKr in PEFT's folder format: the factors of Kronecker products."""

from __future__ import annotations

from torch import Tensor

from tuning.backbones import Backbone, transposed
from tuning.deltas.lokr import LoKr
from tuning.peft_folder import START, PeftFolder
from tuning.peft_modules import check_shape, groups_of, inner_of, sized, together
from tuning.peft_settings import rank_and_alpha
from tuning.subjects import Params


def lokr_out(backbone: Backbone, parts: list[tuple[LoKr, Params]], inside: str) -> tuple[dict, dict[str, Tensor]]:
    """Return PEFT's settings and tensors; raises ValueError for several factors, and for maps that PEFT cannot adapt so."""
    if len(factors := {part.factor for part, _ in parts}) > 1:
        raise ValueError(f"expected LoKr of one factor for PEFT, got {sorted(factors)}; train all of it with one")
    tensors: dict[str, Tensor] = {}
    sizes: dict = {}
    for part, params in parts:
        for key, linear in part.maps(backbone):
            start = f"{START}{inside}{linear.path}.lokr_"
            if linear.rows is not None or transposed(backbone.model.get_submodule(linear.path)):
                raise ValueError(
                    f"expected LoKr on whole linear layers for PEFT, got {linear.path} of {backbone.name}; train LoRA"
                )
            if f"{start}w1" in tensors:
                raise ValueError(f"expected one LoKr of a map for PEFT, got several at {linear.path}; train one of a larger rank")
            tensors |= {start + name.rpartition(".")[2]: value for name, value in params.items() if name.startswith(f"{key}.")}
            block, site, role = key.split(".")
            wanted = sizes.setdefault((part.rank, part.scale * part.rank), {})
            wanted.setdefault(inner_of(backbone, int(block), role, site), []).append(int(block))
    first = parts[0][0]
    settings, alpha = sized(backbone, sizes, (first.rank, first.scale * first.rank))
    return {"peft_type": "LOKR", "alpha": alpha, "decompose_factor": first.factor} | settings, tensors


def lokr_in(folder: PeftFolder, backbone: Backbone) -> tuple[object, Params]:
    """Return LoKr and its factors; modules of different ranks or scales make a combination."""
    made = []
    for (rank, alpha, blocks), roles in groups_of(folder, backbone, lambda path: rank_and_alpha(folder.settings, path)).items():
        delta = LoKr(rank, None if alpha == rank else alpha, tuple(roles), blocks, folder.settings.get("decompose_factor", -1))
        params = {}
        for name, shape in delta.shapes(backbone).items():
            block, site, role, what = name.split(".")
            value = folder.modules[int(block), f"{site}.{role}"].get(f"lokr_{what}")
            if value is None:
                raise ValueError(f"expected lokr_{what} of block {block}'s {role} in {folder.path}, found none; save it anew")
            check_shape(folder, value, shape, f"lokr_{what} of block {block}'s {role}")
            params[name] = value
        made.append((delta, params))
    return together(made, "lokr")
