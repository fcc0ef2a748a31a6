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


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


W, B = draw(5, seed=8), draw(5, seed=9)
SMOOTH = {
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "layer_norm, weighted": lambda x: F.layer_norm(x, x.shape[-1:], W, B),
    "layer_norm over two axes": lambda x: F.layer_norm(x, x.shape[-2:], eps=0.1),
}


@pytest.mark.parametrize("layer", SMOOTH)
def test_hessian_is_that_of_the_plain_layer(layer):
    """Twice applied, so that upstream gradients are neither constant nor of one sign; torch.func keeps nothing."""
    f, weight, x = SMOOTH[layer], draw(5, 5, seed=1), draw(7, 5, seed=2)
    loss = lambda p, b: (f(f(b[0] * p["scale"] + p["shift"]) @ weight) ** 3).mean()  # noqa: E731
    params = {"scale": 1 + 0.3 * draw(5, seed=3), "shift": draw(5, seed=4)}
    found = hessian(loss, params, [(x,)]).dense()
    blocks = dense_hessian(lambda p: loss(p, (x,)))(params)
    plain = torch.cat([torch.cat([blocks[a][b] for b in params], 1) for a in params])
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("layer", SMOOTH)
def test_values_are_unchanged(layer):
    x = draw(7, 5).requires_grad_()
    plain = SMOOTH[layer](x)
    with cached_derivatives():
        assert torch.equal(SMOOTH[layer](x), plain)
        with torch.no_grad():
            assert SMOOTH[layer](x).grad_fn is None


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
