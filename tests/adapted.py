"""Kinds of PEFT adapters on a small Llama, trained, and all of a model's state that a probe must leave as it is."""

import hashlib
import re
import warnings

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

QV, SLOTS = {"target_modules": ["q_proj", "v_proj"]}, {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
STEPS = {"total_step": 10, "tinit": 1, "tfinal": 2, "init_r": 4, "target_r": 2}
PROMPTED = ("prefix", "prefix-projected", "prompt", "p-tuning")
UNREAD = ("lokr", "oft")
CASES = {  # kind: settings, the kinds of its rows, how many rows
    "lora": (peft.LoraConfig(r=3, **QV), {"LoRA"}, 4),
    "rslora": (peft.LoraConfig(r=3, use_rslora=True, **QV), {"rsLoRA"}, 4),
    "dora": (peft.LoraConfig(r=3, use_dora=True, **QV), {"DoRA"}, 4),
    "rank-pattern": (peft.LoraConfig(r=3, rank_pattern={"v_proj": 1}, **QV), {"LoRA"}, 4),
    "modules-to-save": (peft.LoraConfig(r=3, modules_to_save=["lm_head"], **QV), {"LoRA", "trained whole"}, 5),
    "token-rows": (peft.LoraConfig(r=3, trainable_token_indices={"embed_tokens": [1, 5]}, **QV), {"LoRA", "token rows"}, 5),
    "embedding": (peft.LoraConfig(r=3, target_modules=["embed_tokens", "q_proj"]), {"LoRA"}, 3),
    "ia3": (peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), {"IA3"}, 4),
    "adalora": (peft.AdaLoraConfig(**STEPS, **QV), {"AdaLoRA"}, 4),
    "vera": (peft.VeraConfig(r=5, target_modules=["q_proj"]), {"VeRA"}, 2),
    "loha": (peft.LoHaConfig(r=2, **QV), {"LoHa"}, 4),
    "prefix": (peft.PrefixTuningConfig(**SLOTS), {"prefix tuning"}, 1),
    "prefix-projected": (peft.PrefixTuningConfig(prefix_projection=True, encoder_hidden_size=8, **SLOTS), {"prefix tuning"}, 1),
    "prompt": (peft.PromptTuningConfig(**SLOTS), {"prompt tuning"}, 1),
    "p-tuning": (peft.PromptEncoderConfig(encoder_hidden_size=8, **SLOTS), {"p tuning"}, 1),
    "lokr": (peft.LoKrConfig(r=2, **QV), None, 0),
    "oft": (peft.OFTConfig(oft_block_size=4, **QV), None, 0),
}
MERGED = [kind for kind in CASES if kind not in (*PROMPTED, *UNREAD)]


def llama(tied=False):
    """A tiny random causal language model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    config = LlamaConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, attn_implementation="eager"
    )
    return LlamaForCausalLM(config).eval()


def adapted(config, model=None, *, trained=True):
    """The model with an adapter, whose every number is moved where it is trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(llama() if model is None else model, config)
    return moved(model.eval()) if trained else model.eval()


def moved(model, names=""):
    """The trainable numbers moved by a random amount."""
    torch.manual_seed(1)
    for name, value in model.named_parameters():
        if value.requires_grad and re.search(names, name):
            value.data += 0.1 * torch.randn_like(value)
    return model


def unrounded(norm, x):
    """The normalisation of a Llama in the precision of x; the library's rounds to float32."""
    return norm.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon))


def batches():
    """Two sequences, the second of which is padded."""
    tokens = torch.randint(64, (2, 7), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": tokens, "attention_mask": (torch.arange(7) < torch.tensor([[7], [5]])).long()}]


def state(model):
    """All that could change: bits, training flags, gradients asked for, active adapters, the generator."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().float().numpy().tobytes())
    flags = [(name, module.training) for name, module in model.named_modules()]
    asked = [(name, value.requires_grad, value.grad, id(value)) for name, value in model.named_parameters()]
    return digest.hexdigest(), flags, asked, model.active_adapters, torch.get_rng_state().tolist()
