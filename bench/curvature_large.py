"""The largest causal language models that fit on a device: one product, the top eigenvalues and the density, in gradients.

The weights are random and LoRA's two factors too. A base in bfloat16 is compared with the same base in float32, where both fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from bench import curvature_peers as peers
from bench.curvature_exact import gradient_peer, waited
from bench.curvature_language import made_once
from bench.language import Llama, Spoken, lacking, spoken, ways
from bench.timing import Amount, Contest, Peer, Row, weigh
from probes.curvature.assembly import free_memory
from probes.curvature.density import density
from probes.curvature.operators import Operator
from probes.curvature.spectrum import top_eigenpairs

PRODUCT, TOP = 1.4, 60  # gradients that one product and the top eigenvalues may cost
TOLERANCE = 1e-2  # of an eigenvalue's residual
COARSE = 0.1  # of the largest entry: what a product in bfloat16 may be off


@dataclass(frozen=True)
class Large:
    """A Llama in one dtype, and the bytes that must be free for it, and for it beside its reference in float32."""

    name: str
    model: Llama
    dtype: torch.dtype
    needed: int
    referred: int


LARGE = (
    Large("1.1B float32", Llama(22, 2048, 32, 4, 5632, 32000), torch.float32, 10 << 30, 10 << 30),
    Large("1.1B bfloat16", Llama(22, 2048, 32, 4, 5632, 32000), torch.bfloat16, 8 << 30, 12 << 30),
    Large("7B bfloat16", Llama(32, 4096, 32, 32, 11008, 32000), torch.bfloat16, 20 << 30, 64 << 30),
)


def large(
    device: str = "cpu",
    *,
    case: str = "large",
    models=LARGE,
    rows: int = 2,
    length: int = 64,
    k: int = 5,
    probes: int = 4,
    steps: int = 20,
) -> Iterator[Contest | Row]:
    """Compare one Hessian product with one gradient, and price the top k eigenvalues and the density.

    Time is the process's on a CPU, and the clock's on the wall elsewhere. A model that does not fit is a row that says so.
    """
    clock = "process_time" if device == "cpu" else "perf_counter"
    for one in models:
        where = f"{one.name}, {rows} x {length}, {device}"
        if lack := lacking(one.model) or _short(one.needed, free_memory(torch.device(device))):
            yield Row(case, f"H v, {where}", "attach, hessian", "the others", status="not run", note=lack)
            continue
        s = spoken(one.model, rows, length, dtype=one.dtype, device=device)
        yield _product(s, one, where, device, clock)
        op = s.attached().hessian()
        priced = partial(_priced, waited(device, s.gradient), clock)
        yield from weigh(case, f"top {k}, {where}", *_top(op, k, priced), "gradients", TOLERANCE)
        yield from weigh(case, f"density, {where}", *_density(op, probes, steps, priced), "gradients")


def _short(needed: int, free: int | None) -> str:
    """Why a model of so many bytes does not fit, or nothing."""
    if free is None or free >= needed:
        return ""
    return f"it needs {needed >> 30} GiB free on the device, which has {free / 2**30:.0f}"


def _priced(gradient: Callable[[], object], clock: str, run: Callable[[], object]) -> tuple[object, float]:
    """What a call returns and what it costs in gradients, of which one is timed before it and one after."""
    now = getattr(time, clock)
    ends = [now()]
    gradient()
    ends.append(now())
    made = run()
    ends.append(now())
    gradient()
    ends.append(now())
    before, own, after = (later - earlier for earlier, later in pairwise(ends))
    return made, own / min(before, after)


def _product(s: Spoken, one: Large, where: str, device: str, clock: str) -> Contest:
    v = torch.randn(s.dimension, generator=torch.Generator().manual_seed(0)).to(device)
    fine = one.dtype == torch.float32
    there = not _short(one.referred, free_memory(torch.device(device)))
    exact = peers.host(peers.fresh_product(s if fine else s.to(torch.float32))(v)) if there else None
    tolerance, waits, made = 1e-3 if fine else COARSE, partial(waited, device), ways(s, "hessian")
    return Contest(
        f"H v, {where}",
        "attach, hessian",
        waits(made_once(made["ours"], v)),
        peers.host,
        (
            gradient_peer(s, PRODUCT),
            Peer("double backward", waits(made_once(made["double backward"], v)), peers.host, tolerance),
        ),
        exact,
        tolerance,
        clock,
    )


def _top(op: Operator, k: int, priced: Callable) -> tuple[Amount, list[Amount]]:
    """What the top k eigenvalues cost; the error is the largest relative residual."""
    found, cost = priced(lambda: top_eigenpairs(op, k, tol=TOLERANCE))
    said = f"{found.products} products, {found.status}: " + ", ".join(f"{x:.3g}" for x in found.values.tolist())
    residual = float((found.residuals / found.values.abs()).max())
    return Amount("top_eigenpairs", cost, error=residual), [Amount(f"{TOP} gradients", TOP, 1.0, 0.0, said)]


def _density(op: Operator, probes: int, steps: int, priced: Callable) -> tuple[Amount, list[Amount]]:
    """What the density costs, and what its intervals say."""
    found, cost = priced(lambda: density(op, probes=probes, steps=steps))
    edge = float(abs(found.nodes).max()) / 100
    below, near, size = found.negative_mass(), found.mass_near_zero(edge), found.effective_dimension(edge)
    said = ", ".join(
        f"{name} {x.value:.3g} [{max(x.interval[0], 0.0):.3g}, {x.interval[1]:.3g}]"
        for name, x in (("share below 0", below), (f"within {edge:.2g} of 0", near), (f"effective dimension at {edge:.2g}", size))
    )
    return Amount("density", cost), [Amount("one gradient", 1.0, note=f"{said} of {found.size}")]
