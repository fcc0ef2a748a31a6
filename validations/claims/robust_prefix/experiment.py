"""A prefix trained plainly and under attack, against controls of its gates' response with an attacker and without."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.reach.response import response
from theory.loss import CrossEntropy
from theory.robust_gain import RobustControl, robust_control, size_of_harm

from ...store import Record
from ..feedback.experiment import open_loop
from ..robust.attackers import by_port, worst
from ..robust.experiment import HARM, STEPS, TRAINED, Arena
from ..shared.linearisation import Linearisation, linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_rest, at_start, attention_ports, cost, l2, penalised, shifted, train
from .subjects import MOVES, Bare, moving

PRICE = 0.3  # of the numbers over that of their linear regime without an attacker
DEALT = 4  # times that labels are dealt out


@dataclass(frozen=True, eq=False)
class Game:
    """What a prefix's numbers and disturbances do to the logits, each on its own and together, at its start.

    lin: the response to the numbers; a value enters by its gates' weights. D (N, C, n): that to disturbances of all ports.
    directions (N, n): those of the disturbances that harm most there; D is exact along them. turned (N, C, M): by how much the
    response to the numbers changes along them, with the gates that they open and the network behind.
    """

    lin: Linearisation
    D: np.ndarray
    directions: np.ndarray
    turned: np.ndarray
    size: float

    @classmethod
    def of(cls, subject: Any, ports: Sequence[str], batch: Any) -> "Game":
        """Return the game of a subject, in disturbances of the size that costs its linear response `HARM` nats."""
        start = at_start(subject)
        lin = linearise(subject.outputs, start, batch)
        D = _to_disturbances(subject, ports, batch).G
        size = size_of_harm(D, lin.y0, lin.loss, HARM)
        w = torch.stack([worst(subject, start, batch, ports, size, STEPS)[port] for port in ports], 1).detach()

        def attacked(params: Params, both: Any) -> Tensor:
            return subject.disturbed(by_port(both[0], ports), params, type(batch)(*both[1:]))

        met = response(attacked, start, [(w, *batch)])
        flat = w.flatten(1).double().cpu().numpy()
        length = np.linalg.norm(flat, axis=1)[:, None]
        slope = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0.0)  # 0 for a text that no attack harms
        q = flat * slope
        missed = met.outputs.double().cpu().numpy() - lin.y0 - np.einsum("ncm,nm->nc", D, flat)
        turned = (met.matrix.double().cpu().numpy() - lin.G) * slope[..., None]
        return cls(lin, D + (missed * slope)[..., None] * q[:, None], q, turned, size)

    def robust(self, loss: CrossEntropy, r: float, *, share: float = 1.0) -> RobustControl:
        """Return the control that is best under attack, told of a share of what it changes of the response to disturbances."""
        return robust_control(self.lin.G, self.lin.y0, loss, r, self.D, self.directions, share * self.turned, self.size)


def _to_disturbances(subject: Any, ports: Sequence[str], batch: Any) -> Linearisation:
    """The logits' response to disturbances of some ports, with a prefix as it starts."""
    start = at_start(subject)
    return linearise(lambda w, b: subject.disturbed(w, start, b), at_rest(subject, ports), batch)


def _posed(setting: Setting) -> Any:
    """The cell's prefix, of which all moves or its values alone."""
    return moving(setting.subjects["prefix"], setting.options.get("moves", MOVES[0]))


def predict(setting: Setting) -> Record:
    """Return what controls with an attacker and without, put into the prefix as it starts, lose on held-out text.

    From the network with the prefix at its start, its training text and the price alone. Beside the laws: the plain one shrunk by
    the factor that is best under attack on training text, one for which the response to disturbances stands still, the prefix as
    it starts, none, and laws with an attacker of dealt labels. Options: price, over that of the linear regime; moves, "all" numbers
    of the prefix or its "values" alone.
    """
    subject = _posed(setting)
    ports, start = attention_ports(subject), at_start(subject)
    game = Game.of(subject, ports, setting.train)
    lin = game.lin
    r = float(setting.options.get("price", PRICE)) * penalty(setting, lin, subject.outputs, start)
    still = open_loop(_to_disturbances(subject, ports, setting.test), ports)
    arena = Arena(ports, game.size, still)
    plain, law = lin.optimum(r), game.robust(lin.loss, r)
    rng = own_rng(setting, 281)
    dealt = [game.robust(CrossEntropy(rng.permutation(lin.labels)), r) for _ in range(DEALT)]
    factor, shrunk = arena.shrunk(subject, lambda factor: shifted(start, factor * plain.z), setting.train)
    elsewhere = {"oblivious": worst(subject, start, setting.test, ports, game.size, STEPS)}

    def told(z: np.ndarray) -> dict[str, float]:
        return arena.faced(subject, shifted(start, z), setting.test, elsewhere)

    return Record(
        {
            "r": r,
            "ports": list(ports),
            "size": game.size,
            "residual": law.residual,
            "factor": factor,
            "laws": {
                "start": arena.faced(subject, start, setting.test, elsewhere),
                "plain": told(plain.z),
                "robust": told(law.z),
                "still": told(game.robust(lin.loss, r, share=0.0).z),
                "shrunk": arena.faced(subject, shrunk, setting.test, elsewhere),
                "removed": arena.faced(Bare(subject), start, setting.test, elsewhere),
            },
            "dealt": [told(one.z) for one in dealt],
            "objective": law.value,
        },
        {f"open.{port}": sizes for port, sizes in still.items()},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what prefixes trained plainly and under attack lose on held-out text, and what shrinking the first or removing it does.

    Training is full-batch under loss + (r/2) |change of the numbers|^2. Under attack, the loss of every text is that under the
    disturbance that `TRAINED` steps of ascent find against the prefix as it then is; measured attacks take `STEPS`. Attackers see
    what they attack ("adaptive"), or were made against the prefix at its start ("oblivious") or the plain one ("borrowed").
    """
    told, subject = predicted.values, _posed(setting)
    r, ports, start = told["r"], tuple(told["ports"]), at_start(subject)
    arena = Arena(ports, told["size"], {port: predicted.arrays[f"open.{port}"] for port in ports})

    def under_attack(params: Params) -> Tensor:
        pushed = worst(subject, params, setting.train, ports, arena.size, TRAINED)
        lost = torch.nn.functional.cross_entropy(subject.disturbed(pushed, params, setting.train), setting.train.labels)
        return lost + r / 2 * l2(params, start)

    plain = train(setting, penalised(subject.loss, setting.train, r, start), start)
    robust = train(setting, under_attack, start)
    factor, shrunk = arena.shrunk(subject, partial(_between, start, plain.params), setting.train)
    elsewhere = {
        name: worst(subject, params, setting.test, ports, arena.size, STEPS)
        for name, params in (("oblivious", start), ("borrowed", plain.params))
    }
    arms = {"start": start, "plain": plain.params, "shrunk": shrunk, "robust": robust.params}
    return Record(
        {
            "r": r,
            "factor": factor,
            "arms": {name: arena.faced(subject, params, setting.test, elsewhere) for name, params in arms.items()}
            | {"removed": arena.faced(Bare(subject), start, setting.test, elsewhere)},
            "objective": float(robust.value),
            "plain": cost(plain),
            "robust": cost(robust),
        },
        {},
    )


def _between(start: Params, end: Params, share: float) -> Params:
    """Numbers at a share of the way."""
    return {name: p + share * (end[name] - p) for name, p in start.items()}


EXPERIMENT = Experiment(
    "robust_prefix", "a prefix trained under attack", ("prefix",), predict, measure, weight=25.0, per_delta=True, by_token=True
)
