"""How alike two deltas read one code: by the Jacobians of their outputs, and by the codes that tasks have."""

from itertools import permutations

import numpy as np


def fitted(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two Jacobians (m, d) after the rotation that makes it largest, |A'B|_* / |A| |B| (Procrustes); 0 where one is."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.linalg.svd(a.T @ b, compute_uv=False).sum()) / scale if scale > 0 else 0.0


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Return the linear CKA of two deltas' codes (tasks, d), |A'B|^2 / |A'A| |B'B| of centred columns (Kornblith et al. 2019)."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return float(np.linalg.norm(a.T @ b) ** 2) / scale if scale > 0 else 0.0


def dealt_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean CKA over all orders of the second one's tasks: with few tasks it is well above zero by chance."""
    return float(np.mean([cka(a, b[list(order)]) for order in permutations(range(len(b)))]))
