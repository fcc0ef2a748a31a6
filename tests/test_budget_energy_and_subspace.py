"""The numbers behind the claims on budget, energy and shared subspace, against cases worked out by hand."""

import dataclasses

import numpy as np
import pytest

from theory.convex import budget_program
from validations.claims.budget import experiment as budget
from validations.claims.budget.claim import power_law
from validations.claims.budget.plants import budget_setting
from validations.claims.efficiency.experiment import RIDGE, efficiency, margin_rows
from validations.claims.shared.linearisation import Linearisation, linearise
from validations.claims.shared.training import at_rest
from validations.claims.transfer import experiment as transfer
from validations.claims.transfer.plants import together

RNG = np.random.default_rng(5)


def test_training_on_the_sphere_reaches_the_convex_program():
    setting = budget_setting(1, 0)
    predicted = budget.predict(setting)
    trained = budget.measure(setting, predicted).values
    lin = linearise(setting.subjects["bias"].steered, at_rest(setting.subjects["bias"]), setting.train)
    for level in trained["levels"][1::3]:
        best = budget_program(lin.G, lin.y0, lin.loss, level["radius"])
        assert level["converged"] and level["multiplier"] > 0
        assert best - 1e-6 < level["loss"] < best + 1e-4 * trained["start"]


def test_a_power_law_is_recovered():
    radii = np.geomspace(0.1, 2.0, 5)
    assert np.allclose(power_law(radii, 3 * radii**0.7, np.array([0.3, 5.0])), [3 * 0.3**0.7, 3 * 5**0.7])


def test_margins_are_averaged_within_classes():
    labels = np.array([0, 2, 2, 0, 0])
    outputs = RNG.standard_normal((5, 3))
    rows = margin_rows(labels, 3)
    margins = [outputs[i, c] - np.delete(outputs[i], c).mean() for i, c in enumerate(labels)]
    expected = [np.mean([margins[i] for i in np.flatnonzero(labels == c)]) for c in (0, 2)]
    assert np.allclose(np.einsum("knc,nc->k", rows, outputs), expected)
    assert np.allclose(rows.sum(-1), 0)  # a shift of all logits moves no margin


def test_efficiency_is_the_share_of_energy_in_the_row_space():
    q = np.linalg.qr(RNG.standard_normal((9, 9)))[0]
    G, inside, outside = q[:3], q[0] + q[2], q[5]
    for z, share in ((inside, 1.0), (inside + np.sqrt(2) * outside, 0.5), (outside, 0.0)):
        assert efficiency(G, G @ z, z) == pytest.approx(share / (1 + 3 * RIDGE))


def _linear(G):
    return Linearisation(G, np.zeros(G.shape[:2]), np.zeros(len(G), int), ("z",), (G.shape[2:],))


def test_directions_of_tasks_do_not_depend_on_their_scale_or_on_shifts_of_all_logits():
    one, two = (RNG.standard_normal((4, 3, 40)) for _ in range(2))
    spanned = transfer.directions([_linear(one), _linear(two)])
    again = transfer.directions([_linear(100 * one), _linear(two + RNG.standard_normal((4, 1, 40)))])
    assert spanned.shape == (40, 16)  # two tasks, four examples, two contrasts each
    assert np.allclose(np.abs(np.sum(spanned * again, axis=0)), 1.0)
    assert transfer.captured(spanned, one[0, 0] - one[0].mean(0), 16) == pytest.approx(1.0)
    assert transfer.captured(spanned, RNG.standard_normal(40), 4) < 0.6


def test_transfer_needs_another_task():
    with pytest.raises(ValueError, match="at least one other task"):
        transfer.predict(dataclasses.replace(together(0, 0), other_tasks=()))
