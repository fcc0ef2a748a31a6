"""Tiny random models of every supported architecture, and every delta, for the laws of the tuning room."""

import torch
from seeds import shifted
from transformers import AutoConfig, AutoModel

from tuning import (
    IA3,
    Adapter,
    Batch,
    BitFit,
    Combined,
    DoRA,
    Full,
    IntrinsicPrompt,
    LastLayers,
    LNTuning,
    LoKr,
    LoRA,
    PortBias,
    Prefix,
    ProjectedPrefix,
    Prompt,
    Readout,
    SHiRA,
    VeRA,
    subject,
    wrap,
)
from tuning.architectures import ARCHITECTURES

COMMON = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 50,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
T5 = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 50}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 9, "decoder_start_token_id": 0}
KINDS = {  # the settings of a tiny model of every architecture
    "bert": COMMON,
    "roberta": COMMON,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "vocab_size": 50},
    "mpnet": COMMON,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 24, "vocab_size": 50},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 6},
    "mistral": GROUPED | {"sliding_window": 5},
    "smollm3": GROUPED | {"no_rope_layers": [1, 0]},
    "gemma2": GROUPED | {"head_dim": 6, "query_pre_attn_scalar": 5, "sliding_window": 5, "attn_logit_softcapping": 1.5},
    "gemma3_text": GROUPED | {"head_dim": 6, "query_pre_attn_scalar": 5, "sliding_window": 5, "sliding_window_pattern": 2},
    "olmo2": GROUPED,
    "phi3": GROUPED | {"sliding_window": 9},
    "modernbert": COMMON | {"local_attention": 6, "global_attn_every_n_layers": 2, "norm_bias": True},
    "gpt_neox": COMMON,
    "t5": T5,
    "t5_gated": T5 | {"feed_forward_proj": "gated-gelu"},
}
TWO_STACKS = ("t5", "t5_gated")
NEWER = ("qwen3", "mistral", "smollm3", "gemma2", "gemma3_text", "olmo2", "phi3", "modernbert")

DELTAS = {
    "prompt": Prompt(3),
    "prompt-shifted": Prompt(3, shift_positions=True),
    "intrinsic-prompt": IntrinsicPrompt(3, 2),
    "prefix": Prefix(2),
    "prefix-shifted": Prefix(2, shift_positions=True),
    "projected-prefix": ProjectedPrefix(2, hidden=3),
    "adapter": Adapter(3),
    "parallel": Adapter(3, placement="parallel", scale=2.0, ports=("mlp",)),
    "lora": LoRA(2, alpha=4, targets=("q", "k", "v", "o", "mlp")),
    "lora-qv": LoRA(2),
    "dora": DoRA(2, alpha=4, targets=("q", "k", "v", "o", "mlp")),
    "vera": VeRA(3, targets=("q", "k", "v", "o", "mlp")),
    "lokr": LoKr(1, alpha=2, targets=("q", "k", "v", "o", "mlp")),
    "bitfit": BitFit(),
    "ln-tuning": LNTuning(),
    "last-layer": LastLayers(1),
    "shira": SHiRA(2, targets=("q", "k", "v", "o", "mlp")),
    "shira-random": SHiRA(2, mask_seed=3),
    "port-bias": PortBias(),
    "ia3": IA3(),
    "full": Full(),
    "some-weights": Full(("*.mlp.*",)),
    "mix": Combined((("prefix", Prefix(2)), ("adapter", Adapter(3, placement="parallel", ports=("mlp",))))),
    "stack": Combined((("a", LoRA(1)), ("b", LoRA(1, targets=("q", "o"))), ("prompt", Prompt(2)))),
}


def padding(kind: str) -> int:
    """The token that pads a kind's texts: where positions count from behind it, the one before the first position."""
    return max((ARCHITECTURES[kind].first_position or 0) - 1, 0)


def config_of(kind: str, **settings):
    """The configuration of a kind's tiny model, a row of the table being named by its model_type or by that and a variant."""
    model_type = kind.removesuffix("_gated")
    return AutoConfig.for_model(model_type, **KINDS[kind] | settings)


def library_states(model, batch: Batch) -> torch.Tensor:
    """The library's last states of a batch, (B, T, d), or (B, 1, d) behind the start token of an encoder-decoder."""
    given = {"input_ids": batch.tokens, "attention_mask": batch.mask.long()}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = torch.full((len(batch.tokens), 1), model.config.decoder_start_token_id)
    return model(**given).last_hidden_state


def real(backbone, batch: Batch) -> torch.Tensor:
    """What the last states of padding are multiplied by, (B, T, 1), or (B, 1, 1) of an encoder-decoder."""
    mask = batch.mask[:, :1] if backbone.kind == "encoder-decoder" else batch.mask
    return mask[..., None]


def model_of(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """A random base model whose every parameter, normalisations included, is away from its default."""
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": padding(kind)}
    config = config_of(kind, **tokens, max_position_embeddings=40)
    model = AutoModel.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = name.endswith("weight") and parameter.ndim == 1
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator) + float(scale)
    return model.to(dtype).eval()


def backbone_of(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64):
    """The tiny random backbone of a kind."""
    return wrap(model_of(kind, seed, dtype), name=f"tiny-{kind}")


def batch_of(size: int = 5, length: int = 7, classes: int = 3, seed: int = 0) -> Batch:
    """Random tokens with texts of different lengths, one of them full."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 50, (size, length), generator=generator)
    lengths = torch.randint(2, length + 1, (size,), generator=generator)
    lengths[0] = length
    return Batch(tokens, torch.arange(length) < lengths[:, None], torch.randint(classes, (size,), generator=generator))


def subject_of(backbone, delta, classes: int = 3, seed: int = 0):
    """A subject with a random readout."""
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(classes, backbone.width, generator=generator, dtype=torch.float64) / backbone.width**0.5
    return subject(backbone, delta, Readout(weight.to(backbone.dtype), torch.zeros(classes, dtype=backbone.dtype)), shifted(seed))


def moved(params: dict, size: float = 0.3, seed: int = 1) -> dict:
    """The parameters away from their initial values by a random amount."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + size * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        for name, value in params.items()
    }
