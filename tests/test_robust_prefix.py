"""A prefix against the worst disturbance of each example: closed forms, a convex solver, gates, prefixes trained under attack."""

import cvxpy as cp
import numpy as np
import pytest
import torch
import zoo
from control_problems import relative

from theory.ensemble import ensemble_lq
from theory.loss import CrossEntropy, Quadratic
from theory.robust_gain import robust_control
from tuning.deltas import Prefix
from validations.claims.information.network import Heads, observed
from validations.claims.robust_prefix.claim import ROBUST_PREFIX
from validations.claims.robust_prefix.experiment import EXPERIMENT, Game
from validations.claims.robust_prefix.plants import Head, ShelteredHead, head_setting
from validations.claims.robust_prefix.subjects import Bare, Values, moving
from validations.claims.shared.among import among
from validations.claims.shared.claim import Cell
from validations.claims.shared.training import at_start, shifted
from validations.store import Record

R = 0.3
PORTS = ("0.attention", "1.attention")


def posed(classes=2, N=6, n=4, M=5):
    """Examples whose response to disturbances turns along one direction each."""
    rng = np.random.default_rng(5)
    G, h, D, y0 = (rng.normal(size=(N, classes, *tail)) for tail in ((M,), (M,), (n,), ()))
    q = rng.normal(size=(N, n))
    return G, y0, CrossEntropy(rng.integers(0, classes, N)), D, q / np.linalg.norm(q, axis=1, keepdims=True), h


def prefixed():
    made = zoo.subject_of(zoo.backbone_of("bert"), Prefix(3))
    return made, zoo.batch_of()


@pytest.mark.parametrize("size", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("target", [0.5, 2.0])
def test_a_scalar_game_in_closed_form(size, target):
    """z x_i + (1 + z) w_i is to meet a x_i: z = (1 - size) (target + size) / (r + (1 - size)^2), that of the shared gain."""
    x, one = np.array([-1.0, 1.0]), np.ones((2, 1, 1))
    found = robust_control(x.reshape(2, 1, 1), np.zeros((2, 1)), Quadratic(target * x[:, None]), 1.0, one, one[:, 0], one, size)
    expected = (1 - size) * (target + size) / (1.0 + (1 - size) ** 2)
    assert -1 < expected < target and relative(found.z, [expected]) < 1e-4


def test_no_attacker_is_the_ensembles_optimum():
    G, y0, loss, D, q, h = posed(classes=3)
    assert relative(robust_control(G, y0, loss, R, D, q, h, 0.0).z, ensemble_lq(G, y0, loss, R).z) < 2e-2


@pytest.mark.parametrize("size", [0.1, 0.5, 2.0])
def test_two_classes_agree_with_a_convex_solver(size):
    G, y0, loss, D, q, h = posed()
    z, lost = cp.Variable(G.shape[2]), 0.0
    for i, label in enumerate(loss.labels):
        g, turned, d, y = (x[i, label] - x[i, 1 - label] for x in (G, h, D, y0))
        lost = lost + cp.logistic(-(y + g @ z) + size * cp.norm(d + (turned @ z) * q[i])) / len(y0)
    least = cp.Problem(cp.Minimize(lost + R / 2 * cp.sum_squares(z))).solve(solver="CLARABEL")
    found = robust_control(G, y0, loss, R, D, q, h, size)
    assert least - 1e-6 < found.value < least + 1e-4 * max(1.0, least)
    assert np.allclose(np.linalg.norm(found.disturbances, axis=1), size)


def test_what_cannot_be_solved_is_refused():
    G, y0, loss, D, q, h = posed()
    with pytest.raises(ValueError, match="positive r"):
        robust_control(G, y0, loss, 0.0, D, q, h, 0.1)
    with pytest.raises(ValueError, match="directions"):
        robust_control(G, y0, loss, R, D, q[:, :2], h, 0.1)
    with pytest.raises(ValueError, match="option moves"):
        moving(prefixed()[0], "keys")


def test_values_move_the_logits_by_the_weights_of_their_gates():
    """The response to a slot's value is the sum over tokens of its gate times that to what its head puts out."""
    made, batch = prefixed()
    game, seen = Game.of(Values(made), PORTS, batch), observed(Heads.of(made, batch, 1), batch)
    heads = made.backbone.heads
    for block in range(made.backbone.blocks):
        found = game.lin.columns(f"{block}.attention.values").reshape(*game.lin.y0.shape, 3, heads, -1)
        for head in range(heads):
            t = block * heads + head
            gates = seen.phi[t][..., 1:4]
            expected = np.einsum("nctm,ntp->ncpm", seen.G[t], gates)
            assert relative(found[:, :, :, head], expected) < 1e-9


def test_the_game_is_exact_along_the_worst_disturbances_and_second_order_off_in_the_numbers():
    made, batch = prefixed()
    game, start = Game.of(made, PORTS, batch), at_start(made)
    w = game.size * game.directions
    pushed = {port: torch.as_tensor(part) for port, part in zip(PORTS, np.split(w, 2, axis=1), strict=True)}
    closed = game.lin.y0 + np.einsum("ncm,nm->nc", game.D, w)
    change = np.random.default_rng(6).normal(size=game.lin.G.shape[2])

    def off(size):
        with torch.no_grad():
            met = made.disturbed(pushed, shifted(start, size * change), batch).numpy()
        return np.abs(met - closed - (game.lin.G + game.size * game.turned) @ (size * change)).max()

    assert off(0.0) < 1e-9 and 50 < off(1e-2) / off(1e-3) < 200


def test_without_a_prefix_disturbances_meet_the_frozen_network():
    made, batch = prefixed()
    pushed = {port: torch.full((len(batch.labels), made.width), 0.1, dtype=made.dtype) for port in PORTS}
    bare, start = Bare(made), at_start(made)
    assert torch.equal(bare.outputs(start, batch), made.steered({}, batch))
    assert torch.equal(bare.disturbed(pushed, start, batch), made.steered(pushed, batch))
    assert not torch.allclose(bare.outputs(start, batch), made.outputs(start, batch))


def test_keys_stay_where_values_move():
    made, batch = prefixed()
    held = Values(made)
    assert set(held.initial) == {name for name in made.initial if name.endswith(".values")}
    other = {name: p + 0.1 for name, p in held.initial.items()}
    assert torch.equal(held.outputs(other, batch), made.outputs(dict(made.initial) | other, batch))


def cell(task, robust):
    """A finished cell whose law saves 0.3 nats of 1.2, and a prefix that loses `robust` under attack."""

    def met(adaptive, sensitivity=1.0):
        return {"clean": 0.5, "adaptive": adaptive, "oblivious": 0.9, "borrowed": 0.8, "sensitivity": sensitivity}

    shared = {"start": met(1.2), "removed": met(1.3)}
    laws = shared | {"plain": met(1.1), "shrunk": met(1.1), "still": met(1.05), "robust": met(0.9, 0.5)}
    arms = shared | {"plain": met(1.15), "shrunk": met(1.15), "robust": met(robust, 0.25)}
    return Cell(task, "prefix", 0, Record({"laws": laws, "dealt": [met(1.0)]}, {}), Record({"arms": arms, "factor": 1.0}, {}))


def test_every_rule_is_measured_by_the_nats_that_it_is_off():
    """Training saved 0.4 here, 0.2 and 0.1 elsewhere; the law said 0.3, without gates 0.15, shrunk 0.1, removing -0.1."""
    (row,) = ROBUST_PREFIX.rows(among([cell("a", 0.8), cell("b", 1.0), cell("c", 1.1)])[0])
    wanted = {"predicted": 0.3, "measured": 0.4, "error": 0.1, "error_none": 0.4, "error_still": 0.25, "error_shrunk": 0.3}
    wanted |= {"error_removed": 0.5, "error_others": 0.25, "error_dealt": 0.2, "octaves": 1.0, "octaves_none": 2.0}
    wanted |= {"octaves_still": 2.0, "loss_removed": 1.3, "loss_shrunk": 1.15, "loss_start": 1.2}
    assert all(abs(row[name] - value) < 1e-12 for name, value in wanted.items())


@pytest.mark.parametrize("system", [1, 3])
def test_heads_trained_under_attack_are_as_foretold(system):
    setting = head_setting(system, 0, Head)
    predicted = EXPERIMENT.predict(setting)
    measured = EXPERIMENT.measure(setting, predicted)
    law, found = predicted.values["laws"]["robust"], measured.values["arms"]["robust"]
    assert abs(law["adaptive"] - found["adaptive"]) < 0.02 and 0.9 < law["sensitivity"] / found["sensitivity"] < 1.1
    assert abs(predicted.values["objective"] - measured.values["objective"]) < 0.02


def test_heads_that_meet_no_attack_become_plain_ones():
    predicted = EXPERIMENT.predict(head_setting(0, 0, Head))
    arms = EXPERIMENT.measure(head_setting(0, 0, ShelteredHead), predicted).values["arms"]
    assert arms["robust"] == arms["plain"]
