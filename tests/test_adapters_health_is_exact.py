"""What is said of an adapter in a live model is what its matrices are, whatever its kind, and the model stays as it is."""

import types
import warnings

import peft
import pytest
import torch
from adapted import CASES, MERGED, PROMPTED, QV, UNREAD, adapted, batches, llama, moved, state
from transformers import GPT2Config, GPT2LMHeadModel

from probes.live.adapters import logical
from probes.live.health import health, merged_difference, rank_pattern


def dense(model, row):
    """The change of a weight by PEFT's own merging, in float64."""
    double = model.double()
    module = double.get_submodule(f"base_model.model.{row.name}")
    before = module.get_base_layer().weight.detach().clone()
    module.merge(adapter_names=[row.adapter])
    after = module.get_base_layer().weight.detach().clone()
    module.unmerge()
    return after - before, before


@pytest.mark.parametrize("kind", CASES)
def test_every_kind_gives_rows_or_is_named(kind, tmp_path):
    """A folder that PEFT wrote and read again, trained."""
    config, kinds, count = CASES[kind]
    adapted(config).save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(llama(), tmp_path).eval()
    size = llama().num_parameters()
    before = state(model)
    if kind in UNREAD:
        with pytest.raises(ValueError, match=rf"^{kind.upper()} is not read, on 4 modules \(model\.layers\.0\."):
            health(model)
    else:
        found = health(model)
        assert {row.kind for row in found.rows} == kinds and len(found.rows) == count
        assert not any(row.untrained for row in found.rows) and sum(row.share for row in found.rows) == pytest.approx(1)
        assert found.notes == () and found.base_parameters == size
        assert all(row.ratio is None if kind in PROMPTED else row.ratio > 0 for row in found.rows)
    assert state(model) == before


@pytest.mark.parametrize("kind", [kind for kind in MERGED if kind not in ("modules-to-save", "token-rows")])
def test_norms_ratios_and_ranks_are_those_of_the_dense_change(kind):
    model = adapted(CASES[kind][0])
    for row in health(model).rows:
        change, weight = dense(model, row)
        # float32 factors are exact in float64, PEFT's scalings are rounded at worst in float32
        assert row.norm == pytest.approx(float(change.norm()), rel=1e-6)
        assert row.ratio == pytest.approx(float(change.norm() / weight.norm()), rel=1e-6)
        if kind not in ("dora", "ia3"):
            values = torch.linalg.svdvals(change)[: len(row.singular_values)]
            assert torch.allclose(torch.tensor(row.singular_values, dtype=torch.float64), values, rtol=1e-6, atol=1e-9)
            p = values.square() / values.square().sum()
            assert row.effective_rank == pytest.approx(float(1 / p.square().sum()), rel=1e-5)
            assert row.entropy_rank == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-5)


def test_modules_that_are_trained_whole_differ_from_their_originals():
    model = adapted(CASES["modules-to-save"][0])
    head = model.base_model.model.lm_head
    row = next(row for row in health(model).rows if row.name == "lm_head")
    assert row.norm == pytest.approx((head.modules_to_save["default"].weight - head.original_module.weight).norm().item())
    assert row.r is None and row.singular_values == ()


@pytest.mark.parametrize("kind", MERGED)
def test_untrained_modules_are_counted(kind):
    """All of them: no verdict; the first block alone trained: the others are named."""
    config, _, count = CASES[kind]
    still = health(adapted(config, trained=False))
    assert still.notes == (f"{count} of {count} modules untrained: equal to the base model, no verdict can be given",)
    assert still.norm == 0 and {row.norm for row in still.rows} == {row.share for row in still.rows} == {0}
    part = health(moved(adapted(config, trained=False), r"layers\.0\."))
    names = [row.name for row in part.rows if "layers.0." not in row.name]
    assert part.notes == (f"{len(names)} of {count} modules untrained: {', '.join(names)}",)
    if any(row.singular_values for row in still.rows):
        assert {row.effective_rank for row in still.rows if row.singular_values} == {0}


def test_of_two_adapters_the_active_is_read_and_the_other_by_name():
    model = adapted(CASES["lora"][0])
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["k_proj", "q_proj"]))
    before = state(model)
    active, other = health(model), health(model, "other")
    assert active.adapters == ("default",) and active.notes == () and {row.adapter for row in active.rows} == {"default"}
    assert [row.r for row in other.rows] == [2] * 4 and other.notes[
        1
    ] == "adapter other is not active: the model computes without it"
    assert state(model) == before
    with pytest.raises(ValueError, match="expected adapter 'third' in the model, found default, other, of which 1 active"):
        health(model, "third")
    with model.disable_adapter():
        assert "the adapters are switched off: the model computes as its base does" in health(model).notes
    with pytest.raises(ValueError, match="found none in its modules; give the live PeftModel"):
        health(llama())


def test_two_active_adapters_are_read_and_merged_together():
    model = adapted(CASES["lora"][0])
    model.add_adapter("other", peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["k_proj", "q_proj"]))
    model.base_model.set_adapter(["default", "other"])
    found = health(model)
    assert found.adapters == ("default", "other") and len(found.rows) == 8
    assert found.base_norm == pytest.approx(health_of_weights(model, ("q_proj", "k_proj", "v_proj")))
    assert merged_difference(model, batches()).difference < 1e-5
    with pytest.raises(ValueError, match="expected the health of one adapter, got default, other"):
        rank_pattern(found)
    twice = adapted(CASES["dora"][0])
    twice.add_adapter("other", peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"]))
    twice.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="DoRA alone on a module, got several active adapters at model.layers.0"):
        merged_difference(twice, batches())


def health_of_weights(model, endings):
    """The norm of all base weights of modules of these names."""
    return (
        sum(
            float(value.detach().norm().square())
            for name, value in model.named_parameters()
            if name.endswith("base_layer.weight") and name.split(".")[-3] in endings
        )
        ** 0.5
    )


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "vera"])
def test_weights_that_are_stored_turned_are_read_and_merged_turned(kind):
    """GPT-2 stores the transpose of what a linear map does."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=64, n_positions=16, attn_implementation="eager")
    turned = {"fan_in_fan_out": True}
    settings = {
        "lora": peft.LoraConfig(r=3, target_modules=["c_attn", "mlp.c_proj"], **turned),
        "dora": peft.LoraConfig(r=3, use_dora=True, target_modules=["c_attn", "mlp.c_proj"], **turned),
        "ia3": peft.IA3Config(target_modules=["mlp.c_proj"], feedforward_modules=["mlp.c_proj"], **turned),
        "vera": peft.VeraConfig(r=4, target_modules=["c_attn"], **turned),
    }
    model = adapted(settings[kind], GPT2LMHeadModel(config).eval())
    assert merged_difference(model, batches()).difference < 1e-5
    for row in health(model).rows:
        change, _ = dense(model, row)
        assert row.norm == pytest.approx(float(change.norm()), rel=1e-6)


@pytest.mark.parametrize("dora", [False, True])
def test_convolutions_are_read_and_merged(dora):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 1))
    model = adapted(peft.LoraConfig(r=2, use_dora=dora, target_modules=["0", "2"]), model)
    images = [torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))]
    found = merged_difference(model, images, lambda net, x: net(x).flatten(1))
    assert found.difference < 1e-5 < found.effect
    for row in health(model).rows:
        change, _ = dense(model, row)
        assert row.norm == pytest.approx(float(change.norm()), rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_the_pattern_gives_peft_exactly_these_ranks(share):
    """The smallest rank that keeps the share, and one less does not."""
    model = adapted(peft.LoraConfig(r=6, target_modules=["q_proj", "embed_tokens", "down_proj"]))
    found = health(model)
    pattern = rank_pattern(found, share)
    again = adapted(peft.LoraConfig(r=9, target_modules=["q_proj", "embed_tokens", "down_proj"], rank_pattern=pattern))
    assert {row.name: row.r for row in health(again).rows} == pattern
    assert (min(pattern.values()) < 6) == (share < 1)
    for row in found.rows:
        power = torch.tensor(row.singular_values, dtype=torch.float64).square()
        kept = power.cumsum(0) / power.sum()
        r = pattern[row.name]
        assert kept[r - 1] >= share - 1e-12 and (r == 1 or kept[r - 2] < share)


def test_a_key_that_would_match_two_modules_is_marked_as_whole():
    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q = torch.nn.Linear(8, 8)

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Inner(), torch.nn.ModuleDict({"a": Inner()})

        def forward(self, x):
            return self.a.q(x) + self.b["a"].q(x)

    model = adapted(peft.LoraConfig(r=4, target_modules=["q"]), Outer())
    with torch.no_grad():
        model.base_model.model.a.q.lora_B["default"].weight[:, 1:] = 0
        found = rank_pattern(health(model), 1.0)
    assert found == {r"^a\.q": 1, "b.a.q": 4}
    again = adapted(peft.LoraConfig(r=7, target_modules=["q"], rank_pattern=found), Outer())
    assert [row.r for row in health(again).rows] == [1, 4]


def test_patterns_are_refused_where_no_rank_can_be_told():
    still = health(adapted(CASES["lora"][0], trained=False))
    with pytest.raises(ValueError, match="whose factors are all untrained"):
        rank_pattern(still)
    with pytest.raises(ValueError, match="without low-rank factors"):
        rank_pattern(health(adapted(CASES["ia3"][0])))
    with pytest.raises(ValueError, match="above 0 and at most 1, got 0"):
        rank_pattern(still, 0)


@pytest.mark.parametrize("kind", MERGED)
def test_merged_and_unmerged_agree_in_float32(kind):
    model = adapted(CASES[kind][0])
    before = state(model)
    found = merged_difference(model, batches())
    assert found.difference < 1e-5 and found.effect > 20 * found.difference and found.dtype == torch.float32
    assert "no effect" not in found.notes[0] and state(model) == before
    with torch.no_grad():  # against what PEFT makes of it
        plain = model(**batches()[0]).logits
        merged = model.merge_and_unload()(**batches()[0]).logits
    assert float((plain - merged).abs().max()) < 1e-5


def test_a_difference_in_half_precision_is_stated_as_precision():
    """A base in bfloat16 under adapters in float32: tens of roundings at most, where float32 has 2^16 times less."""
    model = adapted(CASES["lora"][0], llama().bfloat16())
    before = state(model)
    found = merged_difference(model, batches())
    assert found.dtype == torch.bfloat16 and found.rounding == pytest.approx(2**-7 * found.logit)
    assert 1e-5 < found.difference < 20 * found.rounding
    assert found.notes[0].endswith("so the difference is the precision of bfloat16 and no effect of the adapter")
    assert state(model) == before


def test_a_shared_matrix_is_counted_once_and_merged_for_each_user():
    config = peft.LoraConfig(r=3, target_modules=["embed_tokens", "lm_head"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = adapted(config, llama(tied=True))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    found = health(model)
    assert {row.name for row in found.rows} == {"model.embed_tokens", "lm_head"}
    assert found.base_norm == pytest.approx(model.get_input_embeddings().weight.norm().item())
    assert found.base_parameters == llama(tied=True).num_parameters()
    assert len(found.notes) == 1 and "share one base matrix, which is counted once" in found.notes[0]
    assert merged_difference(model, batches()).difference < 1e-5
    alone = health(adapted(peft.LoraConfig(r=3, target_modules=["lm_head"]), llama(tied=True)))
    assert alone.notes == ("the base matrix of lm_head has another user, which is not adapted: untie them before merging",)


@pytest.mark.parametrize("form", ["4-bit", "8-bit"])
def test_quantised_weights_count_as_what_they_stand_for(form):
    """The packed tensors that bitsandbytes keeps, without its kernels."""
    model = adapted(CASES["lora"][0])
    for module in model.modules():
        if hasattr(module, "lora_A"):
            base = module.get_base_layer()
            shape = base.weight.shape
            packed = (
                torch.zeros(shape.numel() // 2, 1, dtype=torch.uint8) if form == "4-bit" else torch.zeros(shape, dtype=torch.int8)
            )
            base.weight = torch.nn.Parameter(packed, requires_grad=False)
            if form == "4-bit":
                base.weight.quant_state = types.SimpleNamespace(shape=shape)
            assert logical(base.weight) == shape.numel()
    found = health(model)
    assert found.base_parameters == llama().num_parameters() and {row.ratio for row in found.rows} == {None}
    assert [row.norm for row in found.rows] == [row.norm for row in health(adapted(CASES["lora"][0])).rows]
    assert "are quantised: their norms are not read" in found.notes[0]
    with pytest.raises(ValueError, match=r"got quantised ones at model\.layers\.0\.self_attn\.q_proj; load the base model whole"):
        merged_difference(model, batches())


def test_what_cannot_be_merged_is_refused():
    prefix = adapted(CASES["prefix"][0])
    with pytest.raises(ValueError, match="prefix tuning makes at prompt_encoder is not that of one weight"):
        merged_difference(prefix, batches())
    with pytest.raises(ValueError, match="^LOKR is not read"):
        merged_difference(adapted(CASES["lokr"][0]), batches())
    model = adapted(CASES["lora"][0])
    model.merge_adapter()
    with pytest.raises(ValueError, match="call unmerge_adapter first"):
        merged_difference(model, batches())
    assert "the adapter is merged: the base weights hold its change" in health(model).notes[0]
    with pytest.raises(ValueError, match="found none; set one active"):
        merged_difference(llama(), batches())
    biased = adapted(peft.LoraConfig(r=3, lora_bias=True, **QV))
    with pytest.raises(ValueError, match="LoRA with a bias makes at"):
        merged_difference(biased, batches())


def test_a_forward_with_dropout_and_numbers_that_are_not_finite_are_refused():
    model = adapted(peft.LoraConfig(r=3, lora_dropout=0.5, **QV)).train()
    with pytest.raises(ValueError, match=r"batches\[0\]: forward draws random numbers"):
        merged_difference(model, batches())
    with torch.no_grad():
        model.base_model.model.model.layers[1].self_attn.v_proj.lora_A["default"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"adapter default at model\.layers\.1\.self_attn\.v_proj, got NaN"):
        health(model)
