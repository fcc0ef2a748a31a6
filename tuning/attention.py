"""Attention as plain arithmetic, so that second derivatives, forward mode and vmap work in any precision.

The fused kernels of torch lack forward mode and vmap in several back ends, and a mask built inside a model
branches on its data; here scores, softmax and sum are written out and the mask is built outside the model.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from tuning.edits import current

NAME = "written_out"


def blocked(dtype: torch.dtype) -> float:
    """Return the additive score that gives exactly zero attention; two of them still add up to a finite number."""
    return torch.finfo(dtype).min / 4


def additive_mask(mask: Tensor, *, causal: bool, closed_slots: int, dtype: torch.dtype) -> Tensor:
    """Return the additive attention mask (B, 1, 1 or T, T): zero where a query sees a key, `blocked` elsewhere.

    mask: (B, T), True on real tokens; causal: a query sees no later key; the first `closed_slots` keys are
    hidden.
    """
    allowed = mask[:, None, None, :].bool()
    length = mask.shape[-1]
    if causal:
        allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    if closed_slots:
        allowed = allowed & (torch.arange(length, device=mask.device) >= closed_slots)
    return torch.zeros(allowed.shape, dtype=dtype, device=mask.device).masked_fill(~allowed, blocked(dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, block: int) -> Tensor:
    """Return softmax(scale q [P_k; k]' + mask) [P_v; v], with the prefix P of the current edits for this block.

    q: (B, heads, T, c); k, v: (B, key-value heads, S, c); the prefix has an open mask (or none of the
    attention when the edits are closed). Returns (B, T, heads, c). Softmax runs in the tensors' own
    precision. In a packed pass q, k, v and what is returned hold the real tokens as one text. He et al. 2022, eq. 5.
    """
    frame = current()
    packing = None if frame is None else frame.packing
    if packing is not None:
        q, k, v = (packing.apart(x) for x in (q, k, v))
    if frame is not None and frame.record_keys:
        frame.keys[block] = (k, v)
    if frame is not None and block in frame.edits.prefix:
        keys, values = frame.edits.prefix[block]
        k = torch.cat([keys.to(k.dtype).transpose(-3, -2).expand(len(k), -1, -1, -1), k], dim=2)
        v = torch.cat([values.to(v.dtype).transpose(-3, -2).expand(len(v), -1, -1, -1), v], dim=2)
        opening = blocked(q.dtype) if frame.edits.closed else 0.0
        mask = F.pad(mask, (keys.shape[-3], 0), value=opening)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if mask is not None:
        scores = scores + mask
    met = torch.softmax(scores, dim=-1) @ v
    return met.transpose(1, 2) if packing is None else packing.together(met)


def _interface(module: nn.Module, query, key, value, attention_mask, scaling=None, **_) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, attention_mask, scale, module.block_index), None


AttentionInterface.register(NAME, _interface)


def _mpnet(module: nn.Module, hidden: Tensor, attention_mask=None, position_bias=None, **_) -> tuple[Tensor]:
    """Return MPNet's attention, which does not go through the interface; its position bias joins the mask."""
    width = module.attention_head_size
    q, k, v = (linear(hidden).unflatten(-1, (-1, width)).transpose(1, 2) for linear in (module.q, module.k, module.v))
    context = attend(q, k, v, attention_mask + position_bias, width**-0.5, module.block_index)
    return (module.o(context.flatten(-2)),)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight; the library's version would round float64 through float32."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def write_out(model: nn.Module, attentions: list[nn.Module]) -> None:
    """Put the written-out attention into a model and tell every attention module the index of its block."""
    model.config._attn_implementation = NAME
    for index, module in enumerate(attentions):
        module.block_index = index
        if type(module).__name__ == "MPNetSelfAttention":
            module.forward = functools.partial(_mpnet, module)
    for path, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, RMSNorm(module.weight, module.variance_epsilon))
