"""Exact identities of prefix tuning in one attention head, and the bound on what control tokens can reach.

>>> rng = np.random.default_rng(0)
>>> q, K, V, prefix_keys, prefix_values = (rng.normal(size=(n, 4)) for n in (3, 5, 5, 2, 2))
>>> found = prefixed_attention(q, K, V, prefix_keys, prefix_values)
>>> bool(np.allclose(found.output, (1 - found.gate)[:, None] * found.base + found.gate[:, None] * found.prefix))
True
>>> outside = cone_residual(found.bias, prefix_values)
>>> ratio_deviation(found.base_weights, found.weights[:, 2:]) < 1e-12, bool(outside.max() < 1e-12)
(True, True)
>>> bound = perpendicular_bound(q, *rng.normal(size=(3, 4, 4)), tokens=2, control_norm=1.0)
>>> bool(np.all(bound.tight <= bound.published))
True
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.special import logsumexp, softmax


@dataclass(frozen=True, eq=False)
class PrefixedAttention:
    """One head with and without a prefix: every piece of output = (1 - gate) base + gate prefix.

    gate (..., T): the attention mass lambda(x) on the prefix. base, prefix, output (..., T, d_v): attention to the
    context alone, to the prefix alone, to both (computed directly, not from the identity). base_weights (..., T, S),
    weights (..., T, l + S): the attention weights without and with the prefix, prefix first.
    """

    gate: np.ndarray
    base: np.ndarray
    prefix: np.ndarray
    output: np.ndarray
    base_weights: np.ndarray
    weights: np.ndarray

    @property
    def bias(self):
        """Return output - (1 - gate) base, all the prefix adds (..., T, d_v); it lies in the span of the prefix values."""
        return self.output - (1.0 - self.gate)[..., None] * self.base


def _logits(q, K, mask):
    logits = q @ np.swapaxes(K, -1, -2) / np.sqrt(q.shape[-1])
    return logits if mask is None else np.where(mask, logits, -np.inf)


def prefixed_attention(q, K, V, prefix_keys, prefix_values, *, mask=None) -> PrefixedAttention:
    """Return the softmax attention of queries q to [prefix; context], split into the gate, the context part and the prefix part.

    gate = sum_i e^{q.pk_i/sqrt d} / (sum_i e^{q.pk_i/sqrt d} + sum_j e^{q.k_j/sqrt d}). Source: He et al. 2022
    (arXiv 2110.04366) with the 1/sqrt(d) inside; ratios and span: Petrov et al. 2024 (arXiv 2310.19698).
    q (..., T, d), K (..., S, d), V (..., S, d_v), prefix_keys (..., l, d), prefix_values (..., l, d_v); mask (T, S) is
    True where a query may look; the prefix is always visible. Raises ValueError for shapes that do not fit.
    """
    q, K, V, Pk, Pv = (np.asarray(x, float) for x in (q, K, V, prefix_keys, prefix_values))
    d = q.shape[-1]
    if K.shape[-1] != d or Pk.shape[-1] != d or K.shape[-2] != V.shape[-2] or Pk.shape[-2] != Pv.shape[-2]:
        raise ValueError(f"q, K, V and the prefix do not fit: {q.shape}, {K.shape}, {V.shape}, {Pk.shape}, {Pv.shape}")
    if mask is not None and not np.all(np.any(mask, axis=-1)):
        raise ValueError("mask must leave every query at least one key of the context")
    context, prefix = _logits(q, K, mask), _logits(q, Pk, None)
    a, b = logsumexp(prefix, axis=-1), logsumexp(context, axis=-1)
    weights = softmax(np.concatenate([prefix, context], -1), axis=-1)
    l = Pk.shape[-2]  # noqa: E741 - the prefix length of the papers
    base_weights = softmax(context, axis=-1)
    return PrefixedAttention(
        gate=np.exp(a - np.logaddexp(a, b)),
        base=base_weights @ V,
        prefix=softmax(prefix, axis=-1) @ Pv,
        output=weights[..., :l] @ Pv + weights[..., l:] @ V,
        base_weights=base_weights,
        weights=weights,
    )


def ratio_deviation(base_weights, weights) -> float:
    """Return the largest |log (A_ij/A_ik) - log (A'_ij/A'_ik)| over queries and context pairs: 0 for any prefix.

    base_weights, weights: (..., T, S) attention on the same context keys without and with a delta (drop the prefix's
    columns). A prefix rescales a row, so ratios within it cannot move (Petrov et al. 2024); a change of W_q or W_k
    moves them. Weights below 1e-200 are skipped. Raises ValueError for different shapes.
    """
    base, new = np.asarray(base_weights, float), np.asarray(weights, float)
    if base.shape != new.shape:
        raise ValueError(f"the two sets of weights must have one shape, got {base.shape} and {new.shape}")
    seen = (base > 1e-200) & (new > 1e-200)
    moved = np.log(np.where(seen, new, 1.0)) - np.log(np.where(seen, base, 1.0))
    top = np.where(seen, moved, -np.inf).max(-1)
    bottom = np.where(seen, moved, np.inf).min(-1)
    return float(np.max(np.where(seen.any(-1), top - bottom, 0.0)))


def cone_residual(bias, prefix_values):
    """Return the relative distance of each bias vector from the cone of the prefix values, (T,); 0 for a true prefix.

    min_{c >= 0} |Pv'c - bias| / |bias| per row; the cone has dimension <= l, so an l-token prefix cannot write
    anything else into the head. bias (T, d_v), prefix_values (l, d_v). Source: Petrov et al. 2024.
    """
    bias, Pv = np.asarray(bias, float), np.asarray(prefix_values, float)
    if bias.ndim != 2 or Pv.ndim != 2 or bias.shape[1] != Pv.shape[1]:
        raise ValueError(f"bias (T, d_v) and prefix_values (l, d_v) must share d_v, got {bias.shape} and {Pv.shape}")
    if not (np.all(np.isfinite(bias)) and np.all(np.isfinite(Pv))):
        raise ValueError("bias and prefix_values must be finite, got NaN or infinity")
    size = np.linalg.norm(bias, axis=1)
    return np.array([nnls(Pv.T, b / s, maxiter=100 * len(Pv))[1] if s > 0 else 0.0 for b, s in zip(bias, size, strict=True)])


@dataclass(frozen=True, eq=False)
class PerpendicularBound:
    """Upper bounds (T,) on the part of a head's output at right angles to its uncontrolled output.

    tight: k e^a / (g + k e^a) sigma_v M_u, never above sigma_v M_u. published: k e^a / g sigma_v M_u, can be vacuous.
    """

    tight: np.ndarray
    published: np.ndarray


def perpendicular_bound(X, Wq, Wk, Wv, *, tokens: int, control_norm: float) -> PerpendicularBound:
    """Return the bounds on the perpendicular output of each state token x_i under `tokens` control tokens of norm <= M_u.

    a = sigma_q sigma_k M_u |x_i| / sqrt(d), g_i = sum_j exp(x_i Wq Wk' x_j'/sqrt(d)). The published form takes the
    largest |x_j| for |x_i| (its M_x). Source: Magic Word (arXiv 2310.04444) restated; the tight form
    is derived. X (T, d_model), Wq, Wk (d_model, d), Wv (d_model, d_v). Raises ValueError for bad shapes or counts.
    """
    X, Wq, Wk, Wv = (np.asarray(x, float) for x in (X, Wq, Wk, Wv))
    if X.ndim != 2 or any(W.ndim != 2 or W.shape[0] != X.shape[1] for W in (Wq, Wk, Wv)) or Wq.shape != Wk.shape:
        raise ValueError(f"X (T, n) and Wq, Wk, Wv (n, d) must fit, got {X.shape}, {Wq.shape}, {Wk.shape}, {Wv.shape}")
    if tokens < 1 or not control_norm > 0:
        raise ValueError(f"tokens must be at least 1 and control_norm positive, got {tokens} and {control_norm}")
    root = np.sqrt(Wq.shape[1])
    sigma_q, sigma_k, sigma_v = (np.linalg.norm(W, 2) for W in (Wq, Wk, Wv))
    log_g = logsumexp((X @ Wq) @ (X @ Wk).T / root, axis=-1)
    norms = np.linalg.norm(X, axis=1)
    own = np.log(tokens) + sigma_q * sigma_k * control_norm * norms / root
    worst = np.log(tokens) + sigma_q * sigma_k * control_norm * norms.max() / root
    reach = sigma_v * control_norm
    return PerpendicularBound(
        tight=np.exp(own - np.logaddexp(own, log_g)) * reach,
        published=np.exp(np.minimum(worst - log_g, 700.0)) * reach,
    )


def perpendicular(y, base):
    """Return the part (..., d) of y at right angles to base: y - (y.base / |base|^2) base."""
    y, base = np.asarray(y, float), np.asarray(base, float)
    squared = np.sum(base**2, -1, keepdims=True)
    return y - np.where(squared > 0, np.sum(y * base, -1, keepdims=True) / np.where(squared > 0, squared, 1.0), 0.0) * base
