"""A tokenizer of whole words with a chat template, and a small language model that speaks them."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PLAIN = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
WORDS = ("red", "blue", "green", "which", "colour", "again", "over", "good", "bad")
SIGNS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")


def tokenizer_of(template=PLAIN, **tokens):
    """A tokenizer of whole words with a chat template."""
    vocabulary = {word: i for i, word in enumerate(("<|pad|>", "<|unknown|>", *SIGNS, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<|unknown|>", **({"pad_token": "<|pad|>", "eos_token": "<|end|>"} | tokens)
    )
    found.chat_template = template
    return found


def speaker(**own):
    """A Llama of some thousand numbers for these words, frozen, its weights drawn by seed 0."""
    torch.manual_seed(0)
    size = len(WORDS) + len(SIGNS) + 2
    config = LlamaConfig(vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, **own)
    return LlamaForCausalLM(config).eval()
