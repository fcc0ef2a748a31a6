"""The bench "dimension": random subspaces, training in them and dimensions of representations beside other tools."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bench import dimension_peers as peers
from bench.ensembles import ensembles
from bench.subjects import Size, Subject, subject
from bench.timing import Amount, Contest, Peer, Row, weigh
from probes.dimension.projection import Projection, random_subspace
from probes.dimension.representation import local_pca, mle, two_nn

MEGABYTES = 25.0  # what a projection of 22 million numbers may hold


def encoder_shapes(words=30522, positions=512, width=384, blocks=6) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a BERT of MiniLM's size, 22.6 million numbers."""
    found = {"words": (words, width), "positions": (positions, width), "kinds": (2, width)}
    shared = {"norm.weight": (width,), "norm.bias": (width,)}
    wide = {"in": (4 * width, width), "out": (width, 4 * width)}
    for block in range(blocks):
        maps = {name: (width, width) for name in ("query", "key", "value", "output")} | wide
        for name, shape in maps.items():
            found |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        found |= {f"{block}.{at}.{name}": shape for at in ("attention", "mlp") for name, shape in shared.items()}
    return found | shared


def _joined(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors.values()])


def _opposite(p, theta: Tensor) -> tuple[dict[str, Tensor], float]:
    """y of half P theta, half noise, so that <P theta, y> does not cancel, and that inner product in float64."""
    moved = p.apply(theta)
    length = _joined(moved).double().norm()
    generator, y, inner = torch.Generator().manual_seed(1), {}, 0.0
    size = sum(x.numel() for x in moved.values())
    for name, x in moved.items():
        y[name] = x / length + torch.randn(x.shape, generator=generator) / math.sqrt(size)
        inner += float((x.double() * y[name].double()).sum())
    return y, inner


def _both_ways(label: str, own: Projection, rivals: Sequence[tuple[str, object, dict]], part: float) -> Iterator[Contest | Row]:
    """P theta, P'y and the bytes held, of one projection and its rivals: (name, map, what its Peer and Amount say)."""
    d = own.dimension
    theta = torch.randn(d, generator=torch.Generator().manual_seed(0))
    length = float(theta.double().norm())
    rows = max(1, round(part * own.size))
    dense = torch.randn(rows, d, generator=torch.Generator().manual_seed(2)) / math.sqrt(own.size)
    less = torch.randn(rows, generator=torch.Generator().manual_seed(3))
    slice_note = f"from {rows} of its rows"

    def norm(moved) -> np.ndarray:
        return np.array([float(_joined(moved).double().norm()) / length])

    def inner(p) -> tuple[Callable[[], Tensor], Callable[[Tensor], np.ndarray]]:
        y, there = _opposite(p, theta)
        return lambda: p.adjoint(y), lambda pulled: np.array([float(theta.double() @ pulled.double()) / there])

    yield Contest(
        f"P theta, norm, {label}",
        own.kind,
        lambda: own.apply(theta),
        norm,
        (
            *(
                Peer(name, lambda p=p: p.apply(theta), norm, 1e-3, said.get("line"), said.get("note", ""))
                for name, p, said in rivals
            ),
            Peer("dense, stored", lambda: dense @ theta, lambda _: np.ones(1), None, note=slice_note, share=rows / own.size),
        ),
        np.ones(1),
        1e-3,
    )
    run, answer = inner(own)
    yield Contest(
        f"P'y, adjoint identity, {label}",
        own.kind,
        run,
        answer,
        (
            *(Peer(name, *inner(p), 1e-5, said.get("line")) for name, p, said in rivals),
            Peer("dense, stored", lambda: less @ dense, lambda _: np.ones(1), None, note=slice_note, share=rows / own.size),
        ),
        np.ones(1),
        1e-6,
    )
    yield from weigh(
        "projection",
        f"state, {label}",
        Amount(own.kind, own.state_bytes / 1e6),
        [
            Amount(f"{MEGABYTES:g} MB", MEGABYTES, 1.0, note="the allowance"),
            *(Amount(name, p.state_bytes / 1e6) for name, p, _ in rivals),
            Amount("dense, stored", 4e-6 * own.size * d),
        ],
        "MB",
    )
    yield from weigh(
        "projection",
        f"|P'P - I|, 8 columns, {label}",
        Amount(own.kind, own.orthonormality_error(8)),
        [Amount("1e-3", 1e-3, 1.0, note="the allowance")],
        "",
    )


def projection(
    *, size: int = 22_000_000, shapes: Mapping[str, tuple[int, ...]] | None = None, dimension: int = 1000, part: float = 2.5e-3
) -> Iterator[Contest | Row]:
    """Compare a subspace of one tensor and of an encoder's many: both directions, isometry, adjointness and state."""
    for label, found in (("1 tensor", {"weight": (size,)}), ("", encoder_shapes() if shapes is None else dict(shapes))):
        own = random_subspace(found, dimension, seed=0)
        label = f"{label or f'{len(found)} tensors'}, D={own.size / 1e6:.3g}M d={dimension}"
        much, some, length = (
            (None, None, "length kept per tensor, not over all")
            if len(found) > 1
            else (50.0, 10.0, "length kept on average only")
        )  # the lines are for one tensor of that size
        yield from _both_ways(
            label,
            own,
            (
                ("published Fastfood", peers.Fastfood.drawn(found, dimension, peers.chunked), {"line": much, "note": length}),
                ("Fastfood, in-place", peers.Fastfood.drawn(found, dimension, peers.butterfly), {"line": some}),
                ("one-hot", random_subspace(found, dimension, kind="onehot", seed=0), {}),
            ),
            part,
        )


def _plain(s: Subject) -> Callable[[], dict[str, Tensor]]:
    """One step of Adam on all parameters; its gradient."""
    s = s.copy()
    optimizer = torch.optim.Adam(s.params.values(), lr=1e-4)

    def step() -> dict[str, Tensor]:
        optimizer.zero_grad()
        s.criterion(s.model(s.batches[0][0]), s.batches[0]).backward()
        optimizer.step()
        return {name: p.grad for name, p in s.params.items()}

    return step


def _within(s: Subject, p: Projection) -> Callable[[], Tensor]:
    """One step of Adam on theta, the network called at z0 + P theta; its gradient."""
    start = {name: x.detach() for name, x in s.params.items()}
    theta = torch.zeros(p.dimension, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=1e-2)

    def step() -> Tensor:
        optimizer.zero_grad()
        s.loss({name: start[name] + x for name, x in p.apply(theta).items()}, s.batches[0]).backward()
        optimizer.step()
        return theta.grad

    return step


def step(
    *, problems: Sequence[tuple[int, int]] = ((16, 64), (8, 32)), dimension: int = 1000, size: Size | None = None, steps: int = 5
) -> Iterator[Contest]:
    """Compare a training step in a subspace of every parameter of a 4x128 BERT, in units of the plain step on the same batch."""
    for count, length in problems:
        s = subject(count, 2, "lora", "*", size=size or Size(length=length), steps=steps)
        p = random_subspace({name: x.shape for name, x in s.params.items()}, dimension, seed=0)
        yield Contest(
            f"step, N={count} S={length}, D={p.size} d={dimension}",
            "z0 + P theta",
            _within(s, p),
            lambda slope: slope.numpy(),
            (
                Peer(
                    "plain step",
                    _plain(s),
                    lambda slopes, p=p: p.adjoint(slopes).numpy(),
                    1e-4,
                    1 / 1.15,
                    note="gradients compared after P'",
                ),
            ),
            tolerance=1e-4,
        )


def sphere(n: int, d: int, ambient: int, seed: int = 0) -> np.ndarray:
    """Return n points (n, ambient) of a d-dimensional sphere that lies in a random subspace."""
    generator = np.random.default_rng(seed)
    z = generator.standard_normal((n, d + 1))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return z @ np.linalg.qr(generator.standard_normal((ambient, d + 1)))[0].T


def representation(
    *, n: int = 5000, sizes: Sequence[int] = (128, 768), k: int = 20, cloud: int = 100, share: float = 0.95
) -> Iterator[Contest | Row]:
    """Compare three estimators on a sphere of dimension 10 against the same estimators of other packages."""
    for ambient in sizes:
        X = sphere(n, 10, ambient)
        where = f"N={n} D={ambient}"
        value = lambda found: np.array([found.value])  # noqa: E731
        one = lambda found: np.array([found])  # noqa: E731
        yield Contest(
            f"TwoNN, {where}",
            "two_nn",
            lambda X=X: two_nn(X),
            value,
            (Peer("scikit-dimension", peers.skdim_two_nn(X), one, 1e-6, line=1.0),),
        )
        yield from _beside_dadapy(X, where)
        yield Contest(
            f"MLE k={k}, {where}",
            "mle",
            lambda X=X: mle(X, k),
            value,
            (Peer("scikit-dimension", peers.skdim_mle(X, k), one, 1e-6, line=1.0),),
        )
        run = lambda X=X: local_pca(X, cloud, share=share, centres=n)  # noqa: E731
        yield Contest(
            f"local PCA k={cloud}, {where}",
            "local_pca",
            run,
            value,
            (Peer("scikit-dimension", peers.skdim_local_pca(X, cloud, share), one, 1e-9, line=5.0),),
        )


def _beside_dadapy(X: np.ndarray, where: str) -> Iterator[Row]:
    """TwoNN beside a package that runs in a process of its own, so that rounds do not alternate."""
    theirs = peers.dadapy_two_nn(X)
    if theirs is None:
        yield from weigh(
            "representation",
            f"TwoNN, {where}",
            Amount("two_nn", None),
            [Amount("dadapy", None, 1.0, note=f"it needs numpy < 2: name the Python of its environment in {peers.DADAPY}")],
            "s",
        )
        return
    took = []
    for _ in range(3):
        start = time.process_time()
        found = two_nn(X)
        took.append(time.process_time() - start)
    error = abs(theirs[1] / found.value - 1)
    yield from weigh(
        "representation",
        f"TwoNN, {where}",
        Amount("two_nn", min(took), error=0.0),
        [Amount("dadapy", theirs[0], 1.0, error, note="in a process of its own, least of 3")],
        "s",
        1e-6,
    )


CASES: dict[str, Callable[..., Iterator[Contest | Row]]] = {
    "projection": projection,
    "step": step,
    "ensembles": ensembles,
    "representation": representation,
}
