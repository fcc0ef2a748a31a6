"""The runs of one sweep of rates in shared passes: they meet the same texts in the same order, each with a delta of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch
from tuning.ensembles import Whole, foldable, outputs
from tuning.subjects import Params, Subject, check_labels
from tuning.training import draws, shares

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW, as torch has them


def folds(subject: Subject) -> bool:
    """Return whether a sweep shares its passes: on a GPU, where launches cost most, if the delta shares frozen weights."""
    return subject.backbone.device.type == "cuda" and foldable(subject)


def spread(batch: Batch, members: int) -> Batch:
    """Return a batch as every member's own, (E, B, ...)."""
    return Batch(*(x.expand(members, *x.shape) for x in batch))


def minibatches(
    subject: Subject,
    batch: Batch,
    *,
    rates: Sequence[float],
    steps: int,
    batch_size: int,
    weight_decay: float,
    warmup: float,
    clip: float = 1.0,
    seed: int,
    schedule: Callable[[float], float],
    visit: Callable[[int, Params, Tensor], None],
    visited: Collection[int],
) -> Tensor:
    """Return which runs stayed finite, (E,): those of `tuning.training.minibatch`, one for every rate, step by step together.

    visit(step, params (E, ...), finite (E,)) is called after each of the steps `visited`. A run whose loss or gradient is not
    finite stays where it was. Raises ValueError for labels outside the classes and as `tuning.ensembles.fold`.
    """
    check_labels(batch.labels, subject.readout.classes)
    members, lengths = len(rates), batch.mask.sum(-1).cpu()
    whole = Whole({name: tuple(value.shape) for name, value in subject.initial.items()})
    theta = torch.cat([value.detach().flatten() for value in subject.initial.values()]).repeat(members, 1)
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    finite = torch.ones(members, 1, dtype=torch.bool, device=theta.device)
    highest = torch.tensor(rates, dtype=theta.dtype, device=theta.device)[:, None]
    for step, (rows, pace) in enumerate(
        zip(draws(len(lengths), batch_size, steps, seed), shares(steps, warmup, schedule), strict=True), start=1
    ):
        width, rows = int(lengths[rows].max()), rows.to(theta.device)
        drawn = spread(Batch(batch.tokens[rows, :width], batch.mask[rows, :width], batch.labels[rows]), members)
        at = theta.requires_grad_()
        made = outputs(subject, whole.apply(at), drawn)
        each = F.cross_entropy(made.flatten(0, 1), drawn.labels.flatten(), reduction="none").view(members, -1).mean(1)
        slope = torch.autograd.grad(each.sum(), at)[0]
        norm = torch.linalg.vector_norm(slope, dim=1, keepdim=True)
        finite = finite & torch.isfinite(each)[:, None] & torch.isfinite(norm)
        slope = torch.where(finite, slope * (clip / (norm + 1e-6)).clamp(max=1.0), 0.0)
        first = BETAS[0] * first + (1 - BETAS[0]) * slope
        second = BETAS[1] * second + (1 - BETAS[1]) * slope.square()
        rate, theta = highest * pace, theta.detach()
        size = rate / (1 - BETAS[0] ** step) * first / ((second / (1 - BETAS[1] ** step)).sqrt() + EPSILON)
        theta = torch.where(finite, theta * (1 - rate * weight_decay) - size, theta)
        if step in visited:
            visit(step, whole.apply(theta), finite[:, 0])
    return finite[:, 0]
