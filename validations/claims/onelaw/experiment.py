"""One law for LoRA, IA3 and adapters, predicted from the frozen network in what each reads and moves, against what is trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from probes.curvature.hessian import hessian
from probes.curvature.spectrum import top_eigenpairs
from theory.loss import CrossEntropy
from tuning.own_signals import told
from tuning.subjects import place_energy
from tuning.training import Fit

from ...statistics import cosine
from ...store import Record
from ..shared.linearisation import least_price, off
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_start, centred, cost, train
from ..shared.whitening import Whitening, train_in
from .gains import NOISE, Gains, Seen, as_gains, observe, packed, trained, unpacked

DRAWS = 32  # of permuted labels, and of turned laws
QUANTILE = 0.975
PRODUCTS = 12  # of the Hessian, for either end of its spectrum
NAMES = ("law", "first", "raw")
PERMUTED, TURNED = (tuple(f"{kind}{draw}" for draw in range(DRAWS)) for kind in ("permuted", "turned"))


def reaches(subject: Any, seen: Seen, gains: Gains, batch: Any) -> np.ndarray:
    """Return the logits (N, C) of the frozen network with a law installed at the delta's places."""
    with torch.no_grad():
        return told(subject, at_start(subject), batch, seen.moves(gains, subject.dtype))[1].double().cpu().numpy()


def curvatures(subject: Any, seen: Seen, batch: Any) -> tuple[float, float]:
    """Return the largest and the smallest curvature of the loss in the law's numbers, in units of the price, at the frozen network."""
    start, roots = at_start(subject), [torch.as_tensor(_inverse_root(seen, S), dtype=subject.dtype) for S in seen.prices]
    centres = [torch.as_tensor(c, dtype=subject.dtype) for c in seen.centres]
    numbers = {}
    for key, g, S in zip(seen.keys, seen.ensemble.G, seen.prices, strict=True):
        shape = (len(S),) if seen.form.rank is None else (g.shape[-1], len(S))
        numbers |= {f"{key}.K": torch.zeros(shape, dtype=subject.dtype)}
        numbers |= {f"{key}.k": torch.zeros(shape[0], dtype=subject.dtype)} if seen.form.constant else {}

    def at(params: Params, key: str, root: Tensor, centre: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        def move(read: Tensor, standing: Tensor) -> Tensor:
            z, W = (standing if seen.form.stood else read) - centre, params[f"{key}.K"]
            u = z * root * W if seen.form.rank is None else z @ root @ W.T
            return u + params[f"{key}.k"] if seen.form.constant else u

        return move

    def loss(params: Params, texts: Any) -> Tensor:
        moves = {key: at(params, key, *given) for key, *given in zip(seen.keys, roots, centres, strict=True)}
        return F.cross_entropy(told(subject, start, texts, moves)[1], texts.labels)

    operator = hessian(loss, numbers, [batch], allow_unused=True)
    ends = (top_eigenpairs(operator, 1, which=end, tol=0.1, max_products=PRODUCTS) for end in ("largest", "smallest"))
    largest, smallest = (float(found.values[0]) for found in ends)
    return largest, smallest


def _inverse_root(seen: Seen, price: np.ndarray) -> np.ndarray:
    """What turns whitened numbers into gains: S^-1/2 from the right, or of its diagonal."""
    return np.diag(price) ** -0.5 if seen.form.rank is None else np.linalg.inv(np.linalg.cholesky(price)).T


def price_of(setting: Setting, seen: Seen, loss: CrossEntropy) -> tuple[float, float]:
    """Return the price r of a cell and eta, how far its law departs from the linear response, from the frozen network alone.

    As `shared.linearisation.penalty` in the law's own numbers: the smallest r on the same grid below their largest curvature whose
    law keeps eta within the regime on training text, no less than MARGIN times the most negative curvature. Without a regime:
    `setting.penalty` times the largest.
    """
    subject, train_text = setting.subjects["delta"], setting.train

    def eta(r: float) -> float:
        gains, y0 = seen.law(loss, r), seen.ensemble.y0
        return off(reaches(subject, seen, gains, train_text) - y0, seen.reached(gains) - y0)

    largest, smallest = curvatures(subject, seen, train_text)
    if setting.regime is None:
        r = setting.penalty * largest
        return r, eta(r)
    r = least_price(largest, smallest, eta, setting.regime)
    return r, eta(r)


def predict(setting: Setting) -> Record:
    """Return the law of a delta's places with its rivals and nulls, each of the delta's own rank, and what it does held out.

    From the frozen network, its training text and the price r alone (`price_of`). shift: of the held-out logits with the law
    installed in the real network, and the same of the first-order law and of the laws of permuted labels.
    """
    subject, texts = setting.subjects["delta"], setting.train
    seen, loss = observe(subject, texts), CrossEntropy(texts.labels.cpu().numpy())
    r, eta = price_of(setting, seen, loss)
    rng = own_rng(setting, 233)
    laws = {"law": seen.law(loss, r), "first": seen.first(loss, r), "raw": seen.raw(loss)}
    laws |= {name: seen.law(CrossEntropy(rng.permutation(loss.labels)), r) for name in PERMUTED}
    frozen = _frozen(subject, setting.test)
    shifts = {name: reaches(subject, seen, gains, setting.test) - frozen for name, gains in laws.items() if name != "raw"}
    return Record(
        {"r": r, "eta": eta, "places": len(seen.keys), "objective": _objective(seen, laws["law"], loss, r)},
        {name: x for law, gains in laws.items() for name, x in packed(law, gains).items()}
        | {f"shift/{name}": shift for name, shift in shifts.items()},
    )


def _frozen(subject: Any, batch: Any) -> np.ndarray:
    with torch.no_grad():
        return subject.outputs(at_start(subject), batch).double().cpu().numpy()


def _objective(seen: Seen, gains: Gains, loss: CrossEntropy, r: float) -> float:
    return float(loss.value(seen.reached(gains)).mean() + r / 2 * np.sum(seen.whitened(gains) ** 2))


def objective(subject: Any, seen: Seen, batch: Any, r: float) -> Callable[[Params], Tensor]:
    """Return loss + r/2 price in the closed loop: the energy of the delta's own signals, and NOISE^2 size |K|^2 of its gains."""

    def value(params: Params) -> Tensor:
        found, outputs = told(subject, params, batch)
        energy = sum(place_energy(place.signal, batch.mask) for place in found.values())
        gains = sum(size * K.square().sum() for (_, K), size in zip(trained(subject, params, seen), seen.sizes, strict=True))
        return F.cross_entropy(outputs, batch.labels) + r / 2 * (energy + NOISE**2 * gains)

    return value


def _fitted(setting: Setting, seen: Seen, r: float) -> Fit:
    """The full-batch optimum under `objective`; adapters are searched in coordinates in which the price of their gain is a square."""
    subject = setting.subjects["delta"]
    lost = objective(subject, seen, setting.train, r)
    if not seen.form.constant:
        return train(setting, lost, at_start(subject))
    ports = [key.partition("/")[2] for key in seen.keys]
    centres, roots = (
        {port: torch.as_tensor(x, dtype=subject.dtype) for port, x in zip(ports, found, strict=True)}
        for found in (seen.centres, map(np.linalg.cholesky, seen.prices))
    )
    return train_in(setting, lost, subject, Whitening(centres, roots))


def measure(setting: Setting, predicted: Record) -> Record:
    """Return how near the trained delta comes to the law and to its rivals, in direction, size and held-out logits.

    Training is full-batch under `objective`. Cosines and sizes are in the price's norm, all places in one vector; `cosine_plain`
    is in the plain one. Nulls are 97.5 % quantiles over laws of permuted labels and over turned laws (`Seen.turned`). gains: of
    the law along its own directions (`Seen.along`), and trained there.
    """
    subject, r, places = setting.subjects["delta"], predicted.values["r"], predicted.values["places"]
    seen = observe(subject, setting.train)
    fitted = _fitted(setting, seen, r)
    with torch.no_grad():
        found = as_gains(trained(subject, fitted.params, seen))
        outputs = subject.outputs(fitted.params, setting.test).double().cpu().numpy()
    frozen, mine = _frozen(subject, setting.test), seen.whitened(found)
    laws = {name: unpacked(name, predicted.arrays, places) for name in (*NAMES, *PERMUTED)}
    shifts = {name: predicted.arrays[f"shift/{name}"] for name in laws if name != "raw"}
    rng = own_rng(setting, 239)
    laws |= {name: seen.turned(laws["law"], rng) for name in TURNED}
    shifts |= {name: reaches(subject, seen, laws[name], setting.test) - frozen for name in TURNED}
    whitened = {name: seen.whitened(gains) for name, gains in laws.items()}
    cosines = {name: cosine(white, mine) for name, white in whitened.items()}
    moved = {name: cosine(centred(shift), centred(outputs - frozen)) for name, shift in shifts.items()}

    def null(of: Mapping[str, float], draws: Sequence[str]) -> float:
        return float(np.quantile([of[name] for name in draws], QUANTILE))

    return Record(
        {
            "cosines": {name: cosines[name] for name in NAMES},
            "cosine_permuted": null(cosines, PERMUTED),
            "cosine_turned": null(cosines, TURNED),
            "cosine_plain": cosine(_plain(laws["law"]), _plain(found)),
            "shift": moved["law"],
            "shift_first": moved["first"],
            "shift_permuted": null(moved, PERMUTED),
            "shift_turned": null(moved, TURNED),
            "size": float(np.linalg.norm(mine)),
            "sizes": {name: float(np.linalg.norm(whitened[name])) for name in NAMES},
            "objective": float(fitted.value),
            **cost(fitted),
        },
        dict(zip(("gains/law", "gains/trained"), seen.along(laws["law"], found), strict=True)),
    )


def _plain(gains: Gains) -> np.ndarray:
    return np.concatenate([x for g in gains for x in (g.k, g.K.ravel())])


EXPERIMENT = Experiment(
    "onelaw",
    "one law of what each delta reads and moves",
    ("delta",),
    predict,
    measure,
    weight=5.0,
    per_delta=True,
    by_token=True,
)
