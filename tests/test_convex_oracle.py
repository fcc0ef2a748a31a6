"""The closed forms against a general convex solver, and the convex programs against their limits."""

import control_problems as case
import numpy as np
import pytest
from control_problems import ensemble, plant, relative

from theory import Quadratic, ensemble_lq, riccati
from theory.budget import budget_law
from theory.convex import bounded_control, budget_program, ensemble_program, place


@pytest.mark.parametrize("loss", ["cross-entropy", "quadratic"])
@pytest.mark.parametrize("shape", [dict(N=12, C=3, M=8), dict(N=6, C=3, M=40)])
def test_the_ensemble_optimum_is_the_oracles(loss, shape):
    """The interior-point solver stops at about 1e-9 in value; the penalty 0.05 makes that below 1e-5 in z."""
    G, y0, cost = ensemble(0, loss=loss, **shape)
    ours, oracle = ensemble_lq(G, y0, cost, 0.05), ensemble_program(G, y0, cost, 0.05)
    assert relative(ours.z, oracle.z) < 1e-5
    assert relative(ours.value, oracle.value) < 1e-9
    assert ours.gradient_norm < 1e-12


def test_a_diagonal_penalty_too():
    G, y0, cost = ensemble(1, N=6, C=3, M=30)
    R = np.geomspace(0.02, 1.0, 30)
    assert relative(ensemble_lq(G, y0, cost, R).z, ensemble_program(G, y0, cost, R).z) < 1e-5


@pytest.mark.parametrize("metric", [1.0, "diagonal"])
def test_the_budget_law_is_the_oracles(metric):
    G, y0, cost = ensemble(2, N=10, C=3, M=20)
    metric = np.geomspace(0.3, 3.0, 20) if metric == "diagonal" else metric
    radii = [0.0, 0.1, 0.5, 2.0]
    law = budget_law(G, y0, cost, radii, metric=metric)
    for radius, loss in zip(radii[1:], law.losses[1:], strict=True):
        assert relative(loss, budget_program(G, y0, cost, radius, metric=metric)) < 1e-7
    assert relative(law.losses[0], cost.value(y0).mean()) < 1e-14
    assert (np.diff(law.losses) < 0).all() and (np.diff(law.multipliers) < 0).all()


def test_the_multiplier_is_the_slope_of_the_budget_law():
    """dJ/drho = -r rho by central differences (step 1e-4, error about 1e-8)."""
    G, y0, cost = ensemble(3, N=10, C=3, M=50)
    low, mid, high = budget_law(G, y0, cost, [0.7 - 1e-4, 0.7, 0.7 + 1e-4]).losses
    slope = (high - low) / 2e-4
    assert relative(slope, -budget_law(G, y0, cost, [0.7]).multipliers[0] * 0.7) < 1e-6
    assert low - 2 * mid + high > 0


def test_a_budget_beyond_use_is_free():
    G, y0, cost = ensemble(4, N=5, C=3, M=20, loss="quadratic")
    law = budget_law(G, y0, cost, [1e6])
    assert law.multipliers[0] == 0.0 and law.losses[0] < 1e-12
    with pytest.raises(ValueError, match="radii must be"):
        budget_law(G, y0, cost, [-1.0])


def test_a_loose_bound_is_the_regulator():
    A, B = plant(5, n=3, m=2, T=4)
    x0 = np.array([1.0, -2.0, 0.5])
    law = riccati(A, B, 1.0, 0.5, 2.0)
    found = bounded_control(A, B, 1.0, 0.5, 2.0, x0, 100.0)
    assert relative(found.cost, law.cost(x0)) < 1e-9
    assert relative(found.controls, law.rollout(x0).controls) < 1e-6
    assert max(np.abs(m).max() for m in found.multipliers) < 1e-8


def test_multipliers_mark_the_active_bounds_and_price_them():
    data = (case.A, case.B, case.Q, case.R, case.QF, case.X0)
    more = dict(affine=case.AFFINE, reference=case.REFERENCE)
    found = bounded_control(*data, 1.1, **more)
    u, price = np.ravel(found.controls), np.ravel(found.multipliers)
    assert ((price > 1e-6) == (np.abs(u) > 1.1 - 1e-6)).all() and (price > 1e-6).sum() == 1
    slope = (bounded_control(*data, 1.1 + 1e-3, **more).cost - bounded_control(*data, 1.1 - 1e-3, **more).cost) / 2e-3
    assert relative(-slope, price.sum()) < 1e-4
    clipped = np.clip(np.ravel(riccati(*data[:5], **more).rollout(case.X0).controls), -1.1, 1.1)
    assert np.abs(clipped - u).max() > 0.05
    with pytest.raises(ValueError, match="bound must be positive"):
        bounded_control(*data, 0.0)


def test_placement_without_a_price_is_the_ensemble_optimum_and_with_one_drops_blocks():
    G, y0, cost = ensemble(6, N=12, C=3, M=12)
    blocks = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    free = place(G, y0, cost, 0.1, blocks, 0.0)
    assert relative(free.control.z, ensemble_lq(G, y0, cost, 0.1).z) < 1e-5
    assert free.active == ("a", "b", "c")
    gradient = np.tensordot(cost.gradient(y0) / 12, G, 2)
    forces = {b: np.linalg.norm(gradient[4 * i : 4 * i + 4]) for i, b in enumerate("abc")}
    assert place(G, y0, cost, 0.1, blocks, 1.01 * max(forces.values())).active == ()  # no block is worth its price
    price = 0.9 * max(forces.values())
    some = place(G, y0, cost, 0.1, blocks, price)
    assert some.active
    z = some.control.z
    residual = np.tensordot(some.control.costate, G, 2) + 0.1 * z
    for b in "abc":  # a kept block is stationary, to the solver's error in its direction; a dropped one is not worth its price
        here = np.array(blocks) == b
        if b in some.active:
            size = np.linalg.norm(z[here])
            assert np.linalg.norm(residual[here] + price * z[here] / size) < 1e-4 * price * np.linalg.norm(z) / size
        else:
            assert np.linalg.norm(residual[here]) < price * (1 + 1e-4)
    with pytest.raises(ValueError, match="blocks needs 12 labels"):
        place(G, y0, cost, 0.1, blocks[:3], 1.0)


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_placement_finds_the_layers_where_actuators_were_planted(seed):
    """Layers of uncorrelated effect, targets made by control at two of eight, noise: a price above the noise's force finds them.

    With G'G/N = I the optimum is block soft thresholding, z_b = max(1 - price/|c_b|, 0) c_b/(1 + r), c = G'(target - y0)/N.
    """
    rng = np.random.default_rng(seed)
    G = np.sqrt(20) * np.linalg.qr(rng.normal(size=(60, 24)))[0].reshape(20, 3, 24)
    layers = np.repeat(np.arange(8), 3)
    planted = np.where(np.isin(layers, (2, 5)), rng.normal(size=24), 0.0)
    for t in (2, 5):
        planted[layers == t] /= np.linalg.norm(planted[layers == t])
    y0, noise = rng.normal(size=(20, 3)), 0.1 * rng.normal(size=(20, 3))
    target = Quadratic(y0 + G @ planted + noise)
    force = np.tensordot(noise / 20, G, 2)
    price = 1.1 * max(np.linalg.norm(force[layers == t]) for t in range(8))
    found = place(G, y0, target, 0.01, layers, price)
    assert found.active == (2, 5)
    pull = planted + force
    sizes = np.array([np.linalg.norm(pull[layers == t]) for t in layers])
    assert relative(found.control.z, np.maximum(1 - price / sizes, 0.0) * pull / 1.01) < 1e-5
    assert place(G, y0, target, 0.01, layers, 0.0).active == tuple(range(8))
