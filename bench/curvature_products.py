"""What one Hessian product of a delta-tuned network costs beside other packages: CPU time, memory, and the gain of compiling."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench import curvature_peers as peers
from bench import memory as resident
from bench.curvature_exact import LORA, SIZE, gradient_peer, operator, studied, waited
from bench.subjects import Size, Subject
from bench.timing import Amount, Contest, Peer, Row, weigh
from probes.curvature.hessian import hessian

PRODUCTS = (
    ("LoRA", 2, 64),
    ("LoRA", 6, 64),
    ("LoRA", 2, 256),
    ("one module", 2, 64),
    ("adapters", 2, 64),
    ("prefix", 2, 64),
    ("all", 2, 64),
)

MOST = {"LoRA": 1.45, "all": 2.6}  # gradients that one product may cost


def product(*, problems=PRODUCTS, columns: int = 10, size: Size = SIZE, steps: int = 50) -> Iterator[Contest]:
    """Compare one product, the operator made before; then several columns at once, and making the operator."""
    for part, classes, count in problems:
        s = studied(part, count, classes, size, steps)
        yield one_product(s, f"{part} {s.dimension}, C={classes} N={count}", MOST.get(part))
    part, classes, count = problems[0]
    s = studied(part, count, classes, size, steps)
    many = torch.randn(s.dimension, columns, generator=torch.Generator().manual_seed(0))
    where, op, rival = f"{part} {s.dimension}, C={classes} N={count}", operator(s), peers.curvlinops_operator(s, check=False)
    fresh = peers.fresh_product(s.to(torch.float64))
    yield Contest(
        f"H V, {columns} columns, {where}",
        "hessian @ V",
        lambda: op @ many,
        peers.host,
        (Peer("curvlinops block", None if rival is None else partial(rival().__matmul__, many), peers.host, 1e-3),),
        peers.host(torch.stack([fresh(v) for v in many.T.double()], 1)),
        1e-4,
    )
    yield Contest(
        f"making it, {where}",
        "hessian",
        partial(operator, s),
        lambda op: np.zeros(1),
        tuple(
            Peer(name, run, peers.host, tolerance=None)
            for name, run in (
                ("one gradient", s.gradient),
                ("curvlinops, checked", peers.curvlinops_operator(s)),
                ("eigenthings", peers.eigenthings_operator(s)),
                ("PyHessian", peers.pyhessian_object(s)),
            )
        ),
    )


def one_product(s: Subject, where: str, line: float | None, clock: str = "process_time") -> Contest:
    """Return the contest of one product of an operator made before; line: how many gradients it may take."""
    device = next(iter(s.params.values())).device
    v = torch.randn(s.dimension, generator=torch.Generator().manual_seed(0)).to(device)
    op = operator(s)
    rivals = {
        "fresh double backward": peers.fresh_product(s),
        "curvlinops": _times(peers.curvlinops_operator(s, check=False)),
        "eigenthings": _times(peers.eigenthings_operator(s)),
        "PyHessian": peers.pyhessian_product(s),
    }
    waits = partial(waited, device.type)
    exact = peers.fresh_product(s.to(torch.float64))(v.double())
    return Contest(
        f"H v, {where}",
        "hessian @ v",
        waits(partial(op.__matmul__, v)),
        peers.host,
        (
            gradient_peer(s, line),
            *(
                Peer(name, None if run is None else waits(partial(run, v)), peers.host, tolerance=1e-3)
                for name, run in rivals.items()
            ),
        ),
        peers.host(exact),
        1e-4,
        clock,
    )


def _times(make: Callable[[], object] | None) -> Callable[[Tensor], Tensor] | None:
    return None if make is None else make().__matmul__


def memory(*, count: int = 64, batches: int = 8, budget: int = 200 << 20, size: Size = SIZE) -> Iterator[Row]:
    """Compare the peak extra resident memory of making the operator and one product; what is held under a stated budget."""
    others = {"fresh double backward": "fresh"} | {
        name: way if peers.installed(package) else None
        for name, way, package in (
            ("curvlinops", "curvlinops", "curvlinops"),
            ("eigenthings", "eigenthings", "hessian_eigenthings"),
            ("PyHessian", "pyhessian", "pyhessian"),
        )
    }
    ways = ["gradient", "ours", *filter(None, others.values())]
    *taken, held = resident.resident(
        [{"way": way, "count": count} for way in ways]
        + [{"way": "held", "count": count * batches // 2, "batches": batches, "memory": budget}],
        LORA,
        size,
    )
    mib = {way: amount / 2**20 for way, amount in zip(ways, taken, strict=True)}
    yield from weigh(
        "memory",
        f"peak, LoRA, N={count}",
        Amount("hessian, one product", mib["ours"]),
        [
            Amount("one gradient", mib["gradient"], 1 / 4),
            *(Amount(name, mib.get(way)) for name, way in others.items()),
        ],
        "MiB",
    )
    stated = budget / 2**20
    yield from weigh(
        "memory",
        f"kept, LoRA, N={batches} x {count // 2}",
        Amount("hessian, memory=", held / 2**20),
        [
            Amount("stated budget", stated, 1 / 1.1, note=f"{stated:.0f} MiB"),
        ],
        "MiB",
    )


def compiled(*, problem=("LoRA", 2, 64), size: Size = SIZE, steps: int = 50) -> Iterator[Contest]:
    """Compare one product of the compiled operator, and after how many products compiling has paid."""
    part, classes, count = problem
    s = studied(part, count, classes, size, steps)
    v = torch.randn(s.dimension, generator=torch.Generator().manual_seed(0))
    plain, before = operator(s), _spent()
    op = hessian(s.loss, s.params, s.batches, compiled=True)
    cost = _spent() - before
    gain = [_seconds(lambda: plain @ v) - _seconds(lambda: op @ v) for _ in range(5)]
    gain = float(np.median(gain))
    note = f"compiled in {cost:.0f} CPU s: pays after {cost / gain:.0f} products" if gain > 0 else f"{cost:.0f} CPU s never pay"
    exact = peers.host(peers.fresh_product(s.to(torch.float64))(v.double()))
    yield Contest(
        f"H v compiled, {part} {s.dimension}, C={classes} N={count}",
        "hessian, compiled",
        lambda: op @ v,
        peers.host,
        (
            gradient_peer(s),
            Peer("hessian @ v", lambda: plain @ v, peers.host, 1e-4, note=note),
        ),
        exact,
        1e-4,
    )


def _spent() -> float:
    """CPU seconds of this process and of those that it has started and that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
