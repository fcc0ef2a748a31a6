"""Tensors in the place of a module's own for the length of a call, whatever paths lead to them.

torch.func.functional_call swaps by path: where a submodule is reached by two (PEFT's prompts hold the word embedding a
second time), it takes its own stand-in for the original and leaves it behind. Here each place is swapped once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

_LOCK = threading.RLock()  # a module serves one call at a time


@contextmanager
def swapped(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Return a context in which the named parameters and buffers are these tensors, in every place that holds them.

    Names are those of named_parameters and named_buffers; a tensor that several modules share is replaced in all of them.
    Raises ValueError for a name that the module has not.
    """
    held = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    if unknown := sorted(set(values) - set(held)):
        raise ValueError(f"expected names of the module's own tensors, got {unknown[0]!r}")
    wanted = {id(held[name]): value for name, value in values.items()}
    places = [
        (table, name, own)
        for part in module.modules()
        for table in (part._parameters, part._buffers)
        for name, own in table.items()
        if own is not None and id(own) in wanted
    ]
    with _LOCK:
        try:
            for table, name, own in places:
                table[name] = wanted[id(own)]
            yield
        finally:
            for table, name, own in places:
                table[name] = own
