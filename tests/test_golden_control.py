"""Nine control problems whose answers two independent solvers agree on (relative 1e-9 unless a solver limits it)."""

import json

import control_problems as case
import numpy as np
import pytest
from control_problems import relative

from theory import (
    Process,
    expected_cost,
    game,
    gramian,
    induced_gain,
    minimum_energy,
    output_lq,
    reach,
    riccati,
    shoot,
)
from theory.convex import bounded_control

TIGHT = 1e-9
DENSE = ("cholesky", "sqrt")


def test_least_energy():
    G = [[0.4, 0.8, 0.5], [1.25, 0.3, 1.0]]
    found = minimum_energy(case.A, case.B, [2.0, 1.0], case.X0)
    assert relative(reach(case.A, case.B), G) < TIGHT
    assert relative(gramian(case.A, case.B), [[1.05, 1.24], [1.24, 2.6525]]) < TIGHT
    assert relative(found.z, [0.5318731087553351, 2.1456483837999247, 0.9414640989158531]) < TIGHT
    assert relative(found.energy, 5.773050640267732) < TIGHT
    assert found.converged


@pytest.mark.parametrize("form", DENSE)
def test_regulator(form):
    law = riccati(case.A, case.B, case.Q, case.R, case.QF, form=form)
    assert relative(law.P[0], [[2.3739640633228216, 1.3180640111897162], [1.3180640111897162, 1.9393238564783515]]) < TIGHT
    assert relative(law.P[1], [[1.51077675134719, -0.48949037721324], [-0.48949037721324, 1.5513056197074675]]) < TIGHT
    assert relative(law.P[2], [[2.0016949152542374, -0.6823728813559322], [-0.6823728813559322, 1.2793220338983053]]) < TIGHT
    gains = [
        [[-0.27950026066552786, 0.6062992264431771]],
        [[1.0641262509622786, 0.14464973056197075]],
        [[0.6101694915254238, 0.7457627118644068]],
    ]
    assert relative(law.K, gains) < TIGHT
    run = law.rollout(case.X0)
    assert relative(np.ravel(run.controls), [0.8857994871087049, 0.0165190734197647, 0.10992788400252143]) < TIGHT
    assert relative([law.cost(case.X0), run.cost], [0.8385799487108704] * 2) < TIGHT


@pytest.mark.parametrize("form", DENSE)
def test_affine_tracking(form):
    law = riccati(case.A, case.B, case.Q, case.R, case.QF, affine=case.AFFINE, reference=case.REFERENCE, form=form)
    run = law.rollout(case.X0)
    assert relative([law.cost(case.X0), run.cost], [2.359948370752538] * 2) < TIGHT
    assert relative(np.ravel(run.controls), [0.9716569975726893, 1.608202963938484, 0.756982363537421]) < TIGHT
    assert relative(np.ravel(law.k), [-0.08585751046398435, -1.68158583525789, -1.7457627118644068]) < TIGHT
    assert relative(law.p[0], [-1.3178708439672853, -1.335042346060082]) < TIGHT
    assert relative(run.states[-1], [1.5537163519, 1.2590144997]) < 1e-9  # stated to ten digits


def test_bounded_control():
    """1e-7: the interior-point oracle that made the number stops there."""
    found = bounded_control(case.A, case.B, case.Q, case.R, case.QF, case.X0, 1.1, affine=case.AFFINE, reference=case.REFERENCE)
    assert relative(np.ravel(found.controls), [1.0617049365831448, 1.1, 0.9724456598617542]) < 1e-7
    assert relative(found.cost, 2.6369774046395444) < 1e-7
    law = riccati(case.A, case.B, case.Q, case.R, case.QF, affine=case.AFFINE, reference=case.REFERENCE)
    x, states, controls = case.X0, [case.X0], []
    for t in range(3):  # the saturated regulator is worse: clipping is not optimal
        controls.append(np.clip(-law.K[t] @ x - law.k[t], -1.1, 1.1))
        x = case.A[t] @ x + case.B[t] @ controls[-1] + case.AFFINE[t]
        states.append(x)
    assert relative(law.problem.cost(states, controls), 2.64426452165937) < TIGHT
    assert law.problem.cost(states, controls) > found.cost + 0.007


def test_disturbance_game():
    data = (case.A, case.B, case.D, case.Q, case.R, case.QF)
    best = game(*data)
    assert relative([best.gamma, best.gain], [1.2410360431720056] * 2) < TIGHT
    assert relative(induced_gain(*data, riccati(*data[:2], *data[3:]).K), 1.2431799335888993) < TIGHT
    assert relative(game(*data, gamma=1.1 * best.gamma).gain, 1.2411264142084) < TIGHT


@pytest.mark.parametrize("form", DENSE)
def test_long_horizon_limit(form):
    A, B = np.array([[0.9, 0.2], [-0.1, 0.7]]), np.array([[0.0], [1.0]])
    law = riccati([A] * 300, [B] * 300, case.Q, case.R, case.QF, form=form)
    assert relative(law.P[0], [[3.4290306149166065, 0.6137835865915002], [0.6137835865915002, 0.7348431703956424]]) < TIGHT
    assert relative(law.K[0], [[0.5123008073002208, 0.6815548925982926]]) < TIGHT
    W = [[1.1604395604395605, 0.4043956043956043], [0.40439560439560424, 1.8725274725274723]]
    assert relative(gramian([A] * 300, [B] * 300), W) < TIGHT


@pytest.mark.parametrize("start", [0.0, 0.5, -0.5])
def test_nonlinear_extremal(start):
    """1e-6 in u: the reference is a quasi-Newton answer; ours is held to stationarity at 1e-12 beside it."""
    process = Process(
        step=lambda t, x, u: np.tanh(1.5 * x) + u,
        jacobians=lambda t, x, u: (np.diag(1.5 / np.cosh(1.5 * x) ** 2), np.eye(1)),
        terminal=lambda x: (0.5 * float((x - 1.5) @ (x - 1.5)), x - 1.5),
        R=0.05,
        horizon=4,
    )
    found = shoot(process, [0.2], np.full(4, start))
    u = [0.12102610872886024, 0.11569222208985647, 0.18327840767700945, 0.5820377461335744]
    assert found.converged and found.curvature > 0
    assert relative(found.adjoint.cost, 0.010433233198357532) < TIGHT
    assert relative(found.u.ravel(), u) < 1e-6
    costates = [-0.00605130654706, -0.00578461218472, -0.00916392178813, -0.0291018951645]
    assert relative(found.adjoint.costates[1:].ravel(), costates) < 1e-6
    assert np.abs(0.05 * found.u + found.adjoint.costates[1:]).max() < 1e-12


def test_output_form():
    found = output_lq([[[-0.85]], [[0.5]], [[-0.5]]], [[10.0]], [10.0 * (0.85 - 1.0)], 0.2)
    u = [-0.10261569416499006, 0.060362173038229446, -0.060362173038229446]
    assert relative(np.ravel(found.u), u) < TIGHT
    assert relative(found.value + 0.5 * 10.0 * 0.15**2, 0.0018108651911469128) < TIGHT
    # the same number from the state: readout C = [1, -1], terminal cost 10 C'C, no low-rank shortcut and with it
    C = np.array([[1.0, -1.0]])
    free = case.A[2] @ case.A[1] @ case.A[0] @ case.X0
    assert relative(C @ free, [0.85]) < TIGHT
    target = C[0] / 2.0  # a state whose output is 1
    for form in ("cholesky", "sqrt", "lowrank"):
        law = riccati(case.A, case.B, 0.0, case.R, 10.0 * C.T @ C, reference=[[0, 0]] * 3 + [target], form=form)
        assert relative(np.ravel(law.rollout(case.X0).controls), u) < TIGHT
        assert relative(law.rollout(case.X0).cost, 0.0018108651911469128) < TIGHT


@pytest.mark.parametrize("form", DENSE)
def test_value_of_feedback(form):
    law = riccati(case.A, case.B, case.Q, case.R, case.QF, form=form)
    data = (case.A, case.B, case.Q, case.R, case.QF, case.X0, 0.04)
    closed = expected_cost(*data, law.K, law.k)
    opened = expected_cost(*data, [0.0 * K for K in law.K], [-u for u in law.rollout(case.X0).controls])
    assert relative([closed, opened], [1.0654419351150144, 1.2394799487108705]) < TIGHT
    assert relative(opened - closed, 0.17403801359585613) < TIGHT


def test_the_stored_golden_numbers_are_these(shared):
    stored = json.loads((shared / "golden" / "control.json").read_text(encoding="utf-8"))
    law = riccati(case.A, case.B, case.Q, case.R, case.QF)
    assert relative(law.cost(case.X0), stored["G2"]["J"]) < TIGHT
    assert relative(minimum_energy(case.A, case.B, [2.0, 1.0], case.X0).energy, stored["G1"]["E"]) < TIGHT
    assert relative(game(case.A, case.B, case.D, case.Q, case.R, case.QF).gamma, stored["G5"]["gamma"]) < TIGHT
