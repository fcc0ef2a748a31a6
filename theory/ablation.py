"""What it costs to switch off part of a control: the quadratic model of the ensemble problem at its optimum."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from theory.ensemble import problem, roots


@dataclass(frozen=True, eq=False)
class Ablation:
    """The predicted increase of the objective for each set (k,): with the other controls kept, and with them solved anew.

    diagonal: the first with M replaced by its diagonal, the saliency of optimal brain damage (LeCun et al. 1990).
    """

    kept: np.ndarray
    reoptimised: np.ndarray
    diagonal: np.ndarray


def ablation(G, outputs, loss, r, z, sets: Sequence[Sequence[int]]) -> Ablation:
    """Return how much the objective (1/N) sum_i l_i(y0_i + G_i z) + 1/2 z'Rz rises when the controls of a set S are zeroed.

    With M = (1/N) sum_i G_i' H_i G_i + R and H_i the loss's curvature at `outputs`,
        kept         1/2 z_S' M_SS z_S,
        reoptimised  1/2 z_S' [(M^-1)_SS]^-1 z_S = 1/2 z_S' (M_SS - M_SE M_EE^-1 M_ES) z_S, E all other controls,
    exact for a quadratic loss at its optimum z, second order otherwise. With X = H^1/2 G / sqrt(N) and v = X_S z_S the second
    is 1/2 v'(I + X_E R_E^-1 X_E')^-1 v + 1/2 z_S' R_S z_S. Source: derived, by eliminating z_E.
    G (N, C, M), outputs (N, C), r a number or (M,), z (M,), sets: positions in z. Raises ValueError for shapes that do not
    fit or a set that is empty or leaves the control.
    """
    G, outputs, R = problem(G, outputs, r)
    z = np.asarray(z, float)
    N, C, M = G.shape
    if z.shape != (M,):
        raise ValueError(f"z must hold one number per control, ({M},), got shape {z.shape}")
    E = loss.basis(C)
    S = E @ roots(E.T @ loss.hessian(outputs) @ E / N)
    X = (np.swapaxes(S, 1, 2) @ G).reshape(-1, M)
    whole = np.eye(len(X)) + (X / R) @ X.T
    curvature = np.sum(X**2, axis=0) + R
    found = []
    for chosen in sets:
        at = np.unique(np.asarray(chosen, int))
        if not len(at) or at[0] < 0 or at[-1] >= M:
            raise ValueError(f"a set must name controls among 0..{M - 1}, got {list(chosen)}")
        moved, energy = X[:, at] @ z[at], float(z[at] @ (R[at] * z[at]))
        rest = cho_factor(whole - (X[:, at] / R[at]) @ X[:, at].T, lower=True)
        found.append((moved @ moved + energy, moved @ cho_solve(rest, moved) + energy, curvature[at] @ z[at] ** 2))
    return Ablation(*(0.5 * np.array(found).T))
