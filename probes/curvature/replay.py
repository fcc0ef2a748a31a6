"""Products on a CUDA device that are recorded once and replayed: one launch a product in place of one a kernel.

A small network's product is thousands of kernels, each of which ends before the next is launched. What autograd runs is
recorded on the stream on which the graph was built, so that graphs are built on a stream of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

WARM = 2  # products that are made as they are before one is recorded: an operator that is hardly used records none

Product = Callable[[list[Tensor]], Sequence[Tensor | None]]  # one tensor per parameter in and out


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def recordable(device: torch.device) -> Iterator[None]:
    """Return a context whose graphs `Replayed` can record; what is queued before and after it keeps its order."""
    if device.type != "cuda":
        yield
        return
    own, now = _stream(device), torch.cuda.current_stream(device)
    own.wait_stream(now)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        now.wait_stream(own)


class Replayed:
    """A product through a kept graph on a CUDA device, replayed from a recording after the first few calls.

    The tensors that it returns are overwritten by its next call. Where torch cannot record the product (it waits for the
    device, or memory is short), and between processes that exchange tensors in it, every call is made as it is.
    """

    def __init__(self, product: Product, device: torch.device):
        self.product, self.device, self.calls = product, device, 0
        self.recording: torch.cuda.CUDAGraph | None = None
        self.given: list[Tensor] = []
        self.found: Sequence[Tensor | None] = ()

    def __call__(self, v: list[Tensor]) -> Sequence[Tensor | None]:
        """Return the product with v."""
        if self.calls == WARM and not dist.is_initialized():
            self._record(v)
        self.calls += 1
        if self.recording is None:
            with recordable(self.device):
                return self.product(v)
        for x, y in zip(self.given, v, strict=True):
            x.copy_(y)
        self.recording.replay()
        return self.found

    def _record(self, v: list[Tensor]) -> None:
        given, recording = [x.clone() for x in v], torch.cuda.CUDAGraph()
        try:
            with recordable(self.device), torch.cuda.graph(recording, stream=_stream(self.device)):
                found = self.product(given)
        except RuntimeError:  # torch's word for both
            return
        self.given, self.found, self.recording = given, found, recording
