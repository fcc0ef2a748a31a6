"""The disturbance game: its level is the gain its own feedback realises, and no feedback does better."""

import control_problems as case
import numpy as np
import pytest
from control_problems import plant, relative

from theory import game, induced_gain, riccati

DATA = (case.A, case.B, case.D, case.Q, case.R, case.QF)


def worst_case(A, B, D, Q, R, Qf, K):
    """The induced gain by simulation: one unit disturbance at a time, outputs stacked."""
    columns = []
    for t0 in range(len(A)):
        for d in range(D[t0].shape[1]):
            x, out = np.zeros(len(A[0])), []
            for t in range(len(A)):
                u = -K[t] @ x
                out += [np.linalg.cholesky(Q).T @ x, np.linalg.cholesky(R).T @ u]
                x = A[t] @ x + B[t] @ u + (D[t][:, d] if t == t0 else 0.0)
            columns.append(np.concatenate([*out, np.linalg.cholesky(Qf).T @ x]))
    return np.linalg.norm(np.array(columns).T, 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_level_is_realised(seed):
    A, B = plant(seed, n=4, m=2, T=5)
    D = list(np.random.default_rng(seed + 50).normal(size=(5, 4, 3)))
    Q, R, Qf = np.diag([1.0, 2.0, 0.5, 1.0]), np.eye(2), 2 * np.eye(4)
    best = game(A, B, D, Q, R, Qf)
    assert relative(best.gain, best.gamma) < 1e-9
    assert relative(best.gain, worst_case(A, B, D, Q, R, Qf, best.K)) < 1e-12
    lqr = riccati(A, B, Q, R, Qf).K
    assert best.gamma <= induced_gain(A, B, D, Q, R, Qf, lqr)
    rng = np.random.default_rng(seed)
    for size in (1e-3, 1e-2, 1e-1):
        for base in (best.K, lqr):
            K = [k + size * rng.normal(size=k.shape) for k in base]
            assert induced_gain(A, B, D, Q, R, Qf, K) >= best.gamma * (1 - 1e-10)


def test_a_looser_level_is_kept_and_tends_to_the_regulator():
    best = game(*DATA)
    for factor in (1.01, 1.5, 4.0):
        held = game(*DATA, gamma=factor * best.gamma)
        assert best.gamma * (1 - 1e-12) <= held.gain <= held.gamma
    far = game(*DATA, gamma=1e6)
    assert relative(far.K, riccati(*DATA[:2], *DATA[3:]).K) < 1e-9  # the game term is of order 1e-12


def test_a_rotation_of_the_state_leaves_the_level():
    V = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    turned = game(
        [V @ a @ V.T for a in case.A],
        [V @ b for b in case.B],
        [V @ d for d in case.D],
        V @ case.Q @ V.T,
        case.R,
        V @ case.QF @ V.T,
    )
    assert relative(turned.gamma, game(*DATA).gamma) < 1e-9


def test_a_level_below_the_least_is_refused():
    with pytest.raises(ValueError, match="no feedback achieves"):
        game(*DATA, gamma=0.99 * game(*DATA).gamma)


def test_batches_are_refused():
    A, B = plant(0, batch=(2,))
    with pytest.raises(ValueError, match="one system at a time"):
        game(A, B, B, 1.0, 1.0, 1.0)
