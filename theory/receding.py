"""The gain that an ensemble shares, solved again in the loop that it has closed: receding re-solves until it is its own answer.

A law at one port moves what later ports read, so that the linear response at rest, which `theory.shared_gain` solves in, is left
as soon as the law is installed. With the law at work, the response to a further signal behind it, the states that are read
now, and what such a signal costs later laws pose the same problem again, with another reference:

    delta J = (1/N) sum_i l_i(y_i + sum_t <G_it du_it>) + sum_t <h_it, du_it> + r/2 sum_t E |u_it + du_it|^2,   du = (dk + dK phi)

Completing the square in the price's norm takes the linear term h into the law and the reference outputs, so that each re-solve
is one call of `shared_gain`. A proximal weight mu on the law's change, of Levenberg and Marquardt, keeps a step where the
response holds. The fixed points are those of the real objective.

    >>> x = np.array([-1.0, 1.0]).reshape(2, 1, 1)  # two examples: y_i = k + K x_i is to meet the targets 0 and 2
    >>> seen = Ensemble((np.ones((2, 1, 1, 1)),), (x,), np.zeros((2, 1)), np.ones((2, 1)))
    >>> met = Loop(seen, (np.zeros(1),), (np.zeros((1, 1)),), (np.zeros((2, 1, 1)),))
    >>> k, K = resolved(met, Quadratic(np.array([[0.0], [2.0]])), 1.0)
    >>> k[0].round(9).tolist(), K[0].round(9).tolist()  # nothing reacts, and the first answer is `shared_gain`'s: 1 / (1 + r)
    ([0.5], [[0.5]])
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from theory.loss import CrossEntropy, Quadratic
from theory.open_loop import BACKWARD, FORWARD, GROW, SHRINK
from theory.shared_gain import Ensemble, shared_gain

Gains = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]  # k (m,) and K (m, q) of every port


@dataclass(frozen=True, eq=False)
class Loop:
    """An ensemble with the law u_t = k_t + K_t phi_t at work.

    ensemble: G is the response of the outputs to a signal added behind a port's law, to which later laws react, phi what laws
    read now, y0 the outputs now. pull: per port (N, T, m), the slope of r/2 times the mean energy of later ports' signals in such
    a signal; zero where nothing is fed forward.
    """

    ensemble: Ensemble
    k: tuple[np.ndarray, ...]
    K: tuple[np.ndarray, ...]
    pull: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Resolved:
    """The laws that re-solves went through, the first given: what had been paid for each, in gradients, and its objective.

    rejected: trials that were paid for and not kept. weight: the last proximal weight.
    """

    laws: tuple[Gains, ...]
    costs: np.ndarray
    objectives: np.ndarray
    rejected: int
    weight: float


def resolved(loop: Loop, loss: CrossEntropy | Quadratic, r: float, mu: float = 0.0) -> Gains:
    """Return the (k, K) of the least linearised objective in the closed loop, with mu/2 E |(dk + dK phi)|^2 on the change.

    With f = (1, phi - E phi) of second moment S, V the law in f and V_h = E<h f'> S^-1 / (r + mu), V + V_h - mu / (r + mu) V_0
    solves `shared_gain` at the price r + mu and outputs moved accordingly. Source: derived (Gauss-Newton on the closed loop, with
    the damping of Nocedal and Wright 2006, section 10.3). Raises ValueError as `shared_gain` does, and for mu below 0.
    """
    if not (np.isfinite(mu) and mu >= 0.0):
        raise ValueError(f"expected a proximal weight of at least 0, got {mu}")
    seen, price = loop.ensemble, r + mu
    means = [np.einsum("nt,ntq->q", seen.weights, f) / len(f) for f in seen.phi]
    centred = replace(seen, phi=tuple(f - m for f, m in zip(seen.phi, means, strict=True)))
    moments = [np.einsum("nt,ntq,ntp->qp", seen.weights, f, f, optimize=True) / len(f) for f in centred.phi]
    now = [k + K @ m for k, K, m in zip(loop.k, loop.K, means, strict=True)]
    kept, offset_k, offset_K = 1.0 - mu / price, [], []
    for f, S, h, k, K in zip(centred.phi, moments, loop.pull, now, loop.K, strict=True):
        along = np.einsum("ntm,ntq->mq", h, f, optimize=True)
        offset_k.append(kept * k + h.sum((0, 1)) / price)
        offset_K.append(kept * K + np.linalg.solve(S, along.T).T / price)
    held = replace(centred, y0=2 * seen.y0 - seen.moved(centred.signals(offset_k, offset_K)))
    law = shared_gain(held, loss, price, moments)
    K = tuple(new + old - off for new, old, off in zip(law.K, loop.K, offset_K, strict=True))
    k = tuple(new + old - off - G @ m for new, old, off, G, m in zip(law.k, now, offset_k, K, means, strict=True))
    return k, K


def receding(
    close: Callable[[Gains], Loop],
    objective: Callable[[Gains], float],
    start: Gains,
    loss: CrossEntropy | Quadratic,
    r: float,
    *,
    rounds: int,
    budget: float = np.inf,
) -> Resolved:
    """Return the laws of so many re-solves from a start, each kept only where it lowers the real objective.

    mu starts at 0, grows eightfold (from r) where a trial is no better, and shrinks after one that was kept at once. What is paid
    is counted as in `theory.open_loop`: a re-solve takes C - 1 backward passes for the response and one for the pull, a trial a
    forward pass. Ends early when nothing lowers the objective, or before `budget` gradients are passed. Raises ValueError for
    rounds below 1.
    """
    if rounds < 1:
        raise ValueError(f"expected at least one round, got {rounds}")
    laws, value, cost, mu, rejected = [start], objective(start), FORWARD, 0.0, 0
    costs, values = [cost], [value]
    for _ in range(rounds):
        loop = close(laws[-1])
        cost += BACKWARD * (loss.basis(loop.ensemble.y0.shape[1]).shape[1] + 1)
        tried, kept = 0, False
        while not kept and cost + FORWARD <= budget and mu < 1e9 * r:
            trial = resolved(loop, loss, r, mu)
            cost, new = cost + FORWARD, objective(trial)
            kept = bool(new < value)
            if not kept:
                mu, tried = max(GROW * mu, r), tried + 1
        rejected += tried
        if not kept:
            break
        if not tried:
            mu = mu / SHRINK if mu > 1e-3 * r else 0.0
        laws.append(trial)
        costs.append(cost)
        values.append(value := new)
    return Resolved(tuple(laws), np.array(costs), np.array(values), rejected, mu)


def nothing(widths: Sequence[int], features: Sequence[int]) -> Gains:
    """Return the law of no signal at ports of these widths m that read so many features q."""
    return tuple(np.zeros(m) for m in widths), tuple(np.zeros((m, q)) for m, q in zip(widths, features, strict=True))
