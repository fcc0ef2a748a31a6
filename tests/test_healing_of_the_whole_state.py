"""Healing of the whole state: laws that act on it, what orthogonal layers leave of an attack, what a control is worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo

from theory import healing
from tuning import PortBias
from validations.claims.healing.claim import HEALING_DISPLACEMENT, HEALING_STATE, recovered
from validations.claims.healing.experiment import EXPERIMENT, PLACE, laws, left, linear, manifolds, schedule_left, struck
from validations.claims.healing.plants import chain_setting
from validations.claims.healing.stream import healed, places, visited
from validations.claims.shared.among import among
from validations.claims.shared.claim import Cell
from validations.claims.shared.laws import Affine, healing_law
from validations.store import Record


@pytest.fixture(scope="module")
def subject():
    return zoo.subject_of(zoo.backbone_of("bert"), PortBias())


def drawn(width, at, seed=0):
    """A law of rank three at some places."""
    rng = np.random.default_rng(seed)
    shapes = ((3, width), (width, 3), (width,))
    return {place: Affine(*(0.2 * rng.standard_normal(shape) for shape in shapes)) for place in at}


def test_a_law_acts_on_the_whole_state_between_blocks(subject):
    """x + u(x) leaves the place, x being what leaves it without a law there."""
    batch, at = zoo.batch_of(), places(subject)
    assert at[0] == "embedding" and len(at) == subject.backbone.blocks + 1
    params = zoo.moved(subject.initial)
    for t, place in enumerate(at):
        law = drawn(subject.width, [place])
        bare, under = visited(subject, params, batch), visited(healed(subject, law), params, batch)
        x, own = bare[place].numpy(), law[place]
        assert np.allclose(under[place].numpy(), x + x @ own.down.T @ own.up.T + own.bias, atol=1e-10)
        assert all(torch.equal(under[before], bare[before]) for before in at[:t])


def test_states_between_blocks_are_all_that_the_next_block_reads(subject):
    """Two texts of one state would have one future: a law that puts the state of another text there makes its logits."""
    batch, params = zoo.batch_of(), zoo.moved(subject.initial)
    one, other = (batch._replace(tokens=t, mask=torch.ones_like(batch.mask)) for t in (batch.tokens, batch.tokens.flip(0)))
    for place in places(subject):
        push = visited(subject, params, other)[place] - visited(subject, params, one)[place]
        made = subject.disturbed({place: push}, params, one)
        assert torch.allclose(made, subject.outputs(params, other), atol=1e-9)


def test_the_states_are_those_that_the_blocks_take_and_the_readout_reads(subject):
    batch, params = zoo.batch_of(), zoo.moved(subject.initial)
    met, entered = visited(subject, params, batch), subject.rollout(params, batch).inputs
    for block, place in enumerate(places(subject)[:-1]):
        assert torch.equal(met[place], entered[f"{block}.attention"])


def test_states_that_stand_nowhere_are_refused():
    with pytest.raises(ValueError, match="another backbone"):
        places(zoo.subject_of(zoo.backbone_of("gpt2"), PortBias()))


def test_an_attack_meets_the_law_behind_it(subject):
    """At the embedding the law reads the disturbed state."""
    batch, params = zoo.batch_of(), zoo.moved(subject.initial)
    law, w = drawn(subject.width, [PLACE]), torch.randn(*batch.tokens.shape, subject.width, dtype=subject.dtype)
    moved = visited(healed(subject, law), params, batch, {PLACE: w})[PLACE] - visited(healed(subject, law), params, batch)[PLACE]
    own = law[PLACE]
    assert np.allclose(moved.numpy(), w.numpy() + w.numpy() @ own.down.T @ own.up.T, atol=1e-10)


def test_the_linearised_layers_are_the_limit_of_small_attacks(subject):
    batch, params, at = zoo.batch_of(), zoo.moved(subject.initial), places(subject)
    w = torch.randn(*batch.tokens.shape, subject.width, dtype=subject.dtype)
    told, size = linear(subject, params, batch, w), 1e-5
    near = visited(subject, params, batch, {PLACE: size * w})
    bare = visited(subject, params, batch)
    real = batch.mask.bool()
    for z, place in zip(told, at, strict=True):
        assert np.allclose(z, ((near[place] - bare[place]) / size)[real].detach().numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("system", [0, 3, 7])
def test_rotations_leave_of_an_attack_what_the_schedule_says(system):
    setting = chain_setting(system, 0, on=(0.1, 2.0))
    plant, batch = setting.subjects["prefix"], setting.test
    found = manifolds(plant, plant.initial, batch)
    bases = {place: own.directions[:, : own.rank(0.999)] for place, own in found.items()}
    w = struck(plant, plant.initial, batch, 0.5)
    z = visited(plant, plant.initial, batch, {PLACE: w})[PLACE] - visited(plant, plant.initial, batch)[PLACE]
    z = z[:, 0].numpy()
    off = 1 - np.sum((z @ bases[PLACE]) ** 2) / np.sum(z**2)
    for c in (0.1, 1.0):
        told = schedule_left(healing(c, len(found)).keep, off)
        assert np.allclose(left(plant, healing_law(found, bases, c), plant.initial, batch, w), told, atol=1e-9)


def test_layers_that_stretch_the_subspace_leave_more():
    rest = {}
    for stretch in (1.0, 2.0):
        setting = chain_setting(3, 0, stretch=stretch, on=(0.1, 2.0))
        predicted = EXPERIMENT.predict(setting)
        told = predicted.values["left"]
        met = EXPERIMENT.measure(setting, predicted).values["left"]["healing"]
        assert abs(told["linear"][-1] - met[-1]) < 0.05
        rest[stretch] = met[-1] - told["orthogonal"][-1]
    assert abs(rest[1.0]) < 0.05 < 0.2 < rest[2.0]


def test_every_control_has_the_means_of_healing():
    """Random subspaces have its ranks; shrinkage spends on the states given what healing spends."""
    setting = chain_setting(2, 0)
    plant, batch = setting.subjects["prefix"], setting.train
    found = manifolds(plant, plant.initial, batch)
    rng = np.random.default_rng(0)
    met = {place: rng.standard_normal((30, plant.width)) for place in found}
    made = laws(found, 0.9, 0.3, met, rng)
    for place in found:
        up = {name: law[place].up @ law[place].down for name, law in made.items()}
        ranks = {name: np.linalg.matrix_rank(matrix, tol=1e-8) for name, matrix in up.items()}
        assert ranks["healing"] == ranks["random"] < ranks["shrinkage"] == plant.width
        spent = {name: np.linalg.norm(met[place] @ law[place].up.T + law[place].bias) for name, law in made.items()}
        assert abs(spent["shrinkage"] / spent["healing"] - 1) < 1e-9


def cell(task, left_there):
    """A finished cell of two blocks: the schedule leaves 0.6, healing `left_there`; 60 points are taken, 30 or 10 come back."""
    told = {"left": {"orthogonal": [0.7, 0.6, 0.6], "linear": [0.7, 0.5, 0.4], "random": [0.5, 0.3, 0.3]}}
    told |= {"gains": [1.0, -0.5], "off": [0.6, 0.4]}
    accuracy = {"none": (0.9, 0.3, 0.3), "healing": (0.9, 0.6, 0.4), "random": (0.5, 0.5, 0.5), "shrinkage": (0.8, 0.4, 0.3)}
    arms = [
        {"controller": name, "attacker": attacker, "loss": 1.0 - right, "accuracy": right}
        for name, all_right in accuracy.items()
        for attacker, right in zip(("clean", "oblivious", "adaptive"), all_right, strict=True)
    ]
    found = {name: [0.7, left_there, left_there] for name in ("healing", "random", "shrinkage")}
    return Cell(task, "prefix", 0, Record(told, {}), Record({"left": found, "arms": arms, "majority": 0.5}, {}))


def test_every_rule_is_measured_by_the_share_that_it_is_off_behind_the_blocks():
    (row,) = HEALING_DISPLACEMENT.rows(among([cell("a", 0.5), cell("b", 0.8), cell("c", 0.6)])[0])
    wanted = {"error": 0.1, "error_none": 0.5, "error_random": 0.2, "error_others": 0.2, "error_linear": 0.05}
    wanted |= {"predicted": 0.6, "measured": 0.5, "longer": 0.75, "off": 0.6, "off_last": 0.4}
    assert all(abs(row[name] - value) < 1e-12 for name, value in wanted.items())


def test_what_is_recovered_and_what_a_control_is_worth():
    (row,) = HEALING_STATE.rows(among([cell("a", 0.5)])[0])
    columns = {name: np.array([value]) for name, value in row.items()}
    assert abs(recovered("healing", "oblivious")(columns) - 0.5) < 1e-12
    assert abs(recovered("shrinkage", "adaptive")(columns)) < 1e-12
    by_name = {criterion.name: criterion.statistic(columns) for criterion in HEALING_STATE.criteria}
    # clean and attacked, adaptive: healing (0.9 + 0.4) / 2, none (0.9 + 0.3) / 2, random 0.5, shrinkage 0.55
    assert abs(by_name["lead"] - 0.05) < 1e-12 and abs(by_name["clean"]) < 1e-12


def test_a_majority_that_the_model_does_not_beat_leaves_nothing_to_heal():
    (stakes,) = HEALING_STATE.assumptions
    made = cell("a", 0.5)
    assert stakes.passes(made)
    assert not stakes.passes(replace(made, measured=Record(made.measured.values | {"majority": 0.85}, {})))
