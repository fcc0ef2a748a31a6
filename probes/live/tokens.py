"""Which positions of a batch of sequences count in the loss, and how much each of them weighs.

Labels (B, T) hold -100 where nothing counts. With n_i labels that count in sequence i of a batch of B, and l_it their
losses, the mean loss of the batch and the number of items that it is a mean over are

    token       sum_it l_it / sum_i n_i          sum_i n_i
    sequence    sum_i (sum_t l_it / n_i) / B     B
    sum         sum_i (sum_t l_it) / B           B
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.inputs import IGNORED

REDUCTIONS = ("token", "sequence", "sum")


@dataclass(frozen=True)
class Tokens:
    """The n positions (row, column) whose outputs are scored, with their targets and their weights in the batch's mean."""

    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor


def counted(labels: Tensor, shift: bool) -> Tensor:
    """Return where an output counts, (B, T) bool: next to a label that is not -100, or in front of it with `shift`."""
    kept = labels != IGNORED
    if not shift:
        return kept
    return torch.cat([kept[:, 1:], kept.new_zeros(len(kept), 1)], 1)


def tokens(labels: Tensor, shift: bool, reduction: str, dtype: torch.dtype) -> Tokens:
    """Return the positions that count, row by row; shift: the output at t is scored by the label at t + 1."""
    mask = counted(labels, shift)
    rows, columns = mask.nonzero(as_tuple=True)
    each = mask.sum(1).to(dtype)
    if reduction == "token":
        weights = (1 / each.sum()).expand(len(rows))
    else:
        weights = (torch.ones_like(each) if reduction == "sum" else 1 / each)[rows] / len(labels)
    return Tokens(rows, columns, labels[rows, columns + shift], weights)


def items(labels: Tensor, shift: bool, reduction: str) -> float:
    """Return how many items the batch's mean is over: its tokens that count, or its sequences."""
    return float(counted(labels, shift).sum()) if reduction == "token" else float(len(labels))


def check_rows(batches: Sequence[dict], shift: bool) -> None:
    """Refuse sequences in which nothing counts, and labels at positions that the attention mask leaves out."""
    for i, batch in enumerate(batches):
        kept = counted(batch["labels"], shift)
        empty = (~kept.any(1)).nonzero()[:, 0].tolist()
        if empty:
            listed = f"{', '.join(map(str, empty[:8]))}{', ...' if len(empty) > 8 else ''}"
            rows, beyond = f"row{'s' * (len(empty) > 1)} {listed} of {len(kept)}", " beyond the first token" if shift else ""
            raise ValueError(
                f"batches[{i}]: expected a label other than {IGNORED} in every sequence, got none in {rows}{beyond}: leave "
                "such sequences out, or allow longer ones if the response was cut off"
            )
        seen = batch.get("decoder_attention_mask" if not shift else "attention_mask")
        if seen is not None and seen.shape == batch["labels"].shape:
            hidden = int(((batch["labels"] != IGNORED) & (seen == 0)).sum())
            if hidden:
                raise ValueError(
                    f"batches[{i}]: expected labels of {IGNORED} where the attention mask is 0, got {hidden} others: mask "
                    "the padding in the labels"
                )
