"""What a live model's trainable numbers are like: loss, gradient, curvature and reach, whole, by layer and by module.

The same few products give the trace of every module (`probes.curvature.block_traces`). The Gauss-Newton trace of a module,
tr G_gg = sum_i w_i |F_i^{1/2} J_ig|^2, is how far its numbers move the predicted distributions (F_i their Fisher matrices, w_i
the items' weights); its share of the whole is the module's reach. With s_i = w_i^{1/2} e_i (onehot(y_i) - p_i), y_i drawn from
p_i and e_i a sign, E s s' is the blocks w_i F_i, so that it is E |J_g' s|^2: one reverse sweep a sample, for all modules, and
never negative.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from probes.curvature.block_traces import block_traces
from probes.curvature.density import Density, density
from probes.curvature.replay import WARM
from probes.curvature.spectrum import end_eigenpairs
from probes.curvature.summary import Extreme
from probes.inputs import unchecked
from probes.layout import by_layer, columns, flatten
from probes.live.attached import Attached, Params
from probes.records import Estimate, student

ENDS, USUAL = 40, 14  # products that both ends of the spectrum take together, at most and usually
Progress = Callable[[int, str], None]  # products made so far, and what is measured next


@dataclass(frozen=True)
class Part:
    """A module or a layer: its numbers, the norm of its gradient, traces with errors over probes, its share of the reach."""

    name: str
    names: tuple[str, ...]
    size: int
    gradient: float
    trace: Estimate
    gauss_newton_trace: Estimate
    reach: float


@dataclass(frozen=True)
class Survey:
    """Everything measured at one point; eigenvalues and traces in units of the loss per squared parameter.

    items: tokens or examples in the mean; largest, smallest: ends of the Hessian's spectrum; effective_dimension: sum
    lambda / (lambda + ridge) of the Gauss-Newton matrix; status: rounding of the products.
    """

    loss: float
    items: float
    sequences: int
    size: int
    gradient: float
    largest: Extreme
    smallest: Extreme
    trace: Estimate
    gauss_newton_trace: Estimate
    effective_dimension: Estimate
    ridge: float
    modules: tuple[Part, ...]
    layers: tuple[Part, ...]
    products: int
    status: str
    density: Density = field(repr=False)


@dataclass(frozen=True)
class Forecast:
    """What a survey will take: products, seconds of one over all batches, seconds in all, bytes that kept graphs hold."""

    products: int
    each: float
    seconds: float
    held: int


@dataclass(frozen=True)
class Linearity:
    """How much of what the adapter does its linearisation at the start explains, on the outputs that are scored.

    In the norm of the start's Fisher matrix, |d|^2 = sum_i sum_v p_iv (d_iv - <p_i, d_i>)^2: cosine between the change of
    the logits and its linearisation, eta = |change - linear| / |linear|, and change, the root mean square per item.
    """

    cosine: float
    eta: float
    change: float


def planned(probes: int, steps: int, densities: int) -> int:
    """Return how many products a survey usually makes."""
    return USUAL + 2 * probes + densities * steps


def forecast(attached: Attached, *, probes: int = 8, steps: int = 12, densities: int = 2) -> Forecast:
    """Return what a survey of these batches will take, from a few products on the first of them.

    On a CUDA device products become cheaper once they are replayed, which the building of a graph does not.
    """
    part = attached.first(1)
    op = part.hessian()
    v = torch.ones(op.shape[0], dtype=op.dtype, device=op.device)
    times = []
    for _ in range(WARM + 2 if op.device.type == "cuda" else 2):
        _wait(op.device)
        start = time.perf_counter()
        op @ v
        _wait(op.device)
        times.append(time.perf_counter() - start)
    share = _tokens(attached.batches) / _tokens(part.batches)
    products = planned(probes, steps, densities)
    # building a graph and its checks, three times (Hessian, Gauss-Newton, gradient), is some six products that are not replayed
    seconds = (times[-1] * products + times[1] * 18) * share
    return Forecast(products, times[-1] * share, seconds, int(2 * op.held * share))


def survey(
    attached: Attached,
    *,
    ridge: float = 1e-3,
    probes: int = 8,
    steps: int = 12,
    densities: int = 2,
    tol: float = 1e-2,
    seed: int = 0,
    progress: Progress = lambda done, what: None,
) -> Survey:
    """Return loss, gradient, spectrum's ends, traces, effective dimension and reach at the attached point.

    `probes` products give every module's trace, as many sweeps its reach, and `densities` Lanczos runs of `steps` the
    effective dimension at `ridge`. A model that `probes.shard` cut is surveyed in all its processes together, over the
    batches of all. Raises ValueError as `probes.hessian` does.
    """
    progress(0, "the gradient")
    value, slope = _gradient(attached)
    progress(0, "the graph of the Hessian")
    op = attached.hessian(allow_unused=True)
    progress(0, "the largest and the smallest eigenvalue")
    ends = end_eigenpairs(op, tol=tol, seed=seed, max_products=ENDS)
    parts = zip(ends.values.tolist(), ends.residuals.tolist(), ends.converged.tolist(), strict=True)
    high, low = (Extreme(*part) for part in parts)
    groups = {"whole": op.names, **_modules(op.names)}
    layers = by_layer(op.names)
    progress(op.products, "traces of the Hessian")
    bent = block_traces(op, op.shapes, groups | layers, budget=probes, seed=seed)
    status, done = op.status, op.products
    del op
    progress(done, "traces of the Gauss-Newton matrix")
    flat = _sampled(attached, groups | layers, probes, seed)
    progress(done + probes, "the graph of the Gauss-Newton matrix")
    flat_op = attached.gauss_newton(allow_unused=True)
    progress(done + probes, "the effective dimension")
    found = density(flat_op, probes=densities, steps=steps, seed=seed)
    total = flat["whole"].value

    def part(name: str, names: Sequence[str]) -> Part:
        places, reach = columns(flat_op.shapes, names).to(slope.device), flat[name].value / total if total else math.nan
        return Part(
            name.removeprefix(_WRAP), tuple(names), len(places), float(slope[places].norm()), bent[name], flat[name], reach
        )

    return Survey(
        loss=value,
        items=flat_op.examples,
        sequences=int(attached.summed(torch.tensor(_sequences(attached.batches)))),
        size=flat_op.shape[0],
        gradient=float(slope.norm()),
        largest=high,
        smallest=low,
        trace=bent["whole"],
        gauss_newton_trace=flat["whole"],
        effective_dimension=found.effective_dimension(ridge),
        ridge=ridge,
        modules=tuple(part(name, names) for name, names in groups.items() if name != "whole"),
        layers=tuple(part(name, names) for name, names in layers.items()),
        products=done + probes + flat_op.products,
        status=status,
        density=found,
    )


def _sequences(batches: Sequence) -> int:
    return sum(len(next(iter(b.values()))) if isinstance(b, Mapping) else len(b[0]) for b in batches)


def linearity(attached: Attached, start: Params) -> Linearity:
    """Return how far the outputs at the attached point are from their linearisation at `start`, over all batches.

    y(t) is taken along start + t (params - start); y'(0) as the derivative in u of d<y, u>/dt. Raises ValueError where start and
    params are the same, so that there is no change to explain.
    """
    with attached.turn():
        sums = sum((_compared(attached, start, batch) for batch in attached.batches), torch.zeros(4, dtype=torch.float64))
    square, flat, product, n = attached.summed(sums).tolist()
    if square == 0:
        raise ValueError("expected a point that is not the start, got one with the same outputs: the adapter changes nothing")
    gap = max(square + flat - 2 * product, 0.0)
    return Linearity(
        product / math.sqrt(square * flat) if flat else 0.0, math.sqrt(gap / flat) if flat else math.inf, math.sqrt(square / n)
    )


def _compared(attached: Attached, start: Params, batch) -> Tensor:
    """|change|^2, |linear|^2, their product and the number of items, of one batch."""
    with torch.no_grad(), unchecked():
        moved = attached.outputs(attached.params, batch).float()
    t = torch.zeros((), dtype=next(iter(start.values())).dtype, device=moved.device, requires_grad=True)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), unchecked():
        y = attached.outputs({k: x + t * (attached.params[k] - x) for k, x in start.items()}, batch)
        u = torch.zeros_like(y, requires_grad=True)
        (slope,) = grad(y, t, u, create_graph=True)
        (linear,) = grad(slope, u)
    p = y.detach().float().softmax(-1)
    change, linear = moved - y.detach().float(), linear.float()
    for d in (change, linear):
        d -= (p * d).sum(-1, keepdim=True)
    products = [(p * a * b).sum() for a, b in ((change, change), (linear, linear), (change, linear))]
    return torch.stack([*products, torch.tensor(float(len(y)), device=p.device)]).double().cpu()


def _gradient(attached: Attached) -> tuple[float, Tensor]:
    """The mean loss over all batches and its gradient, flat."""
    value, slope = 0.0, torch.zeros(attached.size, dtype=torch.float64)
    with attached.turn():
        for weight, batch in zip(attached.weights, attached.batches, strict=True):
            leaves = {k: x.clone().requires_grad_() for k, x in attached.params.items()}
            with torch.enable_grad(), unchecked():
                loss = attached.loss(leaves, batch)
                rows = grad(loss, list(leaves.values()), allow_unused=True)
            found = {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(leaves.items(), rows, strict=True)}
            value += weight * float(loss.detach())
            slope.add_(flatten(found).double().cpu(), alpha=weight)
    found = attached.summed(torch.cat([slope, torch.tensor([value, sum(attached.weights)], dtype=torch.float64)]))
    return float(found[-2] / found[-1]), found[:-2] / found[-1]


def _modules(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parameters by the module that they adapt, or are in: PEFT's own parts of a path are left out of its name."""
    found: dict[str, list[str]] = {}
    for name in names:
        path = name.removeprefix(_WRAP).split(".")
        own = next((i for i, part in enumerate(path) if part.startswith(_OWN)), len(path) - 1)
        found.setdefault(".".join(path[:own]) or path[0], []).append(name)
    return {place: tuple(some) for place, some in found.items()}


_WRAP = "base_model.model."  # in front of every path inside PEFT's wrapper
_OWN = ("lora_", "ia3_", "vera_", "hada_", "lokr_", "oft_", "ada_", "adaption_", "modules_to_save", "token_adapter")


def _sampled(attached: Attached, groups: Mapping[str, Sequence[str]], samples: int, seed: int) -> dict[str, Estimate]:
    """The Gauss-Newton trace of every group from sampled outputs, with Student's intervals over the samples."""
    generator = torch.Generator().manual_seed(seed + attached.rank)
    shapes = {k: x.shape for k, x in attached.params.items()}
    places = {label: columns(shapes, names) for label, names in groups.items()}
    squared = torch.zeros(samples, len(groups), dtype=torch.float64)
    with attached.turn():
        for weight, batch in zip(attached.weights, attached.batches, strict=True):
            leaves = {k: x.clone().requires_grad_() for k, x in attached.params.items()}
            with torch.enable_grad(), unchecked():
                y = attached.outputs(leaves, batch)
            for i in range(samples):
                drawn = attached.sampled(y.detach(), batch, generator).to(y.dtype)
                rows = grad(y, list(leaves.values()), drawn, retain_graph=True, allow_unused=True)
                flat = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves.values(), rows, strict=True)]
                square = flatten(dict(zip(leaves, flat, strict=True))).double().square().cpu()
                squared[i] += weight * torch.stack([square[at].sum() for at in places.values()])
    total = attached.summed(torch.tensor(sum(attached.weights), dtype=torch.float64))
    found = attached.summed(squared) / total
    return {label: _student("Gauss-Newton trace", found[:, i].numpy()) for i, label in enumerate(groups)}


def _student(quantity: str, values: np.ndarray) -> Estimate:
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return student(quantity, float(values.mean()), error, n, products=n)


def _tokens(batches: Sequence) -> int:
    """Numbers of tokens, padding included, or of examples."""
    return sum(next(iter(b.values())).numel() if isinstance(b, Mapping) else b[0].numel() for b in batches)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
