"""A signal that may depend on more is worth no less: shared vector, gates, states and full information nest at one price."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from control_problems import relative

from theory import CrossEntropy, Quadratic, convex, per_example_lq, prefixed_attention
from theory.shared_gain import Ensemble, PatternValues, energy_price, information_values, pattern_values, shared_gain

LOSSES = ("cross-entropy", "quadratic")
R = 0.02
WIDTH = 4


def ladder(values: PatternValues) -> list[float]:
    return [values.full, values.state, values.gate, values.shared]


def prefixed(seed, *, N=9, C=3, T=5, slots=2, ports=2, loss="cross-entropy"):
    """Causal heads with a prefix: phi what a head reads, gates its exact attention on the slots; examples differ in length."""
    rng = np.random.default_rng(seed)
    weights = (np.arange(T) < rng.integers(2, T + 1, N)[:, None]).astype(float)
    real = weights > 0
    G, phi, gates, heads = [], [], [], []
    for _ in range(ports):
        states = rng.normal(size=(N, T, WIDTH)) + rng.normal(size=(N, 1, WIDTH))
        Wq, Wk, Wv = rng.normal(size=(3, WIDTH, WIDTH))
        keys, values = rng.normal(size=(2, slots, WIDTH))
        asked = (states @ Wq, states @ Wk, states @ Wv, keys)
        found = prefixed_attention(*asked, values, mask=np.tril(np.ones((T, T), bool)))
        heads.append((asked, values, found))
        G.append(rng.normal(size=(N, C, T, WIDTH)) * real[:, None, :, None])
        phi.append(states)
        gates.append(found.weights[..., :slots])
    y0 = rng.normal(size=(N, C))
    cost = CrossEntropy(rng.integers(0, C, N)) if loss == "cross-entropy" else Quadratic(rng.normal(size=(N, C)))
    seen = Ensemble(tuple(G), tuple(phi), y0, weights / weights.sum(1, keepdims=True))
    return seen, gates, cost, heads


def scalar(x, g, G=1.0):
    """One layer, one token, scalars: y_i = G u_i."""
    N = len(x)
    return Ensemble((np.full((N, 1, 1, 1), G),), (x.reshape(N, 1, 1),), np.zeros((N, 1)), np.ones((N, 1))), [g.reshape(N, 1, 1)]


def random_scalars(N=9, seed=0):
    return np.random.default_rng(seed).normal(size=(3, N))


def explained(features, a):
    """The mean square of what a least-squares fit of a holds."""
    F = np.stack(features, -1)
    return float(np.mean((F @ np.linalg.lstsq(F, a, rcond=None)[0]) ** 2))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("r", [1.0, 1e-2, 1e-4])
def test_values_nest_on_plants_with_real_gates(loss, noise, r):
    for seed in range(5):
        seen, gates, cost, _ = prefixed(seed, loss=loss)
        rungs = ladder(pattern_values(seen, gates, cost, r, noise=noise))
        assert all(low <= high + 1e-8 for low, high in zip(rungs, rungs[1:], strict=False))
        assert rungs == sorted(rungs) and len(set(rungs)) == 4  # and here every step is worth something


@pytest.mark.parametrize("loss", LOSSES)
def test_values_nest_where_features_nearly_tell_one_another(loss):
    """Between dependent and not: gates that are states up to a part of size 10^-k, down to what rounding leaves."""
    seen, gates, cost, _ = prefixed(20, loss=loss)
    for size in 10.0 ** -np.arange(0, 17, 2):
        near = [f @ np.ones((WIDTH, 1)) + size * g[..., :1] for f, g in zip(seen.phi, gates, strict=True)]
        rungs = ladder(pattern_values(seen, near, cost, 1e-3))
        assert all(low <= high + 1e-8 for low, high in zip(rungs, rungs[1:], strict=False))


def test_changed_values_of_a_prefix_move_its_head_by_gate_times_change():
    """What makes the gate's pattern a prefix's own: with its keys kept the response is exact at any size."""
    seen, gates, _, heads = prefixed(1)
    rng, mask = np.random.default_rng(2), np.tril(np.ones((5, 5), bool))
    for (asked, values, found), g in zip(heads, gates, strict=True):
        change = 10 * rng.normal(size=values.shape)
        moved = prefixed_attention(*asked, values + change, mask=mask)
        assert relative(moved.output - found.output, g @ change) < 1e-13
        assert relative(g.sum(-1), found.gate) < 1e-13
        assert relative(found.output - found.base, g @ values - found.gate[..., None] * found.base) < 1e-13


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_general_convex_solver_finds_the_same_values(loss, noise):
    """The oracle is handed every pattern as it is written: loss and energy token by token, features as they come."""
    seen, gates, cost, _ = prefixed(3, N=4, C=2, T=3, slots=1, ports=2, loss=loss)
    rows, tokens, ones = range(4), range(3), np.ones((4, 3, 1))

    def least(features):
        signals, heard = [], 0.0
        for f in features:
            V = cp.Variable((WIDTH, f.shape[-1]))
            signals.append([[V @ f[i, tau] for tau in tokens] for i in rows])
            heard += noise**2 * cp.sum_squares(V[:, 1:]) if f.shape[-1] > 1 else 0.0
        return solved(signals, heard)

    def solved(signals, heard=0.0):
        terms = []
        for i in rows:
            y = seen.y0[i] + sum(g[i, :, tau] @ u[i][tau] for g, u in zip(seen.G, signals, strict=True) for tau in tokens)
            spent = sum(seen.weights[i, tau] * cp.sum_squares(u[i][tau]) for u in signals for tau in tokens)
            fit = (
                cp.log_sum_exp(y) - y[int(cost.labels[i])] if loss == "cross-entropy" else cp.sum_squares(y - cost.target[i]) / 2
            )
            terms.append(fit + R / 2 * spent)
        problem = cp.Minimize(sum(terms) / len(rows) + R / 2 * heard)
        convex._solve(problem)
        return problem.value

    values = pattern_values(seen, gates, cost, R, noise=noise)
    both = [np.concatenate([ones, g], -1) for g in gates]
    every = [np.concatenate([f, x], -1) for f, x in zip(both, seen.phi, strict=True)]
    free = solved([[[cp.Variable(WIDTH) for _ in tokens] for _ in rows] for _ in gates])
    for mine, theirs in zip(ladder(values), (free, least(every), least(both), least([ones] * 2)), strict=True):
        assert relative(mine, theirs) < 1e-6


@pytest.mark.parametrize("r", [2.0, 0.3, 1e-3])
def test_one_scalar_layer_in_closed_form(r):
    """Signals are targets regressed on what is read, shrunk by 1/(1 + r): each value is mean a^2 less what is explained."""
    x, g, a = random_scalars()
    seen, gates = scalar(x, g)
    values, ones = pattern_values(seen, gates, Quadratic(a[:, None]), r), np.ones_like(x)
    held = [np.mean(a**2), explained([ones, g, x], a), explained([ones, g], a), np.mean(a) ** 2]
    assert relative(ladder(values), [0.5 * (np.mean(a**2) - part / (1 + r)) for part in held]) < 1e-12


def test_noise_in_closed_form():
    """One gate, no states: its own second moment bears the noise, the loss does not."""
    _, g, a = random_scalars()
    seen, gates = scalar(np.zeros_like(g), g)
    r, noise = 0.3, 0.8
    values = pattern_values(seen.blind(), gates, Quadratic(a[:, None]), r, noise=noise)
    c = g - g.mean()
    slope = np.array([[1 + r, (1 + r) * g.mean()], [(1 + r) * g.mean(), (1 + r) * np.mean(g**2) + r * noise**2]])
    pull = np.array([a.mean(), np.mean(a * g)])
    assert relative(values.gate, 0.5 * (np.mean(a**2) - pull @ np.linalg.solve(slope, pull))) < 1e-12
    held = a.mean() ** 2 / (1 + r) + np.mean(a * c) ** 2 / ((1 + r) * np.mean(c**2) + r * noise**2)
    assert relative(values.gate, 0.5 * (np.mean(a**2) - held)) < 1e-12
    assert values.state == pytest.approx(values.gate, rel=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_example_of_one_token_has_nothing_to_tell(loss):
    seen, gates, cost, _ = prefixed(4, N=1, T=2, loss=loss)
    one = Ensemble(tuple(g[:, :, :1] for g in seen.G), tuple(f[:, :1] for f in seen.phi), seen.y0, np.ones((1, 1)))
    values = pattern_values(one, [g[:, :1] for g in gates], cost, R)
    own = per_example_lq(np.concatenate([g[:, :, 0] for g in one.G], -1), one.y0, cost, R)
    assert relative(ladder(values), [own.value[0]] * 4) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_a_gate_that_is_the_same_everywhere_is_the_shared_vector(loss):
    seen, gates, cost, _ = prefixed(5, loss=loss)
    values = pattern_values(seen, [np.full_like(g, 0.3) for g in gates], cost, R)
    assert relative(values.gate, values.shared) < 1e-12
    assert values.state < values.gate - 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_a_gate_that_tells_every_token_apart_leaves_nothing_to_know(loss):
    """Three tokens in all and two slots: the constant and they take every value at every token."""
    rng = np.random.default_rng(6)
    seen, _, cost, _ = prefixed(6, N=1, T=3, loss=loss)
    seen = replace(seen, weights=np.array([[0.2, 0.3, 0.5]]))
    values = pattern_values(seen, [rng.random((1, 3, 2)) for _ in seen.phi], cost, R)
    assert relative(values.gate, values.full) < 1e-10 < relative(values.shared, values.full)
    assert relative(values.state, values.full) < 1e-10


def test_a_gate_alone_need_not_hold_the_shared_vector():
    """Targets 1, 1 and gates 0, 1: g v meets the second alone; beside a constant it is never worse."""
    ones, g = np.ones(2), np.array([0.0, 1.0])
    seen, gates = scalar(g, g)
    r, cost = 0.1, Quadratic(ones[:, None])
    alone = shared_gain(seen, cost, r, [np.array([[0.5]])], constant=False)
    values = pattern_values(seen, gates, cost, r)
    assert relative([alone.value, values.shared, values.gate], [0.5 - 0.25 / 1.1, 0.5 - 0.5 / 1.1, 0.5 - 0.5 / 1.1]) < 1e-12


def test_an_adapter_need_not_hold_a_gate_that_its_states_do_not_tell():
    """Targets x^2 - 2 at states -2 ... 2: a gate of that shape meets them, an affine law of the state explains nothing."""
    x = np.arange(-2.0, 3.0)
    seen, gates = scalar(x, x**2)
    cost = Quadratic((x**2 - 2)[:, None])
    adapter, values = information_values(seen, cost, R), pattern_values(seen, gates, cost, R)
    assert relative([adapter.feedback, values.gate], [values.shared, values.full]) < 1e-12
    assert values.gate < 0.1 * adapter.feedback


@pytest.mark.parametrize("loss", LOSSES)
def test_gates_that_are_affine_in_states_leave_the_adapter(loss):
    """Then the states' pattern is the affine law of the state alone, with phi at any mean and a feature told twice."""
    seen, _, cost, _ = prefixed(7, loss=loss)
    gates = [3.0 + f @ np.ones((WIDTH, 1)) for f in seen.phi]
    values = pattern_values(seen, gates, cost, R)
    centred = replace(seen, phi=tuple(f - np.einsum("nt,ntq->q", seen.weights, f) / len(f) for f in seen.phi))
    adapter = information_values(centred, cost, R)
    assert relative([values.shared, values.state, values.full], [adapter.shared, adapter.feedback, adapter.full]) < 1e-10
    twice = replace(seen, phi=tuple(np.concatenate([f, 1e3 * f - 5], -1) for f in seen.phi))
    assert relative(pattern_values(twice, gates, cost, R).state, values.state) < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
def test_values_rise_with_the_price_and_bend_down(loss):
    """Each is a least of functions that are affine in r: rising and concave, up to the loss of doing nothing."""
    seen, gates, cost, _ = prefixed(8, loss=loss)
    prices = np.geomspace(1e-4, 1e5, 19)
    curves = np.array([ladder(pattern_values(seen, gates, cost, r)) for r in prices])
    slopes = np.diff(curves, axis=0) / np.diff(prices)[:, None]
    assert np.all(slopes > 0) and np.all(np.diff(slopes, axis=0) < 0)
    still = cost.value(seen.y0).mean()
    assert np.all(curves < still) and np.all(still - curves[-1] < 1e-3 * still)


@pytest.mark.parametrize("loss", LOSSES)
def test_noise_without_end_leaves_the_shared_vector(loss):
    """What gates and states add falls like 1 / noise^2, and a little noise only takes."""
    seen, gates, cost, _ = prefixed(9, loss=loss)
    found = [pattern_values(seen, gates, cost, R, noise=noise) for noise in (0.0, 0.1, 1.0, 1e3, 1e4)]
    for name in ("gate", "state"):
        gains = [values.shared - getattr(values, name) for values in found]
        assert gains == sorted(gains, reverse=True)
        assert 80 < gains[-2] / gains[-1] < 125 and gains[-1] < 1e-4 * gains[0]
    assert len({values.full for values in found}) == len({values.shared for values in found}) == 1


def test_without_gates_or_states_the_patterns_are_those_of_information():
    seen, gates, cost, _ = prefixed(10)
    centred = replace(seen, phi=tuple(f - np.einsum("nt,ntq->q", seen.weights, f) / len(f) for f in seen.phi))
    none = [g[..., :0] for g in gates]
    values, known = pattern_values(centred, none, cost, R), information_values(centred, cost, R)
    assert relative(ladder(values), [known.full, known.feedback, known.shared, known.shared]) < 1e-11
    noisy = pattern_values(centred, none, cost, R, noise=0.4)
    assert relative(noisy.state, shared_gain(centred, cost, R, energy_price(centred, 0.4)).value) < 1e-11
    blind = pattern_values(seen.blind(), gates, cost, R)
    assert blind.state == pytest.approx(blind.gate, rel=1e-13)


def test_padding_tells_nothing():
    seen, gates, cost, _ = prefixed(11)
    assert (seen.weights == 0).any()
    real = (seen.weights > 0)[..., None]
    other = replace(seen, phi=tuple(np.where(real, f, 1e3) for f in seen.phi))
    mine = pattern_values(seen, gates, cost, R, noise=0.2)
    theirs = pattern_values(other, [np.where(real, g, -7.0) for g in gates], cost, R, noise=0.2)
    assert relative(ladder(mine), ladder(theirs)) < 1e-12


def test_what_does_not_fit_is_refused():
    seen, gates, cost, _ = prefixed(12)
    for wrong in (gates[:1], [g[:, :1] for g in gates], [g[..., 0] for g in gates], [g * np.nan for g in gates]):
        with pytest.raises(ValueError, match="expected finite gates"):
            pattern_values(seen, wrong, cost, R)
    for noise in (-0.1, np.nan):
        with pytest.raises(ValueError, match="standard deviation"):
            pattern_values(seen, gates, cost, R, noise=noise)
    with pytest.raises(ValueError, match="r must be positive"):
        pattern_values(seen, gates, cost, 0.0)
