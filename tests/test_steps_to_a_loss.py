"""Steps to a held-out loss are read between looks in their logarithm; a start that never gets there counts as twice the run."""

import pytest

from validations.claims.initialisation.claim import NEVER, reached

LOOKS = [{"step": 0, "loss": 0.7}, {"step": 10, "loss": 0.6}, {"step": 40, "loss": 0.4}, {"step": 160, "loss": 0.5}]


@pytest.mark.parametrize(
    ("goal", "steps"),
    [
        (0.7, 1.0),  # where it starts is one step: a logarithm needs one
        (0.6, 10.0),
        (0.5, 20.0),  # half-way down between 10 and 40
        (0.4, 40.0),  # the first time, whatever comes after
        (0.3, NEVER * 160),
        (0.65, 10.0),  # nothing lies between the start and the first look
    ],
)
def test_steps_to_a_loss(goal, steps):
    assert reached(LOOKS, goal, 160) == pytest.approx(steps)
