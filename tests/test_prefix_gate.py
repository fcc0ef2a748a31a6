"""The exact identities of a prefix in one head, violated by what is not a prefix, and the bound on control tokens."""

import numpy as np
import pytest
from control_problems import relative

from theory import cone_residual, perpendicular, perpendicular_bound, prefixed_attention, ratio_deviation

T, S, D, DV, L = 7, 9, 8, 6, 3
EXACT = 1e-12  # identities: rounding of sums of ten exponentials


def head(seed, *, batch=(), scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = [(T, D), (S, D), (S, DV), (L, D), (L, DV)]
    return [scale * rng.normal(size=(*batch, *shape)) for shape in shapes]


def plain_attention(q, K, V):
    w = np.exp(q @ K.T / np.sqrt(q.shape[1]))
    return w @ V / w.sum(1, keepdims=True)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_the_gate_mixes_two_attentions(scale):
    q, K, V, Pk, Pv = head(0, scale=scale)
    found = prefixed_attention(q, K, V, Pk, Pv)
    direct = plain_attention(q, np.vstack([Pk, K]), np.vstack([Pv, V]))
    gate = found.gate[:, None]
    assert relative(found.output, direct) < EXACT
    assert relative((1 - gate) * plain_attention(q, K, V) + gate * plain_attention(q, Pk, Pv), direct) < EXACT
    assert relative((1 - gate) * found.base + gate * found.prefix, found.output) < EXACT
    e, f = np.exp(q @ Pk.T / np.sqrt(D)).sum(1), np.exp(q @ K.T / np.sqrt(D)).sum(1)
    assert relative(found.gate, e / (e + f)) < EXACT


def test_without_the_root_of_d_the_gate_is_another():
    """The scale belongs inside the exponents: leaving it out is visible, not a convention."""
    q, K, V, Pk, Pv = head(1)
    e, f = np.exp(q @ Pk.T).sum(1), np.exp(q @ K.T).sum(1)
    assert np.abs(prefixed_attention(q, K, V, Pk, Pv).gate - e / (e + f)).max() > 0.05


def test_ratios_stay_under_a_prefix_and_move_under_a_key_change():
    q, K, V, Pk, Pv = head(2)
    found = prefixed_attention(q, K, V, Pk, Pv)
    assert ratio_deviation(found.base_weights, found.weights[:, L:]) < EXACT
    assert relative(found.weights[:, L:], found.base_weights * (1 - found.gate)[:, None]) < EXACT
    low_rank = 0.1 * np.outer(np.random.default_rng(3).normal(size=D), np.ones(D))
    moved = prefixed_attention(q @ (np.eye(D) + low_rank), K, V, Pk, Pv)
    assert ratio_deviation(found.base_weights, moved.weights[:, L:]) > 0.01


def test_the_bias_stays_in_the_cone_of_the_prefix_values():
    q, K, V, Pk, Pv = head(4)
    found = prefixed_attention(q, K, V, Pk, Pv)
    assert np.linalg.matrix_rank(found.bias, tol=1e-10) == L
    assert cone_residual(found.bias, Pv).max() < 1e-10
    assert cone_residual(found.output, Pv).max() > 0.1  # the output as a whole is not confined
    assert relative(found.bias, found.gate[:, None] * found.prefix) < EXACT


def test_one_token_moves_along_one_direction():
    q, K, V, Pk, Pv = head(5)
    bias = prefixed_attention(q, K, V, Pk[:1], Pv[:1]).bias
    assert np.abs(bias - (bias @ Pv[0])[:, None] * Pv[0] / (Pv[0] @ Pv[0])).max() < EXACT


def test_batches_and_causal_masks():
    q, K, V, Pk, Pv = head(6, batch=(2, 4))
    mask = np.arange(S)[None] <= np.arange(T)[:, None]
    found = prefixed_attention(q, K, V, Pk, Pv, mask=mask)
    assert found.gate.shape == (2, 4, T)
    assert relative((1 - found.gate)[..., None] * found.base + found.gate[..., None] * found.prefix, found.output) < EXACT
    for t in range(T):
        seen = slice(0, t + 1)
        alone = prefixed_attention(q[1, 2, t : t + 1], K[1, 2, seen], V[1, 2, seen], Pk[1, 2], Pv[1, 2])
        assert relative(found.output[1, 2, t], alone.output[0]) < EXACT
    assert ratio_deviation(found.base_weights, found.weights[..., L:]) < EXACT


def test_huge_logits_do_not_overflow():
    q, K, V, Pk, Pv = head(7, scale=100.0)
    found = prefixed_attention(q, K, V, Pk, Pv)
    assert np.isfinite(found.output).all() and (found.gate >= 0).all() and (found.gate <= 1).all()


def test_heads_that_do_not_fit_are_refused():
    q, K, V, Pk, Pv = head(8)
    with pytest.raises(ValueError, match="do not fit"):
        prefixed_attention(q, K, V[:4], Pk, Pv)
    with pytest.raises(ValueError, match="at least one key"):
        prefixed_attention(q, K, V, Pk, Pv, mask=np.zeros((T, S), bool))
    with pytest.raises(ValueError, match="one shape"):
        ratio_deviation(np.ones((2, 3)), np.ones((2, 4)))


def test_no_control_token_beats_the_perpendicular_bound():
    """600 random heads and prompts: zero violations, and the tight form never exceeds the trivial one."""
    rng = np.random.default_rng(9)
    loosest = 0.0
    for _ in range(600):
        n, k, size = 6, int(rng.integers(1, 5)), float(rng.uniform(0.2, 3.0))
        X, Wq, Wk, Wv = rng.normal(size=(5, n)), *(0.6 * rng.normal(size=(3, n, n)))
        U = rng.normal(size=(k, n))
        U *= size / np.linalg.norm(U, axis=1, keepdims=True)
        found = prefixed_attention(X @ Wq, X @ Wk, X @ Wv, U @ Wk, U @ Wv)
        reached = np.linalg.norm(perpendicular(found.output, found.base), axis=1)
        bound = perpendicular_bound(X, Wq, Wk, Wv, tokens=k, control_norm=size)
        assert (reached <= bound.tight * (1 + 1e-12)).all()
        assert (bound.tight <= bound.published).all()
        assert (bound.tight <= np.linalg.norm(Wv, 2) * size * (1 + 1e-12)).all()
        loosest = max(loosest, float((bound.published / bound.tight).max()))
    assert loosest > 10.0  # the published form is vacuous somewhere


@pytest.mark.parametrize("tokens", [1, 4])
def test_the_tight_bound_is_attained(tokens):
    """Control tokens along the worst direction of one-dimensional queries and keys reach it exactly."""
    X, Wq = np.array([[1.0, 0.0]]), np.array([[1.0], [0.0]])
    Wk, Wv = np.array([[0.0], [1.0]]), np.eye(2)
    U = np.tile([[0.0, 2.0]], (tokens, 1))  # aligned with the query, their values at right angles to the base output
    found = prefixed_attention(X @ Wq, X @ Wk, X @ Wv, U @ Wk, U @ Wv)
    bound = perpendicular_bound(X, Wq, Wk, Wv, tokens=tokens, control_norm=2.0)
    assert relative(np.linalg.norm(perpendicular(found.output, found.base)), bound.tight[0]) < EXACT
