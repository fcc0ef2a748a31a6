"""The gain that an ensemble shares, predicted from the frozen network, against the Jacobian of the adapter that is trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import ortho_group

from theory.control import output_lq
from theory.loss import CrossEntropy
from theory.shared_gain import (
    Ensemble,
    SharedLaw,
    energy_price,
    first_order,
    information_values,
    reduced,
    shared_gain,
    shared_gains,
)
from tuning.training import Fit, adamw

from ...statistics import cosine
from ...store import Record
from ..shared.laws import Affine, Law, installed, with_law
from ..shared.linearisation import Linearisation, linearise, off, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_rest, at_start, attention_ports, cost, logits, train
from ..shared.whitening import train_white
from .floor import deviations, floored_loss

DRAWS = 64  # of permuted labels, and of rotations
QUANTILE = 0.975
COORDINATES = ("own", "white")  # of an adapter, in which its optimum is searched
PRINCIPAL = 4  # directions that the rival of the leading ones reads
VANISHING = 1e-6  # of the largest singular value: between-example directions below it are rounding

Factors = tuple[np.ndarray, np.ndarray]  # up (d, rank) and down (rank, q) of one port's gain


@dataclass(frozen=True, eq=False)
class Seen:
    """What laws read and move: phi = B'(y - centre) at each port's tokens, B (d, q) the directions in which examples differ."""

    ensemble: Ensemble
    bases: tuple[np.ndarray, ...]
    centres: tuple[np.ndarray, ...]

    def leading(self, count: int) -> Ensemble:
        """Return the ensemble whose laws read the first directions alone."""
        return replace(self.ensemble, phi=tuple(f[..., :count] for f in self.ensemble.phi))

    def affine(self, k: np.ndarray, factors: Factors, t: int) -> Affine:
        """Return u = k + up down B'(y - centre) as an adapter holds it."""
        (up, down), B = factors, self.bases[t]
        return Affine(down @ B.T, up, k - up @ (down @ (B.T @ self.centres[t])))


def observe(subject: Any, ports: Sequence[str], batch: Any) -> Seen:
    """Return the frozen network's response to a signal at every token, and its states there in between-example directions.

    The directions are the left singular vectors of the examples' mean states less their mean, at most N - 1 of them; states are
    weighted as the price weights tokens, equally within an example.
    """
    with torch.no_grad():
        base = subject.rollout(at_start(subject), batch).base
    states = [base[port].double().cpu().numpy() for port in ports]
    mask = batch.mask.double().cpu().numpy()
    weights = mask / mask.sum(1, keepdims=True)
    G, y0 = token_response(subject.steered, subject, ports, batch)
    phi, bases, centres = [], [], []
    for x in states:
        examples = np.einsum("nt,ntd->nd", weights, x)
        centre = examples.mean(0)
        _, s, Vt = np.linalg.svd(examples - centre, full_matrices=False)
        B = Vt[s > VANISHING * s[0]][: len(x) - 1].T
        phi.append((x - centre) @ B)
        bases.append(B)
        centres.append(centre)
    return Seen(Ensemble(G, tuple(phi), y0, weights), tuple(bases), tuple(centres))


def token_response(
    outputs: Callable[[Params, Any], torch.Tensor], subject: Any, ports: Sequence[str], batch: Any
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return the response (N, C, T, d) of the logits to a signal at every real token of each port, and the logits.

    outputs(signals, batch): the logits with a signal (1, T, d) added at each port.
    """
    T, mask = batch.mask.shape[1], batch.mask.double().cpu().numpy()
    origin = {port: torch.zeros(T, subject.width, dtype=subject.dtype) for port in ports}
    lin = linearise(lambda z, b: outputs({port: u[None] for port, u in z.items()}, b), origin, batch)
    shape = (*lin.G.shape[:2], T, subject.width)
    return tuple(lin.columns(port).reshape(shape) * mask[:, None, :, None] for port in ports), lin.y0


def posed(setting: Setting) -> tuple[tuple[str, ...], Linearisation, float]:
    """Return the adapter's attention ports, the frozen network's response to one signal at each, and the price r.

    It is that of `penalty`, times the option `dearer`, one unless said.
    """
    subject = setting.subjects["adapter"]
    ports = attention_ports(subject)
    origin = at_rest(subject, ports)
    lin = linearise(subject.steered, origin, setting.train)
    return ports, lin, penalty(setting, lin, subject.steered, origin) * float(setting.options.get("dearer", 1.0))


def averaged_lq(lin: Linearisation, ports: Sequence[str], r: float, bases: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return each port's per-example regulator gain, averaged over examples and with its sign, in the directions read there.

    -(1/r) mean_i G_it' (I + M_i W_it)^-1 M_i G_it, which damps the deviation of every example from itself.
    """
    G = [lin.columns(port) for port in ports]
    regulator = output_lq(G, lin.loss.hessian(lin.y0), lin.loss.gradient(lin.y0), r)
    return [-np.mean(regulator.gain(t, G[t]), axis=0) @ B for t, B in enumerate(bases)]


def _rivals(
    seen: Seen, loss: CrossEntropy, lin: Linearisation, ports: Sequence[str], r: float, sigmas: Sequence[float]
) -> Iterator[tuple[str, Sequence, Sequence]]:
    """Yield (name, gains, prices) of the laws that the shared gain must beat."""
    price, norm = energy_price(seen.ensemble, sigmas), tuple(np.eye(f.shape[-1]) for f in seen.ensemble.phi)
    yield "first", first_order(seen.ensemble, loss, r, price).K, price
    yield "raw", first_order(seen.ensemble, loss, r, norm).K, norm
    few = seen.leading(PRINCIPAL)
    narrow = shared_gain(few, loss, r, energy_price(few, sigmas)).K
    yield "principal", [np.pad(K, ((0, 0), (0, len(S) - K.shape[1]))) for K, S in zip(narrow, price, strict=True)], price
    yield "lq", averaged_lq(lin, ports, r, seen.bases), price


def cut_to(gains: Sequence[np.ndarray], prices: Sequence[np.ndarray], ranks: Sequence[int]) -> list[Factors]:
    """Return each port's gain cut to its rank in its price."""
    return [reduced(K, S, rank) for K, S, rank in zip(gains, prices, ranks, strict=True)]


def predict(setting: Setting) -> Record:
    """Return the shared-gain law of the attention ports with its rivals and nulls, each cut to the adapter's rank.

    From the frozen network, its training text and the price r alone: r is the smallest whose shared control stays in the linear
    regime (see `penalty`); the option `floor` puts noise of that deviation on what is read into the price (`deviations`). Beside
    the gains: how strongly disturbances of the ports would move held-out logits with the law installed in the real network, over
    the frozen network's; what the linear problem is worth with no, some and all information; and how far the law leaves the
    linear response on training text.
    """
    subject, (ports, lin, r) = setting.subjects["adapter"], posed(setting)
    seen = observe(subject, ports, setting.train)
    sigmas = deviations(seen.ensemble, float(setting.options.get("floor", 0.0)))
    price = energy_price(seen.ensemble, sigmas)
    ranks = [len(subject.initial[f"{port}.down"]) for port in ports]
    rng = own_rng(setting, 211)
    losses = [lin.loss, *(CrossEntropy(rng.permutation(lin.labels)) for _ in range(DRAWS))]
    law, *dealt = shared_gains(seen.ensemble, losses, r, price)
    cut = {"law": cut_to(law.K, price, ranks)}
    cut |= {name: cut_to(gains, own, ranks) for name, gains, own in _rivals(seen, lin.loss, lin, ports, r, sigmas)}
    cut |= {f"permuted{draw}": cut_to(null.K, price, ranks) for draw, null in enumerate(dealt)}
    own = {port: seen.affine(k, factors, t) for t, (port, k, factors) in enumerate(zip(ports, law.k, cut["law"], strict=True))}
    still = without_law(subject, ports, setting.test)
    values = information_values(seen.ensemble, lin.loss, r, sigmas)
    return Record(
        {
            "r": r,
            "ports": list(ports),
            "sigmas": sigmas,
            "residual": law.residual,
            "sensitivity": sensitivity(with_law(subject, ports), installed(own, subject), setting.test, still),
            "departure": _departure(subject, ports, own, seen, law, cut["law"], setting.train),
            "value_shared": values.shared,
            "value_feedback": values.feedback,
            "value_full": values.full,
        },
        {f"open.{port}": sizes for port, sizes in still.items()}
        | {f"basis.{port}": B for port, B in zip(ports, seen.bases, strict=True)}
        | {f"price.{port}": S for port, S in zip(ports, price, strict=True)}
        | _packed(cut, ports),
    )


def _packed(cut: Mapping[str, Sequence[Factors]], ports: Sequence[str]) -> dict[str, np.ndarray]:
    return {
        f"{name}/{port}/{what}": part
        for name, factors in cut.items()
        for port, pair in zip(ports, factors, strict=True)
        for what, part in zip(("up", "down"), pair, strict=True)
    }


def gain_of(arrays: Mapping[str, np.ndarray], name: str, port: str) -> np.ndarray:
    """Return a predicted gain (d, q) of a port by the name of its law, in the directions read there."""
    return arrays[f"{name}/{port}/up"] @ arrays[f"{name}/{port}/down"]


def open_loop(response: Linearisation, ports: Sequence[str]) -> dict[str, np.ndarray]:
    """Return |dy/ds| (N,) of each example, y the contrasts of its logits and s one disturbance of all its tokens, port by port."""
    blocks = {port: response.columns(port) for port in ports}
    return {port: np.linalg.norm(G - G.mean(1, keepdims=True), axis=(1, 2)) for port, G in blocks.items()}


def without_law(subject: Any, ports: Sequence[str], batch: Any) -> dict[str, np.ndarray]:
    """Return `open_loop` of the frozen network."""
    return open_loop(linearise(subject.steered, at_rest(subject, ports), batch), ports)


def sensitivity(subject: Any, params: Mapping, batch: Any, still: Mapping[str, np.ndarray]) -> float:
    """Return the closed loop's mean response to disturbances over the frozen network's, averaged over ports."""
    origin = at_rest(subject, tuple(still))
    closed = open_loop(linearise(lambda z, b: subject.disturbed(z, params, b), origin, batch), tuple(still))
    return float(np.mean([closed[port].mean() / sizes.mean() for port, sizes in still.items()]))


def _departure(
    subject: Any, ports: Sequence[str], own: Law, seen: Seen, law: SharedLaw, factors: Sequence[Factors], batch: Any
) -> float:
    """How far the installed law's logits are from what the linear response says of it, in the median over examples."""
    reached = logits(with_law(subject, ports).outputs, installed(own, subject), batch)
    linear = seen.ensemble.moved(seen.ensemble.signals(law.k, [up @ down for up, down in factors]))
    return off(reached - seen.ensemble.y0, linear - seen.ensemble.y0)


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the cosine of every law with the trained adapter's Jacobian, and the loop's sensitivity once it is trained.

    Training is full-batch under `floored_loss`, loss + (r/2) signal energy where there is no floor, with the option `coordinates`
    "white" in those of `train_white`, with `steps` by so many of AdamW. The Jacobian is the mean over held-out tokens, at every attention port and in the directions
    that the law reads, all ports in one vector; nulls are the 97.5 % quantile over laws of permuted labels and over the law read
    in randomly turned directions.
    """
    r, ports = predicted.values["r"], tuple(predicted.values["ports"])
    adapter, arrays = setting.subjects["adapter"], predicted.arrays
    fitted = _trained(setting, adapter, dict(zip(ports, predicted.values["sigmas"], strict=True)), r)
    with torch.no_grad():
        rolled = adapter.rollout(fitted.params, setting.test)
    trained = [jacobian(adapter, fitted.params, port, rolled, setting.test) @ arrays[f"basis.{port}"] for port in ports]

    def all_ports(name: str) -> list[np.ndarray]:
        return [gain_of(arrays, name, port) for port in ports]

    law = all_ports("law")
    roots = [np.linalg.cholesky(arrays[f"price.{port}"]) for port in ports]
    rng = own_rng(setting, 223)
    turned = [[K @ ortho_group.rvs(K.shape[1], random_state=rng) for K in law] for _ in range(DRAWS)]
    permuted = [along(trained, all_ports(f"permuted{draw}")) for draw in range(DRAWS)]
    cosines = {name: along(trained, all_ports(name)) for name in ("law", "first", "raw", "principal", "lq")}
    weighted = (([K @ L for K, L in zip(gains, roots, strict=True)]) for gains in (trained, law))
    return Record(
        {
            "r": r,
            "cosines": cosines,
            "cosine_permuted": float(np.quantile(permuted, QUANTILE)),
            "cosine_rotated": float(np.quantile([along(trained, gains) for gains in turned], QUANTILE)),
            "cosine_energy": along(*weighted),
            "sensitivity": sensitivity(adapter, fitted.params, setting.test, {port: arrays[f"open.{port}"] for port in ports}),
            "value": float(fitted.value),
            **cost(fitted),
        },
        {f"trained.{port}": K for port, K in zip(ports, trained, strict=True)},
    )


def _trained(setting: Setting, adapter: Any, sigmas: Mapping[str, float], r: float) -> Fit:
    searched = setting.options.get("coordinates", COORDINATES[0])
    if searched not in COORDINATES:
        raise ValueError(f"expected the option coordinates to be {' or '.join(COORDINATES)}, got {searched!r}: correct the study")

    def objective(params: Params) -> torch.Tensor:
        return floored_loss(adapter, params, setting.train, r, sigmas)

    if "steps" in setting.options:
        return _stepped(setting, objective, at_start(adapter))
    if searched == "own":
        return train(setting, objective, at_start(adapter))
    return train_white(setting, objective, adapter, tuple(sigmas), tuple(sigmas.values()))


def _stepped(setting: Setting, objective: Callable[[Params], torch.Tensor], start: Params) -> Fit:
    """The same objective by AdamW on the whole batch; converged where the gradient has fallen to the study's tolerance."""
    steps, rate = int(setting.options["steps"]), float(setting.options["rate"])
    run = adamw(lambda params, _: objective(params), start, [None], steps=steps, lr=rate, weight_decay=setting.options["decay"])
    return replace(run, converged=run.gradient_norm <= setting.tolerance * run.initial_gradient_norm)


def jacobian(adapter: Any, params: Mapping, port: str, rolled: Any, batch: Any) -> np.ndarray:
    """Return the mean Jacobian (d, d) of what an adapter adds at a port, over the real tokens of a rollout."""
    return adapter.gain(params, port, rolled.base[port], batch.mask).detach().double().cpu().numpy()


def along(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Return the cosine of two sets of gains, all ports in one vector."""
    return cosine(*(np.concatenate([K.ravel() for K in gains]) for gains in (one, other)))


EXPERIMENT = Experiment(
    "feedback", "one feedback law for all examples", ("adapter",), predict, measure, weight=5.0, per_delta=True, by_token=True
)
