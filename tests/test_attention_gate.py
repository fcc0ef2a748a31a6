"""A prefix is a gate: Attn([P; C]) = (1 - g) Attn(C) + g softmax(q P_k') P_v (He et al. 2022, eq. 5)."""

import pytest
import torch
import torch.nn.functional as F
import zoo

from tuning import Edits, Prefix
from tuning.attention import additive_mask, attend, blocked
from tuning.backbones import frame
from tuning.edits import framed

TOLERANCE = 1e-13  # float64 softmax over a dozen O(1) scores


def heads(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_identity_of_the_gate(groups):
    backbone = zoo.backbone_of("bert")
    q, k, v = heads(0, 3, 4, 6, 5), heads(1, 3, 4 // groups, 6, 5), heads(2, 3, 4 // groups, 6, 5)
    keys, values = heads(3, 2, 4 // groups, 5), heads(4, 2, 4 // groups, 5)
    mask = additive_mask(zoo.batch_of(3, 6).mask, causal=False, closed_slots=0, dtype=torch.float64)
    plain = attend(q, k, v, mask, 0.4, 1)
    with framed(frame(backbone, Edits(prefix={1: (keys, values)}))):
        gated = attend(q, k, v, mask, 0.4, 1)
        elsewhere = attend(q, k, v, mask, 0.4, 0)
    with framed(frame(backbone, Edits(prefix={1: (keys, values)}, closed=True))):
        closed = attend(q, k, v, mask, 0.4, 1)
    full_keys, full_values = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    own = q @ full_keys.transpose(-1, -2) * 0.4 + mask
    prefix = torch.einsum("bhtc,lhc->bhtl", q, keys.repeat_interleave(groups, dim=1)) * 0.4
    share = torch.sigmoid(prefix.logsumexp(-1) - own.logsumexp(-1))[..., None]
    taken = torch.einsum("bhtl,lhc->bhtc", prefix.softmax(-1), values.repeat_interleave(groups, dim=1))
    expected = ((1 - share) * (own.softmax(-1) @ full_values) + share * taken).transpose(1, 2)
    assert (gated - expected).abs().max() < TOLERANCE
    assert torch.equal(elsewhere, plain) and (closed - plain).abs().max() < TOLERANCE
    assert (gated - plain).abs().max() > 0.01


def test_agrees_with_the_fused_kernel():
    q, k, v = (heads(i, 2, 4, 6, 5) for i in range(3))
    batch = zoo.batch_of(2, 6)
    for causal in (False, True):
        mask = additive_mask(batch.mask, causal=causal, closed_slots=0, dtype=torch.float64)
        allowed = batch.mask[:, None, None, :].expand(-1, 1, 6, -1)
        allowed = allowed & torch.ones(6, 6, dtype=torch.bool).tril() if causal else allowed
        fused = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=0.3).transpose(1, 2)
        assert (attend(q, k, v, mask, 0.3, 0) - fused).abs().max() < TOLERANCE


def test_blocked_keys_take_exactly_nothing():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        scores = torch.tensor([30.0, blocked(dtype), 2 * blocked(dtype)], dtype=dtype)
        assert torch.isfinite(scores).all() and scores.softmax(-1)[1:].abs().max() == 0


def test_a_prefix_signal_stays_in_the_gate_s_reach():
    """In the first block, where inputs are the frozen ones, u = W_o g (P-part - own part), head by head."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, Prefix(1, blocks=(0,)))
    params = zoo.moved(made.initial)
    rolled = made.rollout(params, batch)
    h = rolled.inputs["0.attention"]
    module = backbone.model.encoder.layer[0].attention
    q, k, v = (linear(h).unflatten(-1, (4, 4)) for linear in (module.self.query, module.self.key, module.self.value))
    own = torch.einsum("bthc,bshc->bhts", q, k) / 2 + torch.zeros(5, 1, 1, 7).masked_fill(~batch.mask[:, None, None], -1e9)
    prefix = torch.einsum("bthc,hc->bht", q, params["0.attention.keys"][0]) / 2
    share = torch.sigmoid(prefix - own.logsumexp(-1)).transpose(1, 2)[..., None]
    context = torch.einsum("bhts,bshc->bthc", own.softmax(-1), v)
    moved = share * (params["0.attention.values"][0] - context)
    expected = moved.flatten(-2) @ module.output.dense.weight.T
    assert (rolled.signals["0.attention"] - expected).abs().max() < 1e-12
