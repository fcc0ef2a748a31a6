"""Controllers written down from the frozen model, without training, against deltas trained at the same ports."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.budget import budget_law
from theory.ensemble import per_example_lq
from theory.game import game
from theory.kernel import gradient_rival
from theory.regression import reduced_rank
from tuning.training import flatten

from ...statistics import explained
from ...store import Record
from ..loop.experiment import gains
from ..shared.laws import (
    Affine,
    Law,
    Manifold,
    around,
    at_energy,
    healing_law,
    installed,
    means,
    packed,
    spent,
    tokens,
    unpacked,
    with_law,
)
from ..shared.linearisation import Linearisation, departure, linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import (
    at_rest,
    at_start,
    attention_ports,
    cost,
    cross_entropy,
    logits,
    loss_at,
    penalised,
    shifted,
    signals,
    steered_loss,
    train,
)

FOLDS = 4
RIDGES = tuple(float(x) for x in 10.0 ** np.arange(-2.0, 3.1, 1.0))
DRAWS = 8
MARGIN = 1.1  # the game is played at this multiple of its least level: at the level itself the gains are ill-conditioned
HEALING = {"share": 0.95, "cost": 0.3}
SCALED = ("synthesised", "regression", "random", "gradient")
UNSCALED = ("synthesised", "regression", "lq", "game", "healing")


def _readers(states: Tensor, mask: Tensor, count: int) -> Affine:
    """Return the law without signal that reads phi(y) = down y + bias: the leading directions between the examples' means.

    Whitened on single tokens, each example with weight one: mean phi = 0 and mean phi phi' = I, so that the signal
    k + K phi(y) has the mean energy |k|^2 + |K|^2. `up` is zero and `bias` holds -down mean.
    """
    averages = means(states, mask)
    centre = averages.mean(0)
    directions = np.linalg.svd(averages - centre, full_matrices=False)[2][:count]
    real = mask.to(torch.float64)
    share = (real / real.sum(1, keepdim=True))[mask.bool()].cpu().numpy() / len(mask)
    seen = (tokens(states, mask) - centre) @ directions.T
    spread = np.linalg.cholesky(np.einsum("nq,np,n->qp", seen, seen, share))
    down = np.linalg.solve(spread, directions)
    return Affine(down, np.zeros((down.shape[1], len(down))), -down @ centre)


def _feedback(readers: Law, z: np.ndarray) -> dict[str, Affine]:
    """Return u = k + K phi(y) from the flat numbers (K, k) of all ports."""
    law = {}
    for (port, read), own in zip(readers.items(), np.split(z, len(readers)), strict=True):
        d, q = read.up.shape
        K, k = own[: d * q].reshape(d, q), own[d * q :]
        law[port] = Affine(read.down, K, k + K @ read.bias)
    return law


def _response(law: Any, readers: Law, batch: Any) -> tuple[Linearisation, Any, Params]:
    """Return the response of the logits to (K, k) of u = k + K phi(y) at every port, with the map and its origin.

    Unlike a response to examples' mean signals it holds what each token's own signal does.
    """
    dtype = law.dtype
    fixed, origin = {}, {}
    for port, read in readers.items():
        fixed[f"{port}.down"] = torch.as_tensor(read.down, dtype=dtype)
        fixed[f"{port}.down_bias"] = torch.as_tensor(read.bias, dtype=dtype)
        origin[f"{port}.up"] = torch.zeros(read.up.shape, dtype=dtype)
        origin[f"{port}.up_bias"] = torch.zeros(len(read.up), dtype=dtype)

    def outputs(params: Params, inputs: Any) -> Tensor:
        return law.outputs({**fixed, **params}, inputs)

    return linearise(outputs, origin, batch), outputs, origin


def regression(
    lin: Linearisation, r: float, averages: dict[str, np.ndarray], rank: int, rng: np.random.Generator
) -> tuple[Law, dict]:
    """Return the reduced-rank ridge regression of per-example optimal controls u_i* on the examples' mean port states.

    u_i* minimises l_i(y_i + G_i u) + (r/2)|u|^2. Ridge (relative to the mean squared norm of the centred states) and rank
    (1 to `rank`) are those with the least linearised loss plus (r/2)|u|^2 over `FOLDS` folds, each predicted from the others.
    """
    ports = tuple(averages)
    best = per_example_lq(lin.G, lin.y0, lin.loss, r).z
    optima = dict(zip(ports, np.split(best, len(ports), axis=1), strict=True))
    n = len(best)
    fold = rng.permutation(n) % FOLDS

    def fitted(rows: np.ndarray, ridge: float, q: int) -> dict[str, Affine]:
        law = {}
        for port in ports:
            X, U = averages[port][rows], optima[port][rows]
            centre = X.mean(0)
            scale = np.mean(np.sum((X - centre) ** 2, axis=1))
            down, up = reduced_rank(X - centre, U - U.mean(0), ridge * scale, q)
            law[port] = around(centre, up, down, U.mean(0))
        return law

    def held_out(ridge: float, q: int) -> tuple[float, float]:
        u = np.empty_like(best)
        for k in range(FOLDS):
            law = fitted(fold != k, ridge, q)
            rows = fold == k
            u[rows] = np.hstack([averages[p][rows] @ law[p].down.T @ law[p].up.T + law[p].bias for p in ports])
        outputs = lin.y0 + np.einsum("ncm,nm->nc", lin.G, u)
        return cross_entropy(outputs, lin.labels) + 0.5 * r * float(np.mean(np.sum(u**2, axis=1))), explained(best, u)

    found = {(ridge, q): held_out(ridge, q) for ridge in RIDGES for q in range(1, rank + 1)}
    ridge, q = min(found, key=lambda pair: found[pair][0])
    value, share = found[ridge, q]
    return fitted(np.full(n, True), ridge, q), {"ridge": ridge, "rank": q, "value": value, "explained": share}


def closed_loops(
    lin: Linearisation, ports: tuple[str, ...], shared: np.ndarray, r: float, states: dict, mask: Tensor
) -> dict[str, Law]:
    """Return three control-theoretic laws about the frozen network's mean states.

    lq: the shared control k_t with the averaged LQ gain of the logits, u_t = k_t - K_t (y - mean). game: the same with the
    gain of the disturbance game between u and an equal disturbance of the port, played on the predicted mean logit deviation
    e_{t+1} = e_t + G_t (u_t + w_t) with terminal cost e'Me and running cost r |u|^2. healing: the closed-form projection onto
    the port states of correctly classified training examples, which knows no labels' gradient.
    """
    spread = {p: Manifold.of(tokens(states[p], mask, lin.y0.argmax(1) == lin.labels)) for p in ports}
    centre = {p: means(states[p], mask).mean(0) for p in ports}
    k = dict(zip(ports, np.split(shared, len(ports)), strict=True))
    found = gains(lin, ports, r, lin.y0, 6)
    basis = {p: found[f"basis.{p}"] for p in ports}
    lq = {p: around(centre[p], -basis[p] @ found[f"gain.{p}"], basis[p].T, k[p]) for p in ports}
    G = [lin.columns(p).mean(0) for p in ports]
    still = [np.eye(len(G[0]))] * len(ports)
    M = lin.loss.hessian(lin.y0).mean(0)
    least = game(still, G, G, 0.0, r, M).gamma
    played = game(still, G, G, 0.0, r, M, gamma=MARGIN * least)
    worst = {p: around(centre[p], -K, g, k[p]) for p, K, g in zip(ports, played.K, G, strict=True)}
    bases = {p: spread[p].directions[:, : spread[p].rank(HEALING["share"])] for p in ports}
    return {"lq": lq, "game": worst, "healing": healing_law(spread, bases, HEALING["cost"])}


def predict(setting: Setting) -> Record:
    """Return every controller as numbers, from the frozen model and training text alone; nothing is trained.

    synthesised: the ensemble LQ optimum over the feedback class u = k + K phi(y), phi as many whitened directions of the
    state as the adapter's bottleneck: the law that the claim is about. regression: per-example optima regressed on states.
    gradient: the best step along the first gradient in (K, k). random: the synthesised k with Gaussian K of the same size,
    the best of `DRAWS` on training text. Beside them stand the shared control (bias), the prefix's optimum in its own
    numbers, and the laws of `closed_loops`. r is that of the shared control; the prefix has its own.
    """
    subject, prefix = setting.subjects["bias"], setting.subjects["prefix"]
    ports = attention_ports(subject)
    origin = at_rest(subject, ports)
    lin = linearise(subject.steered, origin, setting.train)
    r = penalty(setting, lin, subject.steered, origin)
    mask = setting.train.mask
    with torch.no_grad():
        states = {p: subject.rollout(subject.initial, setting.train).base[p] for p in ports}
    width = int(setting.options.get("bottleneck", 4))
    readers = {p: _readers(states[p], mask, width) for p in ports}
    law = with_law(subject, ports)
    own, outputs, start = _response(law, readers, setting.train)
    rng = own_rng(setting, 111)
    shared, control = lin.optimum(r), own.optimum(r)
    held_out = _response(law, readers, setting.test)[0]
    moved = logits(outputs, shifted(start, control.z), setting.test)
    laws: dict[str, Law] = {"synthesised": _feedback(readers, control.z)}
    laws["gradient"] = _feedback(readers, gradient_rival(own.G, own.y0, own.loss, r).z)
    laws["regression"], chosen = regression(lin, r, {p: means(states[p], mask) for p in ports}, width, rng)
    drawn = [_feedback(readers, _with_random_gain(control.z, readers, rng)) for _ in range(DRAWS)]
    losses = [loss_at(law.outputs, installed(one, law), setting.train) for one in drawn]
    laws["random"] = drawn[int(np.argmin(losses))]
    laws |= closed_loops(lin, ports, shared.z, r, states, mask)
    words = linearise(prefix.outputs, prefix.initial, setting.train)
    r_prefix = penalty(setting, words, prefix.outputs, prefix.initial)
    return Record(
        {
            "r": r,
            "r_prefix": r_prefix,
            "ports": list(ports),
            "eta": departure(held_out, control, moved),
            "value_shared": float(shared.value),
            "value_feedback": float(control.value),
            "reference_loss": cross_entropy(held_out.y0, held_out.labels),
            "predicted_loss": cross_entropy(held_out.y0 + held_out.G @ control.z, held_out.labels),
            "regression": chosen,
        },
        {"shared": shared.z, "prefix": words.optimum(r_prefix).z}
        | {name: value for kind, one in laws.items() for name, value in packed(kind, one).items()},
    )


def _with_random_gain(z: np.ndarray, readers: Law, rng: np.random.Generator) -> np.ndarray:
    """Return (K, k) of all ports with every K replaced by a Gaussian of the same norm."""
    parts = [own.copy() for own in np.split(z, len(readers))]
    for own, read in zip(parts, readers.values(), strict=True):
        draw = rng.standard_normal(read.up.size)
        own[: read.up.size] = draw * np.linalg.norm(own[: read.up.size]) / np.linalg.norm(draw)
    return np.concatenate(parts)


def measure(setting: Setting, predicted: Record) -> Record:
    """Return held-out loss, accuracy and signal energy of every controller in the real network, and of the trained deltas.

    Names ending in "*" are scaled to the trained delta's energy on training text, so that nothing held out enters: laws and the
    shared control to the adapter's (the control solved anew for that budget), the bias to the trained bias's, the prefix to
    the trained prefix's distance from its start. The adapter and the bias train on loss + (r/2) signal energy, the prefix on
    loss + (r_p/2) distance squared, in its own numbers.
    """
    r, ports, a = predicted.values["r"], tuple(predicted.values["ports"]), predicted.arrays
    bias, prefix, adapter = (setting.subjects[name] for name in ("bias", "prefix", "adapter"))
    labels, law = setting.test.labels.cpu().numpy(), with_law(bias, ports)
    rows: list[dict] = []

    def row(name: str, outputs: np.ndarray, energy: float, **more: Any) -> dict:
        made = {
            "law": name,
            "loss": cross_entropy(outputs, labels),
            "accuracy": float(np.mean(outputs.argmax(1) == labels)),
            "energy": float(energy),
        } | more
        rows.append(made)
        return made

    origin = at_rest(bias, ports)
    row("frozen", logits(bias.steered, origin, setting.test), 0.0)
    start = at_start(adapter)
    fitted = train(setting, lambda p: adapter.priced_loss(p, setting.train, r), start)
    with torch.no_grad():
        budget = float(adapter.energy(fitted.params, setting.train))
        used = float(adapter.energy(fitted.params, setting.test))
    row("adapter", logits(adapter.outputs, fitted.params, setting.test), used, **cost(fitted))
    for name in UNSCALED:
        own = unpacked(name, a, ports)
        row(name, logits(law.outputs, installed(own, law), setting.test), spent(law, own, setting.test))
    for name in SCALED:
        own = at_energy(law, unpacked(name, a, ports), setting.train, budget)
        row(f"{name}*", logits(law.outputs, installed(own, law), setting.test), spent(law, own, setting.test))

    def shared(name: str, z: np.ndarray) -> None:
        row(name, logits(bias.steered, signals(z, ports, bias), setting.test), float(z @ z))

    shared("shared", a["shared"])
    lin = linearise(bias.steered, origin, setting.train)
    multiplier = float(budget_law(lin.G, lin.y0, lin.loss, [np.sqrt(budget)]).multipliers[0])
    shared("shared*", lin.optimum(multiplier).z if multiplier > 0 else a["shared"])
    fitted = train(setting, penalised(partial(steered_loss, bias), setting.train, r, origin), origin)
    z = flatten(fitted.params)
    row("bias", logits(bias.steered, fitted.params, setting.test), float(z @ z), **cost(fitted))
    shared("bias*", a["shared"] * np.linalg.norm(z) / np.linalg.norm(a["shared"]))
    start = at_start(prefix)
    fitted = train(setting, penalised(prefix.loss, setting.train, predicted.values["r_prefix"], start), start)
    z = flatten(fitted.params) - flatten(start)
    row("words", logits(prefix.outputs, start, setting.test), 0.0)
    row("prefix", logits(prefix.outputs, fitted.params, setting.test), float(z @ z), **cost(fitted))
    for name, factor in (("prefix lq", 1.0), ("prefix lq*", np.linalg.norm(z) / np.linalg.norm(a["prefix"]))):
        step = factor * a["prefix"]
        row(name, logits(prefix.outputs, shifted(start, step), setting.test), float(step @ step))
    return Record({"r": r, "eta": predicted.values["eta"], "budget": budget, "laws": rows}, {})


EXPERIMENT = Experiment(
    "synthesis",
    "controllers without training at the attention ports",
    ("bias", "prefix", "adapter"),
    predict,
    measure,
    weight=8.0,
    by_token=True,
)
