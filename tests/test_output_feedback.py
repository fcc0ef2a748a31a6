"""Feedback from C terminal outputs: the same law as the Riccati recursion, of rank C - 1, without its matrices."""

import numpy as np
import pytest
from control_problems import plant, relative
from scipy.special import softmax

from theory import output_lq, riccati, transition

T, N_STATE, M_CONTROL, C = 6, 8, 5, 3
ROUND = 1e-10


def softmax_problem(seed):
    """A plant, a readout, and the softmax's slope and curvature at random logits."""
    A, B = plant(seed, n=N_STATE, m=M_CONTROL, T=T)
    rng = np.random.default_rng(seed + 70)
    readout = rng.normal(size=(C, N_STATE))
    p = softmax(rng.normal(size=C))
    M, g = np.diag(p) - np.outer(p, p), p - np.eye(C)[0]
    views = [readout @ transition(A[t:]) if t < T else readout for t in range(T + 1)]
    return A, B, readout, M, g, views, [views[t + 1] @ B[t] for t in range(T)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gains_are_the_riccati_gains_and_of_rank_c_minus_one(seed):
    A, B, readout, M, g, views, G = softmax_problem(seed)
    law = riccati(A, B, 0.0, 0.3, readout.T @ M @ readout, form="lowrank")
    found = output_lq(G, M, g, 0.3)
    for t in range(T):
        gain = found.gain(t, views[t])
        assert relative(gain, law.K[t]) < ROUND
        s = np.linalg.svd(gain, compute_uv=False)
        assert s[C - 2] > 1e-6 * s[0] and s[C - 1] < 1e-12 * s[0]


def test_controls_minimise_the_stated_cost():
    """Stationary in every control, and the recorded value is the cost of the recorded controls."""
    *_, M, g, _, G = softmax_problem(3)
    found = output_lq(G, M, g, 0.3)
    z = sum(Gt @ u for Gt, u in zip(G, found.u, strict=True))
    for Gt, u in zip(G, found.u, strict=True):
        assert np.abs(0.3 * u + Gt.T @ (g + M @ z)).max() < 1e-14
    cost = 0.5 * z @ M @ z + g @ z + 0.15 * sum(u @ u for u in found.u)
    assert relative(found.value, cost) < ROUND
    assert relative(found.shift, z) < ROUND
    assert relative(found.costate, g + M @ z) < ROUND


def test_closed_loop_equals_open_loop_where_nothing_disturbs():
    A, B, _, M, g, views, G = softmax_problem(4)
    found = output_lq(G, M, g, 0.3)
    x = np.zeros(N_STATE)
    for t in range(T):
        u = found.control(t, views[t] @ x)
        assert relative(u, found.u[t]) < ROUND
        x = A[t] @ x + B[t] @ u


def test_after_a_disturbance_the_law_is_the_optimum_of_what_is_left():
    A, B, _, M, g, views, G = softmax_problem(5)
    found = output_lq(G, M, g, 0.3)
    e = views[2] @ np.random.default_rng(6).normal(size=N_STATE)
    rest = output_lq(G[2:], M, g + M @ e, 0.3)
    assert relative(found.control(2, e), rest.u[0]) < ROUND
    assert relative(found.law(2) @ (g + M @ e), -rest.u[0]) < ROUND


def test_batches_agree_with_members():
    problems = [softmax_problem(seed) for seed in (7, 8)]
    G = [np.stack([p[6][t] for p in problems]) for t in range(T)]
    M, g = np.stack([p[3] for p in problems]), np.stack([p[4] for p in problems])
    found = output_lq(G, M, g, 0.3)
    for i, p in enumerate(problems):
        alone = output_lq(p[6], p[3], p[4], 0.3)
        assert relative(found.u[0][i], alone.u[0]) < ROUND
        assert relative(found.law(2)[i], alone.law(2)) < ROUND
        assert relative(found.value[i], alone.value) < ROUND


def test_wrong_problems_are_refused():
    *_, M, g, _, G = softmax_problem(9)
    with pytest.raises(ValueError, match="semi-definite"):
        output_lq(G, -M, g, 0.3)
    with pytest.raises(ValueError, match="g must have shape"):
        output_lq(G, M, g[:2], 0.3)
    with pytest.raises(ValueError, match="with one C"):
        output_lq([*G, np.zeros((2, 3))], M, g, 0.3)
