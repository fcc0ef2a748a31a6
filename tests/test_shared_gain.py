"""One feedback law for a whole ensemble: closed forms, a convex oracle, its fixed point, and what information is worth."""

import cvxpy as cp
import numpy as np
import pytest
from control_problems import definite, relative
from scipy.linalg import sqrtm

import theory.shared_gain as module
from theory import CrossEntropy, Quadratic, convex, per_example_lq
from theory.shared_gain import Ensemble, energy_price, first_order, information_values, reduced, shared_gain

LOSSES = ("cross-entropy", "quadratic")
R = 0.02


def ensemble(seed, *, N=9, C=3, T=4, m=5, q=3, ports=2, loss="cross-entropy", padded=True):
    """A random ensemble of centred features in which examples have tokens of different number, and a loss."""
    rng = np.random.default_rng(seed)
    weights = np.ones((N, T))
    if padded:
        weights[np.arange(T) >= rng.integers(1, T + 1, N)[:, None]] = 0.0
    real = weights > 0
    weights /= weights.sum(1, keepdims=True)
    G = [rng.normal(size=(N, C, T, m)) * real[:, None, :, None] for _ in range(ports)]
    phi = []
    for _ in range(ports):
        f = rng.normal(size=(N, T, q)) @ rng.normal(size=(q, q)) + rng.normal(size=(N, 1, q))
        phi.append(f - np.einsum("nt,ntq->q", weights, f) / N)
    y0 = rng.normal(size=(N, C))
    cost = (
        CrossEntropy(rng.integers(0, C, N)) if loss == "cross-entropy" else Quadratic(rng.normal(size=(N, C)), definite(rng, C))
    )
    return Ensemble(tuple(G), tuple(phi), y0, weights), cost


def objective(seen, loss, r, price, k, K):
    """The problem as it is written, example by example and token by token."""
    y = seen.y0.copy()
    for i in range(len(y)):
        for t, (g, f) in enumerate(zip(seen.G, seen.phi, strict=True)):
            for tau in range(g.shape[2]):
                y[i] += g[i, :, tau] @ (k[t] + K[t] @ f[i, tau])
    spent = sum(a @ a + np.trace(b @ S @ b.T) for a, b, S in zip(k, K, price, strict=True))
    return float(loss.value(y).mean() + r / 2 * spent)


def prices(seen):
    """The three prices of a gain: signal energy, energy with noise on what is read, and the parameters' own norm."""
    return {
        "energy": energy_price(seen),
        "noise": energy_price(seen, 0.7),
        "norm": tuple(np.eye(f.shape[-1]) for f in seen.phi),
    }


def scalar(N=7, seed=0):
    """One layer, one token, scalars: y_i = k + K x_i with targets a_i."""
    rng = np.random.default_rng(seed)
    x, a = rng.normal(size=N), rng.normal(size=N)
    x -= x.mean()
    return x, a, Ensemble((np.ones((N, 1, 1, 1)),), (x.reshape(N, 1, 1),), np.zeros((N, 1)), np.ones((N, 1)))


@pytest.mark.parametrize("price", ["energy", "noise", "norm"])
def test_one_scalar_layer_in_closed_form(price):
    x, a, seen = scalar()
    S, r = prices(seen)[price], 0.3
    law = shared_gain(seen, Quadratic(a[:, None]), r, S)
    assert relative(law.k[0], [a.mean() / (1 + r)]) < 1e-12
    assert relative(law.K[0], [[np.mean(a * x) / (np.mean(x**2) + r * S[0][0, 0])]]) < 1e-12


def test_a_law_without_a_constant_leaves_its_gain_to_the_states():
    x, a, seen = scalar()
    law = shared_gain(seen, Quadratic(a[:, None]), 0.3, energy_price(seen), constant=False)
    assert law.k[0].tolist() == [0.0]
    assert relative(law.K[0], [[np.mean(a * x) / np.mean(x**2) / 1.3]]) < 1e-12  # centred states do not see the constant


@pytest.mark.parametrize("loss", LOSSES)
def test_one_example_is_served_as_if_everything_were_known(loss):
    """Four tokens and three centred features: k + K phi takes every value at every token."""
    seen, cost = ensemble(1, N=1, T=4, q=3, loss=loss, padded=False)
    law = shared_gain(seen, cost, R, energy_price(seen))
    values = information_values(seen, cost, R)
    assert relative(law.value, values.full) < 1e-10 < relative(values.shared, values.full)


@pytest.mark.parametrize("loss", LOSSES)
def test_states_that_tell_examples_apart_carry_each_examples_feed_forward(loss):
    """With N - 1 features of N examples of one token the law's signals are the examples' own optima."""
    seen, cost = ensemble(2, N=6, T=1, q=5, loss=loss)
    law = shared_gain(seen, cost, R, energy_price(seen))
    own = per_example_lq(np.concatenate([g[:, :, 0] for g in seen.G], -1), seen.y0, cost, R)
    mine = np.concatenate([u[:, 0] for u in seen.signals(law.k, law.K)], -1)
    assert relative(mine, own.z) < 1e-8
    assert relative(law.value, own.value.mean()) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_noise_without_end_leaves_the_shared_vector(loss):
    seen, cost = ensemble(3, loss=loss)
    vector = shared_gain(seen.blind(), cost, R, energy_price(seen.blind()))
    gaps = []
    for noise in (1e3, 1e4):
        law = shared_gain(seen, cost, R, energy_price(seen, noise))
        gaps.append((relative(np.concatenate(law.k), np.concatenate(vector.k)), vector.value - law.value))
    assert all(80 < near / far < 125 for near, far in zip(*gaps, strict=True))  # the gain is of the order of 1 / noise^2
    assert gaps[1][0] < 1e-3 and gaps[1][1] > 0


@pytest.mark.parametrize("price", ["energy", "noise", "norm"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_general_convex_solver_finds_the_same_law(loss, price):
    """The oracle is handed the problem as it is written, with a quadratic form and no kernel."""
    seen, cost = ensemble(4, N=6, T=3, m=3, q=2, loss=loss)
    S = prices(seen)[price]
    k, K = [cp.Variable(3) for _ in S], [cp.Variable((3, 2)) for _ in S]
    rows, terms = range(len(seen.y0)), []
    for i in rows:
        y = seen.y0[i]
        for t, (g, f) in enumerate(zip(seen.G, seen.phi, strict=True)):
            y = y + sum(g[i, :, tau] @ (k[t] + K[t] @ f[i, tau]) for tau in range(3))
        if loss == "cross-entropy":
            terms.append(cp.log_sum_exp(y) - y[int(cost.labels[i])])
        else:
            terms.append(cp.sum_squares(np.real(sqrtm(cost.weight[i])) @ (y - cost.target[i])) / 2)
    spent = sum(cp.sum_squares(a) + cp.sum_squares(b @ np.real(sqrtm(s))) for a, b, s in zip(k, K, S, strict=True))
    convex._solve(cp.Minimize(sum(terms) / len(rows) + R / 2 * spent))
    law = shared_gain(seen, cost, R, S)
    for mine, theirs in zip((*law.k, *law.K), (*k, *K), strict=True):
        assert relative(mine, theirs.value) < 1e-6


@pytest.mark.parametrize("price", ["energy", "noise", "norm"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_optimum_is_its_own_fixed_point(loss, price):
    """K_t = -(1/r) E<G' lambda phi'> S^-1 at the closed loop's costates, written out here."""
    seen, cost = ensemble(5, loss=loss)
    S = prices(seen)[price]
    law = shared_gain(seen, cost, R, S)
    slopes = cost.gradient(seen.moved(seen.signals(law.k, law.K)))
    for t, (g, f) in enumerate(zip(seen.G, seen.phi, strict=True)):
        pulled = np.einsum("nctm,nc->ntm", g, slopes) / len(slopes)
        assert relative(-np.einsum("ntm,ntq->mq", pulled, f) @ np.linalg.inv(S[t]) / R, law.K[t]) < 1e-9
        assert relative(-pulled.sum((0, 1)) / R, law.k[t]) < 1e-9
    assert law.residual < 1e-10 and first_order(seen, cost, R, S).residual > 0.1
    assert relative(law.value, objective(seen, cost, R, S, law.k, law.K)) < 1e-13


@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_order_law_is_a_step_against_the_gradient(loss):
    """Central differences with step 1e-5 err by about 1e-10; the price's gradient at zero is zero."""
    seen, cost = ensemble(6, loss=loss)
    S, h = energy_price(seen, 0.2), 1e-5
    law = first_order(seen, cost, R, S)
    zero_k, zero = [np.zeros_like(k) for k in law.k], [np.zeros_like(K) for K in law.K]
    for t in range(2):
        slope = np.empty_like(law.K[t])
        for place in np.ndindex(*slope.shape):
            moved = [K.copy() for K in zero]
            moved[t][place] = h
            back = [-K for K in moved]
            slope[place] = (objective(seen, cost, R, S, zero_k, moved) - objective(seen, cost, R, S, zero_k, back)) / (2 * h)
        assert relative(-R * law.K[t] @ S[t], slope) < 1e-8


@pytest.mark.parametrize("loss", LOSSES)
def test_dear_signals_leave_the_first_order_law(loss):
    """The error of one step shrinks like 1/r."""
    seen, cost = ensemble(7, loss=loss)
    S = energy_price(seen)
    gaps = [relative(shared_gain(seen, cost, r, S).K[0], first_order(seen, cost, r, S).K[0]) for r in (1e4, 1e6)]
    assert gaps[1] < 1e-3 and 80 < gaps[0] / gaps[1] < 125


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("r", [1.0, 1e-2, 1e-4])
def test_more_to_read_is_never_worse(loss, r):
    """full <= feedback <= fewer features <= shared, to 1e-8."""
    seen, cost = ensemble(8, loss=loss)
    values = information_values(seen, cost, r)
    fewer = Ensemble(seen.G, tuple(f[..., :1] for f in seen.phi), seen.y0, seen.weights)
    between = information_values(fewer, cost, r)
    ladder = [values.full, values.feedback, between.feedback, values.shared]
    assert all(low <= high + 1e-8 for low, high in zip(ladder, ladder[1:], strict=False))
    assert values.full < values.feedback < values.shared  # and here every step is worth something
    assert between.full == values.full and between.shared == values.shared


def test_the_law_does_not_depend_on_how_states_are_written():
    """phi -> A phi turns K into K A^-1 under the price of energy; the parameters' norm sees the change."""
    seen, cost = ensemble(9)
    A = np.random.default_rng(10).normal(size=(3, 3))
    other = Ensemble(seen.G, tuple(f @ A.T for f in seen.phi), seen.y0, seen.weights)
    law, turned = (shared_gain(e, cost, R, energy_price(e)) for e in (seen, other))
    assert relative(turned.K[0] @ A, law.K[0]) < 1e-8 and relative(turned.outputs, law.outputs) < 1e-9
    norm = prices(seen)["norm"]
    assert relative(shared_gain(other, cost, R, norm).outputs, shared_gain(seen, cost, R, norm).outputs) > 1e-3


def test_blocks_of_controls_change_nothing(monkeypatch):
    seen, cost = ensemble(11)
    law = shared_gain(seen, cost, R, energy_price(seen))
    monkeypatch.setattr(module, "BLOCK", 1)
    assert relative(shared_gain(seen, cost, R, energy_price(seen)).K[1], law.K[1]) < 1e-10


def test_padding_is_neither_read_nor_priced():
    seen, cost = ensemble(12)
    assert (seen.weights == 0).any()
    noisy = tuple(np.where((seen.weights > 0)[..., None], f, 1e3) for f in seen.phi)
    other = Ensemble(seen.G, noisy, seen.y0, seen.weights)
    assert relative(energy_price(other)[0], energy_price(seen)[0]) < 1e-14
    assert (
        relative(shared_gain(other, cost, R, energy_price(seen)).K[0], shared_gain(seen, cost, R, energy_price(seen)).K[0]) < 1e-9
    )


def test_energy_is_what_the_signals_spend():
    seen, cost = ensemble(13)
    law = shared_gain(seen, cost, R, energy_price(seen))
    spent = sum(np.mean(np.sum(seen.weights * np.sum(u**2, -1), 1)) for u in seen.signals(law.k, law.K))
    assert relative(law.energy, spent) < 1e-12


def test_noise_on_what_is_read_costs_what_the_law_passes_on():
    """Mean energy of k + K (phi + noise) over 200,000 draws; the mean of that many has a relative error of about 1e-3."""
    seen, cost = ensemble(14, N=4, T=2, q=2, ports=1)
    law = shared_gain(seen, cost, R, energy_price(seen, 0.7))
    rng, draws = np.random.default_rng(15), 200_000
    heard = seen.phi[0] + 0.7 * rng.standard_normal((draws, *seen.phi[0].shape))
    spent = np.sum((law.k[0] + heard @ law.K[0].T) ** 2, -1)
    assert relative(np.mean(np.sum(seen.weights * spent, -1)), law.energy) < 0.01


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_cut_law_is_the_nearest_of_its_rank_in_the_price(rank):
    """What is lost is the tail of the singular values of K S^1/2; a thousand neighbours of the rank are further away."""
    rng = np.random.default_rng(16)
    K, S = rng.normal(size=(6, 4)), definite(rng, 4)

    def lost(up, down):
        return np.trace((K - up @ down) @ S @ (K - up @ down).T)

    up, down = reduced(K, S, rank)
    assert up.shape == (6, rank) and down.shape == (rank, 4)
    tail = np.linalg.svd(K @ np.real(sqrtm(S)), compute_uv=False)[rank:]
    assert relative(lost(up, down), np.sum(tail**2)) < 1e-10
    for _ in range(1000):
        step = 10.0 ** rng.uniform(-3, 0)
        assert lost(up + step * rng.normal(size=up.shape), down + step * rng.normal(size=down.shape)) >= lost(up, down)


def test_a_rank_that_K_does_not_have_is_filled_with_zeros():
    K = np.random.default_rng(17).normal(size=(2, 3))
    up, down = reduced(K, np.eye(3), 5)
    assert up.shape == (2, 5) and down.shape == (5, 3) and relative(up @ down, K) < 1e-12


def test_wrong_ensembles_are_refused():
    seen, cost = ensemble(18)
    shifted = Ensemble(seen.G, tuple(f + 1.0 for f in seen.phi), seen.y0, seen.weights)
    with pytest.raises(ValueError, match="mean 0"):
        energy_price(shifted)
    with pytest.raises(ValueError, match="weight 0 moves"):
        Ensemble(tuple(g + 1.0 for g in seen.G), seen.phi, seen.y0, seen.weights)
    with pytest.raises(ValueError, match="sum to 1"):
        Ensemble(seen.G, seen.phi, seen.y0, 2 * seen.weights)
    with pytest.raises(ValueError, match="at every port"):
        Ensemble(seen.G, tuple(f[:, :2] for f in seen.phi), seen.y0, seen.weights)
    with pytest.raises(ValueError, match="finite"):
        Ensemble(seen.G, tuple(f * np.nan for f in seen.phi), seen.y0, seen.weights)
    with pytest.raises(ValueError, match="r must be positive"):
        shared_gain(seen, cost, 0.0, energy_price(seen))
    with pytest.raises(ValueError, match="one price per port"):
        shared_gain(seen, cost, R, energy_price(seen)[:1])
    with pytest.raises(ValueError, match="positive definite"):
        shared_gain(seen, cost, R, tuple(0.0 * S for S in energy_price(seen)))
    with pytest.raises(ValueError, match="price of shape"):
        shared_gain(seen, cost, R, tuple(S[:1, :1] for S in energy_price(seen)))
    with pytest.raises(ValueError, match="rank of at least 1"):
        reduced(np.eye(2), np.eye(2), 0)
