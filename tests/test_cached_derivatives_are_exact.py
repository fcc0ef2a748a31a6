"""Layers that keep their derivatives have the Hessian of the plain ones; what has no second derivative is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.func import hessian as dense_hessian
from torch.nn.attention import SDPBackend, sdpa_kernel

from probes.curvature.cached_derivatives import cached_derivatives
from probes.curvature.hessian import hessian
from probes.inputs import nodes


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


W, B = draw(5, seed=8), draw(5, seed=9)
HALF, WIDE = draw(5, 5, seed=20) / 2, draw(5, 6, seed=21) / 2
COS, SIN = draw(7, 6, seed=22), draw(7, 6, seed=23)
FIXED = {11: draw(7, 5, seed=11), 12: draw(7, 7, seed=12), 13: draw(4, 1, 1, seed=13), 14: draw(2, 1, 1, seed=14)}
FIXED |= {15: draw(7, 6, seed=15), 16: draw(7, 6, seed=16)}
SEEN = torch.ones(7, 7).tril().bool() & (torch.arange(7) != 3)[:, None]  # the fourth sees nothing
SMOOTH = {
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "layer_norm, weighted": lambda x: F.layer_norm(x, x.shape[-1:], W, B),
    "layer_norm over two axes": lambda x: F.layer_norm(x, x.shape[-2:], eps=0.1),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:], eps=0.1),
    "rms_norm, weighted": lambda x: F.rms_norm(x, x.shape[-1:], W),
    "rms_norm over two axes": lambda x: F.rms_norm(x, x.shape[-2:], eps=0.1),
    "norm as in Llama": lambda x: W * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)).to(x.dtype),
    "norm as in Gemma": lambda x: (x * torch.pow(torch.mean(x**2, dim=-1, keepdim=True) + 0.1, -0.5)) * (1 + W),
    "norm in other words": lambda x: (0.1 + (x * x).mean((0, 1), True)).rsqrt() * x,
    "norm, squares of others": lambda x: x * torch.rsqrt((x + 1).square().mean(-1, keepdim=True) + 0.1),
    "norm, summed": lambda x: x * torch.rsqrt(x.square().mean(-1, dtype=x.dtype, keepdim=True).add(0.1, alpha=2)),
    "norm, overwritten": lambda x: x * (x.square().mean(-1, keepdim=True) + 0.1).mul_(2).rsqrt(),
    "norm, written into": lambda x: (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 0.1)).mul_(W).add_(x),
    "gate": lambda x: F.silu(x) * (x @ HALF) + W,
    "gate, other side": lambda x: (x @ HALF) * F.gelu(x, approximate="tanh"),
    "gate of itself": lambda x: F.gelu(x) * x,
    "gate, used twice": lambda x: (lambda y: y * (x @ HALF) + y * y - 2 * y)(F.silu(x)),
    "gate, overwritten": lambda x: F.silu(x).add_(0.5) * (x @ HALF),
    "gate, scaled": lambda x: F.silu(x) * FIXED[11],
    "softmax": lambda x: F.softmax(x, dim=-1) @ HALF,
    "softmax, down": lambda x: torch.softmax(2 * x, 0) + x.softmax(1, torch.float64),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None] @ HALF, x[None])[0],
    "attention, causal": lambda x: F.scaled_dot_product_attention(
        x[None, None], x[None, None], HALF[0] * x[None, None], is_causal=True
    )[0, 0],
    "attention, masked": lambda x: F.scaled_dot_product_attention(x, x @ HALF, x, attn_mask=SEEN, scale=0.7),
    "attention, biased": lambda x: F.scaled_dot_product_attention(x, x, x @ HALF, attn_mask=FIXED[12]),
    "attention, written out": lambda x: F.softmax((x @ (x @ HALF).T) * 0.4 + FIXED[12], -1, dtype=x.dtype) @ x,
    "attention, grouped": lambda x: F.scaled_dot_product_attention(
        x.expand(4, 7, 5) * FIXED[13], x.expand(2, 7, 5), x[None] * FIXED[14], enable_gqa=True
    ).sum(0),
    "rotation": lambda x: rotated(x @ WIDE)[..., :5],
    "rotation, half of it": lambda x: (lambda z: z * FIXED[15] + z * FIXED[16])(x @ WIDE)[..., :5],
    "rotation, the other way": lambda x: (lambda z: z * COS + torch.cat((z[..., 3:], -z[..., :3]), -1) * SIN)(x @ WIDE)[..., :5],
}


def rotated(z):
    return (z * COS) + (torch.cat((-z[..., z.shape[-1] // 2 :], z[..., : z.shape[-1] // 2]), dim=-1) * SIN)


@pytest.mark.parametrize("layer", SMOOTH)
def test_hessian_is_that_of_the_plain_layer(layer):
    """Twice applied, so that upstream gradients are neither constant nor of one sign; torch.func keeps nothing."""
    f, weight, x = SMOOTH[layer], draw(5, 5, seed=1), draw(7, 5, seed=2)
    loss = lambda p, b: (f(f(b[0] * p["scale"] + p["shift"]) @ weight) ** 3).mean()  # noqa: E731
    params = {"scale": 1 + 0.3 * draw(5, seed=3), "shift": draw(5, seed=4)}
    found = hessian(loss, params, [(x,)]).dense()
    with sdpa_kernel(SDPBackend.MATH):
        blocks = dense_hessian(lambda p: loss(p, (x,)))(params)
    plain = torch.cat([torch.cat([blocks[a][b] for b in params], 1) for a in params])
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-11)


BITWISE = [name for name in SMOOTH if not name.startswith("attention")]


@pytest.mark.parametrize("layer", SMOOTH)
def test_values_are_unchanged(layer):
    x = draw(7, 5).requires_grad_()
    plain = SMOOTH[layer](x)
    with cached_derivatives():
        torch.testing.assert_close(
            SMOOTH[layer](x), plain, rtol=0 if layer in BITWISE else 1e-14, atol=0 if layer in BITWISE else 1e-15
        )
        with torch.no_grad():
            assert SMOOTH[layer](x).grad_fn is None


KNOWN = {
    "norm as in Llama": "Norm",
    "norm as in Gemma": "Norm",
    "norm in other words": "Norm",
    "rms_norm": "Norm",
    "rms_norm, weighted": "Norm",
    "gate": "Gated",
    "gate, other side": "Gated",
    "gate of itself": "Gated",
    "softmax, down": "Softmax",
    "attention, written out": "Softmax",
    "attention, causal": "Attention",
    "attention, grouped": "Attention",
    "rotation": "Turn",
}
UNKNOWN = ("norm, squares of others", "norm, summed", "norm, overwritten", "gate, overwritten", "rotation, the other way")


@pytest.mark.parametrize("layer", [*KNOWN, *UNKNOWN])
def test_what_is_written_out_is_known_or_left_alone(layer):
    x = draw(7, 5).requires_grad_()
    with cached_derivatives():
        names = {node.name() for node in nodes(SMOOTH[layer](x))}
    ours = {f"{kind}Backward" for kind in ("Norm", "Gated", "Softmax", "Attention", "Turn")} & names
    assert ours == ({KNOWN[layer] + "Backward"} if layer in KNOWN else set())
    assert not ours or not names & {"PowBackward0", "RsqrtBackward0", "MeanBackward1", "CatBackward0", "SoftmaxBackward0"}


def block(p, batch):
    """A layer as Llama has it, in float64 throughout, with low-rank changes of two of its matrices."""
    norm = lambda x: W8 * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))  # noqa: E731
    x = batch[0]
    h = norm(x)
    q, k, v = ((h @ m).reshape(2, 6, 2, 4).transpose(1, 2) for m in (M[0] + p["A"] @ p["B"], M[1], M[2] + p["C"] @ p["B"]))
    turn = lambda z: z * COS4 + torch.cat((-z[..., 2:], z[..., :2]), dim=-1) * SIN4  # noqa: E731
    x = x + F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True).transpose(1, 2).reshape(2, 6, 8) @ M[3]
    h = norm(x)
    return F.cross_entropy(norm(x + (F.silu(h @ M[4]) * (h @ M[5])) @ M[6]).flatten(0, 1) @ M[7], batch[1].flatten())


W8, M = 1 + draw(8, seed=30) / 4, [draw(8, 8, seed=31 + i) / 3 for i in range(8)]
COS4, SIN4 = torch.cos(draw(6, 4, seed=40)), torch.sin(draw(6, 4, seed=40))


def test_a_llama_layer_has_the_hessian_of_plain_double_backward():
    p = {"A": draw(8, 2, seed=41) / 4, "B": draw(2, 8, seed=42) / 4, "C": draw(8, 2, seed=43) / 4}
    batch = (draw(2, 6, 8, seed=44), torch.randint(8, (2, 6), generator=torch.Generator().manual_seed(0)))
    op, sizes = hessian(block, p, [batch], weights="rows"), {k: x.numel() for k, x in p.items()}
    with sdpa_kernel(SDPBackend.MATH):
        blocks = dense_hessian(lambda z: block(z, batch))(p)
    plain = torch.cat([torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in p], 1) for a in p])
    torch.testing.assert_close(op.dense(), plain, rtol=1e-10, atol=1e-12 * float(plain.abs().max()))


def test_a_transformer_layer_in_one_block():
    """A pre-norm block with fused attention: the operator takes the unfused form by itself."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True).double()
    x = draw(3, 4, 8)
    names = ("linear1.weight", "self_attn.out_proj.bias")
    point = {k: dict(layer.named_parameters())[k].detach() for k in names}
    frozen = {k: v.detach() for k, v in layer.named_parameters()}

    def loss(p, batch):
        return (functional_call(layer, {**frozen, **p}, (batch[0],)) ** 2).mean()

    def attended(p, batch):
        heads = batch[0].reshape(3, 4, 2, 4).transpose(1, 2)
        return (F.scaled_dot_product_attention(heads * p["scale"], heads, heads) ** 3).mean()

    for f, params in ((loss, point), (attended, {"scale": 1 + draw(4, seed=5)})):
        with sdpa_kernel(SDPBackend.MATH):
            blocks = dense_hessian(lambda p, f=f: f(p, (x,)))(params)
        sizes = {k: v.numel() for k, v in params.items()}
        plain = torch.cat([torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in params], 1) for a in params])
        torch.testing.assert_close(hessian(f, params, [(x,)]).dense(), plain, rtol=1e-9, atol=1e-10)


def test_what_has_no_second_derivative_is_refused():
    x, p = draw(6, 4, 2, 4).float(), {"w": torch.ones(4)}

    def fused(p, batch):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(batch[0] * p["w"], batch[0], batch[0]).mean()

    with pytest.raises(ValueError, match="eager"):
        hessian(fused, p, [(x,)])
    norm = nn.BatchNorm1d(4).double()

    def normed(p, batch):
        return (norm(batch[0] * p["w"]) ** 3).mean()

    with pytest.raises(ValueError, match="training mode"):
        hessian(normed, {"w": draw(4)}, [(draw(6, 4),)])
    norm.eval()
    assert hessian(normed, {"w": draw(4)}, [(draw(6, 4),)]).kept == 1
    with pytest.raises(ValueError, match="not finite"):
        hessian(lambda p, b: (p["w"] * b[0]).sqrt().mean(), {"w": -torch.ones(4)}, [(torch.ones(2, 4),)])
    calls = []

    def drifting(p, batch):  # a constant value whose gradient is random
        calls.append(0)
        return (p["w"] - p["w"].detach()).mul(draw(4, seed=len(calls))).sum() + batch[0].mean()

    with pytest.raises(ValueError, match="random"):
        hessian(drifting, {"w": draw(4)}, [(draw(2, 4),)])


def test_numbers_without_axes_go_the_usual_way():
    """Products, slices and sums of scalars have no last axis to look at."""
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with cached_derivatives():
        y = torch.tensor(3.0, dtype=torch.float64) * x.square() * x[...] + torch.rsqrt(x.pow(2).mean() + 1)
        (slope,) = torch.autograd.grad(y, x, create_graph=True)
        (bend,) = torch.autograd.grad(slope, x)
    exact = 18 * 0.7 + (3 * 0.7**2 * (0.7**2 + 1) ** -2.5 - (0.7**2 + 1) ** -1.5)
    assert float(bend) == pytest.approx(exact, rel=1e-13)
