"""Attackers on what sublayers put out: one vector for each example and port, all ports within one size."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..perturbation.experiment import climbed
from ..shared.setting import Params


def worst(subject: Any, params: Mapping, batch: Any, ports: Sequence[str], size: float, steps: int) -> Params:
    """Return disturbances (B, d) per port that raise each example's loss through the subject, |w_i| <= size over all ports.

    Projected gradient ascent from no disturbance, w <- P(w + size g / |g|); each example keeps the worst that it met. The attacker
    sees all of the subject: with another one's parameters it is oblivious.
    """
    fixed = {name: p.detach() for name, p in params.items()}
    w = torch.zeros(len(batch.labels), len(ports), subject.width, dtype=subject.dtype)
    radius = torch.full((len(w),), size, dtype=subject.dtype)
    found, most = w, torch.full((len(w),), -torch.inf, dtype=subject.dtype)
    for step in range(steps + 1):
        w.requires_grad_()
        losses = torch.nn.functional.cross_entropy(
            subject.disturbed(by_port(w, ports), fixed, batch), batch.labels, reduction="none"
        )
        found = torch.where((losses.detach() > most)[:, None, None], w.detach(), found)
        most = torch.maximum(losses.detach(), most)
        if step < steps:
            (slope,) = torch.autograd.grad(losses.sum(), w)
            w = climbed(w.detach(), slope, radius, 1.0)
    return by_port(found, ports)


def by_port(w: Tensor, ports: Sequence[str]) -> Params:
    """Return disturbances (B, P, d) as one (B, d) per port."""
    return dict(zip(ports, w.unbind(1), strict=True))
