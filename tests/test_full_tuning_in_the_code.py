"""Full tuning reads codes through nested projections of one unit; alignment and barriers are what their words say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from validations.claims.full_code import experiment
from validations.claims.full_code.alignment import cka, dealt_cka, fitted
from validations.claims.full_code.claim import barrier
from validations.claims.full_code.plants import MANY, inborn, separate, wide
from validations.claims.subspace.experiment import solution
from validations.statistics import cosine


def test_a_code_of_size_one_moves_the_weights_as_far_as_full_tuning_moved_elsewhere():
    """The root mean square over the sources, for every dimension; and fewer numbers are the first of more."""
    given = replace(wide(0, 0), options=wide(0, 0).options | {"dimensions": (2, 8)})
    sources = experiment.sources_of(given)
    moved = [float(solution(one, "full").displacement.norm()) for one in sources]
    through = experiment.branches(given)
    for d, branch in through.items():
        ones = torch.ones(d, dtype=torch.float64)
        assert float(branch.apply(ones)["z"].norm()) == pytest.approx(np.sqrt(np.mean(np.square(moved))))
    few, padded = torch.tensor([0.5, -2.0]).double(), torch.tensor([0.5, -2.0, *[0.0] * 6]).double()
    torch.testing.assert_close(2.0 * through[8].apply(padded)["z"], through[2].apply(few)["z"])
    assert through[2].apply(few)["z"].shape == (MANY,)


def test_a_dealt_code_has_the_same_sizes_and_none_in_its_place():
    rng, code = np.random.default_rng(0), torch.arange(1.0, 9.0)
    for _ in range(20):
        dealt = experiment._dealt(code, rng)
        assert torch.equal(dealt.abs().sort().values, code) and not (dealt.abs() == code).any()


def test_a_barrier_is_the_rise_above_the_line_between_the_ends():
    """None on a line or below it; of a parabola with its top between, its height above the chord."""
    places = np.linspace(0.0, 1.0, 5)
    for losses, height in ((2.0 - places, 0.0), ((places - 0.5) ** 2, 0.0), (1.0 + places + places * (1.0 - places), 0.25)):
        points = [{"at": at, "loss": loss} for at, loss in zip(places, losses, strict=True)]
        assert barrier(points) == pytest.approx(height)


def test_the_best_rotation_is_found_whatever_the_code_s_axes():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30, 4))
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert fitted(a, a @ turn) == pytest.approx(1.0) and cosine(a, a @ turn) < 0.9
    assert fitted(a, b) == pytest.approx(fitted(a, b @ turn)) and fitted(a, b) >= abs(cosine(a, b))
    assert fitted(a, np.zeros_like(b)) == 0.0


def test_codes_that_are_one_up_to_rotation_and_scale_have_a_cka_of_one_and_dealt_tasks_less():
    rng = np.random.default_rng(0)
    codes, turn = rng.standard_normal((5, 3)), np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert cka(codes, 2.0 * codes @ turn + 1.0) == pytest.approx(1.0)
    assert 0.0 < dealt_cka(codes, codes) < 1.0
    assert math.isclose(dealt_cka(codes, codes), dealt_cka(codes, codes[::-1]))


def test_plants_share_trainings_where_networks_are_the_same_and_nowhere_else():
    """The deltas of two worlds are the same and tuned once; all weights, and deltas that see other signals, are not."""
    first, other, apart = inborn(0, 0), wide(0, 0), separate(0, 0)
    assert experiment.trained(first, "lora") is experiment.trained(other, "lora")
    assert experiment.trained(first, "full") is not experiment.trained(other, "full")
    assert experiment.trained(first, "lora") is not experiment.trained(apart, "lora")
