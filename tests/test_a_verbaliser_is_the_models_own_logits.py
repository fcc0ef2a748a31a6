"""A verbaliser's logits are the language model's own at the words behind the template, and what has no such words is refused."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.t5.modeling_t5 import T5LayerNorm
from zoo import DELTAS, moved
from zoo import backbone_of as tiny

from tuning import LoRA, load, prepare
from tuning.tasks.task import Split, make_task
from tuning.training import fit, penalized
from tuning.verbalisers import output_embedding, verbaliser
from validations import plan
from validations import study as studies
from validations.claims import named
from validations.claims.tuned.experiment import _shuffled_blocks
from validations.describe import describe

ASKED = "Review: {text}\nSentiment:"
TEXTS = tuple(f"film {i} was {'a good' if i % 2 else 'a bad'} one" for i in range(60))
LABELS = [i % 2 for i in range(60)]


def task_of(texts=TEXTS, labels=LABELS, pairs=None, classes=("bad", "good")):
    """A task of these texts, forty to train on."""
    rows = Split(texts, pairs, labels)
    return make_task("films", "t", classes, {"train": rows.rows(range(40)), "test": rows.rows(range(40, 60))}, "made here")


def tokenizer_of(special):
    """A tokenizer of bytes, of a few words and of special tokens, the first of which are at the lowest numbers."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special)
    made.train_from_iterator(["a good a bad film was good bad good bad"] * 9, trainer)
    return made


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    """The folder of a random causal language model with a tokenizer of bytes and of a few words."""
    made = tokenizer_of(["<e>"])
    config = LlamaConfig(
        vocab_size=290, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
        tie_word_embeddings=request.param, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(config, dtype=torch.float64).save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<e>").save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=["relu", "gated-gelu"], ids=["v1.0", "v1.1"])
def seq2seq(request, tmp_path_factory):
    """The folder of a random T5, 1.0 with a tied head or 1.1 with a head of its own, whose texts end in </s>."""
    made, tied = tokenizer_of(["<pad>", "</s>"]), request.param == "relu"
    made.post_processor = TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    config = T5Config(
        vocab_size=290, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=4, initializer_factor=2.0,
        feed_forward_proj=request.param, tie_word_embeddings=tied, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    path, model = tmp_path_factory.mktemp("t5"), AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float64)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(290, 16, dtype=torch.float64))
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", model_max_length=64).save_pretrained(path)
    return path


def loaded(folder):
    return load(str(folder), dtype=torch.float64)


def own_logits(folder, prompts, words, dtype=torch.float64):
    """The causal language model's next-token logits of some words, one prompt at a time and no padding."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer(word)["input_ids"][0] for word in words]
    with torch.no_grad():
        return torch.stack([model(torch.tensor([tokenizer(p)["input_ids"]])).logits[0, -1, tokens] for p in prompts])


def test_logits_are_the_language_models_own(folder):
    """Tied or untied, whatever padding a batch adds: equal to the rounding of the normalisations, which compute in float32."""
    given = prepare(loaded(folder), task_of(), seed=0, head="verbaliser", template=ASKED)
    made = given.subject(LoRA(2), 0)
    prompts = [ASKED.format(text=text) for text in given.parts.test.text_a]
    expected = own_logits(folder, prompts, (" bad", " good"))
    torch.testing.assert_close(made.outputs(made.initial, given.test), expected, rtol=0, atol=3e-6)
    assert expected.std(0).min() > 1e-2
    assert len(given.parts.readout) == 0 and len(given.parts.train) == 40


def test_an_encoder_decoder_says_its_words_first(seq2seq, monkeypatch):
    """The logits of what the decoder says first are the library's, one prompt at a time and without padding.

    Its normalisation is spared the rounding to float32, which unscaled scores make a hundred times larger.
    """
    exact = lambda own, x: own.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + own.variance_epsilon)  # noqa: E731
    monkeypatch.setattr(T5LayerNorm, "forward", exact)
    given = prepare(loaded(seq2seq), task_of(), seed=0, head="verbaliser", template=ASKED)
    made = given.subject(LoRA(2), 0)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(seq2seq, dtype=torch.float64), AutoTokenizer.from_pretrained(seq2seq)
    tokens = [tokenizer(word)["input_ids"][0] for word in ("bad", "good")]
    assert given.verbaliser.tokens == (*tokens,)
    expected = []
    for text in given.parts.test.text_a:
        asked = torch.tensor([tokenizer(ASKED.format(text=text))["input_ids"]])
        with torch.no_grad():
            expected.append(model.eval()(input_ids=asked, decoder_input_ids=torch.tensor([[0]])).logits[0, 0, tokens])
    torch.testing.assert_close(made.outputs(made.initial, given.test), torch.stack(expected), rtol=0, atol=1e-11)
    assert torch.stack(expected).std(0).min() > 1e-3


@pytest.mark.parametrize("name", ["lora", "adapter", "prefix", "bitfit", "full"])
def test_deltas_of_both_stacks_are_trained(seq2seq, name):
    """Each lowers the loss of a few texts at the model's own words, with slopes in both stacks."""
    given = prepare(loaded(seq2seq), task_of(), seed=0, train=8, test=4, head="verbaliser", template=ASKED, length=40)
    made = given.subject(DELTAS[name], 0)
    params = {key: value.requires_grad_() for key, value in moved(made.initial, 1e-2).items()}
    slopes = torch.autograd.grad(made.loss(params, given.train), list(params.values()))
    blocks = {key.partition(".")[0] for key, slope in zip(params, slopes, strict=True) if slope.abs().max() > 1e-9}
    assert blocks >= {"0", "1", "2"}
    reached = fit(penalized(made, [given.train], 0.0), made.initial, max_evaluations=16)
    assert float(made.loss(reached.params, given.train)) < 0.9 * float(made.loss(made.initial, given.train))


def test_the_installed_model_reads_its_own_words():
    """SmolLM2 in float32: logits near 16 differ by sums of 576 products in another order, 1e-4 at most."""
    path = Path(sys.prefix) / "share" / "costate" / "smollm2"
    if not path.is_dir():
        pytest.skip("SmolLM2-135M-Instruct is not installed: run make smollm2")
    task = task_of(classes=("negative", "positive"))
    given = prepare(load("smollm2"), task, seed=0, train=2, test=2, head="verbaliser", template=ASKED)
    made = given.subject(LoRA(2), 0)
    prompts = [ASKED.format(text=text) for text in given.parts.test.text_a]
    expected = own_logits(path, prompts, (" negative", " positive"), torch.float32)
    torch.testing.assert_close(made.outputs(made.initial, given.test).detach(), expected, rtol=0, atol=1e-4)


def test_a_long_text_is_cut_and_the_template_is_not(folder):
    """Every prompt ends as the template does, fits, and would not fit with one letter more."""
    backbone, long = loaded(folder), "the film was a long one, " * 9
    task = task_of(tuple(f"{i} {long}" for i in range(60)), pairs=tuple(f"{i} short" for i in range(60)))
    asked = verbaliser(backbone, task, template="{text_a}|{text_b}:")
    batch = asked.encoded(backbone, task.splits["test"], length=40)
    for row, mask, number in zip(batch.tokens, batch.mask, range(40, 60), strict=True):
        told = backbone.tokenizer.decode(row[mask].tolist())
        first, second = told.split("|")
        assert f"{number} {long}".startswith(first) and second == f"{number} short:" and len(first) > 5
        more = f"{(f'{number} {long}')[: len(first) + 1]}|{second}"
        assert mask.sum() <= 40 < len(backbone.tokenizer(more)["input_ids"])


def test_a_word_of_several_tokens_is_read_at_its_first_and_said(folder):
    """The note names the word and the token."""
    asked = verbaliser(loaded(folder), task_of(), words=("bad", "zeal"))
    (note,) = asked.notes
    assert "'zeal' of films has" in note and "read at the first" in note


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"template": "no text:"}, "expected a template with {text}"),
        ({"template": "{text} {other}:"}, "expected a template with {text}"),
        ({"template": "{text_a}:"}, "expected a template with {text}"),
        ({"template": "{text:"}, "write braces twice"),
        ({"words": ("bad",)}, "a word for each of films's classes bad, good, got 1 words"),
        ({"words": ("zeal", "zoo")}, "differ in their first token, 'zeal' and 'zoo' share"),
        ({"words": (" ", "good")}, "expected ' ' as tokens of its own"),
        ({"template": "{text} "}, "end the template without a space"),
    ],
)
def test_refused(folder, options, says):
    """One sentence that says what was expected, what came and what to do."""
    with pytest.raises(ValueError, match=says) as caught:
        verbaliser(loaded(folder), task_of(), **options)
    assert "\n" not in str(caught.value)


def test_models_without_words_are_refused(folder, tmp_path):
    """Encoders, base models saved alone, models of no file, and logits that are bent behind the output embedding."""
    with pytest.raises(ValueError, match="expected a decoder for a verbaliser, got tiny-bert, an encoder"):
        verbaliser(tiny("bert"), task_of())
    with pytest.raises(ValueError, match="linear in the last state, tiny-gemma2 has final_logit_softcapping"):
        output_embedding(tiny("gemma2"))
    backbone = loaded(folder)
    if backbone.model.config.tie_word_embeddings:
        return
    with pytest.raises(ValueError, match="expected tiny-llama with its output embedding, it cannot be read"):
        output_embedding(tiny("llama"))
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its file lacks lm_head.weight; use a fitted head"):
        output_embedding(load(str(tmp_path)))


def test_a_head_that_a_t5_lacks_is_refused(seq2seq, tmp_path):
    """A base model of T5 1.1 saved alone has lost its head; that of 1.0 has it in its embedding."""
    AutoModel.from_pretrained(seq2seq).save_pretrained(tmp_path)
    backbone = loaded(seq2seq)
    backbone.tokenizer.save_pretrained(tmp_path)
    alone = load(str(tmp_path), dtype=torch.float64)
    if backbone.architecture == "t5":
        assert torch.equal(output_embedding(alone)[0], output_embedding(backbone)[0])
    else:
        with pytest.raises(ValueError, match="its file lacks lm_head.weight; use a fitted head"):
            output_embedding(alone)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "words"}, "expected a head that is fitted or verbaliser, got 'words'"),
        ({"words": ("x", "y")}, "with the head 'verbaliser' only"),
        ({"template": "no text"}, "expected a template with {text}"),
        ({"readout": 0}, "at least one text to fit the head on"),
        ({"head": "verbaliser", "template": ASKED, "length": 9}, "leaves room for text beside the template's"),
    ],
)
def test_preparing_refuses(folder, options, says):
    """Before anything is trained."""
    with pytest.raises(ValueError, match=says):
        _ = prepare(loaded(folder), task_of(), seed=0, **options).train


STUDY = """
name = "words"
title = "t"
question = "q?"
backbone = {backbone}
tasks = [{task}]
seeds = [0]
claims = ["practice-gain"]
{more}
[deltas]
lora = {{ kind = "LoRA", rank = 2 }}
[sizes]
train = 8
test = 8
[parts.practice.options]
dev = 4
head = "frozen"
"""


def written(tmp_path, folder, more):
    """A study of the model on a folder of films."""
    data = tmp_path / "films"
    data.mkdir(exist_ok=True)
    for name, rows in {"train": range(40), "test": range(40, 60)}.items():
        lines = [json.dumps({"text": TEXTS[i], "label": ("bad", "good")[LABELS[i]]}) for i in rows]
        (data / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    path = tmp_path / "words.toml"
    text = STUDY.format(backbone=json.dumps(str(folder)), task=json.dumps(str(data)), more=more)
    path.write_text(text, encoding="utf-8")
    return studies.read(str(path))


def test_a_study_asks_each_task_as_its_prompt_says(folder, tmp_path):
    """The task's own prompt, else the default one; another prompt is another cell."""
    asked = (
        'head = "verbaliser"\n[prompts.films]\ntemplate = "Review: {text}\\nSentiment:"\n[prompts.default]\nwords = ["x", "y"]'
    )
    study = written(tmp_path, folder, asked)
    assert (
        study.prompt_of("films").template == ASKED and study.prompt_of("other").words == ("x", "y") and study.sizes.readout == 0
    )
    keys = []
    for made in (study, dataclasses.replace(study, prompts={"films": studies.Prompt("{text}:")})):
        (job,) = (job for kind, job in plan.jobs(made, [named("practice-gain")], tmp_path) if kind == "practice")
        keys.append(job.key)
        given = plan.prepared(job.settings, str(tmp_path))
        assert given.verbaliser.template == made.prompt_of("films").template and given.test.labels.shape == (8,)
    assert keys[0] != keys[1]


def test_a_study_of_an_encoder_decoder_is_planned(seq2seq, tmp_path):
    """Its cells on outputs have keys and texts; those that read states token by token are refused before any is run."""
    study = written(tmp_path, seq2seq, 'head = "verbaliser"')
    (job,) = (job for kind, job in plan.jobs(study, [named("practice-gain")], tmp_path) if kind == "practice")
    assert plan.prepared(job.settings, str(tmp_path)).subject(LoRA(2), 0).ports[4:] == ("2.attention", "2.cross", "2.mlp")
    with pytest.raises(ValueError, match="one stack of blocks for cells of the kind 'feedback', .* an encoder-decoder"):
        plan.jobs(dataclasses.replace(study, deltas=studies.read("feedback").deltas), [named("shared-gain")], tmp_path)


def test_blocks_change_places_with_their_like():
    """The null of a delta's profile keeps what an encoder and what a decoder hold, and moves both."""
    labels = [f"{block}.{site}" for block in (0, 1) for site in ("attention", "mlp")]
    labels += [f"{block}.{site}" for block in (2, 3) for site in ("attention", "cross", "mlp")]
    moved = _shuffled_blocks(labels, np.arange(10.0), np.random.default_rng(0))
    assert moved.tolist() == [2, 3, 0, 1, 7, 8, 9, 4, 5, 6]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('head = "words"', "expected head to be one of fitted, verbaliser"),
        ('[prompts.films]\ntemplate = "{text}:"', "set head"),
        ('head = "verbaliser"\n[prompts.films]\ntemplates = "{text}:"', "unknown key 'templates' in prompts.films"),
        ('head = "verbaliser"\n[prompts]\nfilms = "{text}:"', "expected tables under prompts"),
    ],
)
def test_a_study_is_refused(folder, tmp_path, more, says):
    """When it is read."""
    with pytest.raises(ValueError, match=says):
        written(tmp_path, folder, more)


def test_a_reader_is_told_how_the_model_was_asked(folder, tmp_path):
    """The settings name the head, every template and the words; under a fitted head they name none."""
    asked = 'head = "verbaliser"\n[prompts.films]\ntemplate = "Review: {text}\\nSentiment:"\nwords = ["bad", "good"]'
    told = describe(written(tmp_path, folder, asked), tmp_path, {})["settings"]
    assert told["head"] == "verbaliser" and told["prompt of films"] == f"{ASKED!r} 'bad' 'good'"
    assert "head" not in describe(dataclasses.replace(written(tmp_path, folder, ""), tasks=("tense",)), tmp_path, {})["settings"]
