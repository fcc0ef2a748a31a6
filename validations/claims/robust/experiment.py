"""An adapter trained plainly and under attack, against the shared gains of the frozen network with an attacker and without."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.loss import CrossEntropy
from theory.robust_gain import RobustLaw, closed_loop, robust_gain, size_of_harm
from theory.shared_gain import SharedLaw, energy_price, shared_gain

from ...store import Record
from ..feedback.experiment import Seen, cut_to, observe, posed, sensitivity, without_law
from ..shared.laws import installed, with_law
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_start, cost, loss_at, train
from .attackers import worst

PRICE = 10.0  # of signals over that of the linear regime without an attacker, which the attacked law would leave
HARM = 0.5  # nats that the worst disturbances cost the frozen network's linear response on training text
STEPS, TRAINED = 8, 2  # of ascent where attacks are measured, and at every evaluation of a training
VANISHING = 1e-6  # of the largest second moment of token states: directions below it are rounding
DEALT = 1  # times that labels are dealt out
FACTORS = tuple(float(s) for s in np.linspace(0.0, 1.0, 11))  # by which what was trained plainly may be shrunk


@dataclass(frozen=True, eq=False)
class Arena:
    """Where attackers meet a subject: ports, the size of a disturbance, and the frozen network's responses to one."""

    ports: tuple[str, ...]
    size: float
    still: Mapping[str, np.ndarray]

    def faced(self, subject: Any, params: Mapping, batch: Any, made_elsewhere: Mapping[str, Params]) -> dict[str, float]:
        """Return a subject's sensitivity, and its losses on clean text and under attackers who see it or saw another."""

        def under(pushed: Params) -> float:
            return loss_at(lambda p, b: subject.disturbed(pushed, p, b), params, batch)

        return {
            "clean": loss_at(subject.outputs, params, batch),
            "adaptive": self.attacked(subject, params, batch),
            **{name: under(pushed) for name, pushed in made_elsewhere.items()},
            "sensitivity": sensitivity(subject, params, batch, self.still),
        }

    def attacked(self, subject: Any, params: Mapping, batch: Any, steps: int = STEPS) -> float:
        """Return the loss under the attacker who sees the subject."""
        pushed = worst(subject, params, batch, self.ports, self.size, steps)
        return loss_at(lambda p, b: subject.disturbed(pushed, p, b), params, batch)

    def shrunk(self, subject: Any, at: Callable[[float], Params], batch: Any) -> tuple[float, Params]:
        """Return the factor of a delta, one of `FACTORS`, at which attacks harm it least, and its numbers there."""
        tried = {factor: at(factor) for factor in FACTORS}
        best = min(tried, key=lambda factor: self.attacked(subject, tried[factor], batch, TRAINED))
        return best, tried[best]


def _times(params: Params, factor: float) -> Params:
    """An adapter whose signals are `factor` times these."""
    return {name: factor * p if name.rpartition(".")[2].startswith("up") else p for name, p in params.items()}


def predict(setting: Setting) -> Record:
    """Return what the shared gains with an attacker and without, installed in the frozen network, lose on held-out text.

    From the frozen network, its training text and the price alone. The size of a disturbance is that which costs the frozen
    network's linear response `HARM` nats on training text. Beside the laws: the plain law shrunk by the factor that is best under
    attack on training text, no law, and laws with an attacker of dealt labels.
    """
    subject, (ports, lin, regime) = setting.subjects["adapter"], posed(setting)
    r = float(setting.options.get("price", PRICE)) * regime
    seen = whole(subject, ports, setting.train)
    ensemble, price, reads = seen.ensemble, energy_price(seen.ensemble), [B.T for B in seen.bases]
    silent = closed_loop(ensemble, [np.zeros(B.shape) for B in seen.bases], reads)
    size = size_of_harm(silent, ensemble.y0, lin.loss, HARM)
    arena = Arena(ports, size, without_law(subject, ports, setting.test))
    frame, ranks = with_law(subject, ports), [len(subject.initial[f"{port}.down"]) for port in ports]

    def held(law: SharedLaw | RobustLaw) -> Params:
        cut = cut_to(law.K, price, ranks)
        return installed({p: seen.affine(k, f, t) for t, (p, k, f) in enumerate(zip(ports, law.k, cut, strict=True))}, subject)

    def robust(loss: CrossEntropy) -> RobustLaw:
        return robust_gain(ensemble, loss, r, price, reads, size, rank=max(ranks))

    plain, law = shared_gain(ensemble, lin.loss, r, price), robust(lin.loss)
    rng = own_rng(setting, 271)
    dealt = [robust(CrossEntropy(rng.permutation(lin.labels))) for _ in range(DEALT)]
    factor, shrunk = arena.shrunk(frame, partial(_times, held(plain)), setting.train)
    elsewhere = {"oblivious": worst(subject, at_start(subject), setting.test, ports, size, STEPS)}

    def told(params: Params) -> dict[str, float]:
        return arena.faced(frame, params, setting.test, elsewhere)

    return Record(
        {
            "r": r,
            "ports": list(ports),
            "size": size,
            "residual": law.residual,
            "factor": factor,
            "laws": {
                "plain": told(held(plain)),
                "robust": told(held(law)),
                "shrunk": told(shrunk),
                "removed": arena.faced(subject, at_start(subject), setting.test, elsewhere),
            },
            "dealt": [told(held(one)) for one in dealt],
            "objective": law.value,
        },
        {f"open.{port}": sizes for port, sizes in arena.still.items()},
    )


def whole(subject: Any, ports: Sequence[str], batch: Any) -> Seen:
    """Return what laws read and move when they read every direction in which token states vary, as an attacker may use them all.

    B: the eigenvectors of the token states' second moment above `VANISHING` of the largest.
    """
    between = observe(subject, ports, batch)
    with torch.no_grad():
        base = subject.rollout(at_start(subject), batch).base
    phi, bases = [], []
    for port, centre in zip(ports, between.centres, strict=True):
        x = base[port].double().cpu().numpy() - centre
        moment = np.einsum("nt,ntd,nte->de", between.ensemble.weights, x, x, optimize=True) / len(x)
        values, vectors = np.linalg.eigh(moment)
        bases.append(vectors[:, values > VANISHING * values[-1]])
        phi.append(x @ bases[-1])
    return Seen(replace(between.ensemble, phi=tuple(phi)), tuple(bases), between.centres)


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what adapters trained plainly and under attack lose on held-out text, and what shrinking the first or removing it does.

    Training is full-batch under loss + (r/2) energy of undisturbed signals. Under attack, the loss of every text is that under the
    disturbance that `TRAINED` steps of ascent find against the adapter as it then is; measured attacks take `STEPS`. Attackers see
    what they attack ("adaptive"), or were made against the frozen network ("oblivious") or the plain adapter ("borrowed").
    """
    told, subject = predicted.values, setting.subjects["adapter"]
    r, ports, start = told["r"], tuple(told["ports"]), at_start(subject)
    arena = Arena(ports, told["size"], {port: predicted.arrays[f"open.{port}"] for port in ports})

    def under_attack(params: Params) -> Tensor:
        pushed = worst(subject, params, setting.train, ports, arena.size, TRAINED)
        lost = torch.nn.functional.cross_entropy(subject.disturbed(pushed, params, setting.train), setting.train.labels)
        return lost + r / 2 * subject.energy(params, setting.train)

    plain = train(setting, lambda p: subject.priced_loss(p, setting.train, r), start)
    robust = train(setting, under_attack, start)
    factor, shrunk = arena.shrunk(subject, partial(_times, plain.params), setting.train)
    met = {"plain": plain.params, "robust": robust.params, "shrunk": shrunk, "removed": start}
    elsewhere = {
        name: worst(subject, params, setting.test, ports, arena.size, STEPS)
        for name, params in (("oblivious", start), ("borrowed", plain.params))
    }
    return Record(
        {
            "r": r,
            "factor": factor,
            "arms": {name: arena.faced(subject, params, setting.test, elsewhere) for name, params in met.items()},
            "objective": float(robust.value),
            "plain": cost(plain),
            "robust": cost(robust),
        },
        {},
    )


EXPERIMENT = Experiment(
    "robust", "an adapter trained under attack", ("adapter",), predict, measure, weight=25.0, per_delta=True, by_token=True
)
