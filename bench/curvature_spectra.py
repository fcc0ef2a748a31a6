"""Eigenvalues, spectral densities and traces of a network's curvature beside other packages.

The error of eigenvalues is the largest relative one over all that were asked for, matched with sign and multiplicity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from bench import curvature_peers as peers
from bench.curvature_exact import (
    SIZE,
    exact_extremes,
    exact_gauss_newton,
    exact_matrix,
    graded,
    gradient_peer,
    operator,
    studied,
    waited,
)
from bench.subjects import Size, Subject
from bench.timing import Amount, Contest, Peer, Row, weigh
from probes.curvature.density import density
from probes.curvature.hessian import hessian
from probes.curvature.spectrum import gauss_newton_spectrum, top_eigenpairs
from probes.curvature.trace import trace


def top10(
    *,
    problems=(("one module", 2, 16), ("LoRA", 2, 16), ("LoRA", 2, 64)),
    k: int = 10,
    tol: float = 1e-3,
    size: Size = SIZE,
    steps: int = 50,
) -> Iterator[Contest]:
    """Compare the ten eigenvalues of largest magnitude, making the operator included."""
    for part, classes, count in problems:
        s = studied(part, count, classes, size, steps)
        if part == "one module":
            values = np.linalg.eigvalsh(exact_matrix(part, count, classes, size, steps))
            exact = values[np.argsort(-np.abs(values))]
        else:
            exact = exact_extremes(s, k + 4)
        yield top(s, f"top {k}, {part} {s.dimension}, C={classes} N={count}", exact, k, tol, part == "LoRA", count <= 16)


def top(
    s: Subject, problem: str, exact: np.ndarray, k: int, tol: float, lines: bool, slow: bool, clock: str = "process_time"
) -> Contest:
    """Return the contest of the k eigenvalues largest in magnitude, to a relative `tol`."""
    answer = graded(exact, tol)
    rivals = [
        Peer("curvlinops and eigsh", peers.curvlinops_eigsh(s, k, tol), answer, tol, line=3.0 if lines else None),
        Peer(f"eigenthings, {2 * k} steps", peers.eigenthings_lanczos(s, k, tol), answer, tol, note="its default"),
        Peer(
            f"eigenthings, {5 * k} steps",
            peers.eigenthings_lanczos(s, k, tol, min(5 * k, s.dimension)),
            answer,
            tol,
            line=3.0 if lines else None,
        ),
    ]
    if slow:
        rivals.append(Peer("PyHessian", peers.pyhessian_eigenvalues(s, k, tol), answer, tol, note="power iteration"))
    return Contest(
        problem,
        "top_eigenpairs",
        waited(next(iter(s.params.values())).device.type, lambda: top_eigenpairs(operator(s), k, tol=tol)),
        lambda made: answer(made.values),
        (gradient_peer(s, 40 if lines else None), *rivals),
        np.ones(k),
        1e-4,
        clock,
    )


def densities(
    *,
    problems=(("one module", 2, 16), ("LoRA", 2, 16)),
    probes: int = 10,
    lanczos: int = 50,
    fewer: int = 2,
    size: Size = SIZE,
    steps: int = 50,
) -> Iterator[Contest]:
    """Compare the spectral density; where the exact spectrum is known, its error is Wasserstein-1 over the spectrum's range."""
    for part, classes, count in problems:
        s = studied(part, count, classes, size, steps)
        whole = part == "one module"
        exact = np.linalg.eigvalsh(exact_matrix(part, count, classes, size, steps)) if whole else exact_extremes(s, 10)
        low, high = exact.min(), exact.max()

        def answer(rule, whole=whole, exact=exact, width=high - low) -> np.ndarray:
            nodes, weights = (np.ravel(peers.host(x)) for x in rule)
            there = np.isfinite(nodes)
            distance = wasserstein_distance(nodes[there], exact, weights[there]) if whole else 0.0
            return np.array([1 + distance / width])

        tolerance, share = 2e-3 if whole else None, fewer / probes
        rivals = (
            Peer(
                "curvlinops",
                peers.curvlinops_nodes(s, fewer, lanczos, (low, high)),
                answer,
                tolerance,
                line=3.0,
                share=share,
                note=f"from {fewer} probes, spectral bounds given",
            ),
            Peer(
                "eigenthings",
                peers.eigenthings_nodes(s, fewer, lanczos),
                answer,
                tolerance,
                share=share,
                note=f"from {fewer} probes",
            ),
            Peer(
                "PyHessian",
                peers.pyhessian_nodes(s, 1, lanczos),
                answer,
                tolerance,
                share=1 / probes,
                note="from 1 probe; release 0.1 calls torch.eig, which is gone",
            ),
        )
        yield Contest(
            f"{probes} x {lanczos}, {part} {s.dimension}, C={classes} N={count}",
            "density",
            lambda s=s: density(operator(s), probes=probes, steps=lanczos),
            lambda made, answer=answer: answer((made.nodes, made.weights)),
            (gradient_peer(s), *rivals),
            np.ones(1),
            2e-3,
        )


def gauss_newton(
    *, problems=(("LoRA", 2, 64), ("LoRA", 6, 64)), k: int = 10, tol: float = 1e-3, size: Size = SIZE, steps: int = 50
) -> Iterator[Contest]:
    """Compare ours, every nonzero eigenvalue of the Gauss-Newton matrix, with the ten largest of others."""
    for part, classes, count in problems:
        s = studied(part, count, classes, size, steps)
        exact = exact_gauss_newton(s)
        answer = graded(exact, tol)
        yield Contest(
            f"GGN, {part} {s.dimension}, C={classes} N={count}",
            "gauss_newton_spectrum, all",
            lambda s=s: gauss_newton_spectrum(s.outputs, s.criterion, s.params, s.batches),
            lambda made, answer=answer: answer(made.values[:k]),
            (
                gradient_peer(s),
                Peer(
                    f"curvlinops and eigsh, {k}",
                    peers.curvlinops_eigsh(s, k, tol, "GGN"),
                    answer,
                    tol,
                    line=25.0 if classes == 2 else None,
                ),
                Peer(f"eigenthings, {k}", peers.eigenthings_lanczos(s, k, tol, kind="ggn"), answer, tol, note=f"{2 * k} steps"),
            ),
            np.ones(k),
            1e-5,
        )


def traces(
    *, module=("one module", 2, 16), lora=("LoRA", 2, 4), budget: int = 30, seeds: int = 40, size: Size = SIZE, steps: int = 50
) -> Iterator[Row]:
    """Compare the standard error of a trace from 30 products, as the spread over seeds, on exact operators in float64.

    One module: its dense matrix H, as the Hessian of z'Hz / 2, so that our operator has its names. LoRA: its products,
    of few texts, and one package's form of each method; plain Hutchinson's standard error is that of a fifth of the
    products over sqrt(5).
    """
    for part, classes, count in (module, lora):
        s = studied(part, count, classes, size, steps).to(torch.float64)
        problem = f"trace, {part} {s.dimension}, C={classes} N={count}"
        op, true, line = operator(s), None, 2.0
        if (part, classes, count) == module:
            H = torch.as_tensor(exact_matrix(part, count, classes, size, steps))
            op = hessian(partial(_quadratic, H), s.params, [torch.ones(1)])
            true, line = float(H.trace()), 10.0
        own = _spread("trace", lambda seed, op=op: trace(op, budget=budget, seed=seed).value, seeds, true)
        dense = partial(peers.curvlinops_trace, op, s.dimension, torch.float64)
        fifth = budget // 5
        rivals = [
            _spread("plain Hutchinson", partial(_hutchinson, op, fifth), seeds, true, line, (fifth / budget) ** 0.5),
            _spread("curvlinops Hutch++", dense("hutchpp_trace", budget), seeds, true),
            _spread("curvlinops XTrace", dense("xtrace", budget), seeds, true),
        ]
        if true is not None:
            rivals += [
                _spread("eigenthings Hutch++", peers.eigenthings_trace(op, s.dimension, torch.float64, budget), seeds, true),
                _spread("PyHessian", peers.pyhessian_trace(s, budget), seeds, true, note="stops by its own rule"),
            ]
        yield from weigh("trace", problem, own, rivals, "stderr", 4.0)


def _quadratic(H: Tensor, z: dict[str, Tensor], _) -> Tensor:
    flat = torch.cat([x.reshape(-1) for x in z.values()])
    return flat @ (H @ flat) / 2


def _hutchinson(op, budget: int, seed: int) -> float:
    signs = torch.randint(2, (op.shape[0], budget), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    v = signs.to(op.dtype)
    return float((v * (op @ v)).sum() / budget)


def _spread(
    name: str,
    run: Callable[[int], float] | None,
    seeds: int,
    true: float | None,
    line: float | None = None,
    scale: float = 1.0,
    note: str = "",
) -> Amount:
    """`scale` times the standard deviation over seeds; error: how many of its standard errors the mean is off."""
    if run is None:
        return Amount(name, None, line)
    values = np.array([run(seed) for seed in range(seeds)])
    spread = float(values.std(ddof=1))
    off = None if true is None else abs(values.mean() - true) / max(spread / math.sqrt(seeds), 1e-12 * abs(true))
    return Amount(name, scale * spread, line, off, note)
