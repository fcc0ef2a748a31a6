"""What the heads of a frozen network attend to when a prefix stands in front: scores on its slots and on the text."""

from typing import Any

import torch
from torch import Tensor


def check_readable(backbone: Any) -> None:
    """Raise ValueError for a network whose scores are others than q . k / sqrt d over all tokens.

    It would turn queries by their positions, bias scores by distance, look back only, or share keys among heads.
    """
    row = backbone.layout
    plain = row.kind == "encoder" and row.first_position is not None and row.relative is None
    if not plain or backbone.key_value_heads != backbone.heads:
        raise ValueError(f"gates are read in encoders with learned positions, such as BERT and nano, got {row.title}")


def scores(backbone: Any, q: Tensor, k: Tensor, slots: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return a block's scaled scores on a prefix's slots (N, heads, T, l) and on the text (N, heads, T, T), -inf at padding.

    q, k (N, T, width): what leaves the maps of queries and keys; slots (l, heads, head width): the prefix's keys; mask (N, T).
    """
    q, k = (x.unflatten(-1, (backbone.heads, -1)).transpose(1, 2) for x in (q, k))
    scale, unseen = q.shape[-1] ** -0.5, ~mask.bool()[:, None, None]
    on_slots = q @ slots.transpose(0, 1).transpose(-1, -2) * scale
    return on_slots, (q @ k.transpose(-1, -2) * scale).masked_fill(unseen, -torch.inf)
