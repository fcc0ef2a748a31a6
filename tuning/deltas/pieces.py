"""Words to start from: pieces of the vocabulary."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tuning.backbones import Backbone


def pieces(backbone: Backbone, count: int, seed: int) -> Tensor:
    """Return `count` vocabulary pieces drawn with a seed, special tokens left out."""
    special = set(getattr(backbone.tokenizer, "all_special_ids", ()))
    ordinary = torch.tensor([i for i in range(backbone.model.config.vocab_size) if i not in special])
    return ordinary[_chosen(len(ordinary), count, seed)].to(backbone.device)


@functools.lru_cache(maxsize=32)
def _chosen(among: int, count: int, seed: int) -> Tensor:
    """What was drawn before is not drawn again: no random number may be drawn under torch.func."""
    return torch.randint(among, (count,), generator=torch.Generator().manual_seed(seed))
