"""SmolLM2-135M-Instruct is converted to the numbers that its package stands for, or refused in one sentence."""

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuning import encode, features, load
from tuning.shipped import folder_of


@pytest.fixture(scope="module")
def folder():
    """The converted folder."""
    try:
        return folder_of("smollm2")
    except ValueError as error:
        pytest.skip(str(error))


def test_a_model_that_is_not_installed_is_refused_with_the_command(monkeypatch, tmp_path):
    """An environment without the folder names the make target."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ValueError, match=r"^expected SmolLM2-135M-Instruct .* found none; run make smollm2$"):
        load("smollm2")


def test_weights_that_are_others_are_refused(monkeypatch, tmp_path):
    """Neither a truncated file nor other numbers of the right names pass for the conversion."""
    from safetensors.torch import save_file

    made = tmp_path / "share" / "costate" / "smollm2"
    made.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    save_file({"model.embed_tokens.weight": torch.ones(3, 2)}, made / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected SmolLM2 weights with sha256 .*, got [0-9a-f]{64}; run make smollm2$"):
        load("smollm2")
    (made / "model.safetensors").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"got a damaged file .*; run make smollm2$"):
        load("smollm2")


def test_prompts_and_responses_have_the_published_numbers_of_tokens(folder):
    """The chat template puts 37 tokens in front of a response of 4."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "What is the capital of Italy?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "Rome."}])["input_ids"]
    assert (len(prompt), len(whole) - len(prompt)) == (37, 4) and whole[:37] == prompt


@pytest.mark.slow
def test_it_knows_the_capital_of_france(folder):
    """A model whose heads were permuted wrongly does not answer in sentences."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    made = model.generate(**tokens, max_new_tokens=12, do_sample=False)
    assert "The capital of France is Paris" in tokenizer.decode(made[0, tokens["input_ids"].shape[1] :])


@pytest.mark.slow
def test_the_backbone_has_the_states_of_the_language_model(folder):
    """What `load` gives is the language model without its head."""
    backbone = load("smollm2")
    assert (backbone.kind, backbone.blocks, backbone.width, backbone.heads, backbone.key_value_heads) == (
        "decoder",
        30,
        576,
        9,
        3,
    )
    batch = encode(backbone, ["The capital of France is"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits, state = model(batch.tokens).logits[0, -1], features(backbone, batch)
        assert (model.lm_head(state)[0] - logits).abs().max() < 1e-3 * logits.abs().max()
    assert backbone.tokenizer.decode(logits.argmax()).strip() == "Paris"
