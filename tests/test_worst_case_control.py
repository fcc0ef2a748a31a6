"""Control against the worst disturbance of a ball and the worst scenario of a set."""

import numpy as np
import pytest
from control_problems import ensemble, relative

from theory import ensemble_lq, output_lq
from theory.convex import robust_control, scenario_control, worst_disturbance

C, M, W = 3, 6, 4


def problem(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(C, M)), rng.normal(size=C), rng.normal(size=(C, W))


def worst(u, G, y, D, radius, r):
    return 0.5 * (worst_disturbance(y + G @ u, D, radius)[1] + r * u @ u)


@pytest.mark.parametrize("seed", range(5))
def test_no_disturbance_of_the_ball_is_worse(seed):
    """Against points of the sphere improved by projected ascent; the optimality condition D'(a + Dw) = mu w holds."""
    G, a, D = problem(seed)
    w, squared = worst_disturbance(a, D, 0.7)
    assert relative(np.linalg.norm(w), 0.7) < 1e-12 and relative(np.sum((a + D @ w) ** 2), squared) < 1e-14
    pull = D.T @ (a + D @ w)
    mu = pull @ w / 0.7**2
    assert np.abs(pull - mu * w).max() < 1e-10 * np.abs(pull).max()
    assert mu >= np.linalg.norm(D, 2) ** 2 * (1 - 1e-12)  # the condition that makes it the global maximum
    rng = np.random.default_rng(seed)
    for _ in range(20):
        v = rng.normal(size=W)
        for _ in range(200):
            v = 0.7 * v / np.linalg.norm(v)
            v = D.T @ (a + D @ v)
        v = 0.7 * v / np.linalg.norm(v)
        assert np.sum((a + D @ v) ** 2) <= squared * (1 + 1e-10)


def test_the_worst_disturbance_where_nothing_pulls_along_the_leading_direction():
    """a orthogonal to it: the rest of the ball's radius still goes there."""
    D = np.diag([3.0, 1.0])
    w, squared = worst_disturbance([0.0, 1.0], D, 1.0)
    assert relative(w[1], 1.0 / 8.0) < 1e-12  # s a / (s_1^2 - s^2) at mu = s_1^2 = 9
    assert relative(squared, 9 * (1 - 1 / 64) + (1 + 1 / 8) ** 2) < 1e-12
    assert worst_disturbance([1.0, 2.0], np.zeros((2, 3)), 1.0)[1] == 5.0


@pytest.mark.parametrize("seed", range(4))
def test_no_other_control_has_a_better_worst_case(seed):
    """The worst case is strongly convex in u, so a local check is a global one; 1e-8 is the solver's."""
    G, y, D = problem(seed)
    found = robust_control(G, y, D, 0.5, 0.1)
    assert relative(found.value, worst(found.u, G, y, D, 0.5, 0.1)) < 1e-10
    assert np.linalg.norm(found.disturbance) <= 0.5 * (1 + 1e-12)
    rng = np.random.default_rng(seed)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(10):
            assert worst(found.u + size * rng.normal(size=M), G, y, D, 0.5, 0.1) >= found.value * (1 - 1e-8)
    nominal = output_lq([G], np.eye(C), y, 0.1).u[0]
    costs = 0.05 * np.sum((nominal - found.u) ** 2)  # at least r/2 |.|^2 for ignoring the disturbance
    assert worst(nominal, G, y, D, 0.5, 0.1) > found.value * (1 - 1e-8) + costs > found.value


@pytest.mark.parametrize("factor, within", [(0.5, 1e-3), (30.0, 1e-8)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_output_has_a_closed_form(seed, factor, within):
    """max |a + Dw| = |a| + radius |D| = |a| + e: with Gu = -s, (|y-s| + e)^2/2 + r s^2/(2|G|^2) is least at a root or at s = y.

    A control cheaper than r = e |G|^2 / y ends at the kink s = y, which the interior point approaches to 1e-4 in u; a dear
    one stops before it.
    """
    rng = np.random.default_rng(seed)
    G, y, D, radius = rng.normal(size=(1, 4)), np.array([2.0]), rng.normal(size=(1, 3)), 0.4
    e = radius * np.linalg.norm(D)
    price = factor * e / y[0]
    r = price * np.sum(G**2)
    s = min((y[0] + e) / (1 + price), y[0])
    found = robust_control(G, y, D, radius, r)
    assert relative(found.u, -s * G[0] / np.sum(G**2)) < max(within, 1e-5)
    assert relative(found.value, 0.5 * (y[0] - s + e) ** 2 + 0.5 * price * s**2) < within


def test_without_a_disturbance_it_is_the_ordinary_optimum_and_a_larger_ball_costs_more():
    G, y, D = problem(6)
    plain = output_lq([G], np.eye(C), y, 0.1)
    found = [robust_control(G, y, D, radius, 0.1) for radius in (0.0, 0.1, 0.5, 2.0)]
    assert relative(found[0].u, plain.u[0]) < 1e-7
    assert relative(found[0].value, plain.value + 0.5 * y @ y) < 1e-9
    assert (np.diff([f.value for f in found]) > 0).all()


@pytest.mark.parametrize("loss", ["cross-entropy", "quadratic"])
def test_the_scenario_control_is_the_optimum_of_the_worst_mixture(loss):
    """Duality: no control's worst case is below the least of a mixture of the losses, which their gradient bounds from below.

    The mixture is strongly convex with modulus r, so it is nowhere below its value less |gradient|^2 / 2r; and so is the
    worst case, so another control is worse by r/2 times its squared distance. 1e-7 is the solver's tenfold.
    """
    G, y0, cost = ensemble(3, N=8, C=3, M=5, loss=loss)
    found = scenario_control(G, y0, cost, 0.2)
    z, best, weights = found.control.z, found.control.value, found.weights
    assert relative(weights.sum(), 1.0) < 1e-7 and (weights > -1e-9).all()
    slope = np.einsum("n,nc,ncm->m", weights, cost.gradient(y0 + G @ z), G) + 0.2 * z
    assert best - (weights @ found.losses + 0.1 * z @ z - slope @ slope / 0.4) < 1e-7 * best
    average = ensemble_lq(G, y0, cost, 0.2)
    apart = 0.1 * np.sum((average.z - z) ** 2)
    assert cost.value(average.outputs).max() + 0.1 * average.z @ average.z > best + apart - 1e-6
    assert found.losses.mean() + 0.1 * z @ z > average.value + apart - 1e-6


def test_one_scenario_is_the_ordinary_problem():
    G, y0, cost = ensemble(4, N=1, C=3, M=5)
    found = scenario_control(G, y0, cost, 0.2)
    assert relative(found.control.z, ensemble_lq(G, y0, cost, 0.2).z) < 1e-5
    assert relative(found.weights, [1.0]) < 1e-7


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(D=np.zeros((2, 4))), "D must have shape"),
        (dict(radius=-1.0), "radius be finite and >= 0"),
        (dict(r=0.0), "r must be positive"),
        (dict(y=np.zeros(2)), "G must have shape"),
    ],
)
def test_wrong_problems_are_refused(change, words):
    G, y, D = problem(0)
    with pytest.raises(ValueError, match=words):
        robust_control(**(dict(G=G, y=y, D=D, radius=1.0, r=0.1) | change))
