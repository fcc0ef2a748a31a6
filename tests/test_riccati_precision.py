"""How many digits each Riccati form keeps, against 60-digit arithmetic.

Limits are ten times the registered float64 errors of the forms (8 states): other random systems and other BLAS libraries
differ by a few. Terminal cost only with r = 1e-8 is where the forms part: the symmetric recursion keeps 8 digits there,
the square root 12.
"""

import mpmath
import numpy as np
import pytest

import theory.control
from theory import riccati

N, SEEDS, FACTOR = 8, (0, 1, 2), 10
CASES = {  # growth per step, horizon, controls, state cost, control price
    "benign": (1.0, 12, 8, 1.0, 1.0),
    "cheap control": (1.0, 12, 8, 1.0, 1e-6),
    "expanding": (1.6, 24, 2, 1.0, 1.0),
    "terminal only": (1.0, 12, 2, 0.0, 1e-8),
    "contracting": (0.5, 24, 2, 1.0, 1.0),
}
REGISTERED = {
    "benign": dict(cholesky=2e-15, sqrt=2e-15),
    "cheap control": dict(cholesky=1e-14, sqrt=1e-14),
    "expanding": dict(cholesky=4e-14, sqrt=4e-14),
    "terminal only": dict(cholesky=2e-8, sqrt=6e-13, lowrank=6e-13),
    "contracting": dict(cholesky=9e-14, sqrt=9e-14),
}


def system(name, seed):
    growth, T, m, q, r = CASES[name]
    rng = np.random.default_rng(seed)
    A = [X * growth / np.abs(np.linalg.eigvals(X)).max() for X in rng.normal(size=(T, N, N))]
    return A, list(rng.normal(size=(T, N, m))), q * np.eye(N), r * np.eye(m), np.eye(N)


def exact(A, B, Q, R, Qf):
    """P_0 in 60 digits."""
    with mpmath.workdps(60):
        P, Q, R = (mpmath.matrix(x.tolist()) for x in (Qf, Q, R))
        for a, b in zip(reversed(A), reversed(B), strict=True):
            a, b = mpmath.matrix(a.tolist()), mpmath.matrix(b.tolist())
            cross = b.T * P * a
            P = Q + a.T * P * a - cross.T * (mpmath.inverse(R + b.T * P * b) * cross)
        return P


def published(A, B, Q, R, Qf):
    """The recursion as it is usually published: explicit inverse, nothing symmetrised."""
    P = Qf
    for a, b in zip(reversed(A), reversed(B), strict=True):
        P = Q + a.T @ P @ a - a.T @ P @ b @ np.linalg.inv(R + b.T @ P @ b) @ b.T @ P @ a
    return P


def error(P, truth):
    with mpmath.workdps(60):
        return float(mpmath.norm(mpmath.matrix(P.tolist()) - truth) / mpmath.norm(truth))


@pytest.mark.parametrize("name", list(CASES))
def test_digits_kept(name):
    found = {form: [] for form in ("published", *REGISTERED[name])}
    for seed in SEEDS:
        data = system(name, seed)
        truth = exact(*data)
        found["published"].append(error(published(*data), truth))
        for form in REGISTERED[name]:
            found[form].append(error(riccati(*data, form=form).P[0], truth))
    for form, registered in REGISTERED[name].items():
        assert max(found[form]) < FACTOR * registered, (form, found)
    if name == "cheap control":
        assert np.median(found["published"]) > 10 * np.median(found["cholesky"]), found
    if name == "terminal only":
        for worse in ("published", "cholesky"):
            assert np.median(found["sqrt"]) < 1e-4 * np.median(found[worse]), found


def additive(q, r, seed=1):
    rng = np.random.default_rng(seed)
    A = [np.eye(N) + 0.4 * rng.normal(size=(N, N)) / np.sqrt(N) for _ in range(12)]
    return A, [np.eye(N)] * 12, q * np.eye(N), r * np.eye(N), np.eye(N)


@pytest.mark.parametrize("q", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("r", [1e-8, 1e-4, 1.0, 1e2, 1e4, 1e8, 1e12])
def test_the_identity_form_keeps_its_digits_at_every_price(q, r):
    """The gate allows a share 1e-3 to be left of what is subtracted, so 1e3 roundings of a few entries: 1e-12 over 12 steps."""
    data = additive(q, r)
    assert error(riccati(*data, form="identity").P[0], exact(*data)) < 1e-12


def test_the_gate_is_what_keeps_them(monkeypatch):
    """At r = 1e8 the difference of two terms of size r leaves eight digits fewer; without the gate they are lost."""
    data = additive(0.0, 1e8)
    monkeypatch.setattr(theory.control, "_GATE", 0.0)
    assert error(riccati(*data, form="identity").P[0], exact(*data)) > 1e-10
    cheap = additive(0.0, 1e-4)  # and below it the cheap form runs: other rounding
    assert np.any(riccati(*cheap, form="identity").P[0] != riccati(*cheap).P[0])
