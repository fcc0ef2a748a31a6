"""The functional-space view: what the tangent kernel of a delta says about the tuned function.

One operator, two readings: K = G R^-1 G' is the tangent kernel here and the output Gramian in the control view. The
linearised optimum itself is `theory.ensemble.ensemble_lq`.
"""

from dataclasses import replace

import numpy as np

from theory.ensemble import Control, ensemble_lq, problem, roots


def tangent_kernel(G, r):
    """Return the kernel K = G R^-1 G' (N C, N C), rows ordered example by example; G (N, C, M), r a number or (M,)."""
    G = np.asarray(G, float)
    G, _, R = problem(G, np.zeros(G.shape[:2]), r)
    X = (G / np.sqrt(R)).reshape(-1, G.shape[2])
    return X @ X.T


def curvature_eigenvalues(kernel, outputs, loss):
    """Return the nonzero eigenvalues, largest first, of the Gauss-Newton curvature G'HG, H the mean-loss Hessian at `outputs`.

    They equal those of S' K S with K = G G' (N C, N C) the kernel and H = S S', at most N (C - 1) for the softmax, so
    no M x M matrix is formed. outputs: (N, C). Raises ValueError for a kernel of another size.
    """
    X = _gauss_newton_gram(kernel, outputs, loss)[0]
    values = np.linalg.eigvalsh(X)[::-1]
    return values[values > len(values) * np.finfo(float).eps * max(values[0], 0.0)]


def gradient_components(kernel, outputs, loss):
    """Return the eigenvalues of `curvature_eigenvalues`, largest first, and the mean loss's gradient along their eigenvectors.

    With F = S'G the factor of the curvature F'F = V L V' and s the slopes of the mean loss, V'G's = L^-1/2 U'(S'K s) where
    F F' = U L U'. Returns two vectors of one length. Shapes and errors as in `curvature_eigenvalues`.
    """
    X, half = _gauss_newton_gram(kernel, outputs, loss)
    values, U = np.linalg.eigh(X)
    values, U = values[::-1], U[:, ::-1]
    kept = values > 1e3 * len(values) * np.finfo(float).eps * max(values[0], 0.0)
    slope = loss.gradient(np.asarray(outputs, float)).ravel() / len(outputs)
    along = U.T @ (half.reshape(len(U), -1) @ slope)
    return values[kept], along[kept] / np.sqrt(values[kept])


def _gauss_newton_gram(kernel, outputs, loss):
    """S'KS (N c, N c), which shares its nonzero eigenvalues with the curvature, and S'K (N, c, N, C); H = S S'."""
    outputs, kernel = np.asarray(outputs, float), np.asarray(kernel, float)
    if outputs.ndim != 2 or kernel.shape != (outputs.size, outputs.size):
        raise ValueError(f"kernel must be G G' of shape (N C, N C) for outputs (N, C), got {kernel.shape} and {outputs.shape}")
    N, C = outputs.shape
    E = loss.basis(C)
    S = E @ roots(E.T @ loss.hessian(outputs) @ E / N)  # (N, C, c)
    half = np.einsum("nca,ncmd->namd", S, kernel.reshape(N, C, N, C))
    X = np.einsum("namd,mdb->namb", half, S).reshape(N * S.shape[2], -1)
    return 0.5 * (X + X.T), half


def predict(G, y0, control: Control):
    """Return the linearised outputs y0 + G z (N, C) of new examples under a control found on others; G (N, C, M)."""
    G, y0, _ = problem(G, y0, 1.0)
    return y0 + G @ control.z


def gradient_rival(G, y0, loss, r) -> Control:
    """Return the best step along the first gradient, the cheap rival of the optimum.

    z = s d with d = -(1/N) sum_i G_i' grad l_i(y0_i) and s minimising the same linearised objective as `ensemble_lq`:
    what one perfectly scaled gradient step predicts. Shapes and errors as there.
    """
    G, y0, R = problem(G, y0, r)
    d = -np.tensordot(loss.gradient(y0) / len(y0), G, 2)
    size = float(d @ (R * d))
    if size == 0.0:
        return ensemble_lq(G, y0, loss, R)  # no gradient: the optimum is z = 0
    line = ensemble_lq((G @ d)[..., None] / np.sqrt(size), y0, loss, 1.0)
    z = line.z[0] / np.sqrt(size) * d
    gradient = np.tensordot(line.costate, G, 2) + R * z
    return replace(line, z=z, gradient_norm=float(np.linalg.norm(gradient)))


def participation_ratio(eigenvalues) -> float:
    """Return the number of directions a spectrum effectively uses, (sum l)^2 / sum l^2; raises ValueError if all are zero."""
    values = _spectrum(eigenvalues)
    if not values.any():
        raise ValueError("the spectrum is zero everywhere; a participation ratio needs one positive eigenvalue")
    values = values / values.max()
    return float(values.sum() ** 2 / (values**2).sum())


def degrees_of_freedom(eigenvalues, ridge) -> float:
    """Return the effective degrees of freedom sum_i l_i / (l_i + ridge) that a ridge leaves to a kernel; ridge > 0."""
    values = _spectrum(eigenvalues)
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    return float((values / (values + ridge)).sum())


def _spectrum(eigenvalues):
    values = np.asarray(eigenvalues, float)
    if values.ndim != 1 or not np.all(np.isfinite(values)):
        raise ValueError(f"eigenvalues must be a finite vector, got shape {values.shape}")
    if values.size and values.min() < -1e-8 * np.abs(values).max():
        raise ValueError(f"eigenvalues must not be negative, least is {values.min():.3g}; pass a semi-definite curvature")
    return np.maximum(values, 0.0)
