"""The causal language models under the curvature bench, and every way to their products: a frozen base, PEFT's LoRA in q and v.

The loss is the mean over the second half of every sequence, the response. Attention is eager, since fused kernels have no
second derivative, and all ways are given the same model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench import curvature_peers as peers
from bench.subjects import Subject
from probes.live.attached import Attached, attach

REAL = "SmolLM2-135M"


@dataclass(frozen=True)
class Llama:
    """The sizes of a Llama with random weights; groups: its heads of keys and values, inner: the width of its MLPs."""

    blocks: int = 4
    width: int = 128
    heads: int = 4
    groups: int = 2
    inner: int = 384
    vocabulary: int = 32768


class Scored(nn.Module):
    """Tokens (B, T) in, the logits (B (T - 1), V) in front of every later token out: a classifier, as packages take one."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(input_ids=tokens).logits[:, :-1].flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Spoken(Subject):
    """A subject whose model is `Scored` and whose one batch is (tokens (B, T), labels (B (T - 1),)), -100 in the prompt."""

    @property
    def batch(self) -> dict[str, Tensor]:
        """Return the batch as the language model takes it: labels (B, T) beside the tokens."""
        tokens, later = self.batches[0]
        return {"input_ids": tokens, "labels": torch.cat([torch.full_like(tokens[:, :1], -100), later.view(len(tokens), -1)], 1)}

    @property
    def logit_bytes(self) -> int:
        """Return the bytes of the logits that are scored, (n, V) in float32."""
        return int((self.batches[0][1] != -100).sum()) * self.model.net.config.vocab_size * 4

    def gradient(self) -> Tensor:
        """Return the gradient of the loss that the model itself gives: the unit in which costs are stated."""
        rows = torch.autograd.grad(self.model.net(**self.batch).loss, list(self.params.values()))
        return torch.cat([row.reshape(-1) for row in rows])

    def attached(self) -> Attached:
        """Return the live model as the lab's probes take it."""
        return attach(self.model.net, [self.batch])


def lacking(model: Llama | str) -> str:
    """Return what is missing to build a model, in words; nothing where it can be built."""
    if not peers.installed("peft"):
        return "it takes peft, which is not installed"
    if model == REAL:
        from tuning.shipped import folder_of

        try:
            folder_of("smollm2")
        except ValueError as error:
            return str(error)
    return ""


def spoken(
    model: Llama | str, rows: int = 2, length: int = 64, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Spoken:
    """Return a model with LoRA of rank 8, both factors random and float32, and random sequences (rows, length)."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = _base(model, dtype, device).eval()
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        net = get_peft_model(base, config).eval()
        tokens = torch.randint(base.config.vocab_size, (rows, length)).to(device)
    labels = tokens.clone()
    labels[:, : length // 2] = -100
    return Spoken(Scored(net), [(tokens, labels[:, 1:].flatten())])


def _base(model: Llama | str, dtype: torch.dtype, device: str) -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if model == REAL:
        from tuning.shipped import folder_of

        return AutoModelForCausalLM.from_pretrained(folder_of("smollm2"), dtype=dtype, attn_implementation="eager").to(device)
    config = LlamaConfig(
        hidden_size=model.width,
        num_hidden_layers=model.blocks,
        num_attention_heads=model.heads,
        num_key_value_heads=model.groups,
        intermediate_size=model.inner,
        vocab_size=model.vocabulary,
        attn_implementation="eager",
    )
    with torch.device(device):
        return LlamaForCausalLM._from_config(config, dtype=dtype)


def ways(s: Spoken, kind: str) -> dict[str, Callable[[], Callable[[Tensor], Tensor]] | None]:
    """Return who can multiply by the "hessian" or the "gauss-newton" matrix: name -> the call that makes v -> A v.

    None where a package is not installed. What a package refuses, it raises when it is made or first used.
    """
    found = {
        "hessian": {
            "ours": lambda: s.attached().hessian().__matmul__,
            "double backward": lambda: peers.fresh_product(s),
            "double backward, kept": lambda: peers.kept_product(s),
        },
        "gauss-newton": {
            "ours": lambda: s.attached().gauss_newton().__matmul__,
            "double backward": lambda: peers.fresh_gauss_newton(s),
            "double backward, kept": lambda: peers.kept_gauss_newton(s),
        },
    }[kind]
    rivals = {
        "curvlinops": peers.curvlinops_operator(s, {"hessian": "Hessian", "gauss-newton": "GGN"}[kind], check=False),
        "eigenthings": peers.eigenthings_language(s.model.net, s.batch, kind),
    }
    return found | {name: None if make is None else lambda make=make: make().__matmul__ for name, make in rivals.items()}


def cut(batch: tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Return the first of so many rows of a batch of `Spoken`."""
    return batch[0][:1], batch[1].view(rows, -1)[0]


def described(model: Llama | str) -> dict | str:
    """Return a model as JSON holds it; `revived` is the inverse."""
    return model if isinstance(model, str) else dataclasses.asdict(model)


def revived(model: dict | str) -> Llama | str:
    """Return the model that was described."""
    return model if isinstance(model, str) else Llama(**model)
