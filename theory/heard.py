"""What an ensemble's law hears when noise is added to the states that it reads, and to nothing else.

>>> x = np.array([-1.0, 1.0])  # two examples, one token: y_i = k + K (x_i + n) is to meet the targets 0 and 2
>>> seen = Ensemble((np.ones((2, 1, 1, 1)),), (x.reshape(2, 1, 1),), np.zeros((2, 1)), np.ones((2, 1)))
>>> draws = np.array([1.0, 1.0, -1.0, -1.0]).reshape(4, 1, 1, 1).repeat(2, axis=1) * np.ones((4, 2, 1, 1))
>>> law = heard_gain(seen, Quadratic(np.array([[0.0], [2.0]])), 1.0, [1.0], [draws])
>>> law.K[0].round(9).tolist()  # E a x / (1 + r) (E x^2 + sigma^2)
[[0.25]]
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from theory.loss import CrossEntropy, Quadratic
from theory.shared_gain import Ensemble, SharedLaw, energy_price, shared_gain


def heard_gain(
    ensemble: Ensemble, loss: CrossEntropy | Quadratic, r: float, sigmas: Sequence[float], noise: Sequence[np.ndarray]
) -> SharedLaw:
    """Return the law u = k_t + K_t (phi_t + n_t) of the least mean over noise of loss and energy, outputs draw after draw.

    K_t = -(1/r) E_(i,n)<G_it' lambda_i (phi_it + n)'> (Sigma_t + sigma_t^2 I)^-1: noise adds to the second moment, and costates
    lambda_i are met under what the law itself passes on of it. Source: derived from `shared_gain`, whose examples the draws are.
    sigmas: the standard deviation of each port's white noise; noise: draws (J, N, T, q) of it per port. Raises ValueError for
    draws that do not fit, and as `shared_gain` does.
    """
    shapes = [np.shape(n) for n in noise]
    if len({shape[:1] for shape in shapes}) != 1 or [shape[1:] for shape in shapes] != [f.shape for f in ensemble.phi]:
        raise ValueError(f"expected as many draws of {[f.shape for f in ensemble.phi]} at every port, got {shapes}")
    J = len(noise[0])

    def again(x: np.ndarray) -> np.ndarray:
        return np.tile(x, (J, *[1] * (x.ndim - 1)))

    phi = tuple((f + n).reshape(-1, *f.shape[1:]) for f, n in zip(ensemble.phi, noise, strict=True))
    many = Ensemble(tuple(again(g) for g in ensemble.G), phi, again(ensemble.y0), again(ensemble.weights))
    numbers = {name: again(np.asarray(value)) for name, value in vars(loss).items()}
    return shared_gain(many, replace(loss, **numbers), r, energy_price(ensemble, sigmas))
