"""AdamW on a model that is linear in its numbers: where an optimiser goes that never meets the network."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

BETAS, EPSILON = (0.9, 0.999), 1e-8


def adamw_path(
    G,
    slopes: Callable[[np.ndarray, np.ndarray], np.ndarray],
    origin,
    rows: Sequence[np.ndarray],
    rates,
    shares: Sequence[float],
    *,
    decay: float = 0.0,
    clip: float = np.inf,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield after every step the displacements z (R, M) of R runs of AdamW on y0 + G z, and their second moments (R, M).

    With g = (1/B) sum over the step's rows of G_i' slopes_i, its norm clipped, m and v its running means (betas .9, .999) and
    the rate eta = rates x the step's share: z <- z - eta (m' / (sqrt v' + 1e-8) + decay (origin + z)), m' and v' without their
    bias. Source: Kingma and Ba 2015 (algorithm 1), Loshchilov and Hutter 2019 (algorithm 2).
    G (N, c, M); slopes(rows, shifts (R, B, c)) gives the losses' gradients in the outputs (R, B, c); origin (M,): the numbers
    at z = 0; rates (R,). Only products with G are taken. Raises ValueError for rates that are not positive.
    """
    G, origin, rates = np.asarray(G), np.asarray(origin), np.asarray(rates, float)
    if rates.ndim != 1 or not np.all(rates > 0):
        raise ValueError(f"expected a list of positive rates, got {rates.tolist()}")
    size = rates[:, None].astype(G.dtype)
    z, m, v = (np.zeros((len(rates), G.shape[-1]), G.dtype) for _ in range(3))
    for number, (taken, share) in enumerate(zip(rows, shares, strict=True), 1):
        own = G[taken].reshape(-1, G.shape[-1])
        slope = slopes(taken, (z @ own.T).reshape(len(rates), len(taken), -1)) / len(taken)
        g = slope.reshape(len(rates), -1).astype(G.dtype) @ own
        g *= np.minimum(1.0, clip / (np.linalg.norm(g, axis=1, keepdims=True) + 1e-6)).astype(G.dtype)
        m += (1 - BETAS[0]) * (g - m)
        v += (1 - BETAS[1]) * (g * g - v)
        step = m / (1 - BETAS[0] ** number) / (np.sqrt(v / (1 - BETAS[1] ** number)) + EPSILON)
        z = z - size * share * (step + decay * (origin + z))
        yield z, v / (1 - BETAS[1] ** number)
