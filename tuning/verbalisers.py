"""A language model's own words as its classes: its map from states to tokens, read at one word of every class."""

from __future__ import annotations

import bisect
import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from tuning.backbones import Backbone, Batch, encode, positions_left, quiet
from tuning.shipped import SHIPPED, folder_of
from tuning.subjects import Readout
from tuning.tasks import Split, Task

TEMPLATE = "{text}\nLabel:"


@dataclass(frozen=True, eq=False)
class Verbaliser:
    """A template around every text, a word of every class behind it, and the language model's logits of these words.

    tokens: the one token of each word that is read, its first. readout: the rows of the output embedding at the tokens, as
    they are. notes: what a reader must know of words that have more tokens.
    """

    template: str
    words: tuple[str, ...]
    tokens: tuple[int, ...]
    readout: Readout = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of template, tokens and the readout's numbers."""
        made = hashlib.sha256(repr((self.template, self.tokens)).encode())
        for values in (self.readout.weight, self.readout.bias):
            made.update(values.to("cpu", torch.float32).numpy().tobytes())
        return made.hexdigest()[:16]

    def encoded(self, backbone: Backbone, split: Split, *, length: int) -> Batch:
        """Return the batch of a split's texts in the template (see `in_template`)."""
        return in_template(backbone, self.template, split, length=length)


def in_template(backbone: Backbone, template: str, split: Split, *, length: int) -> Batch:
    """Return the batch of a split's texts in a template.

    Of a text too long for `length` tokens the end is cut, not the template's; of a pair, both are cut after so many letters.
    Raises ValueError for a length that leaves no room for text.
    """
    limit = min(length, positions_left(backbone))
    pairs = [None] * len(split) if split.text_b is None else split.text_b
    texts = [_fitted(backbone, template, *texts, limit) for texts in zip(split.text_a, pairs, strict=True)]
    return encode(backbone, texts, labels=split.labels, length=limit)


def _fitted(backbone: Backbone, template: str, text: str, pair: str | None, limit: int) -> str:
    """Return the longest prompt of at most `limit` tokens, each of its texts cut after so many letters."""

    def prompt(letters: int) -> str:
        return prompted(template, text[:letters], None if pair is None else pair[:letters])

    longest = max(len(text), len(pair or ""))
    if len(_ids(backbone, prompt(longest))) <= limit:
        return prompt(longest)
    letters = bisect.bisect_right(range(longest), limit, key=lambda n: len(_ids(backbone, prompt(n)))) - 1
    if letters < 1:
        needs = len(_ids(backbone, prompt(0)))
        raise ValueError(f"expected a length that leaves room for text beside the template's {needs} tokens, got {limit}")
    return prompt(letters)


def prompted(template: str, text: str, pair: str | None = None) -> str:
    """Return a template filled with a text or a pair: {text} is the pair in two lines, {text_a} and {text_b} are its texts."""
    whole = text if pair is None else f"{text}\n{pair}"
    return template.format(text=whole, text_a=text, text_b=pair)


def verbaliser(backbone: Backbone, task: Task, *, template: str | None = None, words: Sequence[str] | None = None) -> Verbaliser:
    """Return a task's classes as words of the decoder itself: y_c = w_c'h, h the last token's state, w_c the word's row.

    That is the language model's next-token logit of the word behind the template (default: "{text}\\nLabel:"), its first
    token where it has several, so zero-shot prompting (Schick and Schuetze 2021, section 3). In an encoder-decoder h is the
    state behind the decoder's start token, and the word the first of what it says (Raffel et al. 2020, section 2.4). words: one
    for every class in the task's order, by default the classes' names; a space is put in front where the template ends in none.
    Raises ValueError for an encoder, a model without output embedding or with more behind it, a template without {text}, and
    words that are not one a class, run into the template's end or share their first token.
    """
    if backbone.kind == "encoder":
        raise ValueError(f"expected a decoder for a verbaliser, got {backbone.name}, an {backbone.kind}; use a fitted head")
    template, words = template or TEMPLATE, tuple(task.classes if words is None else words)
    check_template(template, task)
    if len(words) != len(task.classes):
        raise ValueError(f"expected a word for each of {task.name}'s classes {', '.join(task.classes)}, got {len(words)} words")
    gap = "" if template[-1].isspace() else " "
    pair = None if task.splits["train"].text_b is None else "x"
    prompt = prompted(template, "x", pair)
    alone = backbone.kind == "encoder-decoder"  # the word is what the decoder says, behind nothing
    before, tokens, notes = [] if alone else _ids(backbone, prompt), [], []
    for word in words:
        if alone:
            after = backbone.tokenizer(word, add_special_tokens=False)["input_ids"]
        else:
            after = _ids(backbone, prompt + gap + word.lstrip(" " if gap else ""))
        own = after[len(before) :]
        if after[: len(before)] != before or not own or not word.strip():
            raise ValueError(f"expected {word!r} as tokens of its own behind {template!r}; end the template without a space")
        tokens.append(own[0])
        if len(own) > 1:
            pieces = [backbone.tokenizer.decode([token]) for token in own]
            notes.append(
                f"{word!r} of {task.name} has {len(own)} tokens for {backbone.name} and is read at the first, {pieces[0]!r}"
            )
    for token in tokens:
        same = [word for word, other in zip(words, tokens, strict=True) if other == token]
        if len(same) > 1:
            first = backbone.tokenizer.decode([token])
            raise ValueError(
                f"expected words that differ in their first token, {same[0]!r} and {same[1]!r} share {first!r}; name others"
            )
    weight, bias = (x[tokens].to(backbone.device, backbone.fine) for x in output_embedding(backbone))
    return Verbaliser(template, words, tuple(tokens), Readout(weight, bias), tuple(notes))


def check_template(template: str, task: Task) -> None:
    """Raise ValueError unless the template names the task's texts, each of them, and nothing else."""
    try:
        named = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"expected a template such as {TEMPLATE!r}, got {template!r} ({error}); write braces twice") from None
    pair = task.splits["train"].text_b is not None
    if {*named} != {"text"} and not (pair and {*named} == {"text_a", "text_b"}):
        raise ValueError(
            f"expected a template with {{text}}, or with {{text_a}} and {{text_b}} for pairs, got {template!r} for {task.name}"
        )


def _ids(backbone: Backbone, text: str) -> list[int]:
    return backbone.tokenizer(text)["input_ids"]


def output_embedding(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Return the language model's map from last states to tokens, (V, d) and (V,): y = W h + b.

    Tied, W is the word embedding; untied, it is read from where the backbone came from, all of whose weights are read once more.
    A T5 says only in these whether it is tied, and one that scales its last states has d^-1/2 in W (Raffel et al. 2020).
    Raises ValueError for weights that lack it, for a backbone that came from no file, and for a model that bends its logits.
    """
    config = backbone.model.config
    for bent in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, bent, None) not in (None, 1):
            raise ValueError(f"expected logits that are linear in the last state, {backbone.name} has {bent}; use a fitted head")
    if getattr(config, "tie_word_embeddings", False) and not config.is_encoder_decoder:
        weight = backbone.model.get_submodule(backbone.layout.word).weight.detach()
        return weight, weight.new_zeros(len(weight))
    weight, bias = _untied(backbone)
    if _scaled(config):
        weight = weight * backbone.width**-0.5
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


def _scaled(config: PretrainedConfig) -> bool:
    """Return whether last states are multiplied by d^-1/2 in front of the output embedding, as a T5 whose head is tied does."""
    return config.is_encoder_decoder and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)


def _untied(backbone: Backbone) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias of the output embedding in the folder, or on the hub, that the backbone came from."""
    source = folder_of(backbone.name) if backbone.name in SHIPPED else Path(backbone.name).expanduser()
    named, wanted = str(source if source.exists() else backbone.name), f"expected {backbone.name} with its output embedding"
    kind = AutoModelForSeq2SeqLM if backbone.kind == "encoder-decoder" else AutoModelForCausalLM
    try:
        with quiet():
            whole, report = kind.from_pretrained(
                named, dtype=backbone.dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise ValueError(f"{wanted}, it cannot be read ({str(error).splitlines()[0]}); use a fitted head") from error
    head = whole.get_output_embeddings()
    (name,) = (name for name, module in whole.named_modules() if module is head)
    missing = [key for key in report["missing_keys"] if key.startswith(f"{name}.")]
    if backbone.kind == "encoder-decoder" and head.weight is whole.get_input_embeddings().weight and not _scaled(whole.config):
        missing = [f"{name}.weight"]  # T5 1.1 has a head of its own, which the library would replace by the embedding
    if missing:
        raise ValueError(f"{wanted}, its file lacks {missing[0]}; use a fitted head")
    return head.weight.detach(), None if head.bias is None else head.bias.detach()
