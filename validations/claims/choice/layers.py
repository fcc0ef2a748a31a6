"""Where in a network the tangent model's forecast for an option comes from: block by block and place by place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tuning.subjects import READOUT_PARAMETERS

from ..practice.tangent import Found, Texts

NODES = 16  # of the Gauss-Legendre rule along the shift
HEAD = "head"
NOTHING = 0.01  # of the fall of the dev loss: a block below this share carries nothing


@dataclass(frozen=True)
class Layer:
    """What the numbers of one block and place carry.

    block: counted from 0; None outside the blocks. gain: nats of the fall of the dev loss, a sum over all layers. gradient: of
    the training loss, its squared norm. trace: of their kernel, over the number of texts. Both at the start.
    """

    block: int | None
    site: str
    numbers: int
    gain: float
    gradient: float
    trace: float


def place_of(name: str) -> tuple[int | None, str]:
    """Return the block and the place of a parameter named "block.site.what", "label/block.site.what" or otherwise."""
    if name in READOUT_PARAMETERS:
        return None, HEAD
    first, *rest = name.rpartition("/")[2].split(".")
    return (int(first), rest[0]) if first.isdigit() and rest else (None, first)


def layer_map(texts: Texts, best: Found, numbers: Mapping[str, Tensor], names: Sequence[str] = ()) -> tuple[Layer, ...]:
    """Return what each block and place carries of the tangent optimum `best`, and of places of `names` alone that it is nothing.

    gain_p = - int_0^1 < mean gradient of the dev loss at y0 + t s, s_p > dt, where s = sum_p s_p is the optimum's shift and
    s_p = G_p z_p its part: the shares of Aumann and Shapley (1974), which add up to the fall of the loss. numbers: the
    parameters in the order of G's columns.
    """
    columns: dict[tuple[int | None, str], list[int]] = {}
    count = 0
    for name, value in numbers.items():
        columns.setdefault(place_of(name), []).extend(range(count, count := count + value.numel()))
    train, dev = texts.train, texts.dev
    slope = (train.loss.gradient(train.y0) @ train.basis).ravel().astype(train.G.dtype) @ train.flat / len(train.y0)
    shifts = {place: (dev.flat[:, _run(own)] @ best.z[own]).reshape(dev.G.shape[:2]) for place, own in columns.items()}
    whole = sum(shifts.values())
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    along = sum(
        w / 2 * dev.loss.gradient(dev.shifted((1 + t) / 2 * whole)) @ dev.basis for t, w in zip(nodes, weights, strict=True)
    )
    still = dict.fromkeys(place for place in map(place_of, names) if place not in columns)
    return (
        *(Layer(*place, numbers=0, gain=0.0, gradient=0.0, trace=0.0) for place in still),
        *(
            Layer(
                *place,
                numbers=len(own),
                gain=-float(np.sum(along * shifts[place])) / len(dev.y0),
                gradient=float(np.sum(slope[own].astype(float) ** 2)),
                trace=float(np.sum(train.flat[:, _run(own)].astype(float) ** 2)) / len(train.y0),
            )
            for place, own in columns.items()
        ),
    )


def _run(columns: Sequence[int]) -> slice | np.ndarray:
    """Return columns as a slice where they stand in a row, which copies nothing."""
    first, last = columns[0], columns[-1] + 1
    return slice(first, last) if last - first == len(columns) else np.asarray(columns)


def idle_blocks(layers: Sequence[Layer]) -> tuple[int, ...]:
    """Return the blocks that carry less than the share `NOTHING` of the fall of the dev loss; none where nothing falls."""
    total = sum(layer.gain for layer in layers)
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    gains = {block: sum(layer.gain for layer in layers if layer.block == block) for block in blocks}
    return tuple(block for block in blocks if gains[block] < NOTHING * total) if total > 0 else ()
