"""VeRA in PEFT's folder format, with the frozen matrices that all of its modules share."""

from __future__ import annotations

from torch import Tensor

from tuning.backbones import Backbone, transposed
from tuning.deltas.vera import VeRA
from tuning.peft_folder import SHARED, START, PeftFolder
from tuning.peft_modules import check_shape, expression, groups_of, placed, wanted_of
from tuning.subjects import Params

_LEAVES = {"d": "vera_lambda_d", "b": "vera_lambda_b"}


def vera_out(backbone: Backbone, delta: VeRA, params: Params, inside: str) -> tuple[dict, dict[str, Tensor]]:
    """Return PEFT's settings and tensors; raises ValueError for several parts of a fused map, which PEFT scales as one."""
    tensors = dict(zip(SHARED, delta.drawn(backbone), strict=True))
    for key, linear in delta.maps(backbone):
        start = f"{START}{inside}{linear.path}"
        if f"{start}.vera_lambda_d" in tensors:
            raise ValueError(f"expected VeRA on whole maps for PEFT, got several parts of {linear.path}; name qkv or gate_up")
        b = params[f"{key}.b"]
        if linear.rows is not None:
            b = b.new_zeros(linear.whole).index_copy(0, linear.rows, b)
        tensors |= {f"{start}.vera_lambda_d": params[f"{key}.d"], f"{start}.vera_lambda_b": b}
    config = {
        "peft_type": "VERA",
        "r": delta.rank,
        "target_modules": expression(backbone, wanted_of(backbone, delta.roles, delta.blocks)),
        "projection_prng_key": delta.projection,
        "save_projection": True,
        "d_initial": delta.d_initial,
        "fan_in_fan_out": transposed(backbone.model.get_submodule(backbone.linear(0, "o").path)),
    }
    return config, tensors


def vera_in(folder: PeftFolder, backbone: Backbone) -> tuple[VeRA, Params]:
    """Return VeRA and its scales; raises ValueError for other matrices than its seed draws, and for roles in other blocks."""
    groups = groups_of(folder, backbone, lambda path: ())
    if len(groups) > 1:
        raise ValueError(f"expected VeRA in the same blocks on every kind of map, {folder.path} has it in others; train it alike")
    (((blocks,), roles),) = groups.items()
    rank, seed = folder.settings.get("r", 256), folder.settings.get("projection_prng_key", 0)
    delta = VeRA(rank, tuple(roles), blocks, seed)
    for name, own in zip(SHARED, delta.drawn(backbone), strict=True):
        saved = folder.shared.get(name)
        if saved is not None and (saved.shape != own.shape or (saved.cpu() - own).abs().max() > 1e-6):
            raise ValueError(
                f"expected {name} in {folder.path} as projection_prng_key={seed} draws it for these maps of this backbone, "
                "got another matrix; was it made for another model, or with another PEFT?"
            )
    params = {}
    for (block, role, site), found in placed(folder):
        linear = backbone.linear(block, role, site)
        for what, leaf in _LEAVES.items():
            check_shape(folder, found[leaf], (rank if what == "d" else linear.d_out,), f"{linear.path}.{leaf}")
            params[f"{block}.{site}.{role}.{what}"] = found[leaf]
    return delta, {name: params[name] for name in delta.shapes(backbone)}
