"""Zeroing controls of a quadratic problem costs what the formula says, with the others kept and with them solved anew."""

import numpy as np
import pytest
from control_problems import ensemble, relative

from theory import ensemble_lq
from theory.ablation import ablation

SETS = ([0, 1, 2], [5], [3, 4, 5, 11], list(range(12)))


@pytest.mark.parametrize("r", [0.05, "diagonal"])
@pytest.mark.parametrize("N", [3, 20])
def test_both_increases_are_those_of_the_problem_solved_anew(N, r):
    G, y0, loss = ensemble(0, N=N, C=3, M=12, loss="quadratic")
    R = np.geomspace(0.02, 1.0, 12) if r == "diagonal" else np.full(12, r)
    best = ensemble_lq(G, y0, loss, R)
    found = ablation(G, best.outputs, loss, R, best.z, SETS)
    for k, chosen in enumerate(SETS):
        z = best.z.copy()
        z[chosen] = 0.0
        kept = float(loss.value(y0 + G @ z).mean()) + 0.5 * float(z @ (R * z)) - best.value
        rest = np.setdiff1d(np.arange(12), chosen)
        anew = ensemble_lq(G[..., rest], y0, loss, R[rest]).value if len(rest) else float(loss.value(y0).mean())
        assert relative(found.kept[k], kept) < 1e-9
        assert relative(found.reoptimised[k], anew - best.value) < 1e-9
    assert relative(found.kept[-1], found.reoptimised[-1]) < 1e-12  # nothing is left to solve anew


def test_the_increases_are_the_forms_in_the_whole_curvature():
    """M is formed, inverted and cut here; softmax curvature, so its null direction is covered."""
    G, y0, loss = ensemble(1, N=8, C=3, M=12)
    z = np.random.default_rng(2).standard_normal(12)
    M = np.einsum("nca,ncd,ndb->ab", G, loss.hessian(y0), G) / 8 + 0.1 * np.eye(12)
    found = ablation(G, y0, loss, 0.1, z, SETS)
    for k, chosen in enumerate(SETS):
        at = np.ix_(chosen, chosen)
        assert relative(found.kept[k], 0.5 * z[chosen] @ M[at] @ z[chosen]) < 1e-12
        assert relative(found.reoptimised[k], 0.5 * z[chosen] @ np.linalg.inv(np.linalg.inv(M)[at]) @ z[chosen]) < 1e-10
        assert relative(found.diagonal[k], 0.5 * np.diag(M)[chosen] @ z[chosen] ** 2) < 1e-12
    assert (found.reoptimised[:-1] < found.kept[:-1]).all()


def test_softmax_increases_are_right_to_second_order():
    """Near y0 the error is third order: shrinking labels' pull (a large penalty) by ten shrinks it by about ten, relatively."""
    G, y0, loss = ensemble(3, N=10, C=3, M=12)
    errors = []
    for r in (10.0, 100.0):
        best = ensemble_lq(G, y0, loss, r)
        z = np.where(np.arange(12) < 4, 0.0, best.z)
        kept = float(loss.value(y0 + G @ z).mean()) + 0.5 * r * float(z @ z) - best.value
        errors.append(relative(ablation(G, best.outputs, loss, r, best.z, [range(4)]).kept[0], kept))
    assert errors[0] < 0.02 and errors[1] < 0.2 * errors[0]


def test_what_does_not_fit_is_refused():
    G, y0, loss = ensemble(4, N=5, C=3, M=6)
    with pytest.raises(ValueError, match="one number per control"):
        ablation(G, y0, loss, 0.1, np.zeros(5), [[0]])
    for chosen in ([], [6], [-1]):
        with pytest.raises(ValueError, match="a set must name controls among 0..5"):
            ablation(G, y0, loss, 0.1, np.zeros(6), [chosen])
