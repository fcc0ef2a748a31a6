"""Plants of the facts explained: the layers of `facts.plants`, in every system with other rates, or with another part of x seen.

An order that is another one in every system is neither the published one nor that of a mean over the others, and the deltas'
kernels are alike where only their rates differ. For the worth of states a layer has one port, at which a prefix reads the first
of the numbers x as its gates and an adapter all of them as states: the fewer gates, the more is the adapter ahead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Batch

from ..facts.plants import FULL, PUBLISHED_ORDER, RECIPE, USED, Kind, settings
from ..information.network import Met
from ..practice.plants import SEEN, WIDTH, Layer
from ..shared.among import Among, among
from ..shared.claim import Cell
from ..shared.network import SYSTEMS, partner
from ..shared.setting import Params, Setting
from ..shared.training import first
from .experiment import EXPERIMENT

RATES = (0.032, 0.0125, 0.005, 0.002, 0.0008)
COUNTS = (16, 12, 9, 6, 3)  # of the numbers x that a delta sees
PLACES = (0, 3, 1, 4, 2)  # of the deltas in an order that is not the published one
SLOTS = (15, 14, 14, 13, 4, 3, 2, 1)  # half many and half few, so that what the others say is far off
ALL_SEEN = Kind(dict.fromkeys(PUBLISHED_ORDER, USED))
READERS = ("prefix", "adapter")
TEXTS = 160  # to train on; a tangent optimum of more takes long


def _order(system: int) -> list[int]:
    """Return every delta's place in a system; its partner's are the reverse."""
    turned = np.roll(PLACES, min(system, partner(system)))
    return [int(k) for k in (turned if system < partner(system) else len(PLACES) - 1 - turned)]


def _settings(kind: Kind, text: int) -> dict[str, Setting]:
    """Return the settings of the facts' plants with fewer texts to train on."""
    return {name: replace(one, train=first(one.train, TEXTS)) for name, one in settings(kind, text).items()}


def _at_rates(system: int, text: int) -> dict[str, Setting]:
    """Return the settings of a system's rates on the texts of another: deltas that see the same."""
    rates = {name: RATES[k] for name, k in zip(PUBLISHED_ORDER, _order(system), strict=True)}
    made = _settings(ALL_SEEN, text)
    return {name: replace(one, options=RECIPE | {"rates": (rates[name],)}) for name, one in made.items()}


def _seeing(system: int, text: int) -> dict[str, Setting]:
    """Return the settings of what a system's deltas see on the texts of another."""
    return _settings(Kind({name: COUNTS[k] for name, k in zip(PUBLISHED_ORDER, _order(system), strict=True)}), text)


@dataclass(frozen=True, eq=False)
class Hearing(Layer):
    """A layer whose delta reads the first `slots` numbers x, or all; `run` lets a law at its port read a constant, these, all."""

    slots: int = SEEN
    width: int = WIDTH
    dtype: torch.dtype = torch.float64

    @property
    def ports(self) -> tuple[str, ...]:
        """Return the name of the one port."""
        return ("0",)

    def outputs(self, params: Mapping[str, Tensor], batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the logits (B, C)."""
        heard = torch.arange(WIDTH + SEEN) < WIDTH + self.slots
        return super().outputs(params, batch._replace(tokens=batch.tokens * heard))

    def run(self, gains: Params, batch: Batch, pushes: Mapping[str, Tensor] | None = None) -> Met:
        """Return a pass with u = V f at the port (see `information.network.Heads.run`)."""
        h, x = batch.tokens.split([WIDTH, SEEN], dim=-1)
        f = torch.cat([torch.ones_like(x[..., :1]), x], -1)[..., : 1 + USED]
        u = f[..., : gains["0"].shape[1]] @ gains["0"].T if "0" in gains else torch.zeros_like(h)
        moved = h + u if pushes is None else h + u + pushes["0"]
        return Met(F.linear(moved[:, 0], self.readout.weight, self.readout.bias), {"0": f}, {"0": u})


def _reading(system: int, text: int) -> dict[str, Setting]:
    """Return the settings of a prefix that reads a system's number of gates, and of an adapter, on the texts of another."""
    made = _settings(Kind(dict.fromkeys(READERS, USED)), text)
    slots = {"prefix": SLOTS[system], "adapter": USED}
    return {
        name: replace(
            one,
            subjects={"delta": Hearing(one.subjects["delta"].readout, one.subjects["delta"].initial, slots=slots[name])},
            regime=0.1,
            options=one.options | ({"worth": TEXTS} if name == "prefix" else {}),
        )
        for name, one in made.items()
    }


def _cells(make: Callable[[int, int], Mapping[str, Setting]], of: str, told: Callable[[int], int]) -> list[Among]:
    """Return the cells of one delta on every system beside the others', against the predictions of the system `told` names."""
    cells = []
    for system in range(SYSTEMS):
        said, met = make(told(system), system), make(system, system)
        for name in met:
            predicted = EXPERIMENT.predict(said[name])
            cells.append(Cell(f"system {system}", name, 0, predicted, EXPERIMENT.measure(met[name], predicted)))
    return [cell for cell in among(cells) if cell.delta == of]


def _own(system: int) -> int:
    return system


paced, paced_otherwise = (partial(_cells, _at_rates, FULL, told) for told in (_own, partner))
seen, seen_otherwise = (partial(_cells, _seeing, FULL, told) for told in (_own, partner))
heard, heard_otherwise = (partial(_cells, _reading, READERS[1], told) for told in (_own, partner))
