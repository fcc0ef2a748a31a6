"""Any live model is attached as it is: its own loss, the curvature of dense autograd, whatever the padding and the cut."""

import copy
import hashlib

import pytest
import torch
import transformers
from adapted import unrounded
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from probes.layout import flatten, unflatten
from probes.live.attached import attach

VOCABULARY = 40
SMALL = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)


def gpt2(**own):
    made = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, **own)
    return transformers.GPT2LMHeadModel(made)


def llama(**own):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1, **own))


def gemma2():
    config = transformers.Gemma2Config(
        **SMALL, intermediate_size=24, num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0, query_pre_attn_scalar=8
    )
    return transformers.Gemma2ForCausalLM(config)


def t5():
    config = transformers.T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config)


def bert_tokens():
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, intermediate_size=24))


def adapted(model, targets, **own):
    found = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **own))
    return found.eval()


MODELS = {
    "gpt2": lambda: adapted(gpt2(), ["c_attn"]),
    "llama": lambda: adapted(llama(tie_word_embeddings=True), ["q_proj", "v_proj"]),
    "adapted head": lambda: adapted(llama(), ["q_proj", "lm_head"]),
    "soft cap": lambda: adapted(gemma2(), ["q_proj", "down_proj"]),
    "t5": lambda: adapted(t5(), ["q"]),
    "masked": lambda: adapted(bert_tokens(), ["query", "value"]),
}


def sequences(sizes, left=False, seed=0):
    """One batch of sequences of these lengths, the last two thirds of each their response."""
    generator = torch.Generator().manual_seed(seed)
    most = max(sizes)
    ids, mask, labels = torch.ones(len(sizes), most, dtype=torch.int64), torch.zeros(len(sizes), most, dtype=torch.int64), None
    labels = torch.full_like(ids, -100)
    for i, n in enumerate(sizes):
        part = slice(most - n, most) if left else slice(0, n)
        text = torch.randint(2, VOCABULARY, (n,), generator=generator)
        ids[i, part], mask[i, part] = text, 1
        labels[i, part] = torch.where(torch.arange(n) >= n // 3, text, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def rows(batch, *parts):
    return [{k: v[list(part)] for k, v in batch.items()} for part in parts]


def dense(model, batch, attached):
    """The Hessian of the mean cross entropy of the model's logits by plain double backward in float64."""
    model = copy.deepcopy(model).double().eval()
    shapes, shift = {k: v.shape for k, v in attached.params.items()}, int(attached.kind == "next token")

    def loss(v):  # the model's own loss is this one in float32
        z = functional_call(model, unflatten(v, shapes), (), batch).logits
        return cross_entropy(z[:, : z.shape[1] - shift].flatten(0, 1), batch["labels"][:, shift:].flatten())

    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(loss, flatten(attached.params).double())


def products(attached):
    """The Hessian's products with three fixed vectors."""
    op = attached.hessian()
    return op @ torch.randn(op.shape[0], 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(op.dtype)


def digest(model):
    found = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        found.update(name.encode() + x.detach().cpu().float().numpy().tobytes())
    flags = [(n, id(p), p.dtype, p.requires_grad, p.grad is None) for n, p in model.named_parameters()]
    return found.hexdigest(), flags, [part.training for part in model.modules()]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_curvature_are_those_of_the_model_itself(name):
    """Value, Hessian and Gauss-Newton matrix equal dense autograd's on the model's own loss; the model stays bit-identical."""
    model, batch = MODELS[name](), sequences((9, 6, 8))
    model.train()
    before = digest(model)
    attached = attach(model, [batch], dtype=torch.float64)
    found = attached.hessian().dense()
    exact = dense(model, batch, attached)
    # Hugging Face's RMS normalisations compute in float32 whatever the model is in
    eps = 1e-12 if name in ("gpt2", "masked") else 5e-6
    torch.testing.assert_close(found, exact, rtol=0, atol=eps * float(exact.abs().max()))
    with torch.no_grad():
        own = float(copy.deepcopy(model).double().eval()(**batch).loss)
    assert attached.mean_loss() == pytest.approx(own, rel=1e-6)
    straight = attached.gauss_newton().dense()
    bent = _by_outputs(attached)
    torch.testing.assert_close(straight, bent, rtol=0, atol=1e-9 * float(bent.abs().max()))
    assert digest(model) == before


def _by_outputs(attached):
    """J'(diag p - pp')J / n from the Jacobian of the logits."""
    from probes import gauss_newton

    return gauss_newton(attached.outputs, attached.criterion, attached.params, attached.batches, weights=attached.weights).dense()


@pytest.mark.parametrize("reduction", ("token", "sequence", "sum"))
@pytest.mark.parametrize("name", ("gpt2", "llama"))
def test_cut_order_and_padding_change_nothing(name, reduction):
    """Any cut into batches, any order and either padding give one Hessian, in every reduction."""
    model, sizes = MODELS[name](), (9, 6, 8, 5)
    whole = sequences(sizes)
    found = [
        products(attach(model, batches, reduction=reduction, dtype=torch.float64))
        for batches in ([whole], rows(whole, (0,), (1, 2, 3)), rows(whole, (3, 1), (2, 0)), [sequences(sizes, left=True)])
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-6 * float(found[0].abs().max()))
    tokens = products(attach(model, [whole], dtype=torch.float64))
    assert (reduction == "token") == bool((tokens - found[0]).abs().max() < 1e-6 * found[0].abs().max())


def test_sequence_mean_and_sum_are_what_they_say():
    """The reductions are the mean over sequences of the mean, and of the sum, over a sequence's response."""
    model, batch = MODELS["gpt2"](), sequences((9, 6))
    each = [attach(model, rows(batch, (i,))).mean_loss() for i in range(2)]
    n = [len(x) for x in (torch.cat(attach(model, rows(batch, (i,))).losses()) for i in range(2))]
    assert attach(model, [batch], reduction="sequence").mean_loss() == pytest.approx(sum(each) / 2, rel=1e-6)
    total = sum(e * k for e, k in zip(each, n, strict=True))
    assert attach(model, [batch], reduction="sum").mean_loss() == pytest.approx(total / 2, rel=1e-6)
    assert attach(model, [batch]).mean_loss() == pytest.approx(total / sum(n), rel=1e-6)


def test_sequences_without_labels_are_named():
    """A batch of masked rows, and one masked row among others, are refused by number; nothing becomes NaN."""
    batch = sequences((9, 6, 8))
    batch["labels"][1] = -100
    with pytest.raises(ValueError, match=r"batches\[1\].*row 1 of 3"):
        attach(MODELS["gpt2"](), [sequences((4, 5, 6)), batch])
    batch["labels"][:] = -100
    with pytest.raises(ValueError, match=r"batches\[0\].*rows 0, 1, 2 of 3"):
        attach(MODELS["gpt2"](), [batch])
    first = sequences((9, 6))
    first["labels"][0, 1:] = -100
    first["labels"][0, 0] = 3  # a next-token loss never reads the first label
    with pytest.raises(ValueError, match="row 0 of 2 beyond the first token"):
        attach(MODELS["gpt2"](), [first])
    padded = sequences((9, 6))
    padded["labels"][1] = padded["input_ids"][1]
    with pytest.raises(ValueError, match="attention mask is 0, got 3"):
        attach(MODELS["gpt2"](), [padded])


def test_loaders_encodings_and_strings_are_taken():
    """A DataLoader of dicts, a BatchEncoding and keys that the model does not take give the numbers of plain dicts."""
    model, batch = MODELS["gpt2"](), sequences((9, 6, 8, 5))
    plain = products(attach(model, rows(batch, (0, 1), (2, 3))))
    examples = [{k: v[i] for k, v in batch.items()} for i in range(4)]
    loader = DataLoader(examples, batch_size=2)
    encoded = [transformers.BatchEncoding({**b, "text": ["a", "b"], "row": torch.arange(2)}) for b in rows(batch, (0, 1), (2, 3))]
    for given in (loader, encoded):
        assert torch.equal(products(attach(model, given)), plain)


@pytest.mark.parametrize("implementation", ("eager", "sdpa"))
def test_attention_of_any_kind_gives_the_cross_entropys_hessian(implementation, monkeypatch):
    """A Llama whose norms compute in float64 gives the dense Hessian at the weights to 1e-8, under sdpa as under eager."""
    monkeypatch.setattr(transformers.models.llama.modeling_llama.LlamaRMSNorm, "forward", unrounded)
    model, batch = llama(attn_implementation=implementation).requires_grad_(False), sequences((9, 6))
    for name, x in model.named_parameters():
        x.requires_grad_("q_proj" in name or "layers.1.mlp.up_proj" in name)
    attached = attach(model, [batch], dtype=torch.float64)
    exact = dense(model, batch, attached)
    torch.testing.assert_close(attached.hessian().dense(), exact, rtol=0, atol=1e-8 * float(exact.abs().max()))


def test_shared_modules_are_counted_once():
    """A module used by two paths has one set of numbers, whose gradient is the sum over both uses."""
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(3, 2))
    before, x, t = digest(model), torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    attached = attach(model, [(x, t)], loss=lambda y, batch: cross_entropy(y, batch[1]), dtype=torch.float64)
    assert list(attached.params) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    twin = copy.deepcopy(model).double()

    def loss(v):
        values = unflatten(v, {k: p.shape for k, p in attached.params.items()})
        return cross_entropy(functional_call(twin, values, (x.double(),)), t)

    exact = torch.autograd.functional.hessian(loss, flatten(attached.params))
    torch.testing.assert_close(attached.hessian().dense(), exact, rtol=0, atol=1e-14)
    assert digest(model) == before


def test_checkpointing_is_switched_off_or_refused():
    """Gradient checkpointing changes no number; a prefix under it, which was never trained, is refused."""
    batch = sequences((9, 6))
    model = MODELS["llama"]()
    plain = products(attach(model, [batch]))
    model.get_base_model().gradient_checkpointing_enable()
    model.train()
    assert torch.equal(products(attach(model, [batch])), plain)
    prefixed = get_peft_model(llama(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert attach(prefixed, [batch]).hessian().shape[0] == prefixed.prompt_encoder["default"].embedding.weight.numel()
    prefixed.get_base_model().gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="prefix without gradient checkpointing"):
        attach(prefixed, [batch])


def test_virtual_tokens_stand_in_front():
    """A prompt of virtual tokens moves no label: the loss is the model's own."""
    model = get_peft_model(gpt2(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    batch = sequences((9, 6))
    with torch.no_grad():
        assert attach(model, [batch]).mean_loss() == pytest.approx(float(model(**batch).loss), rel=1e-6)


def test_coarse_bases_say_so_and_compute_finely_on_demand():
    """A bfloat16 base with a float32 adapter gives a product that is rounded, by a few times its own eps."""
    fine = MODELS["llama"]()
    coarse = copy.deepcopy(fine)
    for name, x in coarse.named_parameters():
        if "lora_" not in name:
            x.data = x.data.bfloat16()
            fine.get_parameter(name).data = x.data.float()
    batch = sequences((9, 6, 8))
    rounded, exact, demanded = (
        attach(m, [batch], dtype=dtype).hessian() for m, dtype in ((coarse, None), (fine, None), (coarse, torch.float32))
    )
    assert rounded.status == "rounded in bfloat16" and demanded.status == "exact"
    assert rounded.dtype == torch.float32
    v = torch.randn(exact.shape[0])
    assert torch.equal(demanded @ v, exact @ v)
    gap = float((rounded @ v - exact @ v).norm() / (exact @ v).norm())
    assert 0 < gap < 4 * torch.finfo(torch.bfloat16).eps  # a few roundings on the way through two blocks


def test_loaded_adapters_are_measured_without_asking(tmp_path):
    """A PEFT folder that was loaded for inference is measured in its active adapter, and says so."""
    trained = MODELS["gpt2"]()
    trained.save_pretrained(tmp_path)
    torch.manual_seed(0)
    base = MODELS["gpt2"]().unload()
    loaded = PeftModel.from_pretrained(base, tmp_path)
    loaded.add_adapter("other", LoraConfig(r=2, target_modules=["c_attn"]))
    loaded.set_adapter("default")
    loaded.requires_grad_(False)
    attached = attach(loaded, [sequences((9, 6))])
    assert set(attached.params) == {n for n, _ in trained.named_parameters() if "lora_" in n}
    assert "requires gradients" in attached.notes[0]
    with pytest.raises(ValueError, match="no PEFT adapter"):
        attach(gpt2().requires_grad_(False), [sequences((9, 6))])
    with pytest.raises(ValueError, match="matches none"):
        attach(loaded, [sequences((9, 6))], params="*lore*")


def test_classifiers_and_regressions_are_recognised():
    """Labels (B,) of a classifier and of a regression give the model's own loss; labels outside the classes are named."""
    for count, labels in ((3, torch.tensor([0, 2, 1])), (1, torch.tensor([0.3, -1.0, 2.0]))):
        config = transformers.BertConfig(**SMALL, intermediate_size=24, num_labels=count)
        model = transformers.BertForSequenceClassification(config).eval()
        model = get_peft_model(
            model, LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
        ).eval()
        batch = sequences((9, 6, 8)) | {"labels": labels}
        attached = attach(model, [batch])
        with torch.no_grad():
            assert attached.mean_loss() == pytest.approx(float(model(**batch).loss), rel=1e-6)
        assert attached.response().shape == (3, count, attached.size)
    batch["labels"] = torch.tensor([0, 3, 1])
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, intermediate_size=24, num_labels=3))
    with pytest.raises(ValueError, match=r"batches\[0\].*between 0 and 2, got 3"):
        attach(model, [batch])


def test_a_loss_of_no_known_kind_is_refused():
    """A model whose own loss is not the cross entropy of its labels is not guessed at; neither is a quantised one."""

    class Smoothed(transformers.GPT2LMHeadModel):
        def forward(self, input_ids=None, attention_mask=None, labels=None, position_ids=None, use_cache=None):
            found = super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
            if found.loss is not None:
                found.loss = 0.5 * found.loss
            return found

    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    with pytest.raises(ValueError, match="whose loss is the cross entropy"):
        attach(Smoothed(config), [sequences((9, 6))])
    model = MODELS["gpt2"]()
    held = model.get_base_model().transformer.h[0].mlp.c_fc
    held.weight = nn.Parameter(held.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="quantised"):
        attach(model, [sequences((9, 6))])


def test_responses_of_tokens_are_their_derivatives():
    """G of the labels' log-probabilities, and of a verbaliser's logits, is the Jacobian of the model's own logits."""
    model, batch = MODELS["gpt2"](), sequences((9, 6))
    attached = attach(model, [batch], dtype=torch.float64)
    twin = copy.deepcopy(model).double().eval()
    shapes = {k: v.shape for k, v in attached.params.items()}
    first = (batch["labels"] != -100).int().argmax(1) - 1

    def logits(v):
        return functional_call(twin, unflatten(v, shapes), (), {k: x for k, x in batch.items() if k != "labels"}).logits

    def scored(v):
        z = logits(v).log_softmax(-1)[:, :-1]
        t = batch["labels"][:, 1:]
        return z.gather(-1, t.clamp(min=0)[..., None])[..., 0][t != -100]

    point = flatten(attached.params)
    found, exact = attached.response(), torch.autograd.functional.jacobian(scored, point)
    kept = found.outputs != 0
    torch.testing.assert_close(found.matrix[kept], exact, rtol=0, atol=1e-12 * float(exact.abs().max()))
    assert not found.matrix[~kept].any() and kept.sum() == len(exact)
    words = attached.response(words=[3, 7])
    exact = torch.autograd.functional.jacobian(lambda v: logits(v)[torch.arange(2), first][:, [3, 7]], point)
    torch.testing.assert_close(words.matrix, exact, rtol=0, atol=1e-12 * float(exact.abs().max()))
