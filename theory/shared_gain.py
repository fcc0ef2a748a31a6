"""Feedback that a whole ensemble shares: one affine law u = k_t + K_t phi at each port, the same for every example and token.

Each example's best control has a part of its own that no shared vector can hold; a law that reads the state holds as much of it
as states tell. The law is linear in (k, K), so that its optimum is ensemble LQ in the features (1, phi), solved over the N C dual
numbers: a response to every token is contracted with the features at once, and nothing of size N C m q need be kept.

    >>> x = np.array([-1.0, 1.0])  # two examples, one token: y_i = k + K x_i is to meet the targets 0 and 2
    >>> seen = Ensemble((np.ones((2, 1, 1, 1)),), (x.reshape(2, 1, 1),), np.zeros((2, 1)), np.ones((2, 1)))
    >>> law = shared_gain(seen, Quadratic(np.array([[0.0], [2.0]])), 1.0, energy_price(seen))
    >>> law.k[0].round(9).tolist(), law.K[0].round(9).tolist()  # both 1 / (1 + r)
    ([0.5], [[0.5]])
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular

from theory.ensemble import kernel_lq, per_example_lq
from theory.loss import CrossEntropy, Quadratic

BLOCK = 1 << 24  # numbers of a contracted response that are held at a time
CENTRED = 1e-8  # size of the features' mean over their own size, below which it counts as none
TOLD = 1e-10  # size of what a feature adds over its own size, below which others have told it


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Examples whose outputs answer signals at tokens: y_i = y0_i + sum_t sum_tau G_t[i, :, tau] u_t[i, tau].

    G: one array (N, C, T, m) per port. phi: per port what a law may read there, (N, T, q). y0: (N, C). weights: (N, T), how an
    example's tokens share its price; every row sums to 1, and a token of weight 0 (padding) must move nothing. Raises ValueError
    for shapes that do not fit, numbers that are not finite, and such weights.
    """

    G: tuple[np.ndarray, ...]
    phi: tuple[np.ndarray, ...]
    y0: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        G, phi = (tuple(np.asarray(x, float) for x in kind) for kind in (self.G, self.phi))
        y0, weights = np.asarray(self.y0, float), np.asarray(self.weights, float)
        if not G or len(G) != len(phi) or y0.ndim != 2 or weights.ndim != 2:
            raise ValueError(
                f"expected G and phi of the same ports, y0 (N, C) and weights (N, T), got {len(G)} and {len(phi)} ports"
            )
        (N, C), T = y0.shape, weights.shape[1]
        for g, f in zip(G, phi, strict=True):
            if g.ndim != 4 or g.shape[:3] != (N, C, T) or f.ndim != 3 or f.shape[:2] != (N, T) or len(weights) != N:
                raise ValueError(
                    f"expected G ({N}, {C}, {T}, m) and phi ({N}, {T}, q) at every port, got {g.shape} and {f.shape}"
                )
        if not all(np.all(np.isfinite(x)) for x in (*G, *phi, y0)):
            raise ValueError("G, phi and y0 must be finite; check the linearisation and the states")
        if np.any(weights < 0) or not np.allclose(weights.sum(1), 1.0, rtol=0, atol=1e-9):
            raise ValueError("weights must be non-negative and sum to 1 over an example's tokens")
        if any(np.any(np.moveaxis(g, 1, 2)[weights == 0.0]) for g in G):
            raise ValueError("a token of weight 0 moves the outputs at no price; set its response to zero or price it")
        for name, value in (("G", G), ("phi", phi), ("y0", y0), ("weights", weights)):
            object.__setattr__(self, name, value)

    def blind(self) -> "Ensemble":
        """Return the ensemble whose laws read nothing: all that is left of them is the shared vector k."""
        return replace(self, phi=tuple(f[..., :0] for f in self.phi))

    def moved(self, signals: Sequence[np.ndarray]) -> np.ndarray:
        """Return the outputs (N, C) under signals (N, T, m), one array per port."""
        return self.y0 + sum(np.einsum("nctm,ntm->nc", g, u) for g, u in zip(self.G, signals, strict=True))

    def signals(self, k: Sequence[np.ndarray], K: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the signals k_t + K_t phi of a law, (N, T, m) per port."""
        return tuple(a + f @ b.T for a, b, f in zip(k, K, self.phi, strict=True))


@dataclass(frozen=True, eq=False)
class SharedLaw:
    """A law and what it reaches: k (m,) and K (m, q) per port, outputs (N, C) of the linear response.

    value = loss + r/2 energy, energy = sum_t |k_t|^2 + tr K_t S_t K_t'. costate: the losses' gradients (N, C) at the outputs,
    each over N. residual: how far the law is from the one that its own costates give, over its size, both in the price's norm;
    zero at the optimum and nowhere else.
    """

    k: tuple[np.ndarray, ...]
    K: tuple[np.ndarray, ...]
    outputs: np.ndarray
    value: float
    loss: float
    energy: float
    costate: np.ndarray
    residual: float


@dataclass(frozen=True)
class InformationValues:
    """The least objective with one vector for all (shared), with a law that reads phi (feedback), and with a signal of each
    example's and token's own (full); full <= feedback <= shared."""

    shared: float
    feedback: float
    full: float


@dataclass(frozen=True)
class PatternValues:
    """The least objectives by what signals may be affine in: nothing (shared), gates, gates and states, or free at every token.

    full <= state <= gate <= shared: every pattern may do what the next one may, at the same price.
    """

    shared: float
    gate: float
    state: float
    full: float


def energy_price(ensemble: Ensemble, noise: float | Sequence[float] = 0.0) -> tuple[np.ndarray, ...]:
    """Return the price S_t = E phi phi' + noise_t^2 I of each port's gain that makes tr K S K' the signal's mean energy.

    E: the mean over examples of the weighted mean over tokens; noise: the standard deviation of white noise on what is read, one
    for all ports or one each, which the law passes on. A price of the parameters' own norm is the identity instead. Raises
    ValueError where E phi is not 0, as k and K would then share their energy, and for deviations that are not one a port.
    """
    prices = []
    for f, sigma in zip(ensemble.phi, np.broadcast_to(noise, len(ensemble.phi)), strict=True):
        mean = np.einsum("nt,ntq->q", ensemble.weights, f) / len(f)
        moment = np.einsum("nt,ntq,ntp->qp", ensemble.weights, f, f, optimize=True) / len(f)
        if np.linalg.norm(mean) > CENTRED * np.sqrt(np.trace(moment)):
            raise ValueError("phi must have mean 0 over examples and tokens; subtract the weighted mean, which k makes up for")
        prices.append(moment + sigma**2 * np.eye(f.shape[-1]))
    return tuple(prices)


def shared_gain(
    ensemble: Ensemble, loss: CrossEntropy | Quadratic, r: float, price: Sequence[np.ndarray], *, constant: bool = True
) -> SharedLaw:
    """Return the law that minimises (1/N) sum_i l_i(y0_i + sum_t <G_it u_it>) + r/2 sum_t (|k_t|^2 + tr K_t S_t K_t').

    u_it = k_t + K_t phi_it, <> the sum over tokens. At the optimum K_t = -(1/r) E<G_it' lambda_i phi_it'> S_t^-1, lambda_i the
    loss's gradient at the closed loop's outputs: the gain regresses costates on states. Newton over the N C dual numbers
    (`kernel_lq`); the law follows from the costates, token by token. Source: derived (`theory.derivations.shared_gain`).
    price: S_t (q, q) per port, from `energy_price` or the identity; constant: whether there is a k. Raises ValueError for r <= 0
    and prices that do not fit or are not positive definite.
    """
    return next(shared_gains(ensemble, [loss], r, price, constant=constant))


def shared_gains(
    ensemble: Ensemble,
    losses: Iterable[CrossEntropy | Quadratic],
    r: float,
    price: Sequence[np.ndarray],
    *,
    constant: bool = True,
) -> Iterator[SharedLaw]:
    """Yield `shared_gain` of each loss; all losses of one kind share the dual problem's kernel, which is most of the cost."""
    roots, kernels = _roots(ensemble, price), {}
    for loss in losses:
        if type(loss) not in kernels:
            E = loss.basis(ensemble.y0.shape[1])
            kernels[type(loss)] = E, _kernel(ensemble, roots, E, constant) / _positive(r)
        E, kernel = kernels[type(loss)]
        yield _law(ensemble, loss, r, roots, kernel_lq(kernel, ensemble.y0, loss, tolerance=1e-12) @ E.T, constant)


def first_order(
    ensemble: Ensemble, loss: CrossEntropy | Quadratic, r: float, price: Sequence[np.ndarray], *, constant: bool = True
) -> SharedLaw:
    """Return the law of the costates of the open loop, K_t = -(1/r) E<G_it' lambda_i(0) phi_it'> S_t^-1: one gradient step.

    S_t^-1 whitens the states; with the identity as price it is the gradient of the loss in K itself. Arguments and errors as in
    `shared_gain`.
    """
    return _law(ensemble, loss, _positive(r), _roots(ensemble, price), loss.gradient(ensemble.y0) / len(ensemble.y0), constant)


def reduced(K: np.ndarray, price: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return up (m, rank) and down (rank, q) whose product is nearest to K of all of that rank, at least tr (K - .) S (K - .)'.

    The leading singular triplets of K S^1/2 (Eckart and Young), as an adapter of that bottleneck holds them; a rank above that of
    K is filled with zeros. Raises ValueError for a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"expected a rank of at least 1, got {rank}")
    root = np.linalg.cholesky(price)
    U, s, Vt = np.linalg.svd(K @ root, full_matrices=False)
    up, down = U[:, :rank] * s[:rank], solve_triangular(root, Vt[:rank].T, lower=True, trans="T").T
    lacking = max(rank - len(s), 0)
    return np.pad(up, ((0, 0), (0, lacking))), np.pad(down, ((0, lacking), (0, 0)))


def information_values(
    ensemble: Ensemble, loss: CrossEntropy | Quadratic, r: float, noise: float | Sequence[float] = 0.0
) -> InformationValues:
    """Return the least objectives by what the signal may depend on, all under the price of its energy.

    Shared: k_t. Feedback: k_t + K_t phi, noise as in `energy_price`. Full: any u_it,tau, at (r/2) sum_t sum_tau w_i,tau |u|^2 of
    each example's own. What one has over the next is the value of the information. Raises ValueError as `shared_gain` and
    `energy_price` do.
    """
    blind = ensemble.blind()
    return InformationValues(
        shared_gain(blind, loss, r, energy_price(blind)).value,
        shared_gain(ensemble, loss, r, energy_price(ensemble, noise)).value,
        _full(ensemble, loss, r),
    )


def pattern_values(
    ensemble: Ensemble, gates: Sequence[np.ndarray], loss: CrossEntropy | Quadratic, r: float, *, noise: float = 0.0
) -> PatternValues:
    """Return the least mean loss + r/2 energy of signals u = V f by what f holds; V is shared, one per port.

    f = 1: a shared vector. (1, g): a bias and a prefix, whose values move their head by g'dv exactly while its keys stay. (1, g,
    phi): an adapter beside them. Full: u is free. The price is that of the signal, tr V (E f f' + noise^2 I) V' with no noise on
    the constant, so that values nest and, without noise, depend on the span of f alone. A prefix without a bias has span {g},
    which need not hold the shared vector: it may do worse than shared, and never better than gate. An affine adapter has span {1,
    phi} and never does better than state; it is sure to match gate only where g is affine in phi, and `information_values`
    gives its value. Solved by `shared_gain` in features that are orthonormal in the price. Source: derived.
    ensemble: all patterns move the same reference, for a prefix the network with one in place; gates and states are those there.
    gates: per port the attention on each slot, (N, T, p), as `prefixed_attention` gives it in `weights`; each head is a port.
    noise: the standard deviation of white noise on every gate and state that is read. phi may have any mean. Raises ValueError as
    `shared_gain` does, and for gates that do not fit and noise below 0.
    """
    (N, T), ports = ensemble.weights.shape, len(ensemble.phi)
    gates = [np.asarray(g, float) for g in gates]
    if len(gates) != ports or any(g.ndim != 3 or g.shape[:2] != (N, T) or not np.all(np.isfinite(g)) for g in gates):
        raise ValueError(f"expected finite gates ({N}, {T}, p) at each of {ports} ports, got {[g.shape for g in gates]}")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is a standard deviation, finite and at least 0, got {noise}")
    nested = [_nested((g, f), ensemble.weights, noise) for g, f in zip(gates, ensemble.phi, strict=True)]

    def least(groups: int) -> float:
        read = replace(ensemble, phi=tuple(np.concatenate(spans[:groups], -1) for spans in nested))
        return shared_gain(read, loss, r, [np.eye(f.shape[-1]) for f in read.phi], constant=False).value

    return PatternValues(least(1), least(2), least(3), _full(ensemble, loss, r))


def _nested(groups: Sequence[np.ndarray], weights: np.ndarray, noise: float) -> list[np.ndarray]:
    """Return features (N, T, n) of the constant and of what each group adds to those before, orthonormal in the price."""
    F = np.concatenate([np.ones((*weights.shape, 1)), *groups], -1).reshape(weights.size, -1)
    mass = np.sqrt(weights / len(weights)).reshape(-1, 1)
    heard = np.diag(np.full(F.shape[1], float(noise)))
    heard[0, 0] = 0.0
    rows = np.concatenate([mass * F, heard])  # whose inner products are the price
    size = np.linalg.norm(rows, axis=0)
    rows = rows / np.where(size > 0.0, size, 1.0)
    basis, spans = np.zeros((len(rows), 0)), []
    for own in np.split(rows, np.cumsum([1, *(g.shape[-1] for g in groups[:-1])]), axis=1):
        U, s, _ = np.linalg.svd(_beyond(basis, own), full_matrices=False)
        new = np.linalg.qr(_beyond(basis, U[:, s > TOLD]))[0]
        basis = np.concatenate([basis, new], axis=1)
        read = np.divide(new[: weights.size], mass, out=np.zeros_like(new[: weights.size]), where=mass > 0.0)
        spans.append(read.reshape(*weights.shape, -1))
    return spans


def _beyond(basis: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What orthonormal columns leave of others."""
    return rows - basis @ (basis.T @ rows)


def _full(ensemble: Ensemble, loss: CrossEntropy | Quadratic, r: float) -> float:
    """The least objective of signals of each example's and token's own."""
    costly = ensemble.weights > 0.0
    scale = np.where(costly, 1.0 / np.sqrt(np.where(costly, ensemble.weights, 1.0)), 0.0)[:, None, :, None]
    G = np.concatenate([(g * scale).reshape(*g.shape[:2], -1) for g in ensemble.G], axis=-1)
    return float(per_example_lq(G, ensemble.y0, loss, r).value.mean())


def _positive(r: float) -> float:
    if not (np.isfinite(r) and r > 0):
        raise ValueError(f"r must be positive and finite, got {r}; a law without a price may not exist")
    return float(r)


def _roots(ensemble: Ensemble, price: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Lower triangular L with S = L L', one per port."""
    if len(price) != len(ensemble.phi):
        raise ValueError(f"expected one price per port, got {len(price)} for {len(ensemble.phi)} ports")
    found = []
    for S, f in zip(price, ensemble.phi, strict=True):
        S, q = np.asarray(S, float), f.shape[-1]
        if S.shape != (q, q):
            raise ValueError(f"expected a price of shape ({q}, {q}) for {q} features, got {S.shape}")
        try:
            found.append(np.linalg.cholesky(S))
        except np.linalg.LinAlgError:
            raise ValueError("a price must be positive definite; leave out features that never vary, or add noise") from None
    return found


def _kernel(ensemble: Ensemble, roots: Sequence[np.ndarray], E: np.ndarray, constant: bool) -> np.ndarray:
    """E' G S^-1 G' E (N c, N c) of the response to (k, K), summed over blocks of the controls."""
    size = len(ensemble.y0) * E.shape[1]
    total = np.zeros((size, size))
    for g, f, L in zip(ensemble.G, ensemble.phi, roots, strict=True):
        read = _whitened(f, L)
        read = np.concatenate([np.ones((*f.shape[:2], 1)), read], axis=-1) if constant else read
        for part in _blocks(g, size * read.shape[-1]):
            X = np.einsum("ca,nctm->namt", E, part, optimize=True) @ read[:, None]
            X = X.reshape(size, -1)
            total += X @ X.T
    return total


def _blocks(g: np.ndarray, each: int) -> Iterator[np.ndarray]:
    """Some controls of a response at a time, `each` numbers a control once contracted."""
    width = max(1, BLOCK // max(each, 1))
    for start in range(0, g.shape[-1], width):
        yield g[..., start : start + width]


def _whitened(f: np.ndarray, L: np.ndarray) -> np.ndarray:
    """L^-1 phi for features (N, T, q)."""
    return solve_triangular(L, f.reshape(-1, f.shape[-1]).T, lower=True).T.reshape(f.shape) if f.shape[-1] else f


def _read(ensemble: Ensemble, roots, r: float, costate: np.ndarray, constant: bool) -> tuple[tuple, tuple]:
    """The k and K L that costates (N, C) give, token by token."""
    k, whitened = [], []
    for g, f, L in zip(ensemble.G, ensemble.phi, roots, strict=True):
        pulled = -np.einsum("nctm,nc->ntm", g, costate) / r
        k.append(pulled.sum((0, 1)) * constant)
        whitened.append(np.einsum("ntm,ntq->mq", pulled, _whitened(f, L), optimize=True))
    return tuple(k), tuple(whitened)


def _law(ensemble: Ensemble, loss, r: float, roots, costate: np.ndarray, constant: bool) -> SharedLaw:
    """The law that costates give, and what it reaches."""
    k, whitened = _read(ensemble, roots, r, costate, constant)
    K = tuple(solve_triangular(L, w.T, lower=True, trans="T").T if L.size else w for w, L in zip(whitened, roots, strict=True))
    outputs = ensemble.moved(ensemble.signals(k, K))
    own = loss.gradient(outputs) / len(outputs)
    again = _read(ensemble, roots, r, own, constant)
    energy = sum(float(np.sum(x**2)) for x in (*k, *whitened))
    gap = sum(
        float(np.sum((x - y) ** 2))
        for mine, new in zip((k, whitened), again, strict=True)
        for x, y in zip(mine, new, strict=True)
    )
    fit = float(loss.value(outputs).mean())
    residual = float(np.sqrt(gap / energy)) if energy > 0.0 else float(np.sqrt(gap))
    return SharedLaw(k, K, outputs, fit + 0.5 * r * energy, fit, energy, own, residual)
