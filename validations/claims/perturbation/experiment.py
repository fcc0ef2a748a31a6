"""A tuned model under perturbation, with and without control of its states: fixed text, a blind attacker, an adaptive one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.healing import healing
from theory.loss import CrossEntropy
from tuning.deltas import Adapter, Combined

from ...store import Record
from ..shared.laws import Law, Manifold, around, healing_law, installed, leading, shrinkage, tokens, turned
from ..shared.linearisation import linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_start, cost, cross_entropy, first, logits, penalised, train

STEPS = 8  # of projected gradient ascent
SIZES = tuple(0.0125 * 2.0**k for k in range(8))  # of an attack, over the root mean squared norm of its place's states
HARM = 0.5  # nats that the attack must cost the untuned model on training text
SHARES, COSTS = (0.8, 0.9, 0.95, 0.99), (0.1, 1.0)
LOWEST, TUNING, RATE, ALONE = 3, 6, 0.03, 8  # blocks, steps and step size of test-time tuning; examples tuned one by one

Pushed = Mapping[str, Tensor]
Outputs = Callable[[Tensor, Any], Tensor]
Energy = Callable[[Params, Any, Pushed], Tensor]


def attack(outputs: Outputs, batch: Any, size: float, width: int, dtype: torch.dtype, steps: int = STEPS) -> Tensor:
    """Return w (B, T, d) that raises each example's loss, |w_i| <= size sqrt(its tokens), by projected gradient ascent.

    outputs(w, batch) are the logits with w added to the states of one place. Steps of 2.5 / `steps` of the radius along the
    normalised gradient, from w = 0 (Madry et al. 2018).
    """
    real = batch.mask.to(dtype)[..., None]
    radius = size * real.sum((1, 2)).sqrt()
    w = torch.zeros(*batch.mask.shape, width, dtype=dtype)
    for _ in range(steps):
        w.requires_grad_()
        lost = torch.nn.functional.cross_entropy(outputs(w, batch), batch.labels, reduction="sum")
        w = climbed(w.detach(), torch.autograd.grad(lost, w)[0] * real, radius, 2.5 / steps)
    return w


def climbed(w: Tensor, slope: Tensor, radius: Tensor, share: float) -> Tensor:
    """Return w moved along the slope by a share of the radius and put back into the ball, example by example."""
    length = slope.flatten(1).norm(dim=1).clamp_min(1e-30)
    w = w + (share * radius / length)[:, None, None] * slope
    return w * (radius / w.flatten(1).norm(dim=1).clamp_min(1e-30)).clamp_max(1.0)[:, None, None]


def manifolds(subject: Any, params: Params, batch: Any) -> dict[str, Manifold]:
    """Return at every port the manifold of the real tokens' states of the examples that the model classifies correctly."""
    with torch.no_grad():
        rolled = subject.rollout(params, batch)
        right = (rolled.outputs.argmax(-1) == batch.labels).cpu().numpy()
    return {port: Manifold.of(tokens(rolled.base[port], batch.mask, right)) for port in subject.ports}


def predict(setting: Setting) -> Record:
    """Return the penalty of the prefix, the size of the attacks, and how much of one healing should remove, before tuning.

    Attacks act on the embedding's states or on the first port's. The size is for each place the smallest of `SIZES` whose
    attack costs the untuned model `HARM` nats on training text. `removed` is the displacement
    1 - sqrt(keep^2 |z_off|^2 + |z_on|^2) / |z| that the theory of orthogonal layers says the first port's control takes off
    the attack z there (Self-Healing, arXiv 2206.12963), at the second of `SHARES` and the first of `COSTS`.
    """
    subject = setting.subjects["prefix"]
    origin, port = at_start(subject), subject.ports[0]
    lin = linearise(subject.outputs, origin, setting.train)
    found = manifolds(subject, origin, setting.train)[port]
    with torch.no_grad():
        rolled = subject.rollout(origin, setting.train)
    start = cross_entropy(lin.y0, lin.labels)
    sizes, harms, reached = {}, {}, {}
    for place, key in _places(subject).items():
        states = rolled.inputs[port] if key == "embedding" else rolled.base[port]
        norm = float(np.sqrt(np.mean(np.sum(tokens(states, setting.train.mask) ** 2, axis=1))))

        def outputs(w: Tensor, batch: Any, key: str = key) -> Tensor:
            return subject.disturbed({key: w}, origin, batch)

        for share in SIZES:
            w = attack(outputs, setting.train, share * norm, subject.width, subject.dtype)
            moved = _read(subject, origin, setting.train, {key: w})
            sizes[place], harms[place], reached[place] = share * norm, cross_entropy(moved, lin.labels) - start, share
            if harms[place] >= HARM:
                break
    z = tokens(w, setting.train.mask)
    basis = found.directions[:, : found.rank(SHARES[1])]
    on, total = float(np.sum((z @ basis) ** 2)), float(np.sum(z**2))
    keep = healing(COSTS[0], len(subject.ports)).keep[0]
    return Record(
        {
            "r": penalty(setting, lin, subject.outputs, origin),
            "sizes": sizes,
            "shares": reached,
            "harms": harms,
            "off": 1.0 - on / total,
            "removed": 1.0 - float(np.sqrt((keep**2 * (total - on) + on) / total)),
            "reference_loss": start,
        },
        {},
    )


def _places(subject: Any) -> dict[str, str]:
    """Return where attacks act, the first port last."""
    return {"embedding": "embedding", "port": subject.ports[0]}


def _shrunk(found: Mapping[str, Manifold], bases: Mapping[str, np.ndarray], c: float) -> dict[str, float]:
    """Return by port how far states are to be shrunk, so that this spends on the training states what healing spends."""
    keep, amounts = healing(c, len(found)).keep, {}
    for t, (port, own) in enumerate(found.items()):
        off = np.sum(own.values[bases[port].shape[1] :] ** 2) / np.sum(own.values**2)
        amounts[port] = (1.0 - keep[t]) * float(np.sqrt(off))
    return amounts


def _controlled(subject: Any, params: Params) -> tuple[Any, Callable[[Law | None], Params]]:
    """Return the tuned subject with room for a law beside its own delta, and the parameters under a law or under none."""
    room = Adapter(1, activation="identity")
    made = replace(subject, delta=Combined((("own", subject.delta), ("law", room))))
    own = {f"own/{name}": p for name, p in params.items()}
    silent = np.zeros((1, subject.width))
    none = {port: around(silent[0], silent.T, silent) for port in subject.ports}
    return made, lambda law: own | {f"law/{k}": v for k, v in installed(none if law is None else law, subject).items()}


def _off(subject: Any, found: Mapping[str, Manifold], bases: Mapping[str, np.ndarray]) -> Energy:
    """Return the off-subspace energy of the lowest blocks' states, relative to their spread: what test-time tuning lowers."""
    ports = [p for p in subject.ports if int(p.partition(".")[0]) < LOWEST]
    kept = {}
    for port in ports:
        at = [torch.as_tensor(x, dtype=subject.dtype) for x in (found[port].mean, bases[port])]
        kept[port] = (*at, float(np.mean(found[port].values ** 2)))

    def energy(params: Params, batch: Any, pushed: Pushed) -> Tensor:
        base, real, total = subject.rollout(params, batch, pushed).base, batch.mask.bool(), 0.0
        for port, (mean, basis, spread) in kept.items():
            x = base[port][real] - mean
            total = total + (x - x @ basis @ basis.T).square().sum(1).mean() / spread
        return total

    return energy


def _tuned(energy: Energy, params: Params, batch: Any, pushed: Pushed, steps: int = TUNING) -> Params:
    """Return params plus the displacement that Adam finds in `steps` steps for the off-subspace energy of this very batch."""
    moved = {name: p.clone().requires_grad_() for name, p in params.items()}
    optimiser = torch.optim.Adam(moved.values(), lr=RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        energy(moved, batch, pushed).backward()
        optimiser.step()
    return {name: p.detach() for name, p in moved.items()}


def measure(setting: Setting, predicted: Record) -> Record:
    """Return loss and accuracy of the tuned prefix under every perturbation and controller, on held-out text.

    Perturbations: none ("clean"), the task's perturbed test sets by name, "oblivious" (projected gradient ascent on the states
    of a place, made against the uncontrolled model) and "adaptive" (the same made through the controller; per example the
    worse of it and the oblivious one), each at the embedding and at the first port. Controllers: "none"; "healing", the
    closed-form projection at every port; "healing, batch mean", about the mean of the test batch; "random", on random
    subspaces of the same ranks; "shrinkage" towards the mean with the same energy; "prefix", test-time tuning of the prefix on
    the whole batch; and "prefix, alone", example by example, beside "none, alone" on the same examples. Healing's share and
    cost are those with the least mean loss of clean and attacked training text.
    """
    subject, r, sizes = setting.subjects["prefix"], predicted.values["r"], predicted.values["sizes"]
    origin, places = at_start(subject), _places(subject)
    fitted = train(setting, penalised(subject.loss, setting.train, r, origin), origin)
    own = fitted.params
    model, under = _controlled(subject, own)
    found = manifolds(subject, own, setting.train)

    def strike(params: Params, batch: Any, place: str) -> Pushed:
        def outputs(w: Tensor, inputs: Any) -> Tensor:
            return model.disturbed({places[place]: w}, params, inputs)

        return {places[place]: attack(outputs, batch, sizes[place], subject.width, subject.dtype)}

    def seen(params: Params, batch: Any, pushed: Pushed) -> np.ndarray:
        return _read(model, params, batch, pushed)

    bare = under(None)
    blind: list[Pushed] = [{}, *(strike(bare, setting.train, place) for place in places)]
    known = setting.train.labels.cpu().numpy()

    def trial(share: float, c: float) -> float:
        params = under(healing_law(found, leading(found, share), c))
        return float(np.mean([cross_entropy(seen(params, setting.train, pushed), known) for pushed in blind]))

    share, c = min(((s, k) for s in SHARES for k in COSTS), key=lambda pair: trial(*pair))
    bases = leading(found, share)
    rng = own_rng(setting, 112)
    laws = {
        "none": None,
        "healing": healing_law(found, bases, c),
        "random": healing_law(found, turned(bases, rng), c),
        "shrinkage": shrinkage(found, _shrunk(found, bases, c)),
    }
    struck = {place: strike(bare, setting.test, place) for place in places}
    cases: dict[str, tuple[Any, Pushed]] = {"clean": (setting.test, {})}
    cases |= {name: (batch, {}) for name, batch in setting.perturbed.items()}
    cases |= {f"oblivious, {place}": (setting.test, pushed) for place, pushed in struck.items()}
    arms: list[dict] = []

    def arm(controller: str, perturbation: str, outputs: np.ndarray, batch: Any) -> None:
        labels = batch.labels.cpu().numpy()
        right = float(np.mean(outputs.argmax(1) == labels))
        arms.append(
            {"controller": controller, "perturbation": perturbation, "loss": cross_entropy(outputs, labels), "accuracy": right}
        )

    for name, law in laws.items():
        params = under(law)
        for case, (batch, pushed) in cases.items():
            arm(name, case, seen(params, batch, pushed), batch)
        for place in places if law is not None else ():
            both = [seen(params, setting.test, x) for x in (strike(params, setting.test, place), struck[place])]
            arm(name, f"adaptive, {place}", worse(*both, setting.test), setting.test)
    energy = _off(subject, found, bases)
    for case, (batch, pushed) in cases.items():
        centred = _centred(subject, own, found, batch, pushed)
        arm("healing, batch mean", case, seen(under(healing_law(centred, bases, c)), batch, pushed), batch)
        arm("prefix", case, _read(subject, _tuned(energy, own, batch, pushed), batch, pushed), batch)
        some = first(batch, ALONE)
        arm("none, alone", case, seen(bare, some, {name: x[:ALONE] for name, x in pushed.items()}), some)
        singles = []
        for i in range(len(some.labels)):
            one = type(batch)(*(x[i : i + 1] for x in batch))
            at = {name: x[i : i + 1] for name, x in pushed.items()}
            singles.append(_read(subject, _tuned(energy, own, one, at), one, at))
        arm("prefix, alone", case, np.concatenate(singles), some)
    for place, key in places.items():
        aimed = {key: _against_tuning(subject, energy, own, setting.test, sizes[place], key)}
        both = [_read(subject, _tuned(energy, own, setting.test, x), setting.test, x) for x in (aimed, struck[place])]
        arm("prefix", f"adaptive, {place}", worse(*both, setting.test), setting.test)
    ranks = [basis.shape[1] for basis in bases.values()]
    return Record({"fit": cost(fitted), "share": share, "cost": c, "ranks": ranks, "arms": arms}, {})


def _read(subject: Any, params: Params, batch: Any, pushed: Pushed) -> np.ndarray:
    """Return the logits of a subject under a disturbance."""
    return logits(lambda p, b: subject.disturbed(pushed, p, b), params, batch)


def worse(first: np.ndarray, second: np.ndarray, batch: Any) -> np.ndarray:
    """Return for each example the logits of higher loss, the first where both lose as much."""
    loss = CrossEntropy(batch.labels.cpu().numpy())
    return np.where((loss.value(first) >= loss.value(second))[:, None], first, second)


def _centred(subject: Any, params: Params, found: Mapping[str, Manifold], batch: Any, pushed: Pushed) -> dict:
    """Return the manifolds about the mean of the states that a batch shows."""
    with torch.no_grad():
        base = subject.rollout(params, batch, pushed).base
    return {port: replace(own, mean=tokens(base[port], batch.mask).mean(0)) for port, own in found.items()}


def _against_tuning(subject: Any, energy: Energy, params: Params, batch: Any, size: float, key: str) -> Tensor:
    """Return an attack on the test-time tuned prefix that follows its tuning, a step of the one for a step of the other.

    The gradient holds the displacement fixed, so this attacker is weaker than one that differentiates the tuning too.
    """
    real = batch.mask.to(subject.dtype)[..., None]
    radius = size * real.sum((1, 2)).sqrt()
    w, moved = torch.zeros(*batch.mask.shape, subject.width, dtype=subject.dtype), params
    for _ in range(STEPS):
        moved = _tuned(energy, moved, batch, {key: w}, steps=1)
        w.requires_grad_()
        lost = torch.nn.functional.cross_entropy(subject.disturbed({key: w}, moved, batch), batch.labels, reduction="sum")
        w = climbed(w.detach(), torch.autograd.grad(lost, w)[0] * real, radius, 2.5 / STEPS)
    return w


EXPERIMENT = Experiment(
    "perturbation", "a tuned prefix under perturbation, with control", ("prefix",), predict, measure, weight=9.0, by_token=True
)
