"""A tuned prefix under attack at the embedding, its residual states healed between blocks: displacements and losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.healing import healing
from theory.loss import CrossEntropy

from ...store import Record
from ..perturbation.experiment import COSTS, HARM, SHARES, SIZES, attack, worse
from ..shared.laws import Law, Manifold, healing_law, leading, shrinkage, tokens, turned
from ..shared.linearisation import linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_start, cost, cross_entropy, logits, majority, penalised, train
from .stream import healed, places, visited

PLACE = "embedding"


def struck(subject: Any, params: Params, batch: Any, size: float) -> Tensor:
    """Return the attack on the embedding's states that knows all of the subject, of a size over the root of its tokens."""
    return attack(lambda w, b: subject.disturbed({PLACE: w}, params, b), batch, size, subject.width, subject.dtype)


def read(subject: Any, params: Params, batch: Any, w: Tensor | None = None) -> np.ndarray:
    """Return the logits under an attack on the embedding's states, or under none."""
    return logits(lambda p, b: subject.disturbed({} if w is None else {PLACE: w}, p, b), params, batch)


def manifolds(subject: Any, params: Params, batch: Any) -> dict[str, Manifold]:
    """Return the manifold of x_0, ..., x_(T-1): of the real tokens' states of the examples that are classified correctly."""
    with torch.no_grad():
        states = visited(subject, params, batch)
    right = read(subject, params, batch).argmax(1) == batch.labels.cpu().numpy()
    return {place: Manifold.of(tokens(states[place], batch.mask, right)) for place in places(subject)[:-1]}


def sizes_left(moved: Mapping[str, Tensor], still: Mapping[str, Tensor], mask: Tensor) -> np.ndarray:
    """Return the length of what an attack does to the states x_0, ..., x_T (T+1,), over all real tokens."""
    return np.array([np.linalg.norm(tokens(moved[place] - still[place], mask)) for place in still])


def left(subject: Any, law: Law, params: Params, batch: Any, w: Tensor) -> np.ndarray:
    """Return |x_t(w) - x_t(0)| under a law over the same without it, behind the embedding and every block (T+1,)."""
    with torch.no_grad():
        under, without = (
            sizes_left(visited(made, params, batch, {PLACE: w}), visited(made, params, batch), batch.mask)
            for made in (healed(subject, law), subject)
        )
    return under / without


def linear(subject: Any, params: Params, batch: Any, w: Tensor) -> list[np.ndarray]:
    """Return what the layers linearised at undisturbed text make of an attack w: its displacements (tokens, d) of x_0, ..., x_T."""
    at = places(subject)

    def states(pushed: Tensor) -> tuple[Tensor, ...]:
        met = visited(subject, params, batch, {PLACE: pushed})
        return tuple(met[place] for place in at)

    _, moved = torch.func.jvp(states, (torch.zeros_like(w),), (w,))
    return [tokens(x, batch.mask) for x in moved]


def schedule_left(keep: Sequence[float], off: float) -> np.ndarray:
    """Return sqrt(off prod_(s <= t) keep_s^2 + 1 - off), what orthogonal layers leave of an attack at x_0, ..., x_T (T+1,).

    off: the share of its energy off the subspace. No control acts on x_T. Source: Self-Healing (arXiv 2206.12963).
    """
    kept = np.cumprod(np.append(keep, 1.0))
    return np.sqrt(off * kept**2 + 1.0 - off)


def laws(
    found: Mapping[str, Manifold], share: float, c: float, met: Mapping[str, np.ndarray], rng: np.random.Generator
) -> dict[str, Law]:
    """Return the law of healing, the same on random subspaces of its ranks, and shrinkage to the mean.

    Shrinkage spends at every place on the states met there (n, d) what healing spends on them.
    """
    bases = leading(found, share)
    law, amounts = healing_law(found, bases, c), {}
    for place, own in found.items():
        x = met[place] - own.mean
        amounts[place] = float(np.linalg.norm(x @ law[place].down.T @ law[place].up.T) / np.linalg.norm(x))
    return {"healing": law, "random": healing_law(found, turned(bases, rng), c), "shrinkage": shrinkage(found, amounts)}


def predict(setting: Setting) -> Record:
    """Return what is left of an attack at the embedding, layer by layer, when the frozen network's states are healed.

    The attack is the smallest of `SIZES`, over the embedding's root mean squared norm, that costs the frozen network `HARM` nats on
    training text. The share of the states' variance that fixes the subspaces, and the price of control, are those of `SHARES` and
    `COSTS` with the least mean loss of clean and attacked training text. `left` is foretold by the schedule in orthogonal
    layers ("orthogonal"), by the frozen layers linearised at clean text under the law ("linear"), and for a random subspace of the
    same rank ("random"). `gains` are the octaves by which the linearised blocks lengthen the attack's displacement, `off` the share of its
    energy off the subspaces: orthogonal layers have zeros, and equal numbers.
    """
    subject, batch = setting.subjects["prefix"], setting.train
    origin = at_start(subject)
    lin = linearise(subject.outputs, origin, batch)
    start, found = cross_entropy(lin.y0, lin.labels), manifolds(subject, origin, batch)
    with torch.no_grad():
        x = tokens(visited(subject, origin, batch)[PLACE], batch.mask)
    norm = float(np.sqrt(np.mean(np.sum(x**2, axis=1))))
    for relative in SIZES:
        w = struck(subject, origin, batch, relative * norm)
        harm = cross_entropy(read(subject, origin, batch, w), lin.labels) - start
        if harm >= HARM:
            break

    def lost(share: float, c: float) -> float:
        made = healed(subject, healing_law(found, leading(found, share), c))
        return float(np.mean([cross_entropy(read(made, origin, batch, pushed), lin.labels) for pushed in (None, w)]))

    share, c = min(((s, k) for s in SHARES for k in COSTS), key=lambda pair: lost(*pair))
    chosen, keep = leading(found, share), healing(c, len(found)).keep
    passed = linear(subject, origin, batch, w)
    off = [1.0 - float(np.sum((z @ V) ** 2) / np.sum(z**2)) for V, z in zip(chosen.values(), passed, strict=False)]
    lengths = np.array([np.linalg.norm(z) for z in passed])
    under = linear(healed(subject, healing_law(found, chosen, c)), origin, batch, w)
    rank = chosen[PLACE].shape[1]
    return Record(
        {
            "r": penalty(setting, lin, subject.outputs, origin),
            "size": relative * norm,
            "relative": relative,
            "harm": harm,
            "share": share,
            "cost": c,
            "ranks": [basis.shape[1] for basis in chosen.values()],
            "off": off,
            "gains": np.log2(lengths[1:] / lengths[:-1]).tolist(),
            "left": {
                "orthogonal": schedule_left(keep, off[0]).tolist(),
                "linear": (np.array([np.linalg.norm(z) for z in under]) / lengths).tolist(),
                "random": schedule_left(keep, 1.0 - rank / subject.width).tolist(),
            },
            "reference_loss": start,
        },
        {},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what is left of attacks on the tuned prefix when its states are healed, and its losses, on held-out text.

    The subspaces are those of the tuned model's own states on training text, their share of variance and the price those of the prediction.
    Controls: "none", "healing", "random" (subspaces of the same ranks) and "shrinkage" (towards the mean; at every place it spends on
    clean and attacked training states what healing does). Attacks: "oblivious" is made against the uncontrolled model; "adaptive"
    through the control, and for every example the worse of the two.
    """
    told, subject, test = predicted.values, setting.subjects["prefix"], setting.test
    origin, size = at_start(subject), told["size"]
    fitted = train(setting, penalised(subject.loss, setting.train, told["r"], origin), origin)
    own, found = fitted.params, manifolds(subject, fitted.params, setting.train)
    pushes = ({}, {PLACE: struck(subject, own, setting.train, size)})
    with torch.no_grad():
        seen = [visited(subject, own, setting.train, pushed) for pushed in pushes]
    met = {place: np.concatenate([tokens(states[place], setting.train.mask) for states in seen]) for place in found}
    controls = laws(found, told["share"], told["cost"], met, own_rng(setting, 281))
    loss, blind = CrossEntropy(test.labels.cpu().numpy()), struck(subject, own, test, size)
    arms: list[dict] = []
    for name, law in {"none": {}, **controls}.items():
        made = healed(subject, law)
        oblivious = read(made, own, test, blind)
        aimed = oblivious if name == "none" else read(made, own, test, struck(made, own, test, size))
        for attacker, y in (
            ("clean", read(made, own, test)),
            ("oblivious", oblivious),
            ("adaptive", worse(aimed, oblivious, test)),
        ):
            right = float(np.mean(y.argmax(1) == loss.labels))
            arms.append({"controller": name, "attacker": attacker, "loss": float(loss.value(y).mean()), "accuracy": right})
    return Record(
        {
            "fit": cost(fitted),
            "left": {name: left(subject, law, own, test, blind).tolist() for name, law in controls.items()},
            "arms": arms,
            "majority": majority(test),
        },
        {},
    )


EXPERIMENT = Experiment(
    "healing", "a tuned prefix under attack, its residual states healed", ("prefix",), predict, measure, weight=6.0, by_token=True
)
