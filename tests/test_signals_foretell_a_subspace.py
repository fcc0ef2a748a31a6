"""A delta that acts through signals is foretold the numbers that make the leading ones, whatever the map between them."""

import numpy as np
import pytest

from theory.signals import decoder_of_signals, random_row_space
from validations.claims.signals.experiment import sufficient

N, SIGNALS, NUMBERS, D = 30, 8, 20, 3


def responses(seed=0, noise=0.0):
    """A response to signals of known singular values, and to numbers that make them by a map with orthonormal rows."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((n, SIGNALS)))[0] for n in (N, SIGNALS))
    G = u * np.geomspace(4.0, 0.1, SIGNALS) @ v.T
    M = np.linalg.qr(rng.standard_normal((NUMBERS, SIGNALS)))[0].T
    return G, M, v


def test_directions_are_those_that_make_the_leading_signals():
    """With M M' = I the least numbers that move the outputs by u_i are M' v_i over sigma_i; the ridge turns them by its size."""
    G, M, v = responses()
    found = decoder_of_signals(G, G @ M, D, ridge=1e-12)
    assert np.allclose(found.T @ found, np.eye(D), atol=1e-12)
    assert np.allclose(np.abs(found.T @ M.T @ v[:, :D]), np.eye(D), atol=1e-6)


def test_first_directions_do_not_depend_on_how_many_are_asked_for():
    G, M, _ = responses()
    assert np.allclose(decoder_of_signals(G, G @ M, SIGNALS)[:, :D], decoder_of_signals(G, G @ M, D), atol=1e-10)
    assert decoder_of_signals(G, G @ M, 50).shape == (NUMBERS, SIGNALS)


def test_another_scale_of_the_numbers_changes_nothing():
    G, M, _ = responses()
    assert np.allclose(decoder_of_signals(G, 100.0 * G @ M, D), decoder_of_signals(G, G @ M, D), atol=1e-9)


def test_random_directions_lie_in_the_row_space():
    G, M, _ = responses()
    drawn = random_row_space(G @ M, D, np.random.default_rng(1))
    assert np.allclose(drawn.T @ drawn, np.eye(D), atol=1e-10) and np.allclose(M.T @ (M @ drawn), drawn, atol=1e-6)


def test_what_suffices_is_the_first_dimension_that_holds_enough():
    """Four fifths and no less; where none holds as much it is beyond the last."""
    assert sufficient([1, 2, 4], [0.5, 0.8, 0.9]) == 2 and sufficient([1, 2, 4], [0.5, 0.79, 0.79]) == 8


@pytest.mark.parametrize(
    ("signals", "own", "options", "says"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), {}, "one row per output"),
        (np.ones((3, 2)), np.ones((3, 2)), {"ridge": 0.0}, "must be positive"),
        (np.ones((3, 2)), np.zeros((3, 2)), {}, "moves no output"),
    ],
)
def test_refused(signals, own, options, says):
    with pytest.raises(ValueError, match=says):
        decoder_of_signals(signals, own, 1, **options)
