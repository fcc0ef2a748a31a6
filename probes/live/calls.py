"""How a live module is called: with other tensors in the place of its own, in evaluation mode, up to where it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from probes.live.swap import swapped

Params = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class LiveModel:
    """How the live module is called: which tensors stand in for its own, which it accepts, where its vocabulary map is."""

    module: nn.Module
    constants: dict[str, Tensor]  # in place of the module's own: cast, or detached from graphs
    own: dict[str, torch.dtype]  # of the trainable numbers, in the module
    accepted: frozenset[str] | None
    head: nn.Module | None
    wide: torch.dtype
    straight: bool = False  # whether the logits are the head's map of its input and nothing else
    defaults: dict = field(default_factory=dict)

    def call(self, params: Params, batch, *, labelled: bool = False):
        """Return the module's output for a batch, without its labels unless these are wanted."""
        values = self.constants | {name: x.to(self.own[name]) for name, x in params.items()}
        if isinstance(batch, Mapping):
            given = {k: v for k, v in batch.items() if self.accepted is None or k in self.accepted}
            if not labelled:
                given.pop("labels", None)
            arguments, named = (), given | self.defaults
        else:
            arguments, named = tuple(batch[:-1]) if isinstance(batch, tuple | list) and len(batch) > 1 else (batch,), {}
        with _evaluated(self.module), swapped(self.module, values):
            return self.module(*arguments, **named)

    def states(self, params: Params, batch, chosen) -> Tensor:
        """Return what enters the vocabulary map at the chosen positions, (n, d)."""
        return self._through(params, batch, lambda h: _at(h, batch, chosen), empty=True)[0]

    def logits(self, params: Params, batch, chosen) -> Tensor:
        """Return the logits (n, V) at the chosen positions; no others are computed where the vocabulary map is known."""
        if self.head is None:
            return _at(self.call(params, batch).logits, batch, chosen)
        return self._through(params, batch, lambda h: _at(h, batch, chosen))[1].logits[0]

    def gathered(self, params: Params, batch, columns: Tensor) -> Tensor:
        """Return the logits (B, K, V) at K columns of every row."""

        def at(h: Tensor) -> Tensor:
            places = columns + (h.shape[1] - batch["labels"].shape[1])
            return h.gather(1, places[..., None].expand(-1, -1, h.shape[-1]))

        if self.head is None:
            return at(self.call(params, batch).logits)
        return self._through(params, batch, at, whole=True)[1].logits

    def _through(self, params: Params, batch, pick: Callable, *, empty: bool = False, whole: bool = False) -> tuple:
        """(what was picked of the vocabulary map's input, the model's output with that, or nothing, in its place)."""
        found: list[Tensor] = []

        def narrow(_: nn.Module, given: tuple):
            picked = pick(given[0])
            found.append(picked)
            shown = picked if whole else picked[None]
            return (shown[:, :0] if empty else shown, *given[1:])

        hook = self.head.register_forward_pre_hook(narrow)
        try:
            output = self.call(params, batch)
        finally:
            hook.remove()
        if len(found) != 1:
            raise ValueError(f"expected a model that uses its vocabulary map once, it was used {len(found)} times; pass loss=")
        return found[0], output

    def vocabulary(self) -> tuple[Tensor, Tensor | None]:
        """Return the vocabulary map's weight (V, d) and bias (V,), constants."""
        names = {id(x): name for name, x in self.module.named_parameters()}
        pair = (self.head.weight, self.head.bias)
        return tuple(None if x is None else self.constants.get(names[id(x)], x.detach()) for x in pair)


def _at(x: Tensor, batch, chosen) -> Tensor:
    """The rows (n, ...) at the chosen positions, behind whatever virtual tokens the model puts in front."""
    return x[chosen.rows, chosen.columns + (x.shape[1] - batch["labels"].shape[1])]


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """A context in which every part of the module is in evaluation mode; the modes are put back one by one."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
