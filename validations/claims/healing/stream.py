"""The residual states between the blocks of a frozen encoder, and affine laws that act on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tuning.edits import Edits, Maps, merge, noting

from ..shared.laws import Affine, Law
from ..shared.setting import Params


@dataclass(frozen=True, eq=False)
class Beside:
    """A delta with functions of the states between blocks beside it."""

    own: Any
    ports: Maps

    def edits(self, backbone: Any, params: Params) -> Edits:
        """Return the edits of the delta, and behind them the functions."""
        return merge([self.own.edits(backbone, params), Edits(ports=self.ports)])


def places(subject: Any) -> tuple[str, ...]:
    """Return where the states x_0, ..., x_T stand: behind the embedding and behind every block.

    The sublayers of a block write into the state and its last normalisation puts out all of it. Raises ValueError for blocks that do
    not end in a normalisation of the residual sum, whose states stand nowhere.
    """
    if hasattr(subject, "places"):  # a plant names its own
        return subject.places
    backbone = subject.backbone
    if backbone.layout.norms is None:
        raise ValueError(
            f"expected blocks that end in the normalisation of their residual sum, as BERT's, those of {backbone.name} do not; "
            "heal the states of another backbone"
        )
    return ("embedding", *(f"{block}.mlp_norm" for block in range(backbone.blocks)))


def healed(subject: Any, law: Law) -> Any:
    """Return the subject whose states pass x + u(x) on, u an affine law at some of its places."""
    if hasattr(subject, "healed"):
        return subject.healed(law)
    return replace(subject, delta=Beside(subject.delta, {place: (_adding(own, subject),) for place, own in law.items()}))


def _adding(law: Affine, subject: Any) -> Callable[[Tensor | None, Tensor], Tensor]:
    down, up, bias = (torch.as_tensor(x, dtype=subject.backbone.dtype) for x in (law.down, law.up, law.bias))
    return lambda _, x: x + x @ down.T @ up.T + bias


def visited(subject: Any, params: Params, batch: Any, pushed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the states (B, T, d) that leave every place, a law's signal among them, under disturbances of the places."""
    if hasattr(subject, "visited"):
        return subject.visited(params, batch, pushed or {})
    met: dict[str, Tensor] = {}

    heard = Beside(subject.delta, noting(places(subject), met).ports)
    replace(subject, delta=heard).disturbed(pushed or {}, params, batch)
    return {place: x.to(subject.dtype) for place, x in met.items()}
