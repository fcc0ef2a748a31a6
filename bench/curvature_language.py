"""Products with the curvature of causal language models beside other packages: CPU time, memory, tensors of vocabulary size.

Errors are against double backward of the same loss in float64, in which transformers keeps norms and the attention's softmax in
float32; what a row's "one gradient" is, is that of the loss that the model itself gives, at all its positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor

from bench import curvature_peers as peers
from bench import memory as resident
from bench.curvature_exact import gradient_peer
from bench.language import REAL, Llama, Spoken, described, lacking, spoken, ways
from bench.timing import Amount, Contest, Peer, Row, weigh

KINDS = {"hessian": "H v", "gauss-newton": "GGN v"}
MOST = 1.25  # gradients that one product of the real model may cost
MODELS = (("Llama", Llama()), (REAL, REAL))


def lm(*, models=MODELS, rows: int = 2, length: int = 64) -> Iterator[Contest | Row]:
    """Compare one product with the Hessian and the Gauss-Newton matrix of the response's loss in LoRA's numbers, then memory."""
    for name, model in models:
        if lack := lacking(model):
            yield Row("lm", f"{name}, {rows} x {length}", "ours", "the others", status="not run", note=lack)
            continue
        for kind in KINDS:
            yield _product(spoken(model, rows, length), f"{name}, {rows} x {length}", kind, MOST if model == REAL else None)
        yield from _memory(name, model, rows, length)
        yield from _vocabulary(name, model, rows, length)


def _product(s: Spoken, where: str, kind: str, line: float | None) -> Contest:
    """The contest of one product; operators are made in the first call, which is not timed."""
    v = torch.randn(s.dimension, generator=torch.Generator().manual_seed(0))
    exact = {"hessian": peers.fresh_product, "gauss-newton": peers.fresh_gauss_newton}[kind](s.to(torch.float64))(v.double())
    ours, *rivals = ways(s, kind).items()
    return Contest(
        f"{KINDS[kind]}, {where}",
        f"attach, {kind}",
        made_once(ours[1], v),
        peers.host,
        (
            gradient_peer(s, line),
            *(
                Peer(name, None if make is None else made_once(make, v), peers.host, 1e-3, note=_note(name, kind))
                for name, make in rivals
            ),
        ),
        peers.host(exact),
        1e-4,
    )


def made_once(make: Callable[[], Callable[[Tensor], Tensor]], v: Tensor) -> Callable[[], Tensor]:
    """Return the call of one product whose operator is made in the first call."""
    made = cache(make)
    return lambda: made()(v)


def _note(name: str, kind: str) -> str:
    if name == "curvlinops" and kind == "hessian":
        return "it takes forward over reverse mode, which torch lacks for SiLU"
    if name == "eigenthings" and kind == "gauss-newton" and peers.installed("hessian_eigenthings"):
        return "its fused cross entropy" if peers.eigenthings_is_fused() else "this release has no fused cross entropy"
    return ""


def _able(s: Spoken, kind: str) -> list[str]:
    """The ways that are installed and can multiply; why another cannot, its contest says."""
    found = []
    for name, make in ways(s, kind).items():
        with suppress(*((Exception,) if name in ("curvlinops", "eigenthings") else ())):
            if make is not None:
                make()(torch.ones(s.dimension))
                found.append(name)
    return found


def _memory(name: str, model: Llama | str, rows: int, length: int) -> Iterator[Row]:
    """The peak extra resident memory of making an operator and one product."""
    for kind, symbol in KINDS.items():
        names = _able(spoken(model, 1, 8), kind)
        common = {"model": described(model), "kind": kind, "rows": rows, "length": length}
        taken = resident.resident([{"way": way} | common for way in ("gradient", *names)])
        unit, own, *others = (x / 2**20 for x in taken)
        yield from weigh(
            "lm",
            f"peak, {symbol}, {name}, {rows} x {length}",
            Amount(f"attach, {kind}", own),
            [Amount("one gradient", unit, 1 / 2), *map(Amount, names[1:], others)],
            "MiB",
        )


def _vocabulary(name: str, model: Llama | str, rows: int, length: int) -> Iterator[Row]:
    """How many tensors as large as the scored logits (n, V) a product has alive at once."""
    s = spoken(model, rows, length)
    v, known = torch.ones(s.dimension), [*s.model.parameters(), *s.model.buffers()]
    for kind, symbol in KINDS.items():
        counts = {
            way: resident.alive(make, v, s.logit_bytes, known)
            for way, make in ways(s, kind).items()
            if way in ("ours", "double backward", "double backward, kept")
        }
        making, most, kept = counts.pop("ours")
        yield from weigh(
            "lm",
            f"vocabulary, {symbol}, {name}",
            Amount(f"attach, {kind}", most),
            [Amount("at most one", 1, 1.0, note=f"{making} while made, {kept} kept")]
            + [Amount(way, found, note=f"{before} while made, {held} kept") for way, (before, found, held) in counts.items()],
            "of (n, V)",
        )
