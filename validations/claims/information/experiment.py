"""What gates and states are worth at the heads: least objectives of the linear response, and of training in the closed loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from theory.ensemble import Control, ensemble_lq
from theory.kernel import curvature_eigenvalues
from theory.loss import CrossEntropy
from theory.shared_gain import Ensemble

from ...store import Record
from ..shared.linearisation import GRID, off
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import cost, summed, train
from .network import Heads, objective, observed, stacked, whitening

PATTERNS = ("shared", "gate", "state")
DIRECTIONS = 8  # of the state that a head's law reads
NOISE = 1e-2  # of the price, on gates and states: keeps features apart that almost tell one another
PERMUTATIONS = 8
LEVELS = (1.0, 0.3)  # of the price, over the smallest that keeps the law of states linear


def _network(setting: Setting) -> Any:
    """Return the ports of the cell's subject; a plant is its own."""
    subject = setting.subjects["delta"]
    return subject if hasattr(subject, "run") else Heads.of(subject, setting.train, DIRECTIONS)


def _counts(network: Any, white: Sequence[np.ndarray], pattern: str) -> list[int]:
    """How many of the features at each port a pattern's laws read."""
    return [{"shared": 1, "gate": 1 + network.slots, "state": len(L)}[pattern] for L in white]


def _gains(z: np.ndarray, network: Any, white: Sequence[np.ndarray], counts: Sequence[int], ensemble: Ensemble) -> Params:
    """Return the gains V (m, n) of every port from whitened numbers."""
    sizes = [g.shape[-1] * n for g, n in zip(ensemble.G, counts, strict=True)]
    made = {}
    for port, own, L, n in zip(network.ports, np.split(z, np.cumsum(sizes)[:-1]), white, counts, strict=True):
        made[port] = torch.as_tensor(own.reshape(-1, n) @ L[:n, :n])
    return made


def predict(setting: Setting) -> Record:
    """Return the least training objectives by what a signal may be affine in, on the frozen network's linear response.

    At every level of the price r, the first of which is the smallest on the grid of `penalty` whose law of states moves the network
    itself as its linear response says; smaller ones go beyond. Beside the values: eta, how far the law of states leaves its linear
    response, the same values to first order in the loss, and for permuted labels (mean over draws).
    """
    network = _network(setting)
    seen = observed(network, setting.train)
    loss, white = CrossEntropy(setting.train.labels.numpy()), whitening(seen, NOISE)
    G = {pattern: stacked(seen, white, _counts(network, white, pattern)) for pattern in PATTERNS}
    kernels = {pattern: np.tensordot(g, g, ((2,), (2,))).reshape(seen.y0.size, -1) for pattern, g in G.items()}
    scale = float(curvature_eigenvalues(kernels["state"], seen.y0, loss)[0])

    def least(pattern: str, r: float, given: CrossEntropy = loss) -> Control:
        return ensemble_lq(G[pattern], seen.y0, given, r, kernel=kernels[pattern] / r)

    def eta(r: float) -> float:
        """How far the law of states, closed in the network itself, leaves its linear response on training text."""
        law = least("state", r)
        gains = _typed(_gains(law.z, network, white, _counts(network, white, "state"), seen), setting)
        with torch.no_grad():
            moved = network.run(gains, setting.train).outputs.double().numpy()
        return off(moved - seen.y0, G["state"] @ law.z)

    r = setting.penalty * scale
    if setting.regime is not None:
        r = scale
        for share in GRID:
            if eta(share * scale) > setting.regime:
                break
            r = share * scale
    slope = loss.gradient(seen.y0) / len(seen.y0)
    pulls = {pattern: float(np.sum(np.tensordot(slope, G[pattern], 2) ** 2)) for pattern in PATTERNS}
    start, rng, levels = float(loss.value(seen.y0).mean()), own_rng(setting, 241), []
    dealt = [CrossEntropy(rng.permutation(loss.labels)) for _ in range(PERMUTATIONS)]
    for level in LEVELS:
        price = level * r
        levels.append(
            {
                "level": level,
                "r": price,
                "eta": eta(price),
                "values": {pattern: least(pattern, price).value for pattern in PATTERNS},
                "first": {pattern: start - pull / (2 * price) for pattern, pull in pulls.items()},
                "permuted": {p: float(np.mean([least(p, price, own).value for own in dealt])) for p in PATTERNS},
            }
        )
    return Record({"start": start, "levels": levels}, {})


def _typed(gains: Params, setting: Setting) -> Params:
    dtype = setting.subjects["delta"].dtype
    return {port: V.to(dtype) for port, V in gains.items()}


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the least objectives that full-batch training of the same laws reaches in the closed loop, on training and held-out text.

    Every pattern starts from the optimum of the one before, so that values nest whatever the solver leaves.
    """
    network = _network(setting)
    white = whitening(observed(network, setting.train), NOISE)
    levels = [_trained(setting, network, white, told["r"]) for told in predicted.values["levels"]]
    return Record({"levels": levels, "converged": all(one["converged"] for one in levels), **_counted(levels)}, {})


def _counted(levels: Sequence[Mapping]) -> dict:
    return {
        "evaluations": sum(one["evaluations"] for one in levels),
        "gradient_ratio": max(one["gradient_ratio"] for one in levels),
    }


def _trained(setting: Setting, network: Any, white: Sequence[np.ndarray], r: float) -> dict:
    """What training every pattern at one price reaches."""
    reached, held_out, costs, before = {}, {}, [], {}
    for pattern in PATTERNS:
        sizes = _counts(network, white, pattern)
        maps = _typed({port: torch.as_tensor(L[:n, :n]) for port, L, n in zip(network.ports, white, sizes, strict=True)}, setting)

        def gains(params: Mapping, maps: Params = maps) -> Params:
            return {port: params[port] @ own for port, own in maps.items()}

        start = {port: torch.zeros(network.width, len(own), dtype=own.dtype) for port, own in maps.items()}
        for port, V in before.items():
            start[port][:, : V.shape[1]] = V
        fitted = train(setting, lambda p, at=gains: objective(network, at(p), setting.train, r), start)
        before = {port: V.detach() for port, V in fitted.params.items()}
        reached[pattern] = float(fitted.value)
        with torch.no_grad():
            held_out[pattern] = float(objective(network, gains(before), setting.test, r))
        costs.append(cost(fitted))
    told = summed(costs)
    return {"values": reached, "held_out": held_out, **told, "converged": all(c["converged"] for c in costs)}


EXPERIMENT = Experiment(
    "information", "signals that see more and more", ("delta",), predict, measure, weight=15.0, per_delta=True, by_token=True
)
