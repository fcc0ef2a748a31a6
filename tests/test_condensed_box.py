"""Bounded control in its condensed form: optimal to rounding, the general solver's answer, and what the bounds are worth."""

import control_problems as case
import numpy as np
import pytest
from control_problems import definite, plant, relative
from scipy.special import softmax

from theory import output_lq, reach, transition
from theory.box import condensed_box
from theory.convex import bounded_control


def problem(seed, *, C=3, T=12, m=8):
    rng = np.random.default_rng(seed)
    G = [size * rng.normal(size=(C, m)) for size in rng.uniform(0.2, 2.0, T)]
    p = softmax(rng.normal(size=C))
    M = np.diag(p) - np.outer(p, p) if seed % 2 else definite(rng, C)
    return G, M, rng.normal(size=C), float(10 ** rng.uniform(-3, 1)), float(10 ** rng.uniform(-2, 0.5))


@pytest.mark.parametrize("C", [1, 2, 10, 40])
@pytest.mark.parametrize("seed", range(6))
def test_the_optimality_conditions_hold_to_rounding(seed, C):
    """u moves nowhere when it follows the slope and is put back in the box; multipliers are what the bounds hold back."""
    G, M, g, r, bound = problem(seed, C=C)
    found = condensed_box(G, M, g, r, bound)
    u, stack = np.concatenate(found.u), np.hstack(G)
    slope = r * u + stack.T @ (g + M @ (stack @ u))
    size = np.abs(slope).max() + np.abs(stack.T @ g).max()
    assert found.converged
    assert np.abs(np.clip(u - slope, -bound, bound) - u).max() < 1e-12 * (size + bound)
    price = np.concatenate(found.multipliers)
    assert (price >= 0).all() and np.abs(slope + price * np.sign(u)).max() < 1e-12 * size
    assert relative(found.shift, stack @ u) < 1e-14
    z = found.shift
    assert relative(found.value, 0.5 * z @ M @ z + g @ z + 0.5 * r * u @ u) < 1e-12


@pytest.mark.parametrize("bound", [0.02, 0.05, 0.1])
def test_it_is_the_general_solvers_answer(bound):
    """On a plant with terminal cost: 1e-7, where the interior-point solver stops."""
    A, B = plant(0, n=5, m=2, T=6)
    rng = np.random.default_rng(1)
    Qf, x0 = definite(rng, 5), rng.normal(size=5)
    free = transition(A) @ x0
    G = np.split(reach(A, B), 6, axis=1)
    ours = condensed_box(G, Qf, Qf @ free, 0.3, bound)
    oracle = bounded_control(A, B, 0.0, 0.3, Qf, x0, bound)
    assert relative(ours.u, oracle.controls) < 1e-7
    assert relative(ours.value + 0.5 * free @ Qf @ free, oracle.cost) < 1e-9
    assert relative(ours.multipliers, oracle.multipliers) < 1e-6


def test_the_golden_bounded_problem():
    """States stacked into one output: its weight is the block diagonal of Q and Qf; the reference is good to 1e-7."""
    G = [np.zeros((6, 1)) for _ in range(3)]
    free, x = [], case.X0
    for t in range(3):
        x = case.A[t] @ x + case.AFFINE[t]
        free.append(x - case.REFERENCE[t + 1])
        for s in range(t + 1):
            G[s][2 * t : 2 * t + 2] = (transition(case.A[s + 1 : t + 1]) if s < t else np.eye(2)) @ case.B[s]
    M = np.kron(np.diag([1.0, 1.0, 0.0]), case.Q)
    M[4:, 4:] = case.QF
    miss = np.concatenate(free)
    found = condensed_box(G, M, M @ miss, case.R, 1.1)
    assert relative(np.ravel(found.u), [1.0617049365831448, 1.1, 0.9724456598617542]) < 1e-7
    constant = 0.5 * miss @ M @ miss + 0.5 * case.X0 @ case.Q @ case.X0
    assert relative(found.value + constant, 2.6369774046395444) < 1e-7


@pytest.mark.parametrize("C", [1, 3, 10])
def test_without_bounds_it_is_the_closed_form(C):
    """Each is good to the rounding of a few operations times the condition of I + G'MG/r; a search sees nothing to gain."""
    for seed in range(20):
        G, M, g, r, _ = problem(seed, C=C)
        free, found = output_lq(G, M, g, r), condensed_box(G, M, g, r, np.inf)
        condition = 1 + np.linalg.norm(np.hstack(G), 2) ** 2 * np.linalg.norm(M, 2) / r
        assert relative(found.u, free.u) < 10 * np.finfo(float).eps * condition
        assert found.converged and found.iterations <= 2 and not np.any(found.multipliers)


@pytest.mark.parametrize("C", [1, 2, 3])
def test_the_search_ends_at_rounding(C):
    """Dear and cheap, bounded or not, it takes as many steps as there are active sets to pass: tens, not the limit of 500."""
    for seed in range(20):
        G, M, g, r, bound = problem(seed, C=C)
        assert max(condensed_box(G, M, g, r, b).iterations for b in (bound, np.inf)) < 50


def test_each_step_and_control_may_have_its_own_bound_and_price():
    G, M, g, _, _ = problem(4, T=3, m=4)
    rng = np.random.default_rng(5)
    bounds = [0.05, np.array([0.01, np.inf, 0.02, 0.5]), 0.2]
    R = [np.diag(rng.uniform(0.05, 1.0, 4)) for _ in range(3)]
    found = condensed_box(G, M, g, R, bounds)
    assert all((np.abs(u) <= b).all() for u, b in zip(found.u, bounds, strict=True))
    z = found.shift
    for t in range(3):
        slope = R[t] @ found.u[t] + G[t].T @ (g + M @ z)
        assert np.abs(slope + found.multipliers[t] * np.sign(found.u[t])).max() < 1e-12


def test_multipliers_price_the_bounds():
    """The value's derivative in the bound, by central differences of 1e-6 of it, is minus their sum."""
    G, M, g, r, bound = problem(7)
    found = condensed_box(G, M, g, r, bound)
    more, less = (condensed_box(G, M, g, r, bound * (1 + e)).value for e in (1e-6, -1e-6))
    assert relative((more - less) / (2e-6 * bound), -np.concatenate(found.multipliers).sum()) < 1e-6


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(bound=0.0), "bound must be positive"),
        (dict(bound=[1.0]), "one entry for each of 12"),
        (dict(R=np.full((8, 8), 0.1) + np.eye(8)), "R must be diagonal"),
        (dict(R=-1.0), "positive definite"),
        (dict(g=np.zeros(2)), "g must have shape"),
        (dict(M=-np.eye(3)), "semi-definite"),
    ],
)
def test_wrong_problems_are_refused(change, words):
    G, M, g, r, bound = problem(0)
    with pytest.raises(ValueError, match=words):
        condensed_box(**(dict(G=G, M=M, g=g, R=r, bound=bound) | change))
