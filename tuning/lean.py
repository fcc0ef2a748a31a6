"""The pass of BERT's family over real tokens alone, in few nodes, each with its derivative: what training repeats most.

Equal to the watched model's pass. Frozen maps, their residual sum and normalisation are one node; where an edit acts
between them, they are taken one by one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.attention import attend
from tuning.edits import Edits, Frame, framed
from tuning.packing import Packing
from tuning.products import mapped, times


def serves(model: nn.Module, roles: dict[str, str], blocks: str, edits: Edits) -> bool:
    """Return whether the pass is written out here for this model under these edits: they act in blocks and change no weights."""
    if edits.weights or edits.prompt is not None or model.config.hidden_act != "gelu":
        return False
    stack = len(model.get_submodule(blocks))
    places = {f"{blocks}.{block}.{inner}" for block in range(stack) for inner in roles.values()}
    ports = {f"{block}.{site}" for block in range(stack) for site in ("attention", "mlp")}
    return places.issuperset({*edits.inputs, *edits.outputs}) and ports.issuperset(edits.ports)


def states(frame: Frame, arguments: dict[str, Tensor], mask: Tensor, heads: int) -> Tensor:
    """Return the last hidden states (N, d) of the packed tokens; `arguments` (1, N) are those of the embeddings."""
    model, edits, packing = frame.model, frame.edits, frame.packing
    x = model.embeddings(**arguments)[0]
    bias = mask.expand(-1, heads, 1, -1).flatten(0, 1)
    for number, block in enumerate(model.encoder.layer):
        at = _Block(number, edits)
        own, closing = block.attention.self, block.attention.output
        q, k, v = (
            at.linear(module, f"attention.self.{name}", x)
            for name, module in (("query", own.query), ("key", own.key), ("value", own.value))
        )
        if number in edits.prefix:
            with framed(frame):
                q, k, v = (y.view(1, len(x), heads, -1).transpose(1, 2) for y in (q, k, v))
                met = attend(q, k, v, mask, own.scaling, number).flatten(0, 1).flatten(1)
        else:
            met = _Attention.apply(q, k, v, bias, packing, own.scaling)
        if at.touched("attention", "attention.output.dense"):
            y = at.port("attention", x, at.linear(closing.dense, "attention.output.dense", met))
            x = closing.LayerNorm(y + x)
        else:
            x = _Closing.apply(x, met, closing.dense, closing.LayerNorm)
        if at.touched("mlp", "intermediate.dense", "output.dense"):
            inner = F.gelu(at.linear(block.intermediate.dense, "intermediate.dense", x))
            y = at.port("mlp", x, at.linear(block.output.dense, "output.dense", inner))
            x = block.output.LayerNorm(y + x)
        else:
            x = _Mlp.apply(x, block.intermediate.dense, block.output.dense, block.output.LayerNorm)
    return x


class _Block:
    """The edits of one block."""

    def __init__(self, number: int, edits: Edits) -> None:
        self.number, self.edits = number, edits

    def touched(self, site: str, *inner: str) -> bool:
        paths = [f"encoder.layer.{self.number}.{path}" for path in inner]
        return f"{self.number}.{site}" in self.edits.ports or any(
            path in table for path in paths for table in (self.edits.inputs, self.edits.outputs)
        )

    def linear(self, module: nn.Linear, inner: str, x: Tensor) -> Tensor:
        path = f"encoder.layer.{self.number}.{inner}"
        for edit in self.edits.inputs.get(path, ()):
            x = edit(x)
        y = mapped(x, module)
        for edit in self.edits.outputs.get(path, ()):
            y = edit(x, y)
        return y

    def port(self, site: str, h: Tensor, y: Tensor) -> Tensor:
        for edit in self.edits.ports.get(f"{self.number}.{site}", ()):
            y = edit(h, y)
        return y


class _Attention(torch.autograd.Function):
    """softmax(scale q k' + bias) v of rows (N, d), text by text and head by head; bias (B heads, 1, T)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, packing: Packing, scale: float) -> Tensor:
        heads = len(bias) // packing.shape[0]
        place, ctx.real = packing.by_head(heads)
        q, k, v = (x.reshape(len(x) * heads, -1).index_select(0, place).view(len(bias), packing.shape[1], -1) for x in (q, k, v))
        weights = torch.softmax(torch.baddbmm(bias, q, k.mT, alpha=scale), -1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v).flatten(0, 1).index_select(0, ctx.real).view(len(packing.real), -1)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple:
        q, k, v, weights = ctx.saved_tensors
        whole = slope.new_zeros(v.numel() // v.shape[-1], v.shape[-1])
        whole = whole.index_copy_(0, ctx.real, slope.reshape(-1, v.shape[-1])).view(v.shape)
        inner = torch._softmax_backward_data(torch.bmm(whole, v.mT), weights, -1, weights.dtype).mul_(ctx.scale)
        back = torch.bmm(inner, k), torch.bmm(inner.mT, q), torch.bmm(weights.mT, whole)
        return *(x.flatten(0, 1).index_select(0, ctx.real).view(len(slope), -1) for x in back), None, None, None


def _normalised(ctx, x: Tensor, norm: nn.LayerNorm) -> Tensor:
    made, ctx.mean, ctx.scale = torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    ctx.norm = norm
    return made


def _before_norm(ctx, slope: Tensor, x: Tensor) -> Tensor:
    own, asked = ctx.norm, (True, False, False)
    return torch.ops.aten.native_layer_norm_backward(
        slope.contiguous(), x, own.normalized_shape, ctx.mean, ctx.scale, own.weight, own.bias, asked
    )[0]


class _Closing(torch.autograd.Function):
    """The normalised sum of x and a frozen map of y."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, dense: nn.Linear, norm: nn.LayerNorm) -> Tensor:
        ctx.dense = dense
        total = times(y, dense.weight, dense.bias).add_(x)
        ctx.save_for_backward(total)
        return _normalised(ctx, total, norm)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple:
        slope = _before_norm(ctx, slope, *ctx.saved_tensors)
        return slope, times(slope, ctx.dense.weight.mT), None, None


class _Mlp(torch.autograd.Function):
    """The normalised sum of x and the frozen two-layer network of it."""

    @staticmethod
    def forward(ctx, x: Tensor, up: nn.Linear, down: nn.Linear, norm: nn.LayerNorm) -> Tensor:
        ctx.up, ctx.down = up, down
        inner = times(x, up.weight, up.bias)
        total = times(F.gelu(inner), down.weight, down.bias).add_(x)
        ctx.save_for_backward(inner, total)
        return _normalised(ctx, total, norm)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple:
        inner, total = ctx.saved_tensors
        slope = _before_norm(ctx, slope, total)
        bent = torch.ops.aten.gelu_backward(times(slope, ctx.down.weight.mT), inner)
        return times(bent, ctx.up.weight.mT).add_(slope), None, None, None
