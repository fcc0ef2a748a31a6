"""Feedback that is multiplicative in the state, u = K phi without a constant: what LoRA and IA3 add to linear maps.

A LoRA on the map y = W h adds u = B A h: the ensemble's shared gain of `theory.shared_gain` with K = B A of low rank, which reads
what the map reads. An IA3 factor l adds u = (l - 1) o y: a diagonal gain that reads what the map puts out. An adapter reads its
port's state and has a constant besides. One ensemble problem serves them all.

    >>> h = np.array([1.0, 2.0]).reshape(2, 1, 1)  # two examples, one token: y_i = u_i is to meet the targets 2 and 4
    >>> seen = Ensemble((np.ones((2, 1, 1, 1)),), (h,), np.zeros((2, 1)), np.ones((2, 1)))
    >>> law = lora_law(seen, Quadratic(np.array([[2.0], [4.0]])), r=1.0, rank=1)
    >>> [round(float((B @ A).item()), 9) for B, A in law.factors]  # the gain 2 over 1 + r
    [1.0]
"""

from dataclasses import dataclass

import numpy as np

from theory.ensemble import Control, ensemble_lq
from theory.loss import CrossEntropy, Quadratic
from theory.shared_gain import Ensemble, SharedLaw, first_order, reduced, shared_gain

Factors = tuple[np.ndarray, np.ndarray]  # B (m, rank), A (rank, q) of one port


@dataclass(frozen=True, eq=False)
class LoraLaw:
    """A gain of low rank at every port, (B, A), and the law of full rank that it was cut from."""

    factors: tuple[Factors, ...]
    law: SharedLaw


def moment_price(ensemble: Ensemble, noise: float = 0.0) -> tuple[np.ndarray, ...]:
    """Return the price S_t = E phi phi' + noise^2 s I of a gain without a constant; tr K S K' is then the energy of K phi.

    E: the mean over examples of the weighted mean over tokens, states of any mean; s: the mean square of the numbers of phi, so
    that noise is white noise on what is read, over its root mean square. A large one makes S all but the price of the gain's own
    norm. Raises ValueError for noise below 0.
    """
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is a standard deviation, finite and at least 0, got {noise}")
    prices = []
    for f in ensemble.phi:
        moment = np.einsum("nt,ntq,ntp->qp", ensemble.weights, f, f, optimize=True) / len(f)
        prices.append(moment + noise**2 * np.trace(moment) / len(moment) * np.eye(len(moment)))
    return tuple(prices)


def balanced(K: np.ndarray, price: np.ndarray, rank: int) -> Factors:
    """Return B (m, rank), A (rank, q) with B A nearest to K of that rank in the price, and equally large: B'B = A A' = diag(s).

    s are the singular values of the product, so that both factors meet gradients of one size. Raises ValueError for a rank below
    1.
    """
    up, down = reduced(K, price, rank)
    U, s, Vt = np.linalg.svd(up @ down, full_matrices=False)
    s, lacking = np.sqrt(s[:rank]), max(rank - len(s), 0)
    return np.pad(U[:, :rank] * s, ((0, 0), (0, lacking))), np.pad(s[:, None] * Vt[:rank], ((0, lacking), (0, 0)))


def lora_law(
    ensemble: Ensemble,
    loss: CrossEntropy | Quadratic,
    r: float,
    rank: int,
    *,
    noise: float = 0.0,
    cheap: bool = False,
) -> LoraLaw:
    """Return the gains B_t A_t of a rank that are best for all examples at once, on the linear response of the outputs.

    K minimises (1/N) sum_i l_i(y0_i + sum_t <G_it K_t phi_it>) + r/2 sum_t tr K_t S_t K_t', S of `moment_price`; it is then cut
    in that price (`balanced`), which is exact where one port alone responds evenly and near elsewhere. cheap: the first-order law
    K_t = -(1/r) E<G_it' lambda_i phi_it'> S_t^-1 of the open loop's costates lambda. Source: derived (`shared_gain`).
    ensemble: G to signals at what LoRA's maps put out, phi what they read. Raises ValueError as `shared_gain` does.
    """
    price = moment_price(ensemble, noise)
    law = (first_order if cheap else shared_gain)(ensemble, loss, r, price, constant=False)
    return LoraLaw(tuple(balanced(K, S, rank) for K, S in zip(law.K, price, strict=True)), law)


def factor_law(
    ensemble: Ensemble, loss: CrossEntropy | Quadratic, r: float, *, noise: float = 0.0
) -> tuple[tuple[np.ndarray, ...], Control]:
    """Return the factors l_t (m,) of IA3 that are best for all examples at once, and what they reach on the linear response.

    u_it = (l_t - 1) o phi_it, phi what the scaled map puts out; the price r/2 sum_t E |u_t|^2, with the noise of `moment_price`,
    is diagonal in l - 1, so that the optimum is ensemble LQ over these numbers (`ensemble_lq`). Source: derived. A number of phi
    that is always 0 keeps the factor 1. Raises ValueError for features that are not as many as a signal's numbers, for r <= 0,
    and for noise below 0.
    """
    if any(g.shape[-1] != f.shape[-1] for g, f in zip(ensemble.G, ensemble.phi, strict=True)):
        raise ValueError("expected phi to be what the maps put out, as many numbers as a signal has, got another width")
    seen = [np.einsum("nctm,ntm->ncm", g, f) for g, f in zip(ensemble.G, ensemble.phi, strict=True)]
    spent = [np.diag(S) for S in moment_price(ensemble, noise)]
    moving = np.concatenate(spent) > 0.0
    R = r * np.where(moving, np.concatenate(spent), 1.0)
    found = ensemble_lq(np.concatenate(seen, -1), ensemble.y0, loss, R)
    return tuple(1.0 + z for z in np.split(found.z, np.cumsum([f.shape[-1] for f in ensemble.phi])[:-1])), found
