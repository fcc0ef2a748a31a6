"""The reach map, its Gramian and the least energy, against each other and against every other control."""

import numpy as np
import pytest
from control_problems import plant, relative

from theory import gramian, minimum_energy, reach, transition

ROUND = 1e-12


def test_the_reach_map_moves_the_last_state():
    A, B = plant(0)
    rng = np.random.default_rng(1)
    x0, u = rng.normal(size=5), rng.normal(size=(6, 2))
    x = x0
    for a, b, v in zip(A, B, u, strict=True):
        x = a @ x + b @ v
    assert relative(transition(A) @ x0 + reach(A, B) @ u.ravel(), x) < ROUND


def test_reach_times_its_transpose_is_the_gramian():
    A, B = plant(2, batch=(3,))
    G = reach(A, B)
    assert relative(G @ np.swapaxes(G, -1, -2), gramian(A, B)) < ROUND


def test_the_gramian_is_the_observability_gramian_of_the_reversed_dual():
    A, B = plant(3)
    dual_A, dual_C = [a.T for a in reversed(A)], [b.T for b in reversed(B)]
    W, phi = np.zeros((5, 5)), np.eye(5)
    for a, c in zip(dual_A, dual_C, strict=True):
        W += (c @ phi).T @ (c @ phi)
        phi = a @ phi
    assert relative(gramian(A, B), W) < ROUND


def test_least_energy_is_the_gramian_form_and_beats_every_other_control():
    A, B = plant(4)
    rng = np.random.default_rng(5)
    target, x0 = rng.normal(size=5), rng.normal(size=5)
    found = minimum_energy(A, B, target, x0)
    d = target - transition(A) @ x0
    assert found.converged
    assert relative(found.outputs, target) < ROUND
    assert relative(found.energy, d @ np.linalg.solve(gramian(A, B), d)) < 1e-10  # the solve squares the conditioning
    G = reach(A, B)
    null = np.linalg.svd(G)[2][5:]
    for _ in range(5):
        other = found.z + null.T @ rng.normal(size=len(null))
        assert relative(G @ other, d) < 1e-10
        assert other @ other > found.energy
    assert relative(-G.T @ found.costate, found.z) < 1e-10


def test_more_controls_cost_less():
    A, B = plant(6, m=4)
    target = np.random.default_rng(7).normal(size=5)
    energies = [float(minimum_energy(A, [b[:, :k] for b in B], target).energy) for k in (1, 2, 3, 4)]
    assert all(more < fewer for fewer, more in zip(energies, energies[1:], strict=False))


def test_a_rotation_of_the_state_leaves_the_energy():
    A, B = plant(8)
    V = np.linalg.qr(np.random.default_rng(9).normal(size=(5, 5)))[0]
    target = np.arange(5.0)
    turned = minimum_energy([V @ a @ V.T for a in A], [V @ b for b in B], V @ target)
    assert relative(turned.energy, minimum_energy(A, B, target).energy) < 1e-10


def test_an_unreachable_target_is_approached_and_said_so():
    A, B = [np.eye(3)] * 4, [np.eye(3)[:, :2]] * 4
    found = minimum_energy(A, B, [1.0, -1.0, 2.0])
    assert not found.converged
    assert relative(found.outputs, [1.0, -1.0, 0.0]) < ROUND
    assert relative(found.loss, 2.0) < ROUND
    assert found.gradient_norm < ROUND


def test_batches_agree_with_members():
    A, B = plant(10, batch=(3,))
    target = np.random.default_rng(11).normal(size=(3, 5))
    found = minimum_energy(A, B, target)
    for i in range(3):
        assert relative(found.z[i], minimum_energy([a[i] for a in A], [b[i] for b in B], target[i]).z) < 1e-10


def test_energy_keeps_its_digits_where_the_gramian_loses_them():
    """sigma_min / sigma_max = 1e-7: the Gramian's condition is 1e14, the reach map's 1e7, so 1e-8 is still there."""
    B = [np.diag([1.0, 1e-7])]
    found = minimum_energy([np.eye(2)], B, [0.0, 1.0])
    assert relative(found.energy, 1e14) < 1e-8


@pytest.mark.parametrize("target", [np.zeros(4), 1.0])
def test_wrong_targets_are_refused(target):
    A, B = plant(12)
    with pytest.raises(ValueError, match="target and x0"):
        minimum_energy(A, B, np.asarray(target))
