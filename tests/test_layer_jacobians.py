"""The closed-form Jacobians of the blocks are those that automatic differentiation finds in the model's own blocks."""

import dataclasses

import pytest
import torch
import zoo
from torch.func import jacrev
from transformers import AutoConfig, AutoModel, Cache

from tuning import Adapter, Edits, PortBias, Prefix, load, wrap
from tuning.architectures import ARCHITECTURES
from tuning.backbones import frame, hidden
from tuning.edits import framed
from tuning.jacobians import DERIVATIVES, layer_jacobians

EXACT = 1e-10  # float64, relative to the largest entry; sums of a few dozen O(1) products


def own_blocks(backbone, batch, run):
    """The arguments with which the model called each of its blocks in one pass, its cache of keys left out."""
    calls, blocks = [], list(backbone.model.get_submodule(backbone.layout.blocks))
    hooks = [
        block.register_forward_pre_hook(lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
        for block in blocks
    ]
    with torch.no_grad():
        hidden(backbone, batch, run)
    for hook in hooks:
        hook.remove()
    bare = lambda value: None if isinstance(value, Cache) else value  # noqa: E731
    return [
        (block, [bare(arg) for arg in args], {key: bare(value) for key, value in kwargs.items()})
        for block, (args, kwargs) in zip(blocks, calls, strict=True)
    ]


def diagonal(function, at):
    """d function / d at, example by example, for a function (B, d) -> (B, n) whose examples do not interact."""
    whole = jacrev(function)(at)
    return torch.stack([whole[b, :, b].flatten(1) for b in range(len(at))])


def reference(backbone, batch, at, edits=None, signals=None):
    """[(A, {site: B}, next state)] of the model's own blocks: every token but one held, no formula used."""
    edits, made = edits or Edits(), []
    calls = own_blocks(backbone, batch, frame(backbone, edits, signals=signals or {}))
    each = torch.arange(len(at))
    for t, (block, (h, *args), kwargs) in enumerate(calls):

        def run(x, add=None, prefix=edits.prefix, t=t, block=block, h=h, args=args, kwargs=kwargs):
            held = dict(signals or {})
            for key, u in (add or {}).items():
                old = held.get(key, torch.zeros(1, dtype=h.dtype))
                old = old[:, None] if old.ndim == 2 else old
                held[key] = u[:, None] + old
            with framed(frame(backbone, Edits(prefix=prefix, closed=edits.closed), signals=held)):
                y = block(h.index_put((each, at), x), *args, **kwargs)
            return (y[0] if isinstance(y, tuple) else y)[each, at]

        x, nothing = h[each, at], torch.zeros_like(h[:, 0])
        B = {
            site: diagonal(lambda u, site=site: run(x, {f"{t}.{site}": u}), nothing)  # noqa: B023 - used at once
            for site in ("attention", "mlp")
        }
        for place, what in enumerate(("keys", "values") if t in edits.prefix else ()):

            def moved(p, place=place):
                pair = list(edits.prefix[t])  # noqa: B023
                pair[place] = p
                return run(x, prefix={t: tuple(pair)})  # noqa: B023

            B[what] = jacrev(moved)(edits.prefix[t][place]).flatten(2)
        made.append((diagonal(run, x), B, run(x)))
    return made


def gap(found, expected):
    largest = float(expected.abs().max())
    return float((found - expected).abs().max()) / (largest or 1.0)  # a prefix outside a window moves nothing


def agree(found, expected):
    assert len(found.A) == len(expected) and len(found.states) == len(expected) + 1
    for t, (A, B, after) in enumerate(expected):
        assert gap(found.A[t], A) < EXACT and gap(found.states[t + 1], after) < EXACT
        for site, M in B.items():
            assert found.B[site][t].shape == M.shape and gap(found.B[site][t], M) < EXACT, (t, site)


@pytest.fixture(scope="module", params=[kind for kind in zoo.KINDS if ARCHITECTURES[kind].closed_form])
def backbone(request):
    return zoo.backbone_of(request.param)


def places(batch, token):
    some = torch.arange(len(batch.mask)) % batch.mask.sum(1)
    return {"first": torch.zeros_like(some), "last": batch.mask.sum(1) - 1, "index": some}[token]


@pytest.mark.parametrize("token", ["first", "last", "index"])
def test_along_the_frozen_trajectory(backbone, token):
    batch = zoo.batch_of()
    at = places(batch, token)
    found = layer_jacobians(backbone, batch, at if token == "index" else token)
    assert torch.equal(found.token, at) and set(found.B) == {"attention", "mlp"}
    agree(found, reference(backbone, batch, at))


def test_a_prefix_is_a_control(backbone):
    """Values move the output by a_j W_o, keys by a matrix of rank one per head, times the rest of the block."""
    batch = zoo.batch_of(3)
    for delta in (Prefix(2), Prefix(2, shift_positions=True)):
        made = zoo.subject_of(backbone, delta)
        edits = made.edits(zoo.moved(made.initial))
        for token in ("last", "first"):
            found = layer_jacobians(backbone, batch, token, edits=edits)
            agree(found, reference(backbone, batch, places(batch, token), edits))
    kv, width = backbone.key_value_heads, backbone.head_width
    assert found.B["keys"][0].shape == (3, 16, 2 * kv * width)
    per_head = found.B["keys"][1][0].unflatten(1, (2, kv, width))
    ranks = {int(torch.linalg.matrix_rank(per_head[:, j, g], rtol=1e-9)) for j in range(2) for g in range(kv)}
    assert ranks == {backbone.heads // kv}
    closed = layer_jacobians(backbone, batch, "last", edits=dataclasses.replace(edits, closed=True, shift=0))
    frozen = layer_jacobians(backbone, batch, "last")
    assert all(B.abs().max() == 0 for what in ("keys", "values") for B in closed.B[what])
    assert all(gap(a, b) < EXACT for a, b in zip(closed.A, frozen.A, strict=True))


def test_a_prefix_in_some_blocks_only():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of(2)
    made = zoo.subject_of(backbone, Prefix(2, blocks=(1,)))
    edits = made.edits(zoo.moved(made.initial))
    found = layer_jacobians(backbone, batch, edits=edits)
    agree(found, reference(backbone, batch, places(batch, "first"), edits))
    assert [B.shape for B in found.B["values"]] == [(2, 16, 0), (2, 16, 32)]
    A, B = found.of(1, ("attention", "values"))
    assert [b.shape for b in B] == [(16, 16), (16, 48)] and torch.equal(A[1], found.A[1][1])


@pytest.mark.parametrize("name", ["adapter", "lora", "bitfit", "full", "prefix", "prompt"])
def test_along_a_tuned_trajectory_the_signals_are_held(backbone, name):
    """Whatever the delta is, its rolled-out signals lead the frozen blocks along the tuned states."""
    batch, made = zoo.batch_of(3), zoo.subject_of(backbone, zoo.DELTAS[name])
    params = zoo.moved(made.initial)
    signals = {key: signal.detach() for key, signal in made.rollout(params, batch).signals.items()}
    at = places(batch, "last")
    found = layer_jacobians(backbone, batch, "last", signals=signals)
    agree(found, reference(backbone, batch, at, signals=signals))
    if name not in ("prefix", "prompt"):
        direct = layer_jacobians(backbone, batch, "last", edits=made.edits(params))
        assert all(gap(a, b) < EXACT for a, b in zip(direct.A, found.A, strict=True))
    frozen = layer_jacobians(backbone, batch, "last")
    assert gap(found.A[1], frozen.A[1]) > 1e-3, "another trajectory has other Jacobians"


def test_along_a_reference_trajectory(backbone):
    batch = zoo.batch_of(3)
    generator = torch.Generator().manual_seed(2)
    signals = {port.key: torch.randn(16, generator=generator, dtype=torch.float64) for port in backbone.ports}
    found = layer_jacobians(backbone, batch, signals=signals)
    agree(found, reference(backbone, batch, places(batch, "first"), signals=signals))


@pytest.mark.parametrize(
    "kind, setting",
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("qwen2", {"hidden_act": "gelu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ],
)
def test_other_settings_of_a_family(kind, setting):
    settings = zoo.KINDS[kind] | setting
    config = AutoConfig.for_model(kind, **settings, max_position_embeddings=40, pad_token_id=0)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="eager").double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    backbone, batch = wrap(model), zoo.batch_of(3)
    agree(layer_jacobians(backbone, batch, "last"), reference(backbone, batch, places(batch, "last")))


@pytest.mark.parametrize("name", sorted(DERIVATIVES))
def test_slopes_of_activations(name):
    from transformers.activations import ACT2FN

    value, slope = DERIVATIVES[name]
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    own = ACT2FN[name]
    expected = torch.func.vmap(torch.func.grad(lambda v: own(v)))(x[x != 0])
    assert (value(x) - own(x)).abs().max() < 1e-14
    assert (slope(x[x != 0]) - expected).abs().max() < 1e-13


def test_nano_in_single_precision():
    """The shipped encoder, against its own blocks differentiated in float64 at the same weights."""
    backbone, exact = load("nano"), load("nano", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 8000, (2, 12), generator=generator)
    batch = zoo.batch_of(2, 12)._replace(tokens=tokens)
    found = layer_jacobians(backbone, batch)
    assert found.A[0].dtype == torch.float32
    for t, (A, B, _) in enumerate(reference(exact, batch, places(batch, "first"))):
        # float32 rounds each of about 1000 terms of a sum to 6e-8
        assert gap(found.A[t].double(), A) < 1e-5 and gap(found.B["attention"][t].double(), B["attention"]) < 1e-5


def test_the_last_token_of_a_causal_model_sees_the_whole_derivative():
    """Controlled at its last token, a causal model has no other path: the product of the A_t is exact, elsewhere not."""
    for kind, exact in (("gpt2", True), ("bert", False)):
        backbone, batch = zoo.backbone_of(kind), zoo.batch_of(3)
        each, at = torch.arange(3), batch.mask.sum(1) - 1

        def final(u, backbone=backbone, batch=batch, each=each, at=at):
            signal = torch.zeros(3, 7, 16, dtype=torch.float64).index_put((each, at), u)
            run = frame(backbone, signals={"embedding": signal}, record=True)
            out = hidden(backbone, batch, run)
            return (run.inputs["final"] if backbone.layout.final else out)[each, at]

        whole = diagonal(final, torch.zeros(3, 16, dtype=torch.float64))
        found = layer_jacobians(backbone, batch, "last")
        product = found.A[1] @ found.A[0]
        if exact:
            assert gap(product, whole) < EXACT
        else:
            assert gap(product, whole) > 0.01


def test_what_has_no_closed_form_is_refused(monkeypatch):
    batch, made = zoo.batch_of(), zoo.subject_of(zoo.backbone_of("bert"), zoo.DELTAS["prompt"])
    backbone = made.backbone
    with pytest.raises(ValueError, match="rolled-out signals"):
        layer_jacobians(backbone, batch, edits=made.edits(made.initial))
    with pytest.raises(ValueError, match="expected signals at places"):
        layer_jacobians(backbone, batch, signals={"7.mlp": torch.zeros(16, dtype=torch.float64)})
    with pytest.raises(ValueError, match="token 'first', 'last'"):
        layer_jacobians(backbone, batch, "pooled")
    padding = batch.mask.sum(1).clamp(max=6)
    for wrong in (padding, torch.zeros(4, dtype=torch.int64), torch.full((5,), 7), torch.full((5,), -1), torch.zeros(5)):
        with pytest.raises(ValueError, match="position of a real token"):
            layer_jacobians(backbone, batch, wrong)
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match="expected a backbone of one of the kinds roberta, .* got"),
    ):
        patch.setitem(ARCHITECTURES, "bert", dataclasses.replace(ARCHITECTURES["bert"], closed_form=False))
        layer_jacobians(backbone, batch)
    config = AutoConfig.for_model("bert", **zoo.COMMON, hidden_act="mish")
    with pytest.raises(ValueError, match="expected an activation among"):
        layer_jacobians(wrap(AutoModel.from_config(config, attn_implementation="eager")), batch)


def test_trained_parameters_leave_no_graph():
    backbone, batch = zoo.backbone_of("gpt2"), zoo.batch_of(2)
    for delta in (Adapter(3), PortBias()):
        made = zoo.subject_of(backbone, delta)
        params = {key: value.requires_grad_() for key, value in zoo.moved(made.initial).items()}
        found = layer_jacobians(backbone, batch, edits=made.edits(params))
        assert not any(M.requires_grad for M in (*found.A, *found.B["mlp"], *found.states))
