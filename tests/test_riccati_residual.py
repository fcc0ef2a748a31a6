"""The regulator substituted back: into the Riccati equation, into the optimality system of the whole horizon, into cost."""

import control_problems as case
import numpy as np
import pytest
import scipy.linalg
from control_problems import definite, plant, relative

from theory import reach, riccati, transition
from theory.linear import root, semidefinite

FORMS = ("cholesky", "sqrt")
ROUND = 1e-11  # a few hundred roundings amplified by conditioning below 1e3


def problem(seed, **sizes):
    A, B = plant(seed, **sizes)
    rng = np.random.default_rng(seed + 100)
    T, n, m = len(A), A[0].shape[-1], B[0].shape[-1]
    weights = dict(Q=[definite(rng, n) for _ in range(T)], R=[definite(rng, m) for _ in range(T)], Qf=definite(rng, n))
    return A, B, weights, dict(affine=rng.normal(size=(T, n)), reference=rng.normal(size=(T + 1, n))), rng.normal(size=n)


@pytest.mark.parametrize("form", FORMS)
def test_the_riccati_equation_holds(form):
    A, B, w, more, _ = problem(0)
    law = riccati(A, B, **w, **more, form=form)
    P = law.P
    for t in range(len(A)):
        S = w["R"][t] + B[t].T @ P[t + 1] @ B[t]
        right = w["Q"][t] + A[t].T @ P[t + 1] @ A[t] - A[t].T @ P[t + 1] @ B[t] @ np.linalg.solve(S, B[t].T @ P[t + 1] @ A[t])
        assert relative(P[t], right) < ROUND
        assert relative(S @ law.K[t], B[t].T @ P[t + 1] @ A[t]) < ROUND


@pytest.mark.parametrize("form", FORMS)
def test_the_closed_loop_solves_the_optimality_system_of_the_whole_horizon(form):
    """The stacked quadratic program, solved as one linear system, has the same controls and the same cost."""
    A, B, w, more, x0 = problem(1)
    law = riccati(A, B, **w, **more, form=form)
    run = law.rollout(x0)
    T, n, m = len(A), 5, 2
    u = np.concatenate(run.controls)
    gradient, hessian = np.zeros(T * m), scipy.linalg.block_diag(*w["R"])
    gradient += hessian @ u
    for t in range(1, T + 1):
        G = np.zeros((n, T * m))
        G[:, : t * m] = reach(A[:t], B[:t])
        W = w["Q"][t] if t < T else w["Qf"]
        gradient += G.T @ W @ (run.states[t] - more["reference"][t])
        hessian += G.T @ W @ G
    assert np.linalg.norm(gradient) < ROUND * np.linalg.norm(hessian, 2) * np.linalg.norm(u)
    assert relative(law.cost(x0), run.cost) < ROUND


def test_no_other_control_is_cheaper():
    A, B, w, more, x0 = problem(2)
    law = riccati(A, B, **w, **more)
    run = law.rollout(x0)
    rng = np.random.default_rng(3)
    for _ in range(20):
        moved = [u + 1e-3 * rng.normal(size=2) for u in run.controls]
        states = [x0]
        for t, u in enumerate(moved):
            states.append(A[t] @ states[-1] + B[t] @ u + more["affine"][t])
        assert law.problem.cost(states, moved) > run.cost


def test_forms_agree():
    """1e-12 as registered for a benign problem."""
    A, B, w, more, x0 = problem(4)
    first, second = (riccati(A, B, **w, **more, form=form) for form in FORMS)
    assert relative(first.P[0], second.P[0]) < 1e-12
    assert relative(first.p[0], second.p[0]) < 1e-12
    assert relative(first.s[0], second.s[0]) < 1e-12
    assert relative(np.concatenate(first.k), np.concatenate(second.k)) < 1e-12


@pytest.mark.parametrize("m", [1, 2, 7])
def test_low_rank_value_equals_the_dense_one(m):
    A, B = plant(5, m=m)
    rng = np.random.default_rng(6)
    C, c, r = rng.normal(size=(2, 5)), rng.normal(size=(6, 5)), rng.normal(size=(7, 5))
    dense, thin = (riccati(A, B, 0.0, 0.3, C.T @ C, affine=c, reference=r, form=form) for form in ("cholesky", "lowrank"))
    assert thin.values[0].shape == (5, 2)
    for t in range(7):
        assert relative(thin.P[t], dense.P[t]) < ROUND
    x0 = rng.normal(size=5)
    assert relative(thin.cost(x0), dense.cost(x0)) < ROUND
    for name in ("K", "k", "p"):
        for found, expected in zip(getattr(thin, name), getattr(dense, name), strict=True):
            assert relative(found, expected) < ROUND


@pytest.mark.parametrize("r", [1e-6, 0.3, 1e6])
def test_the_identity_form_is_the_general_one_with_additive_controls(r):
    """Affine, tracking and linear terms too; 1e-11 covers the gate's loss of three digits."""
    _, _, w, more, x0 = problem(7)
    A, _ = plant(7)
    more["linear"] = np.random.default_rng(8).normal(size=(7, 5))
    laws = [riccati(A, [np.eye(5)] * len(A), w["Q"], r, w["Qf"], **more, form=form) for form in ("cholesky", "identity")]
    for name in ("P", "K", "k", "p", "s"):
        for found, expected in zip(getattr(laws[1], name), getattr(laws[0], name), strict=True):
            assert relative(found, expected) < ROUND
    assert relative(laws[1].rollout(x0).cost, laws[0].cost(x0)) < ROUND
    for t, a in enumerate(A):  # the short form, substituted back
        short = w["Q"][t] + r * a.T @ a - r**2 * a.T @ np.linalg.solve(laws[1].P[t + 1] + r * np.eye(5), a)
        assert relative(laws[1].P[t], short) < ROUND * max(1.0, r)


def test_linear_state_costs_are_references_where_the_weight_is_definite():
    A, B, w, more, x0 = problem(14)
    slopes = [-W @ r for W, r in zip([*w["Q"], w["Qf"]], more["reference"], strict=True)]
    tracking = riccati(A, B, **w, **more)
    for form in FORMS:
        law = riccati(A, B, **w, affine=more["affine"], linear=slopes, form=form)
        assert relative(np.array(law.rollout(x0).controls), np.array(tracking.rollout(x0).controls)) < ROUND
        assert relative(law.cost(x0), law.rollout(x0).cost) < ROUND


@pytest.mark.parametrize("form", ["cholesky", "sqrt", "lowrank", "identity"])
def test_a_batch_is_its_members(form):
    A, B = plant(8, batch=(4,))
    B = [np.broadcast_to(np.eye(5), (4, 5, 5))] * 6 if form == "identity" else B
    q, x0 = (0.0 if form == "lowrank" else 1.0), np.random.default_rng(9).normal(size=(4, 5))
    law = riccati(A, B, q, 0.5, 2.0, form=form)
    run = law.rollout(x0)
    for i in range(4):
        one = riccati([a[i] for a in A], [b[i] for b in B], q, 0.5, 2.0, form=form)
        assert relative(law.P[0][i], one.P[0]) < ROUND
        assert relative(law.cost(x0)[i], one.cost(x0[i])) < ROUND
        assert relative(run.controls[2][i], one.rollout(x0[i]).controls[2]) < ROUND


def test_a_rotation_of_the_state_changes_nothing():
    A, B, w, more, x0 = problem(10)
    V = np.linalg.qr(np.random.default_rng(11).normal(size=(5, 5)))[0]
    turned = riccati(
        [V @ a @ V.T for a in A],
        [V @ b for b in B],
        [V @ q @ V.T for q in w["Q"]],
        w["R"],
        V @ w["Qf"] @ V.T,
        affine=more["affine"] @ V.T,
        reference=more["reference"] @ V.T,
    )
    assert relative(turned.cost(V @ x0), riccati(A, B, **w, **more).cost(x0)) < ROUND


def test_dear_control_is_the_uncontrolled_costate():
    """As R grows, r u -> -B' lambda of the uncontrolled trajectory; the error shrinks like 1/r."""
    A, B, w, _, x0 = problem(12)
    states = [x0]
    for a in A:
        states.append(a @ states[-1])
    lam, wanted = w["Qf"] @ states[-1], []
    for t in reversed(range(len(A))):
        wanted.append(-B[t].T @ lam)
        lam = A[t].T @ lam + w["Q"][t] @ states[t]
    errors = []
    for r in (1e4, 1e6):
        run = riccati(A, B, w["Q"], r, w["Qf"]).rollout(x0)
        errors.append(relative(r * np.array(run.controls), wanted[::-1]))
    assert errors[1] < 1e-3 and 50 < errors[0] / errors[1] < 200


def test_the_long_horizon_value_solves_the_algebraic_equation():
    A, B = np.array([[0.9, 0.2], [-0.1, 0.7]]), np.array([[0.0], [1.0]])
    P = scipy.linalg.solve_discrete_are(A, B, case.Q, np.array([[case.R]]))
    assert relative(riccati([A] * 300, [B] * 300, case.Q, case.R, case.QF).P[0], P) < ROUND


def test_zero_control_effect_leaves_the_transition():
    A, _ = plant(13)
    law = riccati(A, [np.zeros((5, 1))] * len(A), 0.0, 1.0, 1.0)
    assert relative(law.P[0], transition(A).T @ transition(A)) < ROUND


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(R=0.0), "positive definite"),
        (dict(Qf=-1.0), "semi-definite"),
        (dict(form="inverse"), "form must be one of"),
        (dict(form="lowrank"), "needs Q = 0"),
        (dict(form="identity"), "needs B = I"),
        (dict(form="identity", B=[np.eye(2)] * 3, R=np.diag([1.0, 2.0])), "needs R = r I"),
        (dict(Q=np.nan), "Q at step 0"),
        (dict(Q=np.array([[1.0, 2.0], [2.0, 1.0]])), "semi-definite"),
        (dict(R=np.array([[-1.0]])), "positive definite"),
        (dict(linear=np.zeros((3, 2))), "linear must be 4 vectors"),
        (dict(affine=np.zeros((2, 2))), "affine must be 3 vectors"),
        (dict(Q=np.eye(3)), "Q at step 0"),
        (dict(Q=[np.eye(2)]), "list of 3"),
        (dict(B=case.B[:2]), "one matrix per step"),
        (dict(Qf=np.array([[1.0, 1.0], [0.0, 1.0]])), "symmetric"),
    ],
)
def test_wrong_problems_are_refused(change, words):
    data = dict(A=case.A, B=case.B, Q=case.Q, R=case.R, Qf=case.QF) | change
    with pytest.raises(ValueError, match=words):
        riccati(**data)


@pytest.mark.parametrize("rank", [0, 1, 4, 12])
def test_roots_and_semidefinite_checks_agree_with_the_spectrum(rank):
    """A weight of any rank is taken apart and taken; shifted below zero by 1e-9 of its size it is refused."""
    C = np.random.default_rng(rank).normal(size=(rank, 12))
    X = C.T @ C
    Z = root(X)
    assert Z.shape == (12, max(rank, 1))
    assert np.abs(Z @ Z.T - X).max() <= 1e-14 * np.abs(X).max()
    assert semidefinite([X], "X")[0] is X
    if 0 < rank < 12:
        with pytest.raises(ValueError, match="semi-definite"):
            semidefinite([X - 1e-9 * np.linalg.norm(X, 2) * np.eye(12)], "X")
