"""The bench "curvature": Hessian products, eigenvalues, densities and traces of delta-tuned networks beside other packages.

The unit is one gradient: one loss with its gradient in the same parameters on the same batches. Errors are against
float64: products by double backward, eigenvalues by ARPACK with their residuals checked, one module's spectrum from its
dense Hessian. The error of eigenvalues is the largest relative one over all that were asked for, matched with sign and
multiplicity.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import wasserstein_distance
from torch import Tensor

from probes.curvature.density import density
from probes.curvature.hessian import hessian
from probes.curvature.spectrum import gauss_newton_spectrum, top_eigenpairs
from probes.curvature.trace import trace
from validations.bench import curvature_peers as peers
from validations.bench import memory as resident
from validations.bench.subjects import Size, Subject, subject
from validations.bench.timing import Amount, Contest, Peer, Row, weigh

SIZE = Size()
LORA = ("*.A", "*.B")


def _parts(size: Size) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What is differentiated: label -> (delta in the network, globs of the parameters under study)."""
    return {
        "LoRA": ("lora", LORA),
        "one module": ("lora", (f"*layer.{size.blocks - 1}.*query.[AB]",)),
        "adapters": ("adapter", ("*.down.*", "*.up.*")),
        "prefix": ("prefix", ("*.keys", "*.values")),
        "all": ("lora", ("*",)),
    }


def _subject(part: str, count: int, classes: int, size: Size, steps: int) -> Subject:
    return subject(count, classes, *_parts(size)[part], size=size, steps=steps)


def _operator(s: Subject):
    return hessian(s.loss, s.params, s.batches)


def _gradient(s: Subject, line: float | None = None) -> Peer:
    return Peer("one gradient", s.gradient, np.asarray, tolerance=None, line=None if line is None else 1 / line)


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
    """One product, the operator made before; then several columns at once, and making the operator."""
    for part, classes, count in problems:
        s = _subject(part, count, classes, size, steps)
        yield _one_product(s, f"{part} {s.dimension}, C={classes} N={count}", MOST.get(part))
    part, classes, count = problems[0]
    s = _subject(part, count, classes, size, steps)
    many = torch.randn(s.dimension, columns, generator=torch.Generator().manual_seed(0))
    where, op, rival = f"{part} {s.dimension}, C={classes} N={count}", _operator(s), peers.curvlinops_operator(s, check=False)
    fresh = peers.fresh_product(s.to(torch.float64))
    yield Contest(
        f"H V, {columns} columns, {where}",
        "hessian @ V",
        lambda: op @ many,
        np.asarray,
        (Peer("curvlinops block", None if rival is None else partial(rival().__matmul__, many), np.asarray, 1e-3),),
        torch.stack([fresh(v) for v in many.T.double()], 1).numpy(),
        1e-4,
    )
    yield Contest(
        f"making it, {where}",
        "hessian",
        partial(_operator, s),
        lambda op: np.zeros(1),
        tuple(
            Peer(name, run, np.asarray, tolerance=None)
            for name, run in (
                ("one gradient", s.gradient),
                ("curvlinops, checked", peers.curvlinops_operator(s)),
                ("eigenthings", peers.eigenthings_operator(s)),
                ("PyHessian", peers.pyhessian_object(s)),
            )
        ),
    )


def _one_product(s: Subject, where: str, line: float | None, clock: str = "process_time") -> Contest:
    device = next(iter(s.params.values())).device
    v = torch.randn(s.dimension, generator=torch.Generator().manual_seed(0)).to(device)
    op = _operator(s)
    rivals = {
        "fresh double backward": peers.fresh_product(s),
        "curvlinops": _times(peers.curvlinops_operator(s, check=False)),
        "eigenthings": _times(peers.eigenthings_operator(s)),
        "PyHessian": peers.pyhessian_product(s),
    }
    waits = partial(_waited, device.type)
    answer = lambda x: x.detach().cpu().numpy()  # noqa: E731
    exact = peers.fresh_product(s.to(torch.float64))(v.double())
    return Contest(
        f"H v, {where}",
        "hessian @ v",
        waits(partial(op.__matmul__, v)),
        answer,
        (_gradient(s, line) if device.type == "cpu" else Peer("one gradient", waits(s.gradient), answer, None),)
        + tuple(
            Peer(name, None if run is None else waits(partial(run, v)), answer, tolerance=1e-3) for name, run in rivals.items()
        ),
        answer(exact),
        1e-4,
        clock,
    )


def _times(make: Callable[[], object] | None) -> Callable[[Tensor], Tensor] | None:
    return None if make is None else make().__matmul__


def _waited(device: str, run: Callable[[], object]) -> Callable[[], object]:
    """The call, ended by the device's own end when it runs elsewhere."""
    if device == "cpu":
        return run

    def whole():
        found = run()
        torch.cuda.synchronize()
        return found

    return whole


@lru_cache(maxsize=4)
def exact_matrix(part: str, count: int, classes: int, size: Size = SIZE, steps: int = 50) -> np.ndarray:
    """The dense Hessian (D, D) in float64, one double backward a column through a kept graph."""
    product, dimension = _kept(_subject(part, count, classes, size, steps).to(torch.float64))
    rows = np.stack([product(e) for e in np.eye(dimension)])
    return (rows + rows.T) / 2


def exact_extremes(s: Subject, k: int) -> np.ndarray:
    """The k eigenvalues (k,) that are largest in magnitude, in decreasing order of it, by ARPACK in float64.

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
    params, (batch,) = list(s.params.values()), s.batches
    slopes = torch.autograd.grad(s.criterion(s.model(batch[0]), batch), params, create_graph=True)
    slope = torch.cat([x.reshape(-1) for x in slopes])

    def product(v: np.ndarray) -> np.ndarray:
        rows = torch.autograd.grad(slope, params, torch.as_tensor(v), retain_graph=True)
        return torch.cat([row.reshape(-1) for row in rows]).numpy()

    return product, len(slope)


def relative_errors(found: np.ndarray, exact: np.ndarray, tie: float) -> np.ndarray:
    """|found - exact| / |exact| of k eigenvalues against a longer exact list, largest magnitudes first in it.

    They are matched one to one, which counts multiplicities and signs: every exact value that is larger than the k-th by
    more than the relative `tie` must be matched, and none that is smaller by more may be.
    """
    last = np.abs(exact[len(found) - 1])
    exact = exact[np.abs(exact) >= last * (1 - tie)]
    cost = np.abs(found[:, None] - exact) / np.abs(exact)
    must = np.abs(exact) > last * (1 + tie)
    rows, columns = linear_sum_assignment(np.minimum(cost, 1e3) - 1e6 * must)
    return cost[rows, columns]


def _graded(exact: np.ndarray, tol: float) -> Callable[[object], np.ndarray]:
    """Eigenvalues as 1 + their relative errors, to be compared with ones."""
    return lambda values: 1 + relative_errors(np.asarray(values, float), exact, tol)


def top10(
    *,
    problems=(("one module", 2, 16), ("LoRA", 2, 16), ("LoRA", 2, 64)),
    k: int = 10,
    tol: float = 1e-3,
    size: Size = SIZE,
    steps: int = 50,
) -> Iterator[Contest]:
    """The ten eigenvalues of largest magnitude, making the operator included."""
    for part, classes, count in problems:
        s = _subject(part, count, classes, size, steps)
        if part == "one module":
            values = np.linalg.eigvalsh(exact_matrix(part, count, classes, size, steps))
            exact = values[np.argsort(-np.abs(values))]
        else:
            exact = exact_extremes(s, k + 4)
        yield _top(s, f"top {k}, {part} {s.dimension}, C={classes} N={count}", exact, k, tol, part == "LoRA", count <= 16)


def _top(
    s: Subject, problem: str, exact: np.ndarray, k: int, tol: float, lines: bool, slow: bool, clock: str = "process_time"
) -> Contest:
    device, answer = next(iter(s.params.values())).device.type, _graded(exact, tol)
    waits = partial(_waited, device)
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
        waits(lambda: top_eigenpairs(_operator(s), k, tol=tol)),
        lambda made: answer(made.values.cpu()),
        (Peer("one gradient", waits(s.gradient), np.asarray, None, 1 / 40 if lines else None), *rivals),
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
    """The spectral density; where the exact spectrum is known, its error is Wasserstein-1 over the spectrum's range."""
    for part, classes, count in problems:
        s = _subject(part, count, classes, size, steps)
        whole = part == "one module"
        exact = np.linalg.eigvalsh(exact_matrix(part, count, classes, size, steps)) if whole else exact_extremes(s, 10)
        low, high = exact.min(), exact.max()

        def answer(rule, whole=whole, exact=exact, width=high - low) -> np.ndarray:
            nodes, weights = (np.ravel(x) for x in rule)
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
            lambda s=s: density(_operator(s), probes=probes, steps=lanczos),
            lambda made, answer=answer: answer((made.nodes, made.weights)),
            (_gradient(s), *rivals),
            np.ones(1),
            2e-3,
        )


def exact_gauss_newton(s: Subject) -> np.ndarray:
    """All nonzero eigenvalues of the Gauss-Newton matrix in float64: J text by text, sqrt(diag p - p p') J / sqrt(N)."""
    s = s.to(torch.float64)
    ((tokens, _),) = s.batches
    params, rows = list(s.params.values()), []
    for text in tokens:
        y = s.model(text[None])[0]
        J = torch.stack([torch.cat([x.reshape(-1) for x in torch.autograd.grad(v, params, retain_graph=True)]) for v in y])
        p = y.detach().softmax(0)
        rows.append(p.sqrt()[:, None] * (J - p @ J))  # sum_c p_c (J_c - p'J)(J_c - p'J)' is J'(diag p - pp')J
    values = torch.linalg.svdvals(torch.cat(rows)) ** 2 / len(tokens)
    return values[: len(tokens) * (len(y) - 1)].numpy()


def gauss_newton(
    *, problems=(("LoRA", 2, 64), ("LoRA", 6, 64)), k: int = 10, tol: float = 1e-3, size: Size = SIZE, steps: int = 50
) -> Iterator[Contest]:
    """Ours: every nonzero eigenvalue of the Gauss-Newton matrix; the others: the ten largest."""
    for part, classes, count in problems:
        s = _subject(part, count, classes, size, steps)
        exact = exact_gauss_newton(s)
        answer = _graded(exact, tol)
        yield Contest(
            f"GGN, {part} {s.dimension}, C={classes} N={count}",
            "gauss_newton_spectrum, all",
            lambda s=s: gauss_newton_spectrum(s.outputs, s.criterion, s.params, s.batches),
            lambda made, answer=answer: answer(made.values[:k]),
            (
                _gradient(s),
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
    """The standard error of a trace from 30 products, as the spread over seeds, on exact operators in float64.

    One module: its dense matrix H, as the Hessian of z'Hz / 2, so that our operator has its names. LoRA: its products,
    of few texts, and one package's form of each method; plain Hutchinson's standard error is that of a fifth of the
    products over sqrt(5).
    """
    for part, classes, count in (module, lora):
        s = _subject(part, count, classes, size, steps).to(torch.float64)
        problem = f"trace, {part} {s.dimension}, C={classes} N={count}"
        op, true, line = _operator(s), None, 2.0
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


def memory(*, count: int = 64, batches: int = 8, budget: int = 200 << 20, size: Size = SIZE) -> Iterator[Row]:
    """Peak extra resident memory of making the operator and one product; what is held under a stated budget."""
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
    """One product of the compiled operator, and after how many products compiling has paid."""
    part, classes, count = problem
    s = _subject(part, count, classes, size, steps)
    v = torch.randn(s.dimension, generator=torch.Generator().manual_seed(0))
    plain, before = _operator(s), _spent()
    op = hessian(s.loss, s.params, s.batches, compiled=True)
    cost = _spent() - before
    gain = [_seconds(lambda: plain @ v) - _seconds(lambda: op @ v) for _ in range(5)]
    gain = float(np.median(gain))
    note = f"compiled in {cost:.0f} CPU s: pays after {cost / gain:.0f} products" if gain > 0 else f"{cost:.0f} CPU s never pay"
    exact = peers.fresh_product(s.to(torch.float64))(v.double()).numpy()
    yield Contest(
        f"H v compiled, {part} {s.dimension}, C={classes} N={count}",
        "hessian, compiled",
        lambda: op @ v,
        np.asarray,
        (
            _gradient(s),
            Peer("hessian @ v", lambda: plain @ v, np.asarray, 1e-4, note=note),
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


def cuda(
    *,
    products=(("LoRA", 2, 64), ("LoRA", 2, 256), ("all", 2, 64)),
    top=("LoRA", 2, 64),
    k: int = 10,
    size: Size = SIZE,
    steps: int = 50,
) -> Iterator[Contest | Row]:
    """One product and the top ten on a GPU, by the clock on the wall."""
    if not torch.cuda.is_available():
        yield Row("cuda", "product and top 10", "ours", "the others", status="not run", note="no CUDA device")
        return
    for part, classes, count in products:
        s = _subject(part, count, classes, size, steps).to("cuda")
        yield _one_product(s, f"{part} {s.dimension}, C={classes} N={count}, GPU", None, "perf_counter")
    part, classes, count = top
    s = _subject(part, count, classes, size, steps)
    exact = exact_extremes(s, k + 4)
    yield _top(s.to("cuda"), f"top {k}, {part}, C={classes} N={count}, GPU", exact, k, 1e-3, False, False, "perf_counter")


CASES: dict[str, Callable[..., Iterator[Contest | Row]]] = {
    "product": product,
    "top10": top10,
    "density": densities,
    "gauss-newton": gauss_newton,
    "trace": traces,
    "memory": memory,
    "compiled": compiled,
    "cuda": cuda,
}
