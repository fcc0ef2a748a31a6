"""Words to start from: pieces of the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from tuning.backbones import Backbone


def pieces(backbone: Backbone, count: int, seed: int) -> Tensor:
    """Return `count` vocabulary pieces drawn with a seed, special tokens left out."""
    special = set(getattr(backbone.tokenizer, "all_special_ids", ()))
    ordinary = torch.tensor([i for i in range(backbone.model.config.vocab_size) if i not in special])
    chosen = torch.randint(len(ordinary), (count,), generator=torch.Generator().manual_seed(seed))
    return ordinary[chosen].to(backbone.device)
