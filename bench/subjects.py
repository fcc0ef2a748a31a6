"""The networks under the curvature bench: a small BERT classifier with a delta in it, as a plain torch module."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from transformers import BertConfig, BertForSequenceClassification

VOCABULARY, LENGTH = 2000, 32


@dataclass(frozen=True)
class Size:
    """Blocks, width and heads of the encoder and the length of a text."""

    blocks: int = 4
    width: int = 128
    heads: int = 2
    length: int = LENGTH


class LoRA(nn.Module):
    """y = W x + b + (alpha / r) B A x (Hu et al. 2022, sec. 4.1)."""

    def __init__(self, base: nn.Linear, r: int = 4, alpha: float = 8.0):
        super().__init__()
        self.base, self.scale = base, alpha / r
        self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T


class Bottleneck(nn.Module):
    """An adapter after a linear map, h + U gelu(D h) (Houlsby et al. 2019, sec. 2.1)."""

    def __init__(self, base: nn.Linear, width: int = 8):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.out_features, width), nn.Linear(width, base.out_features)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        return h + self.up(gelu(self.down(h)))


class Prefix(nn.Module):
    """Self-attention with trained keys and values in front of the text's (Li & Liang 2021, sec. 4)."""

    def __init__(self, base: nn.Module, count: int = 8):
        super().__init__()
        self.base = base
        self.keys, self.values = (nn.Parameter(0.1 * torch.randn(count, base.all_head_size)) for _ in range(2))

    def forward(self, hidden_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.base.num_attention_heads, -1)).transpose(1, 2)

        def joined(prefix: Tensor, x: Tensor) -> Tensor:
            return heads(torch.cat([prefix.expand(len(x), -1, -1), x], 1))

        q = heads(self.base.query(hidden_states))
        k, v = joined(self.keys, self.base.key(hidden_states)), joined(self.values, self.base.value(hidden_states))
        share = (q @ k.mT * self.base.scaling).softmax(-1)
        return (share @ v).transpose(1, 2).flatten(2), share


def _with_delta(model: nn.Module, delta: str) -> None:
    """Put the named delta into every block of a BERT classifier."""
    for layer in model.bert.encoder.layer:
        attention = layer.attention
        if delta == "lora":
            attention.self.query, attention.self.value = LoRA(attention.self.query), LoRA(attention.self.value)
        elif delta == "adapter":
            attention.output.dense, layer.output.dense = Bottleneck(attention.output.dense), Bottleneck(layer.output.dense)
        elif delta == "prefix":
            attention.self = Prefix(attention.self)
        else:
            raise ValueError(f"expected lora, adapter or prefix, got {delta!r}")


class Classifier(nn.Module):
    """Tokens (N, S) in, logits (N, C) out."""

    def __init__(self, size: Size, classes: int, delta: str):
        super().__init__()
        self.net = BertForSequenceClassification(
            BertConfig(
                hidden_size=size.width,
                num_hidden_layers=size.blocks,
                num_attention_heads=size.heads,
                intermediate_size=4 * size.width,
                vocab_size=VOCABULARY,
                max_position_embeddings=2 * LENGTH,
                num_labels=classes,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                attn_implementation="eager",
            )
        )
        _with_delta(self.net, delta)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens).logits


def texts(count: int, classes: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return tokens (N, S) and labels (N,): four words in ten are drawn from the label's own fortieth of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    share = VOCABULARY // 40
    own = labels[:, None] * share + torch.randint(share, (count, length), generator=generator)
    common = torch.randint(VOCABULARY, (count, length), generator=generator)
    return torch.where(torch.rand(count, length, generator=generator) < 0.4, own, common), labels


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, the parameters under study (those that require gradients) and batches (tokens, labels)."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    @property
    def params(self) -> dict[str, Tensor]:
        """Return the parameters under study, in the module's order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def dimension(self) -> int:
        """Return how many numbers are under study."""
        return sum(p.numel() for p in self.params.values())

    def outputs(self, params: dict[str, Tensor], batch) -> Tensor:
        """Return the logits (N, C) at the given parameters."""
        return torch.func.functional_call(self.model, params, (batch[0],))

    @staticmethod
    def criterion(outputs: Tensor, batch) -> Tensor:
        """Return the mean cross entropy of logits."""
        return cross_entropy(outputs, batch[1])

    def loss(self, params: dict[str, Tensor], batch) -> Tensor:
        """Return the mean cross entropy at the given parameters."""
        return self.criterion(self.outputs(params, batch), batch)

    def gradient(self) -> Tensor:
        """Return one loss and its gradient over all batches: the unit in which costs are stated."""
        total, items = 0.0, sum(len(batch[1]) for batch in self.batches)
        for batch in self.batches:
            rows = torch.autograd.grad(self.criterion(self.model(batch[0]), batch), list(self.params.values()))
            total = total + torch.cat([row.reshape(-1) for row in rows]) * (len(batch[1]) / items)
        return total

    def to(self, *where) -> Subject:
        """Return a copy in another dtype or on another device."""
        moved = copy.deepcopy(self.model).to(*where)
        return Subject(moved, [tuple(x.to(next(moved.parameters()).device) for x in batch) for batch in self.batches])

    def copy(self) -> Subject:
        """Return a copy with parameters of its own."""
        return Subject(copy.deepcopy(self.model), self.batches)


@lru_cache(maxsize=8)
def _trained(size: Size, classes: int, delta: str, steps: int) -> Classifier:
    """Every parameter trained on fresh texts by AdamW, 32 texts a step, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(size, classes, delta).eval()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(steps):
            tokens, labels = texts(32, classes, size.length, seed=1 + step)
            optimizer.zero_grad()
            cross_entropy(model(tokens), labels).backward()
            optimizer.step()
    return model


def subject(
    count: int,
    classes: int,
    delta: str = "lora",
    names: str | Sequence[str] = "*",
    *,
    size: Size = Size(),
    steps: int = 50,
    batches: int = 1,
) -> Subject:
    """Return a trained classifier on `count` texts in equal batches; those parameters that match `names` are under study."""
    model = copy.deepcopy(_trained(size, classes, delta, steps))
    patterns = [names] if isinstance(names, str) else list(names)
    for name, p in model.named_parameters():
        p.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
        p.grad = None
    tokens, labels = texts(count, classes, size.length, seed=0)
    return Subject(model, list(zip(tokens.chunk(batches), labels.chunk(batches), strict=True)))
