"""Which delta to tune: options ranked by the loss predicted from the frozen model, without training any of them.

Every option is a set of a delta's parameters. All options that change nothing at their start share one response G of the
logits: an option's kernel is that of its own columns. The linearised optimum of an option at penalty r is found on one half
of the examples and its loss predicted on the other, both ways round; r is the one with the least predicted loss.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from probes.curvature.hessian import hessian
from probes.curvature.spectrum import top_eigenpairs
from probes.reach.response import Response, response
from theory.ensemble import ensemble_lq, roots
from theory.loss import CrossEntropy
from tuning.deltas import IA3, Adapter, BitFit, Combined, LoRA, PortBias
from tuning.training import unflatten

from ..shared.linearisation import off
from ..shared.regime import ETA_LIMIT, MARGIN
from ..shared.training import at_start, first

SHARES = (1.0, 0.3, 0.1, 0.03)  # penalties, in units of the option's largest curvature
TOLERANCE = 1e-6
CHECKED = 32  # examples on which the linear regime is checked
PALETTE = Combined(
    (
        ("bias", PortBias()),
        ("BitFit", BitFit()),
        ("IA3", IA3()),
        *((f"LoRA r={rank}", LoRA(rank)) for rank in (1, 2, 4, 8)),
        ("LoRA mlp r=2", LoRA(2, targets=("mlp",))),
        *((f"adapter b={size}", Adapter(size)) for size in (2, 8)),
    )
)


@dataclass(frozen=True)
class Option:
    """A choice of delta: the subject's role, the parameters that are trained, and how many numbers they are.

    delta: the record that has these parameters and no others, where one is known. Blocks are counted from 0 everywhere.
    """

    label: str
    role: str
    names: tuple[str, ...]
    size: int
    delta: object | None = None


@dataclass(frozen=True)
class Forecast:
    """What the linear model says of one option: the penalty chosen, the loss of every example when held out, cheap rivals.

    losses: (N,) in nats. share: r over the largest curvature. slope: |mean gradient|. trace: tr K / N. eta: the median over
    some examples of |y(z) - y(0) - G z| / |G z| at the control z of the chosen penalty.
    """

    option: Option
    share: float
    r: float
    losses: np.ndarray
    eta: float
    slope: float
    trace: float

    @property
    def loss(self) -> float:
        """Return the predicted held-out loss, nats per example."""
        return float(self.losses.mean())


def _fixed(name: str, value: Tensor) -> bool:
    """Return whether a parameter's partner starts at zero, so that its columns of G vanish: LoRA's A, an adapter's way down.

    IA3's factors of the mlp bear an adapter's name, "block.mlp.down", but are vectors.
    """
    return name.endswith((".A", ".down_bias")) or (name.endswith(".down") and value.ndim == 2)


def options(role: str, initial: Mapping[str, Tensor], *, divide: bool, delta: object | None = None) -> list[Option]:
    """Return a subject's options: all of its parameters and, with `divide`, those of each half, site and block by part.

    Parameters are named "part/block.site.what" or "block.site.what". Dividing needs a delta that is the identity at its
    start: what is left untrained then changes nothing. With the subject's delta each option has the record that trains it.
    """
    records = dict(delta.parts) if isinstance(delta, Combined) else {"": delta}
    parts: dict[str, list[str]] = {}
    for name in initial:
        parts.setdefault(name.rpartition("/")[0], []).append(name)
    made = []
    for part, names in parts.items():
        title = part or role
        block = {n: n.rpartition("/")[2].partition(".")[0] for n in names}
        inside = [n for n in names if block[n].isdigit()]
        depth = 1 + max((int(block[n]) for n in inside), default=0)
        site = {n: n.rpartition("/")[2].split(".")[1] for n in inside}
        half = {"lower half": tuple(range(depth // 2)), "upper half": tuple(range(depth // 2, depth))}
        chosen: dict[str, tuple[Sequence[str], dict]] = {"all": (names, {})}
        if divide and depth > 1:
            if len(parts) == 1 or part == "bias":
                half |= {f"block {b}": (b,) for b in range(depth)}
            chosen |= {where: ([n for n in inside if int(block[n]) in bs], {"blocks": bs}) for where, bs in half.items()}
            if len(parts) == 1 or part == "bias":
                chosen |= {s: ([n for n in inside if site[n] == s], {"ports": (s,)}) for s in dict.fromkeys(site.values())}
        record = records.get(part)
        made += [
            Option(f"{title}, {where}", role, tuple(kept), sum(initial[n].numel() for n in kept), _limited(record, limits))
            for where, (kept, limits) in chosen.items()
            if kept
        ]
    return made


def _limited(delta: object | None, limits: Mapping[str, tuple]) -> object | None:
    """Return the delta on some blocks or ports only; None where its record cannot say so, or where there is no record."""
    if not dataclasses.is_dataclass(delta) or not set(limits) <= {entry.name for entry in dataclasses.fields(delta)}:
        return None
    return dataclasses.replace(delta, **limits)


def forecast(
    found: Response,
    subject: object,
    batch: object,
    chosen: Sequence[Option],
    seed: int,
    floors: Mapping[str, float] | None = None,
) -> list[Forecast]:
    """Return the forecast of every option from one response of the subject over the labelled examples (N, C, M).

    min_z (1/n) sum_i l_i(y_i + G_i z) + r/2 |z|^2 on one half, evaluated on the other. G enters through its kernel alone:
    any L with L L' = G G' gives the same outputs, so each option is solved in at most N C numbers. Penalties are tried from
    the largest down to the first at which eta exceeds `ETA_LIMIT`, and never below the option's floor (see `stability`).
    """
    y0, labels = found.outputs.double().cpu().numpy(), batch.labels.cpu().numpy()
    n, c = y0.shape
    fold = np.random.default_rng([seed, 211]).permutation(n) % 2
    some, loss, made = first(batch, CHECKED), CrossEntropy(labels), []
    for option in chosen:
        own = found.by_group({option.label: [n for n in option.names if not _fixed(n, subject.initial[n])]})[option.label]
        G, trace = _reduced(own)
        scale = _largest_curvature(G, y0, loss)
        best, floor = None, (floors or {}).get(option.label, 0.0)
        for share in SHARES:
            if best is not None and share * scale < floor:
                break
            r, held_out = max(share * scale, floor), np.empty(n)
            whole = ensemble_lq(G, y0, loss, r, tolerance=TOLERANCE)
            z = -own.rmatvec(torch.as_tensor(whole.costate)).double() / r  # costate: the gradient of the mean loss
            control = unflatten(z.cpu().numpy(), {k: subject.initial[k] for k in own.names})
            eta = _departure(subject, control, whole.outputs - y0, some)
            if best is not None and eta > ETA_LIMIT:
                break
            for half in (0, 1):
                fit, rest = fold != half, fold == half
                z = ensemble_lq(G[fit], y0[fit], CrossEntropy(labels[fit]), r, tolerance=TOLERANCE).z
                held_out[rest] = CrossEntropy(labels[rest]).value(y0[rest] + G[rest] @ z)
            if best is None or held_out.mean() < best[2].mean():
                best = share, r, held_out, eta
        slope = own.rmatvec(torch.as_tensor(loss.gradient(y0) / n)).double().norm()
        made.append(Forecast(option, *best, slope=float(slope), trace=trace))
    return made


def stability(subject: object, names: Sequence[str], batch: object) -> float:
    """Return the penalty below which the start is no longer a stable optimum of an option: 1.5 times its most negative curvature.

    Where one factor starts at zero (LoRA, adapters) the loss is a saddle at the start, with eigenvalues +-sigma(dL/dW) in the
    block of both factors; with a smaller penalty training leaves for another optimum than the linearised one. Curvature of the
    loss on a few examples by Lanczos; 0 for an option with no such factor.
    """
    if not any(_fixed(n, subject.initial[n]) for n in names):
        return 0.0
    start = at_start(subject)

    def loss(params: Mapping[str, Tensor], part: object) -> Tensor:
        return torch.nn.functional.cross_entropy(subject.outputs({**start, **params}, part), part.labels)

    curvature = hessian(loss, {n: start[n] for n in names}, [first(batch, CHECKED)], allow_unused=True)
    lowest = float(top_eigenpairs(curvature, 1, which="smallest", tol=0.1, max_products=8).values[0])
    return MARGIN * max(0.0, -lowest)


def _reduced(own: Response) -> tuple[np.ndarray, float]:
    """Return some L (N, C, m) with L L' = G G' and m <= N C, and the trace of the kernel over N."""
    n, c, m = own.shape
    if own.matrix is not None and m <= n * c:
        G = own.numpy()
        return G, float(np.sum(G**2) / n)
    values, vectors = np.linalg.eigh(own.kernel().double().cpu().numpy())
    kept = values > len(values) * np.finfo(np.float32).eps * max(values[-1], 1e-30)
    return (vectors[:, kept] * np.sqrt(values[kept])).reshape(n, c, -1), float(values.sum() / n)


def _largest_curvature(G: np.ndarray, y0: np.ndarray, loss: CrossEntropy) -> float:
    """Return the largest eigenvalue of (1/N) sum_i G_i' H_i G_i, H_i the softmax curvature at y0_i."""
    root = np.swapaxes(roots(loss.hessian(y0) / len(y0)), 1, 2) @ G
    root = root.reshape(-1, G.shape[2])
    if min(root.shape) < 3:
        return float(np.linalg.norm(root, 2) ** 2)
    return float(svds(root, k=1, tol=1e-4, v0=np.ones(min(root.shape)), return_singular_vectors=False)[0] ** 2)


def survey(subjects: Mapping[str, object], divided: Sequence[str], batch: object, seed: int) -> tuple[list[Forecast], np.ndarray]:
    """Return the forecasts of all options of the subjects, and the frozen model's loss of every example (N,).

    divided: the roles whose delta is the identity at its start, so that its parts are options too; the first of them sets
    the frozen loss.
    """
    labels = batch.labels.cpu().numpy()
    made, frozen = [], None
    for role, subject in subjects.items():
        chosen = options(role, subject.initial, divide=role in divided, delta=getattr(subject, "delta", None))
        rest = {n: p for n, p in subject.initial.items() if _fixed(n, p)}
        free = {n: p for n, p in subject.initial.items() if n not in rest}
        found = response(lambda z, b, s=subject, rest=rest: s.outputs({**rest, **z}, b), free, [batch])
        # an option's most negative curvature is no lower than that of the whole part it belongs to
        whole = {o.label.rpartition(",")[0]: stability(subject, o.names, batch) for o in chosen if o.label.endswith(", all")}
        made += forecast(found, subject, batch, chosen, seed, {o.label: whole[o.label.rpartition(",")[0]] for o in chosen})
        if role in divided and frozen is None:
            frozen = CrossEntropy(labels).value(found.outputs.double().cpu().numpy())
    return made, frozen


def _departure(subject: object, control: Mapping[str, Tensor], shift: np.ndarray, batch: object) -> float:
    """Return the median of |y(z) - y(0) - G z| / |G z| over a batch; shift: G z, whose first rows belong to the batch."""
    start = at_start(subject)
    with torch.no_grad():
        moved = subject.outputs({n: p + control[n] if n in control else p for n, p in start.items()}, batch)
        moved = (moved - subject.outputs(start, batch)).double().cpu().numpy()
    return off(moved, shift[: len(moved)])
