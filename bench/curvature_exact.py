"""What the bench "curvature" is about: the parameters under study, and exact answers about them in float64.

Products are by double backward, eigenvalues by ARPACK with their residuals checked, one module's spectrum is that of its dense
Hessian. No instrument of the lab is used for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import LinearOperator, eigsh

from bench.curvature_peers import host, kept_product
from bench.subjects import Size, Subject, subject
from bench.timing import Peer
from probes.curvature.hessian import hessian

SIZE = Size()
LORA = ("*.A", "*.B")


def parts(size: Size) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return what is differentiated: label -> (delta in the network, globs of the parameters under study)."""
    return {
        "LoRA": ("lora", LORA),
        "one module": ("lora", (f"*layer.{size.blocks - 1}.*query.[AB]",)),
        "adapters": ("adapter", ("*.down.*", "*.up.*")),
        "prefix": ("prefix", ("*.keys", "*.values")),
        "all": ("lora", ("*",)),
    }


def studied(part: str, count: int, classes: int, size: Size, steps: int) -> Subject:
    """Return the trained classifier with one of `parts` under study."""
    return subject(count, classes, *parts(size)[part], size=size, steps=steps)


def operator(s: Subject):
    """Return our Hessian of a subject's loss."""
    return hessian(s.loss, s.params, s.batches)


def gradient_peer(s: Subject, line: float | None = None) -> Peer:
    """Return one gradient as the peer to be compared with; line: how many of them ours may take."""
    run = waited(next(iter(s.params.values())).device.type, s.gradient)
    return Peer("one gradient", run, host, tolerance=None, line=None if line is None else 1 / line)


def waited(device: str, run: Callable[[], object]) -> Callable[[], object]:
    """Return the call, ended by the device's own end when it runs elsewhere."""
    if device == "cpu":
        return run

    def whole():
        found = run()
        torch.cuda.synchronize()
        return found

    return whole


@lru_cache(maxsize=4)
def exact_matrix(part: str, count: int, classes: int, size: Size = SIZE, steps: int = 50) -> np.ndarray:
    """Return the dense Hessian (D, D) in float64, one double backward a column through a kept graph."""
    product, dimension = _kept(studied(part, count, classes, size, steps).to(torch.float64))
    rows = np.stack([product(e) for e in np.eye(dimension)])
    return (rows + rows.T) / 2


def exact_extremes(s: Subject, k: int) -> np.ndarray:
    """Return the k eigenvalues (k,) that are largest in magnitude, in decreasing order of it, by ARPACK in float64.

    Raises RuntimeError when a residual |A x - theta x| exceeds 1e-8 of the largest eigenvalue.
    """
    product, dimension = _kept(s.to(torch.float64))
    start = np.random.default_rng(1).standard_normal(dimension)
    operator = LinearOperator((dimension, dimension), product, dtype=float)
    values, vectors = eigsh(operator, k, which="LM", ncv=min(dimension, max(4 * k, 40)), tol=1e-10, v0=start)
    residual = max(np.linalg.norm(product(x) - value * x) for value, x in zip(values, vectors.T, strict=True))
    if residual > 1e-8 * np.abs(values).max():
        raise RuntimeError(f"the reference eigenvalues have a residual of {residual:.1e}: no reference")
    return values[np.argsort(-np.abs(values))]


def _kept(s: Subject) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """v -> H v through one kept graph, without any of the lab's instruments, and D."""
    product = kept_product(s)
    return lambda v: host(product(torch.as_tensor(v))), s.dimension


def exact_gauss_newton(s: Subject) -> np.ndarray:
    """Return all nonzero eigenvalues of the Gauss-Newton matrix in float64: J text by text, sqrt(diag p - p p') J / sqrt(N)."""
    s = s.to(torch.float64)
    ((tokens, _),) = s.batches
    params, rows = list(s.params.values()), []
    for text in tokens:
        y = s.model(text[None])[0]
        J = torch.stack([torch.cat([x.reshape(-1) for x in torch.autograd.grad(v, params, retain_graph=True)]) for v in y])
        p = y.detach().softmax(0)
        rows.append(p.sqrt()[:, None] * (J - p @ J))  # sum_c p_c (J_c - p'J)(J_c - p'J)' is J'(diag p - pp')J
    values = torch.linalg.svdvals(torch.cat(rows)) ** 2 / len(tokens)
    return host(values[: len(tokens) * (len(y) - 1)])


def relative_errors(found: np.ndarray, exact: np.ndarray, tie: float) -> np.ndarray:
    """Return |found - exact| / |exact| of k eigenvalues against a longer exact list, largest magnitudes first in it.

    They are matched one to one, which counts multiplicities and signs: every exact value that is larger than the k-th by
    more than the relative `tie` must be matched, and none that is smaller by more may be.
    """
    last = np.abs(exact[len(found) - 1])
    exact = exact[np.abs(exact) >= last * (1 - tie)]
    cost = np.abs(found[:, None] - exact) / np.abs(exact)
    must = np.abs(exact) > last * (1 + tie)
    rows, columns = linear_sum_assignment(np.minimum(cost, 1e3) - 1e6 * must)
    return cost[rows, columns]


def graded(exact: np.ndarray, tol: float) -> Callable[[object], np.ndarray]:
    """Return eigenvalues as 1 + their relative errors, to be compared with ones."""
    return lambda values: 1 + relative_errors(host(values).astype(float), exact, tol)
