"""The price of a cell is the smallest on the grid that keeps the linear regime, found from the top and above the saddle."""

import pytest

from validations.claims.shared.linearisation import GRID, least_price
from validations.claims.shared.regime import MARGIN


def test_it_is_the_last_of_the_grid_within_the_regime():
    assert least_price(2.0, 0.0, lambda r: 0.01 / r, 0.04) == pytest.approx(2.0 * 10**-0.5)


def test_it_is_found_from_the_top_though_smaller_prices_are_within_again():
    outside = 2.0 * GRID[2]
    assert least_price(2.0, 0.0, lambda r: float(r == outside), 0.5) == 2.0 * GRID[1]


def test_it_is_no_less_than_what_a_saddle_asks():
    saddle = 1.01 * 2.0 * GRID[2] / MARGIN  # between the third price and the second
    assert least_price(2.0, -saddle, lambda r: 0.0, 0.05) == 2.0 * GRID[1]
    assert least_price(2.0, -4.0, lambda r: 0.0, 0.05) == pytest.approx(MARGIN * 4.0)
    assert least_price(2.0, 0.5, lambda r: 0.0, 0.05) == pytest.approx(2.0 * GRID[-1])


def test_a_network_that_is_nowhere_linear_gets_the_largest_curvature():
    assert least_price(2.0, 0.0, lambda r: 1.0, 0.05) == 2.0
