"""Plants of the one law: small networks of linear maps on which LoRAs, IA3 and adapters without a nonlinearity are trained.

Two blocks of v, o and up, down with residual sums, read out at the mean over tokens. The readout does not see what the frozen maps
make of the states, which tell the labels; states differ in size by direction, so that the first gradient is not the law.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tuning.backbones import Batch, Port, WeightMap
from tuning.deltas import IA3, Adapter, LoRA
from tuning.deltas.delta import Delta
from tuning.edits import Edits

from ..shared.network import tensor
from ..shared.setting import Params, Setting

BLOCKS, WIDTH, LATENTS, TOKENS, CLASSES, SIZE = 2, 24, 10, 4, 3, 96
SITES = {"attention": ("v", "o"), "mlp": ("up", "down")}
SPREAD = np.geomspace(2.0, 0.25, LATENTS)  # of the coordinates of a token's state
STEEPNESS = 1.5  # of the labels' scores in the states
DELTAS: tuple[Delta, ...] = (
    LoRA(4, targets=("v",)),
    LoRA(4, targets=("o",)),
    LoRA(4, targets=("mlp",)),
    LoRA(4, targets=("v", "o")),
    IA3(targets=("v", "down")),
    IA3(targets=("v", "o", "down")),
    Adapter(4, placement="parallel", activation="identity"),
    Adapter(4, activation="identity"),
)  # one a system


@dataclass(frozen=True, eq=False)
class Maps:
    """A backbone of linear maps "block.role" (WIDTH, WIDTH), as far as deltas ask for one."""

    weights: Mapping[str, Tensor]
    name: str = "linear maps"
    blocks: int = BLOCKS
    width: int = WIDTH
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")
    ports: tuple[Port, ...] = tuple(Port(block, site) for block in range(BLOCKS) for site in SITES)

    def sites(self, block: int, role: str) -> tuple[str, ...]:
        return tuple(site for site, roles in SITES.items() if role in roles)

    def linear(self, block: int, role: str, site: str) -> WeightMap:
        return WeightMap(f"{block}.{role}", WIDTH, WIDTH, None, WIDTH)


@dataclass(frozen=True, eq=False)
class Linear:
    """A subject on linear maps; tokens (B, TOKENS, WIDTH) hold the states."""

    backbone: Maps
    readout: Tensor
    delta: Delta
    initial: Params = field(default_factory=dict)
    dtype: torch.dtype = torch.float64

    def outputs(self, params: Params, batch: Batch) -> Tensor:
        edits, x = self.delta.edits(self.backbone, params), batch.tokens
        for port in self.backbone.ports:
            y = h = x
            for role in SITES[port.site]:
                y = self._through(f"{port.block}.{role}", y, edits)
            for edit in edits.ports.get(port.key, ()):
                y = edit(h, y)
            x = x + y
        weight = batch.mask.to(self.dtype)[..., None]
        return (x * weight).sum(1) / weight.sum(1) @ self.readout.T

    def _through(self, path: str, x: Tensor, edits: Edits) -> Tensor:
        for edit in edits.inputs.get(path, ()):
            x = edit(x)
        y = x @ self.backbone.weights[path].T
        for edit in edits.outputs.get(path, ()):
            y = edit(x, y)
        return y


def network(system: int, seed: int, delta: Delta | None = None) -> Setting:
    """Return a system's maps with its delta, or another one, and texts of one to four tokens whose states tell their labels."""
    rng = np.random.default_rng([131, system])
    names = [f"{block}.{role}" for block in range(BLOCKS) for roles in SITES.values() for role in roles]
    maps = Maps({name: tensor(0.6 * rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)) for name in names})
    basis = rng.standard_normal((LATENTS, WIDTH)) / np.sqrt(LATENTS)
    teacher = STEEPNESS * rng.standard_normal((CLASSES, LATENTS)) / SPREAD / np.sqrt(LATENTS)
    readout = _deaf(maps, basis, rng.standard_normal((CLASSES, WIDTH)))
    delta = DELTAS[system % len(DELTAS)] if delta is None else delta

    def drawn(part: int, count: int) -> Batch:
        own = np.random.default_rng([137, system, seed, part])
        x = SPREAD * own.standard_normal((count, TOKENS, LATENTS))
        mask = np.arange(TOKENS) < own.integers(1, TOKENS + 1, count)[:, None]
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        score = mean @ teacher.T + own.gumbel(size=(count, CLASSES))
        return Batch(tensor(x @ basis), torch.as_tensor(mask), torch.as_tensor(score.argmax(1)))

    return Setting(
        subjects={"delta": Linear(maps, readout, delta, delta.initial(maps, seed))},
        train=drawn(0, SIZE),
        test=drawn(1, 2 * SIZE),
        seed=seed,
        penalty=0.5,
        tolerance=1e-2,
        evaluations=600,
    )


def _deaf(maps: Maps, basis: np.ndarray, readout: np.ndarray) -> Tensor:
    """The readout less what it would see of states in a basis without a delta."""
    seen = tensor(basis)
    for block in range(BLOCKS):
        for first, second in SITES.values():
            seen = seen + seen @ maps.weights[f"{block}.{first}"].T @ maps.weights[f"{block}.{second}"].T
    Q = torch.linalg.qr(seen.T)[0]
    return tensor(readout) - tensor(readout) @ Q @ Q.T
