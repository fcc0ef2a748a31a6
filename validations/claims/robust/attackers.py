"""Attackers on what sublayers put out: one vector for each example and port, all ports within one size."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..shared.setting import Params


def worst(subject: Any, params: Mapping, batch: Any, ports: Sequence[str], size: float, steps: int) -> Params:
    """Return disturbances (B, d) per port that raise each example's loss through the subject, |w_i| <= size over all ports.

    Projected gradient ascent from no disturbance, w <- P(w + size g / |g|); each example keeps the worst that it met. The attacker
    sees all of the subject: with another one's parameters it is oblivious.
    """
    fixed = {name: p.detach() for name, p in params.items()}
    w = torch.zeros(len(batch.labels), len(ports) * subject.width, dtype=subject.dtype)
    found, most = w, torch.full((len(w),), -torch.inf, dtype=subject.dtype)
    for step in range(steps + 1):
        w.requires_grad_()
        losses = torch.nn.functional.cross_entropy(
            subject.disturbed(by_port(w, ports), fixed, batch), batch.labels, reduction="none"
        )
        found = torch.where((losses.detach() > most)[:, None], w.detach(), found)
        most = torch.maximum(losses.detach(), most)
        if step < steps:
            (slope,) = torch.autograd.grad(losses.sum(), w)
            w = w.detach() + size * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-30)
            w = w * (size / w.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
    return by_port(found, ports)


def by_port(w: Tensor, ports: Sequence[str]) -> Params:
    """Return flat disturbances (B, P d) as one (B, d) per port."""
    return dict(zip(ports, w.tensor_split(len(ports), dim=1), strict=True))
