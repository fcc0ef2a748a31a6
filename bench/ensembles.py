"""Ensembles on one frozen backbone: members folded into the batch, against one after the other and against vmap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertModel

from bench.timing import Contest, Peer
from probes.dimension.projection import random_subspace
from tuning import Batch, LoRA, Readout, subject, wrap
from tuning.ensembles import outputs, train_subspaces
from tuning.subjects import Params, Subject

LINES = {(4, 16): 2.5, (8, 32): 1.3}


def _subject(rank: int) -> Subject:
    """A random encoder of four blocks and width 128 with LoRA on q and v."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=2000,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=64,
    )
    readout = Readout(torch.randn(4, 128) / 128**0.5, torch.zeros(4))
    return subject(wrap(BertModel(config)), LoRA(rank), readout, seed=0)


def _gradient(value: Tensor, params: Params) -> np.ndarray:
    """The gradients (E, ...) as one vector."""
    found = torch.autograd.grad(value, list(params.values()))
    return torch.cat([x.flatten(1) for x in found], 1).numpy()


def ensembles(*, members: int = 8, rank: int = 8, shapes: tuple[tuple[int, int], ...] = tuple(LINES)) -> Iterator[Contest]:
    """Compare one gradient of every member's own loss on a batch of (sequences, tokens) each; then training in two subspaces."""
    made, generator = _subject(rank), torch.Generator().manual_seed(1)
    stacked = {
        name: (z + 0.02 * torch.randn(members, *z.shape, generator=generator)).requires_grad_()
        for name, z in made.initial.items()
    }
    for size, length in shapes:
        tokens = torch.randint(5, 2000, (members, size, length), generator=generator)
        labels = torch.randint(4, (members, size), generator=generator)
        batch = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), labels)

        def total(logits: Tensor, labels: Tensor = labels) -> Tensor:
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]

        def folded(batch: Batch = batch, total=total) -> np.ndarray:
            return _gradient(total(outputs(made, stacked, batch)), stacked)

        def single(batch: Batch = batch) -> np.ndarray:
            rows = []
            for e in range(members):
                own = {name: value[e].detach().requires_grad_() for name, value in stacked.items()}
                value = made.loss(own, Batch(*(x[e] for x in batch)))
                rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(own.values()))]))
            return torch.stack(rows).numpy()

        def mapped(batch: Batch = batch, total=total) -> np.ndarray:
            return _gradient(total(torch.func.vmap(made.outputs)(stacked, batch)), stacked)

        yield Contest(
            f"{members} members, {size} x {length} tokens",
            "folded into the batch",
            folded,
            np.asarray,
            (
                Peer("one after the other", single, np.asarray, tolerance=1e-6, line=LINES.get((size, length))),
                Peer("vmap over the whole model", mapped, np.asarray, tolerance=1e-6),
            ),
            tolerance=1e-6,
        )
        yield _training(made, Batch(*(x[0] for x in batch)), members, LINES.get((size, length)))


def _training(made: Subject, batch: Batch, members: int, line: float | None, *, steps: int = 4, most: int = 1000) -> Contest:
    """Steps of Adam in random subspaces, all members at once against a run for each."""
    shapes = {name: tuple(z.shape) for name, z in made.initial.items()}
    drawn = [random_subspace(shapes, min(most, made.size), seed=s) for s in range(2)]
    subspaces = [drawn[e % 2] for e in range(members)]
    rates = [1e-3 * 2 ** (e // 2) for e in range(members)]

    def together() -> np.ndarray:
        return train_subspaces(made, subspaces, batch, rates=rates, steps=steps).theta.numpy()

    def apart() -> np.ndarray:
        runs = [train_subspaces(made, [p], batch, rates=[rate], steps=steps) for p, rate in zip(subspaces, rates, strict=True)]
        return torch.cat([run.theta for run in runs]).numpy()

    where = f"{members} runs, d={drawn[0].dimension}, {len(batch.labels)} x {batch.tokens.shape[1]} tokens"
    # Adam divides by a root of squared slopes, so rounding in a slope near zero moves theta by up to a step
    return Contest(
        where,
        "folded into the batch",
        together,
        np.asarray,
        (Peer("one after the other", apart, np.asarray, tolerance=1e-2, line=line),),
        tolerance=1e-2,
    )
