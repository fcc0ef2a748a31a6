"""The same numbers in PEFT and here give the same features, and the folder format survives both ways."""

import dataclasses

import pytest
import torch
import zoo

peft = pytest.importorskip("peft")

from tuning import (  # noqa: E402
    IA3,
    Adapter,
    Combined,
    DoRA,
    Full,
    IntrinsicPrompt,
    LastLayers,
    LNTuning,
    LoKr,
    LoRA,
    Prefix,
    ProjectedPrefix,
    Prompt,
    SHiRA,
    VeRA,
    features,
    wrap,
)
from tuning.backbones import frame, hidden  # noqa: E402
from tuning.peft_format import export_peft, import_peft, peft_line  # noqa: E402

ALL = LoRA(2, alpha=3, targets=("q", "k", "v", "o", "mlp"))
DIRECTIONS = DoRA(2, alpha=3, targets=("q", "k", "v", "o", "mlp"))
CASES = [
    ("bert", LoRA(2, alpha=6)),
    ("bert", ALL),
    ("llama", ALL),
    ("gpt2", LoRA(2, alpha=3)),
    ("gpt2", ALL),
    ("gpt_neox", LoRA(2, alpha=3, targets=("k", "o"))),
    ("distilbert", ALL),
    ("mpnet", ALL),
    ("bert", IA3()),
    ("llama", IA3()),
    ("gpt2", IA3()),
    ("gpt_neox", IA3()),
    ("bert", Prefix(3, shift_positions=True)),
    ("gpt2", Prefix(3, shift_positions=True)),
    ("llama", Prefix(3, shift_positions=True)),
    ("bert", Prompt(3, shift_positions=True)),
    ("gpt2", Prompt(3, shift_positions=True)),
    ("llama", Prompt(3, shift_positions=True)),
    *((kind, DIRECTIONS) for kind in zoo.KINDS),
    *((kind, DoRA(2, alpha=6, blocks=(1,))) for kind in ("bert", "gpt2", "gpt_neox")),
    *((kind, VeRA(3, targets=("o", "mlp"))) for kind in zoo.KINDS if kind not in ("phi3", "modernbert")),
    *((kind, VeRA(3, targets=("qkv", "gate_up"), projection=4)) for kind in ("phi3", "modernbert")),
    ("gpt2", VeRA(3, targets=("qkv", "o", "mlp"), blocks=(1,))),
    ("gpt2", VeRA(3, targets=("v", "down"))),
    *((kind, SHiRA(2, targets=("o", "mlp"))) for kind in zoo.KINDS if kind not in ("phi3", "modernbert", "gpt2")),
    *((kind, SHiRA(2, targets=("qkv", "gate_up"), mask_seed=4)) for kind in ("phi3", "modernbert")),
    ("bert", SHiRA(2, blocks=(1,))),
    *((kind, LoKr(1, alpha=2, targets=("o", "mlp"))) for kind in zoo.KINDS if kind not in ("phi3", "modernbert", "gpt2")),
    *((kind, LoKr(2, targets=("qkv", "gate_up"), factor=2)) for kind in ("phi3", "modernbert")),
    ("bert", LoKr(2, alpha=3, blocks=(1,), factor=2)),
    *((kind, LNTuning()) for kind in zoo.KINDS),
    ("bert", LNTuning(blocks=(1,))),
    ("gpt2", Full(("ln_f.*", "h.1.ln_1.*"))),
    *((kind, delta) for kind in zoo.NEWER for delta in (ALL, IA3(), Prompt(3, shift_positions=True))),
    *((kind, Prefix(3, shift_positions=True)) for kind in zoo.NEWER if kind != "modernbert"),
    *((kind, delta) for kind in zoo.TWO_STACKS for delta in (ALL, IA3(), LoRA(2, blocks=(1, 2)))),
]
# PEFT's own arithmetic (float32 rotations, cached keys) is single precision, whose rounding goes with the size of the states:
# of the largest one here, which is 2 to 9 by architecture.
TOLERANCE = 1e-5


def theirs(kind: str, folder, batch) -> torch.Tensor:
    """The last hidden states of the text tokens in PEFT."""
    model = peft.PeftModel.from_pretrained(zoo.model_of(kind, dtype=torch.float32), folder).eval()
    with torch.no_grad():
        return zoo.library_states(model, batch)[:, -batch.tokens.shape[1] :]


@pytest.mark.parametrize(("kind", "delta"), CASES, ids=[f"{kind}-{delta.name}" for kind, delta in CASES])
def test_same_numbers_same_states(kind, delta, tmp_path):
    backbone, batch = zoo.backbone_of(kind, dtype=torch.float32), zoo.batch_of()
    params = zoo.moved(delta.initial(backbone, 0))
    export_peft(tmp_path, backbone, delta, params)
    ours = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params)))
    plain = hidden(backbone, batch, frame(backbone))
    real = zoo.real(backbone, batch)
    error = ((theirs(kind, tmp_path, batch) - ours) * real).abs().max()
    size = (ours * real).abs().max()
    print(f"PEFT {kind} {delta.name}: {error:.1e} of {size:.1f}")
    assert error < TOLERANCE * size
    assert ((plain - ours) * real).abs().max() > 0.05, "the delta must do something, or agreement says nothing"


@pytest.mark.parametrize(("kind", "delta"), CASES, ids=[f"{kind}-{delta.name}" for kind, delta in CASES])
def test_import_inverts_export(kind, delta, tmp_path):
    backbone, batch = zoo.backbone_of(kind, dtype=torch.float32), zoo.batch_of()
    params = zoo.moved(delta.initial(backbone, 0))
    export_peft(tmp_path, backbone, delta, params)
    again, numbers = import_peft(tmp_path, backbone)
    ours, back = (features(backbone, batch, d.edits(backbone, p)) for d, p in ((delta, params), (again, numbers)))
    assert (ours - back).abs().max() < TOLERANCE
    if backbone.layout.fused is None:
        assert again.edits(backbone, numbers).shift == delta.edits(backbone, params).shift
        # PEFT holds normalisations themselves, of order one: what they are moved by comes back to their rounding
        slack = 1e-6 if isinstance(delta, LNTuning | Full) else 0.0
        assert all((numbers[name] - params[name]).abs().max() <= slack for name in params)


@pytest.mark.parametrize("make", [lambda *a: SHiRA(1, *a, mask_seed=1), lambda *a: LoKr(1, None, *a)], ids=["shira", "lokr"])
@pytest.mark.parametrize("targets", [("q",), ("o",)])
def test_peft_adapts_no_parts_of_maps_and_no_gpt2_so(make, targets, tmp_path):
    backbone, delta = zoo.backbone_of("gpt2"), make(targets)
    with pytest.raises(ValueError, match="on whole linear layers for PEFT"):
        export_peft(tmp_path / "new", backbone, delta, delta.initial(backbone, 0))
    assert peft_line(backbone, delta) is None


def test_an_intrinsic_prompt_is_saved_as_the_prompt_that_it_makes(tmp_path):
    backbone, delta = zoo.backbone_of("llama"), IntrinsicPrompt(2, 3, shift_positions=True)
    params = zoo.moved(delta.initial(backbone, 0))
    export_peft(tmp_path, backbone, delta, params)
    found, rows = import_peft(tmp_path, backbone)
    assert found == Prompt(3, shift_positions=True)
    assert torch.equal(rows["embedding.prompt"], delta.plain(backbone, params)[1]["embedding.prompt"])


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_projected_prefix_is_pefts_before_and_after_its_network_is_dropped(kind, tmp_path):
    """The same states, gradients and count of numbers while it is trained; its folder holds the prefix that it makes."""
    backbone, batch, hidden_units = zoo.backbone_of(kind, dtype=torch.float32), zoo.batch_of(), 5
    delta = ProjectedPrefix(3, hidden=hidden_units, shift_positions=True)
    params = {name: value.requires_grad_() for name, value in zoo.moved(delta.initial(backbone, 0)).items()}
    config = {"task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": 3, "prefix_projection": True}
    config = peft.PrefixTuningConfig(**config, encoder_hidden_size=hidden_units)
    model = peft.get_peft_model(zoo.model_of(kind, dtype=torch.float32), config).eval()
    encoder = model.prompt_encoder["default"]
    theirs_of = [encoder.embedding.weight, *encoder.transform.parameters()]

    def ours(named):
        blocks = [torch.cat([named[f"{block}.attention.{what}"] for block in range(2)]) for what in ("up", "up_bias")]
        return [*(named[f"embedding.{what}"] for what in ("rows", "down", "down_bias")), *blocks]

    with torch.no_grad():
        for there, here in zip(theirs_of, ours(params), strict=True):
            there.copy_(here)
    weight = torch.randn(*batch.tokens.shape, 16, generator=torch.Generator().manual_seed(3)) * batch.mask[..., None] / 16
    states = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params)))
    trained = zoo.library_states(model, batch)[:, -batch.tokens.shape[1] :]
    assert ((trained - states) * batch.mask[..., None]).abs().max() < TOLERANCE
    assert delta.size(backbone) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    slopes = dict(zip(params, torch.autograd.grad((states * weight).sum(), list(params.values())), strict=True))
    for here, there in zip(ours(slopes), torch.autograd.grad((trained * weight).sum(), theirs_of), strict=True):
        assert (here - there).abs().max() < TOLERANCE * there.abs().max()
    export_peft(tmp_path, backbone, delta, params)
    saved, numbers = import_peft(tmp_path, backbone)
    assert saved == Prefix(3, shift_positions=True)
    assert torch.equal(hidden(backbone, batch, frame(backbone, saved.edits(backbone, numbers))), states)
    assert ((theirs(kind, tmp_path, batch) - states) * batch.mask[..., None]).abs().max() < TOLERANCE


def test_peft_scales_the_parts_of_a_fused_map_as_one(tmp_path):
    backbone = zoo.backbone_of("gpt2")
    with pytest.raises(ValueError, match="several parts of h.0.attn.c_attn; name qkv"):
        export_peft(tmp_path / "new", backbone, VeRA(2), VeRA(2).initial(backbone, 0))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_detached_dora_has_pefts_gradient(kind, tmp_path):
    """PEFT takes the norm for a constant; the derivative of the loss, which probes need, is another gradient."""
    backbone, batch = zoo.backbone_of(kind, dtype=torch.float32), zoo.batch_of()
    delta = DoRA(2, alpha=3, detached=True)
    params = {name: value.requires_grad_() for name, value in zoo.moved(delta.initial(backbone, 0)).items()}
    export_peft(tmp_path, backbone, delta, params)
    model = peft.PeftModel.from_pretrained(zoo.model_of(kind, dtype=torch.float32), tmp_path, is_trainable=True).eval()
    weight = torch.randn(batch.tokens.shape + (16,), generator=torch.Generator().manual_seed(3)) * batch.mask[..., None] / 16
    (zoo.library_states(model, batch) * weight).sum().backward()
    leaves = {"A": "lora_A.default.weight", "B": "lora_B.default.weight", "magnitude": "lora_magnitude_vector.default.weight"}
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    def ours(delta):
        states = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params)))
        return dict(zip(params, torch.autograd.grad((states * weight).sum(), list(params.values())), strict=True))

    apart = {True: [], False: []}
    for detached, errors in apart.items():
        for name, slope in ours(dataclasses.replace(delta, detached=detached)).items():
            block, site, role, what = name.split(".")
            there = found[f"base_model.model.{backbone.linear(int(block), role, site).path}.{leaves[what]}"]
            errors.append(float((there - slope).abs().max() / there.abs().max()))
    print(f"PEFT {kind} gradient of DoRA: {max(apart[True]):.1e} apart detached, {max(apart[False]):.1e} otherwise")
    assert len(found) == len(params) and max(apart[True]) < TOLERANCE and max(apart[False]) > 0.01


@pytest.mark.parametrize(
    ("kind", "modules", "roles"),
    [
        ("gpt2", ["c_attn"], ("qkv",)),
        ("phi3", ["qkv_proj", "gate_up_proj"], ("qkv", "gate_up")),
        ("phi3", "all-linear", ("qkv", "o", "gate_up", "down")),
        ("modernbert", ["Wqkv", "Wi", "Wo"], ("qkv", "o", "gate_up", "down")),
    ],
)
def test_a_lora_made_by_peft_on_a_fused_map_is_read(kind, modules, roles, tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=modules, fan_in_fan_out=kind == "gpt2")
    model = peft.get_peft_model(zoo.model_of(kind, dtype=torch.float32), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    backbone, batch = zoo.backbone_of(kind, dtype=torch.float32), zoo.batch_of()
    delta, params = import_peft(tmp_path, backbone)
    assert delta == LoRA(2, alpha=6, targets=roles) and delta.size(backbone) == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    ours = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params)))
    states = model.eval()(input_ids=batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
    assert ((states - ours) * batch.mask[..., None]).abs().max() < TOLERANCE


def test_a_classifier_made_around_the_base_model_finds_its_modules(tmp_path):
    backbone = zoo.backbone_of("bert", dtype=torch.float32)
    params = zoo.moved(LoRA(2).initial(backbone, 0))
    export_peft(tmp_path, backbone, LoRA(2), params, inside="bert.")
    delta, again = import_peft(tmp_path, backbone)
    assert delta.rank == 2 and all(torch.equal(again[name], params[name]) for name in params)


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        (Adapter(2), "expected LoRA, DoRA, VeRA, LoKr"),
        (LastLayers(1), "expected whole normalisations"),
        (Combined((("a", LoRA(1)), ("b", DoRA(1)))), "expected LoRA, DoRA, VeRA, LoKr"),
        (Combined((("a", SHiRA(1)), ("b", SHiRA(1)))), "expected one SHiRA of a map"),
        (Combined((("a", SHiRA(1)), ("b", SHiRA(2, blocks=(1,))))), "expected SHiRA of one rank"),
        (Combined((("a", LoKr(1)), ("b", LoKr(1)))), "expected one LoKr of a map"),
        (Combined((("a", LoKr(1)), ("b", LoKr(1, factor=2)))), "expected LoKr of one factor"),
        (Combined((("a", DoRA(1)), ("b", DoRA(1)))), "expected one DoRA of a map"),
        (Prefix(2), "shift_positions"),
        (Prompt(2), "shift_positions"),
    ],
)
def test_what_peft_cannot_hold_is_refused(delta, words, tmp_path):
    backbone = wrap(zoo.model_of("bert"))
    with pytest.raises(ValueError, match=words):
        export_peft(tmp_path / "new", backbone, delta, delta.initial(backbone, 0))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("delta", [Prefix(2, shift_positions=True), Prompt(2, shift_positions=True)])
def test_slots_of_an_encoder_decoder_are_refused(delta, tmp_path):
    """PEFT's prefix stands in the decoder alone, its prompt in front of both stacks; here they stand elsewhere."""
    backbone = zoo.backbone_of("t5")
    with pytest.raises(ValueError, match="expected LoRA or IA3 of tiny-t5, an encoder-decoder, .* PEFT puts it in front of"):
        export_peft(tmp_path / "new", backbone, delta, delta.initial(backbone, 0))
    assert not (tmp_path / "new").exists() and peft_line(backbone, delta) is None


@pytest.mark.parametrize(
    ("modules", "roles", "blocks"),
    [
        (["q", "v"], ("q", "v"), None),
        ("all-linear", ("q", "k", "v", "o", "up", "down"), None),
        (r"decoder\.block\.1\..*\.(q|k)", ("q", "k"), (3,)),
        (["SelfAttention.q"], None, None),
    ],
)
def test_a_lora_made_by_peft_on_both_stacks_is_read(modules, roles, blocks, tmp_path):
    """As many numbers and the same states; one of a decoder's two attentions alone has no delta here and is refused."""
    torch.manual_seed(0)
    model = peft.get_peft_model(
        zoo.model_of("t5", dtype=torch.float32), peft.LoraConfig(r=2, lora_alpha=6, target_modules=modules)
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    backbone, batch = zoo.backbone_of("t5", dtype=torch.float32), zoo.batch_of()
    if roles is None:
        with pytest.raises(ValueError, match="both attentions of a decoder's block, .* train both alike"):
            import_peft(tmp_path, backbone)
        return
    delta, params = import_peft(tmp_path, backbone)
    assert delta == LoRA(2, alpha=6, targets=roles, blocks=blocks)
    assert delta.size(backbone) == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    ours = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params)))
    assert (zoo.library_states(model.eval(), batch) - ours).abs().max() < TOLERANCE


def test_a_missing_or_foreign_folder_is_refused_in_one_sentence(tmp_path):
    backbone = zoo.backbone_of("bert")
    with pytest.raises(ValueError, match="expected a PEFT folder"):
        import_peft(tmp_path / "nowhere", backbone)
    export_peft(tmp_path, backbone, LoRA(1), LoRA(1).initial(backbone, 0))
    with pytest.raises(ValueError, match="expected tensors of LORA on the linear maps"):
        import_peft(tmp_path, zoo.backbone_of("llama"))
