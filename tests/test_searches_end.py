"""Every search ends: at small penalties, where rounding hides a decrease, at any scale, and with one sentence at NaN."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from control_problems import residual_network

from theory import CrossEntropy, Quadratic, ensemble_lq, per_example_lq
from theory.attention import cone_residual
from theory.box import condensed_box
from theory.budget import budget_law
from theory.convex import budget_program, robust_control, worst_disturbance
from theory.ensemble import _searched
from theory.game import game
from theory.hamiltonian import shoot
from theory.iterative_lq import ilqr, msa
from theory.placement import sparse_path
from theory.subspace import steps_to_share
from tuning.training import fit, gradient_descent

EPS = np.finfo(float).eps


class Counted:
    """A loss that may be asked only so often: a search that does not end fails instead of hanging."""

    def __init__(self, loss, most):
        self.loss, self.left = loss, most

    def value(self, y):
        self.left -= 1
        assert self.left >= 0, "the search does not end"
        return self.loss.value(y)

    def __getattr__(self, name):
        return getattr(self.loss, name)


def problem(seed, *, shape=None, scale=3.0, spread=2.0):
    rng = np.random.default_rng(seed)
    N, C, M = shape or (int(rng.integers(1, 6)), int(rng.integers(2, 5)), int(rng.integers(1, 12)))
    G, y0 = scale * rng.standard_normal((N, C, M)), spread * rng.standard_normal((N, C))
    return G, y0, CrossEntropy(rng.integers(C, size=N))


@pytest.mark.parametrize("r", [1e-3, 1e-5, 1e-6, 1e-7, 1e-8])
def test_a_small_penalty_has_an_optimum(r):
    """200 Newton steps of 100 trials each would be 20000 values; a tenth is never needed. The optimum is stationary in z:
    G'costate + r z vanishes to 1e-10 of its start in the whitened norm, or to the rounding of a sum of N C terms."""
    for seed in [7, 16, 21, 24, 30, 36, 37, 42, 56, 59, *range(60, 75)]:
        G, y0, loss = problem(seed)
        found = ensemble_lq(G, y0, Counted(loss, 2000), r)
        start = np.linalg.norm(np.tensordot(loss.gradient(y0) / len(y0), G, 2))
        slope = np.tensordot(loss.gradient(y0 + G @ found.z) / len(y0), G, 2) + r * found.z
        assert found.converged and np.linalg.norm(slope) <= 1e-9 * start
        each = per_example_lq(G, y0, Counted(loss, 20000), r)
        first = np.linalg.norm(np.einsum("nc,ncm->nm", loss.gradient(y0), G), axis=1)
        assert each.converged.all() and (each.gradient_norm <= 1e-9 * first).all()


@pytest.mark.parametrize("r", [1.0, 1e-3, 1e-5, 1e-8])
def test_what_is_called_converged_is_stationary_where_the_kernel_has_a_null_space(r):
    """Responses of rank 1 to 3. rho'K rho, known to eps |K| |rho|^2, says nothing of the gradient there: the search for one
    example needs no K and converges at every penalty; that for all is called converged only where its control is stationary."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        N, C, rank = int(rng.integers(1, 6)), int(rng.integers(2, 5)), int(rng.integers(1, 4))
        _, y0, loss = problem(seed, shape=(N, C, 1))
        for M in (rank, N * C + 5):
            G = 3 * (rng.standard_normal((N * C, rank)) @ rng.standard_normal((rank, M))).reshape(N, C, M)
            found, each = ensemble_lq(G, y0, Counted(loss, 20000), r), per_example_lq(G, y0, Counted(loss, 20000), r)
            start = np.linalg.norm(np.tensordot(loss.gradient(y0) / N, G, 2))
            assert found.gradient_norm <= 1.01e-10 * start or not found.converged
            assert found.converged or (r < 1 and rank < M)
            first = np.linalg.norm(np.einsum("nc,ncm->nm", loss.gradient(y0), G), axis=1)
            assert each.converged.all() and (each.gradient_norm <= 1e-9 * first).all()


@pytest.mark.parametrize("r", [1e-12, 1e-16, 1e-20, 1e-100, 1e-300])
def test_below_rounding_an_answer_comes_back(r):
    """Where r times the largest number of the kernel is below rounding, convergence is not promised; an end is."""
    for seed in range(3):
        G, y0, loss = problem(seed)
        for found in (ensemble_lq(G, y0, Counted(loss, 30000), r), per_example_lq(G, y0, Counted(loss, 30000), r)):
            assert np.isfinite(found.z).all()


@pytest.mark.parametrize("scale, spread", [(1e-300, 1.0), (1e-160, 1e300), (1e160, 1.0), (1e300, 1e300), (1.0, 1e10)])
@pytest.mark.parametrize("shape", [(4, 3, 20), (4, 3, 5)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_scale_comes_back(scale, spread, shape):
    """Converged with numbers, or not converged; never converged with NaN."""
    G, y0, loss = problem(0, shape=shape, scale=scale, spread=spread)
    for cost in (loss, Quadratic(np.ones(shape[:2])), Quadratic(np.ones(shape[:2]), 1e200)):
        for f in (ensemble_lq, per_example_lq):
            found = f(G, y0, Counted(cost, 30000), 1.0)
            assert np.isfinite(found.z).all() or not np.all(found.converged)


@pytest.mark.parametrize("seed", [0, 2, 9, 13])
def test_the_budget_law_comes_back_at_large_radii(seed):
    """The radii where its root search meets penalties near rounding; the two small ones are the general solver's too."""
    rng = np.random.default_rng(seed)
    G, y0 = rng.standard_normal((4, 3, 10)), rng.standard_normal((4, 3))
    loss, radii = CrossEntropy(rng.integers(3, size=4)), [0.5, 3.0, 10.0, 30.0]
    law = budget_law(G, y0, Counted(loss, 200000), radii)
    assert (np.diff(law.losses) < 0).all() and (np.diff(law.multipliers) <= 0).all()
    for radius, least in zip(radii[:2], law.losses[:2], strict=True):
        assert least == pytest.approx(budget_program(G, y0, loss, radius), rel=1e-6)
    for radius, r in zip(radii, law.multipliers, strict=True):
        if r > 0:
            assert np.linalg.norm(ensemble_lq(G, y0, loss, r).z) == pytest.approx(radius, rel=1e-6)


def test_a_search_between_neighbouring_numbers_ends():
    """A slope that jumps: no step is neither too long nor too short; the longest that descends comes back."""
    tried = []

    def jump(t):
        tried.append(t)
        return (-t, -1.0) if t < 0.3 else (1.0, 1.0)

    t, value = _searched(jump, -1.0, 0.0)
    assert 0.3 - EPS <= t < 0.3 and value == -t and len(tried) <= 100
    assert _searched(lambda t: (math.nan, math.nan), -1.0, 0.0) == (0.0, 0.0)
    assert _searched(lambda t: (0.0, 2.0), -1.0, 0.0)[0] == 0.0


@pytest.mark.parametrize("method", [fit, gradient_descent])
def test_training_does_not_spend_its_budget_on_a_kink(method):
    """|x - 0.3| with slope -1 or 1 everywhere: no step meets the curvature condition, and the bracket shrinks to neighbours."""
    run = method(
        lambda p: torch.where(p["x"] < 0.3, 0.3 - p["x"], p["x"] - 0.3).sum(),
        {"x": torch.zeros(1, dtype=torch.float64)},
        max_evaluations=10000,
    )
    assert not run.converged and run.evaluations < 400 and run.value <= 0.3
    with pytest.raises(ValueError, match="finite number of evaluations"):
        fit(lambda p: p["x"].square().sum(), {"x": torch.ones(1)}, max_evaluations=math.inf)


NAN = [
    (lambda v: ensemble_lq(np.full((2, 2, 3), v), np.zeros((2, 2)), Quadratic(np.ones((2, 2))), 1.0), "G and y0 must be finite"),
    (lambda v: Quadratic(np.full((2, 2), v)), "target must be finite"),
    (
        lambda v: ensemble_lq(
            np.ones((1, 2, 9)), np.zeros((1, 2)), CrossEntropy(np.zeros(1, int)), 1.0, kernel=np.full((2, 2), v)
        ),
        "kernel must be finite",
    ),
    (lambda v: budget_law(np.ones((1, 2, 3)), np.zeros((1, 2)), CrossEntropy(np.zeros(1, int)), [v]), "radii must be"),
    (lambda v: worst_disturbance(np.full(3, v), np.eye(3), 1.0), "a and D must be finite"),
    (lambda v: worst_disturbance(np.ones(3), np.eye(3), v), "radius finite"),
    (lambda v: robust_control(np.ones((2, 3)), np.ones(2), np.full((2, 2), v), 1.0, 1.0), "must be finite"),
    (lambda v: condensed_box([np.full((2, 2), v)], np.eye(2), np.ones(2), 1.0, 1.0), "G and g must be finite"),
    (lambda v: game([np.full((2, 2), v)], [np.ones((2, 1))], [np.ones((2, 1))], 1.0, 1.0, 1.0), "must be finite"),
    (lambda v: cone_residual(np.full((2, 3), v), np.ones((1, 3))), "must be finite"),
    (lambda v: steps_to_share([1.0, 2.0], [1.0, v], 0.1, 0.9), "energies"),
    (lambda v: sparse_path(np.full((1, 2, 3), v), np.ones((1, 2)), CrossEntropy(np.zeros(1, int)), 1.0, "abc"), "must be finite"),
]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("call, sentence", NAN)
def test_what_is_not_a_number_is_refused(call, sentence, value):
    with pytest.raises(ValueError, match=sentence):
        call(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_process_without_a_finite_cost_is_refused(value):
    process, x0 = residual_network(0)
    u = np.zeros((4, 2))
    for start in ((x0, u + value), (x0 * value, u)):
        for solve in (shoot, msa, partial(ilqr, terminal=1.0)):
            with pytest.raises(ValueError, match="finite at the start"):
                solve(process, *start)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_game_beyond_float64_is_refused():
    with pytest.raises(ValueError, match="below 1e150"):
        game([np.eye(2)] * 2, [np.ones((2, 1))] * 2, [np.full((2, 1), 1e160)] * 2, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("scale", [1e-140, 1e-6, 1e140])
def test_the_worst_disturbance_has_no_scale(scale):
    """|a + D w| in other units, of the output, the disturbance and both: the same w, to the root search's rounding."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, D = rng.standard_normal(4), rng.standard_normal((4, 3))
        w, value = worst_disturbance(a, D, 1.0)
        assert worst_disturbance(scale * a, scale * D, 1.0)[0] == pytest.approx(w, rel=1e-9)
        moved = worst_disturbance(a, D / scale, scale)
        assert moved[0] == pytest.approx(scale * w, rel=1e-9) and moved[1] == pytest.approx(value, rel=1e-9)
