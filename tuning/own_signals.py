"""What a delta itself adds, place by place, in one pass: what its functions read, what stands there without them, their signals.

A LoRA acts at the outputs of linear maps and reads their inputs, IA3 scales what it finds, an adapter acts at ports. One listener
serves every delta that is made of functions at places; a rollout sees only what of it arrives at the ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from tuning.backbones import Backbone, Batch
from tuning.deltas.delta import Delta, Shapes
from tuning.edits import Edits
from tuning.subjects import Params, Subject

Function = Callable[[Tensor, Tensor], Tensor]  # of what a place reads (B, T, q) and what stands there (B, T, m), to (B, T, m)
KINDS = ("inputs", "outputs", "ports")


@dataclass(frozen=True, eq=False)
class Told:
    """One place in one pass: what it reads (B, T, q), what stands there without the delta (B, T, m), and what the delta adds."""

    read: Tensor
    stood: Tensor
    signal: Tensor


@dataclass(frozen=True)
class _Listener(Delta):
    """A delta whose places are written down in passing, and are moved besides."""

    inner: Delta
    moves: Mapping[str, Function]
    told: dict[str, Told]

    @property
    def name(self) -> str:
        return self.inner.name

    def shapes(self, backbone: Backbone) -> Shapes:
        return self.inner.shapes(backbone)

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        tables: dict[str, dict[str, tuple[Callable]]] = {kind: {} for kind in KINDS}
        for key, function in functions(self.inner, backbone, params).items():
            kind, _, path = key.partition("/")
            tables[kind][path] = (partial(self._pass, key, function),)
        return Edits(**tables)

    def _pass(self, key: str, function: Function, *given: Tensor) -> Tensor:
        read, stood = given[0], given[-1]  # what enters a map both is read and stands there
        moved = function(read, stood)
        self.told[key] = Told(read, stood, moved - stood)
        return moved + self.moves[key](read, stood) if key in self.moves else moved


def functions(delta: Delta, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Function]:
    """Return what a delta does, as one function (read, stood) -> moved for each place "kind/path", in no order.

    Raises ValueError for a delta that does more than put a function at each place, and for parts of one fused map.
    """
    edits = delta.edits(backbone, params)
    if edits.prefix or edits.weights or edits.prompt is not None or edits.shift:
        raise ValueError(
            f"expected a delta of functions at places, such as a LoRA, IA3 or an adapter, got {delta.name}: name one"
        )

    found = {}
    for kind in KINDS:
        for path, parts in getattr(edits, kind).items():
            if len(parts) > 1:
                raise ValueError(
                    f"expected one function at {path}, got {len(parts)} of {delta.name}: name a fused map as a whole"
                )
            found[f"{kind}/{path}"] = partial(_entering, parts[0]) if kind == "inputs" else parts[0]
    return found


def _entering(function: Callable[[Tensor], Tensor], read: Tensor, stood: Tensor) -> Tensor:
    return function(stood)


def told(
    subject: Subject, params: Params, batch: Batch, moves: Mapping[str, Function] | None = None
) -> tuple[dict[str, Told], Tensor]:
    """Return what a subject's delta does at each of its places, in the order of the pass, and the logits (B, C); differentiable.

    moves: by place, functions (read, stood) -> (B, T, m) of what is added there besides, such as signals to be tried or a law.
    """
    found: dict[str, Told] = {}
    outputs = replace(subject, delta=_Listener(subject.delta, moves or {}, found)).outputs(params, batch)
    return found, outputs
