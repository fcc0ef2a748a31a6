"""How many digits each Riccati form keeps, against 60-digit arithmetic.

Thresholds are the registered float64 errors of the forms on problems of this kind (8 states, three seeds): benign, cheap
control and expanding 1e-13; terminal cost only with r = 1e-8: symmetric recursion about 1e-8, square root 6e-13.
"""

import mpmath
import numpy as np
import pytest

from theory import riccati

N, SEEDS = 8, (0, 1, 2)
CASES = {  # growth per step, horizon, controls, state cost, control price
    "benign": (1.0, 12, 8, 1.0, 1.0),
    "cheap control": (1.0, 12, 8, 1.0, 1e-6),
    "expanding": (1.6, 24, 2, 1.0, 1.0),
    "terminal only": (1.0, 12, 2, 0.0, 1e-8),
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


def errors(name):
    out = []
    for seed in SEEDS:
        data = system(name, seed)
        truth = exact(*data)
        forms = {"published": published(*data)}
        for form in ("cholesky", "sqrt") + (("lowrank",) if CASES[name][3] == 0 else ()):
            forms[form] = riccati(*data, form=form).P[0]
        with mpmath.workdps(60):
            out.append({form: float(mpmath.norm(mpmath.matrix(P.tolist()) - truth) / mpmath.norm(truth))
                        for form, P in forms.items()})
    return out


@pytest.mark.parametrize("name", list(CASES))
def test_digits_kept(name):
    found = errors(name)
    median = {form: float(np.median([e[form] for e in found])) for form in found[0]}
    assert median["cholesky"] < median["published"], median
    assert max(e["sqrt"] for e in found) < 6e-13, found
    if name == "terminal only":
        assert max(e["lowrank"] for e in found) < 6e-13, found
        assert max(e["cholesky"] for e in found) < 1e-7, found
        assert median["sqrt"] < 1e-4 * median["cholesky"], median
    else:
        assert max(e["cholesky"] for e in found) < 1e-13, found
