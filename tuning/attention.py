"""Attention as plain arithmetic, so that second derivatives, forward mode and vmap work in any precision.

The fused kernels of torch lack forward mode and vmap in several back ends, and a mask built inside a model
branches on its data; here scores, softmax and sum are written out and the mask is built outside the model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

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


def windowed(mask: Tensor, window: int | None, queries: int) -> Tensor:
    """Return an additive mask (..., 1 or T, S) of T queries, the last of S positions, that blocks keys `window` away or more."""
    length = mask.shape[-1]
    if window is None or length <= window:
        return mask
    at = torch.arange(length, device=mask.device)
    return torch.where((at[length - queries :, None] - at).abs() >= window, blocked(mask.dtype), mask)


def capped(scores: Tensor, cap: float | None) -> Tensor:
    """Return cap tanh(scores / cap), scores that stay below a cap (Gemma 2), or the scores where there is none."""
    return scores if cap is None else torch.tanh(scores / cap) * cap


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    block: int | str,
    *,
    window: int | None = None,
    cap: float | None = None,
) -> Tensor:
    """Return softmax(capped(scale q [P_k; k]') + mask) [P_v; v], with the prefix P of the current edits for this block.

    q: (B, heads, T, c); k, v: (B, key-value heads, S, c); the prefix stands in front of the text with an open
    mask (or none of the attention when the edits are closed); keys `window` positions away or more are hidden. Returns
    (B, T, heads, c). Softmax runs in the tensors' own precision. In a packed pass q, k, v and what is returned hold the
    real tokens as one text. He et al. 2022, eq. 5.
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
    scores = capped(q @ k.transpose(-1, -2) * scale, cap)
    if mask is not None:
        scores = scores + windowed(mask, window, q.shape[2])
    met = torch.softmax(scores, dim=-1) @ v
    return met.transpose(1, 2) if packing is None else packing.together(met)


def _interface(
    module: nn.Module, query, key, value, attention_mask, scaling=None, softcap=None, position_bias=None, **_
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = attention_mask if position_bias is None else attention_mask + position_bias
    made = attend(query, key, value, mask, scale, module.block_index, window=module.window, cap=softcap)
    return made, None


AttentionInterface.register(NAME, _interface)


def _mpnet(module: nn.Module, hidden: Tensor, attention_mask=None, position_bias=None, **_) -> tuple[Tensor]:
    """Return MPNet's attention, which does not go through the interface; its position bias joins the mask."""
    width = module.attention_head_size
    q, k, v = (linear(hidden).unflatten(-1, (-1, width)).transpose(1, 2) for linear in (module.q, module.k, module.v))
    context = attend(q, k, v, attention_mask + position_bias, width**-0.5, module.block_index)
    return (module.o(context.flatten(-2)),)


def turned(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Return the rotary embedding R x of the first columns of x (Su et al. 2021, eq. 34, halves paired), or R' x."""
    width = cos.shape[-1]
    moved, kept = x[..., :width], x[..., width:]
    if back:
        low, high = (moved * sin).chunk(2, dim=-1)
        return torch.cat([moved * cos + torch.cat([high, -low], dim=-1), kept], dim=-1)
    low, high = moved.chunk(2, dim=-1)
    return torch.cat([moved * cos + torch.cat([-high, low], dim=-1) * sin, kept], dim=-1)


def _modernbert(
    module: nn.Module, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor], attention_mask=None, **_
) -> tuple[Tensor, None]:
    """Return ModernBERT's attention; its own would round float64 through float32."""
    q, k, v = module.Wqkv(hidden).unflatten(-1, (3, -1, module.head_dim)).transpose(1, 3).unbind(2)
    cos, sin = (angle[:, None] for angle in position_embeddings)
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = (turned(x.to(wide), cos, sin).to(x.dtype) for x in (q, k))
    met = attend(q, k, v, attention_mask, module.head_dim**-0.5, module.block_index, window=module.window)
    return module.out_drop(module.Wo(met.flatten(-2))), None


_OWN_FORWARD = {"MPNetSelfAttention": _mpnet, "ModernBertAttention": _modernbert}


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain; the library's version would round float64 through float32.

    The gain is the weight, or one more where the weight is what it differs from one by (`centred`, Gemma). What is rounded to
    the precision of x is the normalised x, or the product when `late` (Gemma, OLMo 2).
    """

    def __init__(self, weight: nn.Parameter, eps: float, *, centred: bool = False, late: bool = False) -> None:
        super().__init__()
        self.weight, self.eps, self.centred, self.late = weight, eps, centred, late

    @property
    def gain(self) -> Tensor:
        """Return the factors on the normalised numbers."""
        return self.weight + 1 if self.centred else self.weight

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        made = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.late:
            weight = self.weight.to(wide.dtype)
            return (made * (weight + 1 if self.centred else weight)).to(x.dtype)
        return self.gain * made.to(x.dtype)


def _in_front(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Return the arguments with the states first and without a name, as hooks expect them."""
    rest = dict(kwargs)
    return ((rest.pop("hidden_states"), *args) if "hidden_states" in rest else args), rest


def write_out(model: nn.Module, attentions: Mapping[int | str, nn.Module], window: int | None) -> None:
    """Put the written-out attention into a model and tell every attention module its index and the window of its block.

    attentions: by block, or by "block.cross". window: that of attentions which have no word for their own.
    """
    model.config._attn_implementation = NAME
    for index, module in attentions.items():
        getattr(module, "config", model.config)._attn_implementation = NAME  # stacks of one model have copies of its own
        if not hasattr(module, "block_index"):
            module.register_forward_pre_hook(_in_front, with_kwargs=True)
        module.block_index = index
        module.window = getattr(module, "sliding_window", window)
        if own := _OWN_FORWARD.get(type(module).__name__):
            module.forward = functools.partial(own, module)
    for path, module in list(model.named_modules()):
        kind = type(module).__name__
        if kind.endswith(("RMSNorm", "T5LayerNorm")) and not isinstance(module, RMSNorm):
            parent, _, leaf = path.rpartition(".")
            eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
            centred = kind.startswith("Gemma")
            made = RMSNorm(module.weight, eps, centred=centred, late=centred or kind.startswith("Olmo"))
            setattr(model.get_submodule(parent), leaf, made)
