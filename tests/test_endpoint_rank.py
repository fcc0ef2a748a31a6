"""The rank of the ensemble's reach map is that of the end-point map's own Jacobian, and counting bounds it."""

import numpy as np
import pytest

from theory import endpoint_rank

N, D, T = 5, 4, 3


def lora_chain(seed, r, *, spread=D, lift=None):
    """x_{t+1} = W_t x + U_t V_t phi(x): frozen maps, samples of a given rank, and the end points as a function of (U, V)."""
    rng = np.random.default_rng(seed)
    phi = lift or (lambda x: x)
    x0 = rng.normal(size=(N, spread)) @ rng.normal(size=(spread, D))
    W, V = rng.normal(size=(T, D, D)) / np.sqrt(D), rng.normal(size=(T, r, phi(x0).shape[1]))

    def ends(parameters):
        U, Vs = np.split(parameters, [T * D * r])
        x = x0
        for t in range(T):
            inner = phi(x) @ (V[t] + Vs.reshape(V.shape)[t]).T
            x = x @ W[t].T + inner @ U.reshape(T, D, r)[t].T
        return x.ravel()

    states, x = [], x0
    for w in W:
        states.append(phi(x))
        x = x @ w.T
    A = [np.broadcast_to(w, (N, D, D)) for w in W]
    # d(U V phi)/dU = I kron (V phi)', and the factor V has no derivative at U = 0
    B = [
        np.concatenate([np.stack([np.kron(np.eye(D), V[t] @ y) for y in states[t]]), np.zeros((N, D, V[t].size))], -1)
        for t in range(T)
    ]
    return ends, A, B, states, T * (D * r + V[0].size)


def jacobian(f, x, h=1e-6):
    return np.array([(f(x + e) - f(x - e)) / (2 * h) for e in h * np.eye(len(x))]).T


def rank(J):
    return int(np.sum(np.linalg.svd(J, compute_uv=False) > 1e-6 * np.linalg.norm(J, 2)))  # differences are good to 1e-9


@pytest.mark.parametrize("r, spread", [(1, D), (2, D), (D, D), (D, 2), (3, 1)])
def test_rank_is_the_jacobians_and_meets_the_bound(r, spread):
    """At zero up-projection, min(r, rank X) x d_out per module: attained by generic maps, on samples that span more or less."""
    ends, A, B, states, count = lora_chain(0, r, spread=spread)
    found = endpoint_rank(A, B, inputs=states, bottleneck=r, width=D)
    J = jacobian(ends, np.zeros(count))
    assert found.rank == rank(J)
    assert np.abs(found.singular_values[: found.rank] - np.linalg.svd(J, compute_uv=False)[: found.rank]).max() < 1e-6
    assert found.ceilings == (min(r, spread) * D,) * T
    assert found.rank <= found.ceiling
    if r * T <= spread or spread == 1:  # modules do not repeat each other's directions
        assert found.rank == min(found.ceiling, spread * D)
    assert (found.states, found.parameters) == (N * D, count)


def test_the_second_factor_wakes_away_from_zero():
    """Where the up-projection is not zero both factors move the end points: the bound is one of the initialisation."""
    ends, A, B, states, count = lora_chain(1, 1)
    start = np.zeros(count)
    start[: T * D] = np.random.default_rng(2).normal(size=T * D)
    assert rank(jacobian(ends, start)) > endpoint_rank(A, B, inputs=states, bottleneck=1, width=D).ceiling


def test_a_linear_controller_is_held_by_the_samples_rank_and_a_nonlinear_one_is_not():
    S = np.random.default_rng(3).normal(size=(2 * N, D))
    plain = lora_chain(4, D, spread=2)
    lifted = lora_chain(4, N, spread=2, lift=lambda x: np.tanh(x @ S.T))
    linear, nonlinear = (endpoint_rank(A, B, inputs=states, width=D) for _, A, B, states, _ in (plain, lifted))
    assert linear.rank == 2 * D and not linear.controllable  # N samples of rank 2 stay of rank 2
    assert nonlinear.rank == N * D and nonlinear.controllable


def test_too_few_parameters_cannot_control_and_enough_can():
    """rank <= number of parameters; with additive controls of each sample's own the map is onto."""
    rng = np.random.default_rng(5)
    A = [np.broadcast_to(rng.normal(size=(D, D)), (N, D, D))] * T
    shared = [rng.normal(size=(N, D, 2)) for _ in range(T)]
    found = endpoint_rank(A, shared)
    assert found.rank == found.parameters == found.ceiling == 6 and not found.controllable
    own = np.zeros((N, D, N * D))
    for i in range(N):
        own[i, :, i * D : (i + 1) * D] = np.eye(D)
    assert endpoint_rank(A, [*shared[:2], own]).controllable


def test_one_bias_for_all_moves_every_sample_alike():
    """With one map for all samples a shared additive control reaches n directions of N n, whatever the depth."""
    A = [np.broadcast_to(np.random.default_rng(6).normal(size=(D, D)), (N, D, D))] * T
    assert endpoint_rank(A, [np.broadcast_to(np.eye(D), (N, D, D))] * T).rank == D


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(A=[np.eye(D)] * T), "one leading sample axis"),
        (dict(inputs=[np.zeros((N, D))] * T), "go together"),
        (dict(bottleneck=2), "go together"),
        (dict(inputs=[np.zeros((2, D))] * T, width=D), "inputs must be 3 arrays"),
        (dict(B=[np.zeros((N, D, 2))]), "one matrix per step"),
    ],
)
def test_wrong_input_is_refused(change, words):
    data = dict(A=[np.zeros((N, D, D))] * T, B=[np.zeros((N, D, 2))] * T)
    with pytest.raises(ValueError, match=words):
        endpoint_rank(**(data | change))
