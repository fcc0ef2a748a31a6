"""In a real backbone's heads a prefix writes into the cone of its values and no further, and the probe sees what does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from control_problems import relative
from zoo import KINDS, backbone_of, batch_of

import tuning.attention
from probes import prefix_cone
from theory import cone_residual, perpendicular, perpendicular_bound, prefixed_attention, ratio_deviation
from tuning import Prefix, features

EXACT = 1e-11  # identities in float64: rounding of a softmax and a sum of ten terms, over biases of 1e-2
attend = tuning.attention.attend


def recorded(monkeypatch, backbone, batch, edits=None):
    """What the attention of the first block is given, (scale, cap) of its scores, and what it gives in one forward pass."""
    calls = {}

    def spy(q, k, v, mask, scale, block, **options):
        out = attend(q, k, v, mask, scale, block, **options)
        calls.setdefault(block, (q, k, v, mask, (scale, options.get("cap")), out))
        return out

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(tuning.attention, "attend", spy)
        features(backbone, batch, edits)
    return calls[0]


def head(queries, keys, mask, how, extra=0):
    """One head as a map of values, by the attention of the backbones; `extra` keys in front are always visible."""
    open_mask, (scale, cap) = None if mask is None else F.pad(mask, (extra, 0)), how

    def outputs(values):
        made = attend(queries[None, None], keys[None, None], values[None, None], open_mask, scale, -1, cap=cap)
        return made[0, :, 0]

    return outputs


def heads(monkeypatch, kind, length, seed=0):
    """Per head of the first block on the first (full-length) text: frozen and tuned maps, values, the model's output."""
    backbone, batch = backbone_of(kind, seed), batch_of(3)
    backbone.attentions[0].window = None  # outside of which a prefix has no gate
    delta = Prefix(length, blocks=(0,))
    generator = torch.Generator().manual_seed(seed)
    params = {name: torch.randn(v.shape, generator=generator, dtype=v.dtype) for name, v in delta.initial(backbone, 0).items()}
    Pk, Pv = params["0.attention.keys"], params["0.attention.values"]
    q, k, v, mask, how, _ = recorded(monkeypatch, backbone, batch)
    *_, out = recorded(monkeypatch, backbone, batch, delta.edits(backbone, params))
    groups = backbone.heads // backbone.key_value_heads
    for h in range(backbone.heads):
        j = h // groups
        bias = None if mask is None else mask[0, min(h, mask.shape[1] - 1)][None]
        frozen = head(q[0, h], k[0, j], bias, how)
        tuned = head(q[0, h], torch.cat([Pk[:, j], k[0, j]]), bias, how, length)
        yield q[0, h], k[0, j], v[0, j], Pk[:, j], Pv[:, j], bias, how, frozen, tuned, out[0, :, h]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 6])
def test_a_prefix_stays_in_its_cone_in_every_architecture(monkeypatch, kind, length):
    """The model's own output with the prefix is the measured one, its biases have rank l, and no ratio moves."""
    for q, k, v, Pk, Pv, bias, (scale, cap), frozen, tuned, out in heads(monkeypatch, kind, length):
        found = prefix_cone(frozen, tuned, v, Pv)
        torch.testing.assert_close(found.output, out, rtol=0, atol=1e-12)
        assert found.length == length and found.rank == min(length, *found.bias.shape)
        assert (found.residual <= found.resolution).all() and found.ratio < EXACT
        assert ((found.gate > 0) & (found.gate < 1)).all()
        scores = q @ torch.cat([Pk, k]).T * scale
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        weights = torch.softmax(scores + (0 if bias is None else F.pad(bias, (length, 0))[0]), -1)
        torch.testing.assert_close(found.gate, weights[:, :length].sum(1), rtol=1e-10, atol=0)


def test_the_probe_agrees_with_the_theory_of_one_head(monkeypatch):
    for q, k, v, Pk, Pv, bias, _, frozen, tuned, _ in heads(monkeypatch, "gpt2", 3):
        found = prefix_cone(frozen, tuned, v, Pv)
        made = prefixed_attention(q, k, v, Pk, Pv, mask=bias[0].numpy() > -1)
        assert relative(found.gate.numpy(), made.gate) < EXACT
        assert relative(found.bias.numpy(), made.bias) < EXACT
        aside = np.linalg.norm(perpendicular(made.output, made.base), axis=-1)
        np.testing.assert_allclose(found.perpendicular, aside, atol=EXACT)
        assert cone_residual(found.bias.numpy(), Pv.numpy()).max() < EXACT
        assert ratio_deviation(made.base_weights, made.weights[:, 3:]) < EXACT


def test_a_delta_that_turns_queries_leaves_the_cone(monkeypatch):
    """The case that must fail: the same prefix together with a rank-one change of the queries, as LoRA on W_q makes."""
    for q, k, v, Pk, Pv, bias, how, frozen, *_ in heads(monkeypatch, "bert", 2):
        turned = q + 0.3 * torch.outer(q @ torch.ones(4, dtype=q.dtype), torch.tensor([1.0, -1, 1, -1], dtype=q.dtype))
        found = prefix_cone(frozen, head(turned, torch.cat([Pk, k]), bias, how, 2), v, Pv)
        assert found.rank > 2 and float(found.residual.max()) > 0.1 and found.ratio > 0.01


def test_a_bias_in_the_span_but_outside_the_cone_is_seen():
    """A head that writes minus its prefix value keeps the rank and breaks the sign, which only the cone has."""
    g = torch.Generator().manual_seed(0)
    V, P = torch.randn(5, 4, generator=g, dtype=torch.float64), torch.randn(1, 4, generator=g, dtype=torch.float64)
    weights = torch.softmax(torch.randn(6, 5, generator=g, dtype=torch.float64), -1)

    def tuned(values):
        return torch.cat([torch.full((6, 1), -0.5, dtype=torch.float64), 1.5 * weights], 1) @ values

    found = prefix_cone(lambda values: weights @ values, tuned, V, P)
    assert found.rank == 1 and found.ratio < EXACT
    torch.testing.assert_close(found.residual, torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_perpendicular_bound_holds_in_real_heads(monkeypatch, kind):
    """Control tokens of bounded norm at a layer's input: no violation; the tight form is never the looser one.

    Biases of the projections are rows of W for an input with a one appended, so the bound holds with norms of those.
    """
    backbone, batch = backbone_of(kind), batch_of(3)
    inputs = {}
    place = backbone.model.get_submodule(backbone.linear(0, "q").path)
    hook = place.register_forward_pre_hook(lambda _, args: inputs.setdefault("x", args[0].detach()))
    q, k, v, mask, how, _ = recorded(monkeypatch, backbone, batch)
    hook.remove()
    x = F.pad(inputs["x"][0], (0, 1), value=1.0)
    rng, tightest, loosest = torch.Generator().manual_seed(0), np.inf, 0.0
    for h in range(backbone.heads):
        # the head's maps from the input with a one appended, recovered from what the model computed
        maps = [full_map(backbone, role)[:, 4 * h : 4 * h + 4] for role in ("q", "k", "v")]
        Wq, Wk, Wv = maps
        torch.testing.assert_close(x @ Wq, q[0, h], rtol=0, atol=1e-12)
        for tokens in (1, 3):
            U = torch.randn(tokens, backbone.width, generator=rng, dtype=torch.float64)
            U = F.pad(2.0 * U / U.norm(dim=1, keepdim=True), (0, 1), value=1.0)
            frozen = head(q[0, h], k[0, h], None, how)
            tuned = head(q[0, h], torch.cat([U @ Wk, k[0, h]]), None, how)
            found = prefix_cone(frozen, tuned, v[0, h], U @ Wv)
            bound = perpendicular_bound(x, Wq, Wk, Wv, tokens=tokens, control_norm=float(U[0].norm()))
            tight, published = found.tightness(bound.tight), found.tightness(bound.published)
            assert (tight >= 1).all() and (published >= tight).all()
            assert (found.residual <= found.resolution).all() and found.rank <= tokens
            tightest, loosest = min(tightest, float(tight.min())), max(loosest, float((published / tight).max()))
    assert tightest < 100 and loosest > 1.5


def full_map(backbone, role):
    """A projection of the first block as (inputs + 1, outputs), its bias in the last row."""
    linear = backbone.linear(0, role)
    module = backbone.model.get_submodule(linear.path)
    weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
    whole = torch.cat([weight, module.bias[None]])
    return (whole if linear.rows is None else whole[:, linear.rows]).detach()


def test_bad_input_is_a_sentence():
    V, P = torch.ones(3, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    even = torch.full((4, 3), 1 / 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="share d_v"):
        prefix_cone(lambda v: even @ v, lambda v: even @ v, V, P[:, :1])
    with pytest.raises(ValueError, match="sum to one"):
        prefix_cone(lambda v: even @ v, lambda v: torch.ones(4, 4, dtype=torch.float64) @ v, V, P)
