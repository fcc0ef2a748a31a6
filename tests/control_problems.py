"""Linear systems and ensembles the laws of the theory room are tested on."""

import numpy as np

from theory import CrossEntropy, Process, Quadratic

# the golden system: three steps, two states, one control
A = tuple(np.array(x, float) for x in ([[1, 1], [0, 1]], [[1, 0.5], [-0.5, 1]], [[0.8, 0], [0.3, 1.1]]))
B = tuple(np.array(x, float)[:, None] for x in ([0, 1], [1, 0], [0.5, 1]))
D = tuple(np.array(x, float)[:, None] for x in ([1, 0], [0.5, 0.5], [0.1, 0.2]))
Q, R, QF, X0 = np.diag([1.0, 0.5]), 0.2, np.diag([3.0, 2.0]), np.array([1.0, -1.0])
AFFINE = ([0.1, -0.2], [0.0, 0.3], [-0.1, 0.0])
REFERENCE = ([0, 0], [1, 0], [1, 1], [2, 1])


def definite(rng, n, floor=0.1):
    """A random symmetric positive definite matrix."""
    X = rng.normal(size=(n, n))
    return X @ X.T / n + floor * np.eye(n)


def plant(seed, *, n=5, m=2, T=6, batch=()):
    """Random A, B lists near the identity, as residual layers are."""
    rng = np.random.default_rng(seed)
    A = [np.eye(n) + 0.4 * rng.normal(size=(*batch, n, n)) / np.sqrt(n) for _ in range(T)]
    return A, [rng.normal(size=(*batch, n, m)) for _ in range(T)]


def residual_network(seed, n=3, m=2, T=4):
    """x + tanh(W x + b) + B u with a quadratic score and a quartic stage cost."""
    rng = np.random.default_rng(seed)
    W, b, B = 0.5 * rng.normal(size=(T, n, n)), 0.2 * rng.normal(size=(T, n)), rng.normal(size=(T, n, m))
    target = rng.normal(size=n)

    def step(t, x, u):
        return x + np.tanh(W[t] @ x + b[t]) + B[t] @ u

    def jacobians(t, x, u):
        return np.eye(n) + (1 - np.tanh(W[t] @ x + b[t]) ** 2)[:, None] * W[t], B[t]

    return Process(
        step,
        jacobians,
        lambda x: (0.5 * float((x - target) @ (x - target)), x - target),
        definite(rng, m),
        T,
        stage=lambda t, x: (0.01 * float(np.sum(x**4)), 0.04 * x**3),
    ), rng.normal(size=n)


def ensemble(seed, *, N=12, C=3, M=8, loss="cross-entropy"):
    """A random response G (N, C, M), outputs y0 (N, C) and a loss, with a decaying spectrum as real responses have."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(N, C, M)) * np.arange(1, M + 1) ** -0.5
    y0 = rng.normal(size=(N, C))
    if loss == "cross-entropy":
        return G, y0, CrossEntropy(rng.integers(0, C, N))
    return G, y0, Quadratic(rng.normal(size=(N, C)), definite(rng, C))


def relative(found, expected):
    """The largest error relative to the largest expected entry."""
    expected = np.asarray(expected, float)
    return float(np.abs(np.asarray(found, float) - expected).max() / np.abs(expected).max())
