"""Passes without padding: the real tokens of a batch stand in one row, and side by side only where they attend to each other."""

from __future__ import annotations

import torch
from torch import Tensor


class Packing:
    """Where the real tokens of a batch stand: N in one row, or (B, T) with padding.

    What padding holds must not be read: it repeats the first token, and what is asked of it backwards is taken to be zero,
    as a mask or a pool that weighs it by zero makes it.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        self.real = mask.flatten().nonzero()[:, 0]
        self.place = torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)
        self.place[self.real] = torch.arange(len(self.real), device=mask.device)
        self.found: dict[int, tuple[Tensor, Tensor]] = {}

    def joined(self, x: Tensor) -> Tensor:
        """Return the real tokens (1, N) of something per token (B, T)."""
        return x.flatten()[self.real][None]

    def states(self, x: Tensor) -> Tensor:
        """Return states (N, d) as (B, T, d)."""
        return _Apart.apply(x, self.place, self.real).unflatten(0, self.shape)

    def apart(self, x: Tensor) -> Tensor:
        """Return (1, heads, N, c) as (B, heads, T, c)."""
        heads, width = x.shape[1], x.shape[3]
        place, real = self.by_head(heads)
        rows = x.transpose(1, 2).reshape(-1, width)
        return _Apart.apply(rows, place, real).view(self.shape[0], heads, self.shape[1], width)

    def together(self, x: Tensor) -> Tensor:
        """Return (B, heads, T, c) as (1, N, heads, c)."""
        heads, width = x.shape[1], x.shape[3]
        return _Together.apply(x.reshape(-1, width), self.by_head(heads)[1]).view(1, -1, heads, width)

    def by_head(self, heads: int) -> tuple[Tensor, Tensor]:
        """Return where each (text, head, position) finds its row among (token, head), and each of those its own."""
        if heads not in self.found:
            size, length = self.shape
            head = torch.arange(heads, device=self.real.device)
            place = (self.place.view(size, 1, length) * heads + head[:, None]).flatten()
            text, position = self.real // length, self.real % length
            self.found[heads] = place, ((text[:, None] * heads + head) * length + position[:, None]).flatten()
        return self.found[heads]


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, place: Tensor, real: Tensor) -> Tensor:
        ctx.real = real
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple:
        return slope.index_select(0, ctx.real), None, None


class _Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, real: Tensor) -> Tensor:
        ctx.real, ctx.rows = real, len(x)
        return x.index_select(0, real)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple:
        return slope.new_zeros(ctx.rows, slope.shape[1]).index_copy_(0, ctx.real, slope), None
