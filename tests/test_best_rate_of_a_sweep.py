"""The best rate of a sweep: the vertex of a parabola exactly, an end of the grid as it is, a run that diverged left out."""

import numpy as np
import pytest

from validations.claims.practice.rates import best_rate, least_dev_losses


def runs(rates, losses, finite=True, start=9.0):
    """Runs of some rates that reach these dev losses after training, and are worse at the look before and after."""
    finite = np.broadcast_to(finite, len(rates))
    return [
        {"rate": rate, "finite": bool(kept), "looks": [{"dev_loss": x} for x in (start, loss + 1, loss, loss + 0.5)]}
        for rate, loss, kept in zip(rates, losses, finite, strict=True)
    ]


@pytest.mark.parametrize("vertex", [-6.4, -5.0, -4.3])
@pytest.mark.parametrize("octaves", [(-8, -7, -6, -5, -4, -3), (-8, -6.5, -6, -4.8, -4.1, -3)])
def test_the_vertex_of_a_parabola_is_found_on_any_grid(vertex, octaves):
    losses = [0.4 + 0.1 * (x - vertex) ** 2 for x in octaves]
    told = runs([2.0**x for x in octaves], losses)
    assert np.log2(best_rate(told)) == pytest.approx(vertex, abs=1e-9)
    assert best_rate(told[::-1]) == pytest.approx(best_rate(told))


@pytest.mark.parametrize("losses, best", [((0.1, 0.2, 0.3), 0.5), ((0.3, 0.2, 0.1), 2.0), ((0.2, 0.2, 0.2), 0.5)])
def test_an_end_of_the_grid_is_returned_as_it_is(losses, best):
    assert best_rate(runs([0.5, 1.0, 2.0], losses)) == best


def test_a_run_that_diverged_keeps_the_loss_of_its_start():
    told = runs([0.5, 1.0, 2.0], [0.3, 0.2, 0.1], finite=[True, True, False], start=0.7)
    assert least_dev_losses(told)[1].tolist() == [0.3, 0.2, 0.7]
    assert 0.5 < best_rate(told) < 1.0
