"""The gates of a prefix in a frozen network, token by token."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuning.backbones import Batch, frame, hidden
from tuning.edits import Edits, merge

from ..shared.heads import check_readable, scores
from ..shared.setting import Params


def log_odds(subject: Any, params: Params, batch: Batch) -> np.ndarray:
    """Return log lambda / (1 - lambda) of every real token and head (tokens, blocks heads), lambda the attention on the prefix.

    lambda = sum_i e^{q.p_i / sqrt d} / (sum_i e^{q.p_i / sqrt d} + sum_j e^{q.k_j / sqrt d}) (He et al. 2022, eq. 5), the queries
    and keys being those met with the prefix in place. Raises ValueError for attention of another kind (`shared.heads`).
    """
    read = getattr(subject, "log_odds", None)  # a plant reads its own
    with torch.no_grad():
        found = torch.cat(_read(subject, params, batch), -1) if read is None else read(params, batch)
    return found[batch.mask.bool()].double().cpu().numpy()


def _read(subject: Any, params: Params, batch: Batch) -> list[Tensor]:
    """The log-odds (N, T, heads) of every block."""
    backbone, met = subject.backbone, {}
    check_readable(backbone)

    def keep(name: str):
        def edit(x: Tensor, y: Tensor) -> Tensor:
            met[name] = y
            return y

        return edit

    maps = {f"{block}.{role}": backbone.linear(block, role).path for block in range(backbone.blocks) for role in "qk"}
    listening = Edits(outputs={path: (keep(name),) for name, path in maps.items()})
    hidden(backbone, batch, frame(backbone, merge([subject.edits(params), listening])))
    found = []
    for block in range(backbone.blocks):
        slots = params[f"{block}.attention.keys"]
        prefix, text = scores(backbone, met[f"{block}.q"], met[f"{block}.k"], slots, batch.mask)
        found.append((prefix.logsumexp(-1) - text.logsumexp(-1)).transpose(1, 2))
    return found
