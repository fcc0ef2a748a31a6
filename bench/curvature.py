"""The bench "curvature": Hessian products, eigenvalues, densities and traces of delta-tuned networks beside other packages.

The unit is one gradient: one loss with its gradient in the same parameters on the same batches. Errors are against float64
(`bench.curvature_exact`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from bench.curvature_exact import SIZE, exact_extremes, studied
from bench.curvature_language import lm
from bench.curvature_large import LARGE, large
from bench.curvature_products import compiled, memory, one_product, product
from bench.curvature_spectra import densities, gauss_newton, top, top10, traces
from bench.subjects import Size
from bench.timing import Contest, Row


def cuda(**options) -> Iterator[Contest | Row]:
    """Compare products and the top ten on a GPU, by the clock on the wall, and language models of 1.1B and 7B."""
    if not torch.cuda.is_available():
        yield Row("cuda", "product and top 10", "ours", "the others", status="not run", note="no CUDA device")
        return
    yield from elsewhere("cuda", **options)


def elsewhere(
    device: str,
    *,
    products=(("LoRA", 2, 64), ("LoRA", 2, 256), ("all", 2, 64)),
    ranked=("LoRA", 2, 64),
    models=LARGE,
    length: int = 256,
    k: int = 10,
    size: Size = SIZE,
    steps: int = 50,
) -> Iterator[Contest | Row]:
    """Compare on one device; models: the language models of `bench.curvature_large`, on sequences of this length."""
    for part, classes, count in products:
        s = studied(part, count, classes, size, steps).to(device)
        yield one_product(s, f"{part} {s.dimension}, C={classes} N={count}, {device}", None, "perf_counter")
    part, classes, count = ranked
    s = studied(part, count, classes, size, steps)
    exact = exact_extremes(s, k + 4)
    problem = f"top {k}, {part}, C={classes} N={count}, {device}"
    yield top(s.to(device), problem, exact, k, 1e-3, False, False, "perf_counter")
    yield from large(device, case="cuda", models=models, length=length)


CASES: dict[str, Callable[..., Iterator[Contest | Row]]] = {
    "product": product,
    "top10": top10,
    "density": densities,
    "gauss-newton": gauss_newton,
    "trace": traces,
    "memory": memory,
    "compiled": compiled,
    "lm": lm,
    "large": large,
    "cuda": cuda,
}
