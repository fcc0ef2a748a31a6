"""Adapters trained under noise at the ports, and where their gain sits, against the shared gain of the same noisy ensemble."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from theory.heard import heard_gain
from theory.loss import CrossEntropy
from theory.shared_gain import SharedLaw, energy_price, first_order, shared_gain, shared_gains

from ...store import Record
from ..feedback.experiment import Factors, cut_to, jacobian, observe, posed, sensitivity, without_law
from ..shared.laws import installed, with_law
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import cost
from ..shared.whitening import train_white
from .hearing import Heard, repeated

LEVELS = (0.1, 0.2, 0.4)  # standard deviation of the noise over the root mean variance of a direction in which examples differ
PAIRS = 2  # of antithetic draws of noise, as many for a prediction as for a training, but others
DEALT = 4  # times that labels are dealt out
GROUPS = 8  # of state directions, as many in each, ordered by variance


def shares(K: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Return the share of |K|^2 in each of GROUPS groups of the price's eigenvectors, from the least variance to the largest."""
    return _grouped(np.sum((K @ np.linalg.eigh(price)[1]) ** 2, axis=0))


def _grouped(sizes: np.ndarray) -> np.ndarray:
    return np.array([part.sum() for part in np.array_split(sizes, GROUPS)]) / np.sum(sizes)


def _mean_shares(gains: Sequence[np.ndarray], prices: Sequence[np.ndarray]) -> list[float]:
    """The same, averaged over ports."""
    return np.mean([shares(K, S) for K, S in zip(gains, prices, strict=True)], axis=0).tolist()


def _antithetic(rng: np.random.Generator, pairs: int, shape: Sequence[int]) -> np.ndarray:
    """White noise (2 pairs, ...) of unit variance, all draws first and then their opposites."""
    half = rng.standard_normal((pairs, *shape))
    return np.concatenate([half, -half])


def predict(setting: Setting) -> Record:
    """Return the sensitivity with the shared gain of noisy states installed, at every level, and where the gain without noise sits.

    From the frozen network, its training text, the price r and draws of noise that no training meets. Beside the law: that of the
    noisy price alone, whose costates are met without noise, and laws of dealt labels; profiles of cheaper rules.
    """
    subject, (ports, lin, r) = setting.subjects["adapter"], posed(setting)
    seen = observe(subject, ports, setting.train)
    price = energy_price(seen.ensemble)
    ranks = [len(subject.initial[f"{port}.down"]) for port in ports]
    units = [float(np.sqrt(np.trace(S) / len(S))) for S in price]
    still = without_law(subject, ports, setting.test)
    frame = with_law(subject, ports)

    def cut(law: SharedLaw, sigmas: Sequence[float]) -> list[Factors]:
        return cut_to(law.K, energy_price(seen.ensemble, sigmas), ranks)

    def closed(law: SharedLaw, sigmas: Sequence[float]) -> float:
        own = {p: seen.affine(k, f, t) for t, (p, k, f) in enumerate(zip(ports, law.k, cut(law, sigmas), strict=True))}
        return sensitivity(frame, installed(own, subject), setting.test, still)

    rng, pairs = own_rng(setting, 251), int(setting.options.get("pairs", PAIRS))
    dealt = [CrossEntropy(rng.permutation(lin.labels)) for _ in range(DEALT)]
    quiet = [0.0] * len(ports)
    plain, *others = shared_gains(seen.ensemble, (lin.loss, *dealt), r, price)
    start, start_dealt = closed(plain, quiet), [closed(law, quiet) for law in others]
    levels = []
    for number, level in enumerate(LEVELS):
        sigmas = [level * unit for unit in units]
        own = own_rng(setting, 252, number)
        noise = [sigma * _antithetic(own, pairs, f.shape) for sigma, f in zip(sigmas, seen.ensemble.phi, strict=True)]
        law, *dealers = (heard_gain(seen.ensemble, loss, r, sigmas, noise) for loss in (lin.loss, *dealt))
        alone = shared_gain(seen.ensemble, lin.loss, r, energy_price(seen.ensemble, sigmas))
        levels.append(
            {
                "level": level,
                "sigmas": sigmas,
                "sensitivity": closed(law, sigmas),
                "price_alone": closed(alone, sigmas),
                "dealt": [closed(one, sigmas) for one in dealers],
            }
        )

    def profile(law: SharedLaw) -> list[float]:
        return _mean_shares([up @ down for up, down in cut(law, quiet)], price)

    return Record(
        {
            "r": r,
            "ports": list(ports),
            "residual": plain.residual,
            "sensitivity": start,
            "dealt": start_dealt,
            "levels": levels,
            "profiles": {
                "law": profile(plain),
                "first": profile(first_order(seen.ensemble, lin.loss, r, price)),
                "inverse": np.mean([_grouped(1.0 / np.linalg.eigvalsh(S)) for S in price], axis=0).tolist(),
                "dealt": np.mean([profile(law) for law in others], axis=0).tolist(),
            },
        },
        {f"open.{port}": sizes for port, sizes in still.items()}
        | {f"basis.{port}": B for port, B in zip(ports, seen.bases, strict=True)}
        | {f"price.{port}": S for port, S in zip(ports, price, strict=True)},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the sensitivities of adapters trained without noise and through noise of every level, and where the first's gain sits.

    Training is full-batch under loss + (r/2) signal energy (`train_white`); noise lies on the states that the adapter reads and on nothing else,
    the same draws at every step, every text once with each. No noise is there when sensitivities are measured.
    """
    r, ports = predicted.values["r"], tuple(predicted.values["ports"])
    adapter, arrays = setting.subjects["adapter"], predicted.arrays
    still = {port: arrays[f"open.{port}"] for port in ports}
    quiet = train_white(setting, lambda p: adapter.priced_loss(p, setting.train, r), adapter, ports)
    with torch.no_grad():
        rolled = adapter.rollout(quiet.params, setting.test)
    gains = [jacobian(adapter, quiet.params, port, rolled, setting.test) @ arrays[f"basis.{port}"] for port in ports]
    pairs = int(setting.options.get("pairs", PAIRS))
    many, levels = repeated(setting.train, 2 * pairs), []
    for number, told in enumerate(predicted.values["levels"]):
        draws = _draws(setting, ports, told["sigmas"], pairs, own_rng(setting, 257, number))
        heard = replace(adapter, delta=Heard(adapter.delta, draws))
        fitted = train_white(setting, lambda p, s=heard: s.priced_loss(p, many, r), adapter, ports, told["sigmas"])
        levels.append({"sensitivity": sensitivity(adapter, fitted.params, setting.test, still), **cost(fitted)})
    return Record(
        {
            "r": r,
            "sensitivity": sensitivity(adapter, quiet.params, setting.test, still),
            "profile": _mean_shares(gains, [arrays[f"price.{port}"] for port in ports]),
            "quiet": cost(quiet),
            "levels": levels,
        },
        {},
    )


def _draws(setting: Setting, ports: Sequence[str], sigmas: Sequence[float], pairs: int, rng: np.random.Generator) -> Params:
    """Noise for a batch that goes through its examples as often as there are draws."""
    subject = setting.subjects["adapter"]
    size, tokens = setting.train.mask.shape
    return {
        port: torch.as_tensor(
            sigma * _antithetic(rng, pairs, (size, tokens, subject.width)).reshape(-1, tokens, subject.width),
            dtype=subject.dtype,
        )
        for port, sigma in zip(ports, sigmas, strict=True)
    }


EXPERIMENT = Experiment(
    "intervention", "an adapter trained under noise", ("adapter",), predict, measure, weight=25.0, per_delta=True, by_token=True
)
