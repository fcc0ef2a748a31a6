"""The local learning coefficient of a loss at a minimum: how fast the volume of nearly optimal parameters shrinks.

    V(e) = vol{w near w* : L(w) - L(w*) < e} ~ e^lambda (-log e)^(m - 1),   lambda = d/2 where L is a bowl.

It is measured through the tempered posterior exp(-t L(w) - gamma/2 |w - w*|^2) with t = n beta,

    lambda(t) = t (E[L(w)] - L(w*)),    d lambda(t) / d log t = lambda(t) - t^2 Var[L(w)],

by stochastic-gradient Langevin dynamics (Lau et al. 2023, sec. 4; Watanabe 2013). lambda(t) tends to lambda from
below as lambda - (m - 1) / (log t + c): only there do coefficients with different t and gamma agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from probes.inputs import check_repeats, check_values, coarsest, named, opened, precision, settle, steady
from probes.layout import Params, batch_size, check_batches, check_params, flatten, open_batch, unflatten
from probes.records import Estimate, student

MIXED = 1.1  # largest split R-hat of chains that agree
EQUIPARTITION = 0.5, 1.1  # slow flat directions, which add nothing to the loss, hold it below 1; too large steps above
SPREAD = 1.5  # largest variance of n beta L, in units of its mean, of chains that make no excursions
ROUTES = ("vmap", "leading", "loop")


@dataclass(frozen=True)
class LearningCoefficient:
    """The local learning coefficient lambda, the settings that it depends on, and how well the chains agree.

    tempered estimates lambda(t) at t = n beta, its error that between chains; value is its value, and interval its interval
    with the upper end raised by sqrt(slope), what lambda(t) still lacks at a multiplicity of two, where slope = d lambda(t) /
    d log t at its upper limit (None for minibatches, whose noise hides it).
    rhat is the split R-hat of the losses, initial_loss that of all batches at w*, equipartition the mean of (w - w*)' grad U
    / D for the sampled density exp(-U), 1 in equilibrium.
    status is "ok", "not mixed" (rhat above 1.1), "not in equilibrium" (equipartition below 0.5 beyond its error), "step too
    large" (above 1.1, or a variance of n beta L above 1.5 times its mean) or a refusal, where value is nan and chain_values
    say what the chains gave. precision is the coarsest dtype of the loss: its rounding times n beta is the least excess loss
    that shows.
    """

    value: float
    interval: tuple[float, float]
    tempered: Estimate
    slope: Estimate | None
    rhat: float
    equipartition: Estimate
    initial_loss: float
    nbeta: float
    gamma: float
    step: float
    chains: int
    draws: int
    burn: int
    chain_values: tuple[float, ...] = field(repr=False)
    precision: str
    status: str = "ok"


def local_learning_coefficient(
    loss: Callable[[Params, object], Tensor],
    params: Params,
    batches: Sequence,
    *,
    step: float,
    n: int | None = None,
    beta: float | None = None,
    gamma: float = 1.0,
    chains: int = 8,
    draws: int = 2000,
    burn: int = 1000,
    confidence: float = 0.95,
    weights: Sequence[float] | Callable | str | None = None,
    route: str = "vmap",
    stationary: bool = False,
    seed: int = 0,
) -> LearningCoefficient:
    """Measure the local learning coefficient of loss(params, batch), a mean over items, at params = w*.

    Each chain starts at w* and repeats w <- w - step/2 (n beta grad L_b(w) + gamma (w - w*)) + sqrt(step) (x + x') / 2, b a
    batch drawn by its number of items, x' the next step's x (Leimkuhler & Matthews 2013: no error of first order in step).
    Draws after the burn-in add L_b(w) - L_b(w*).
    n counts items (default those of the batches, as `weights` counts them for `hessian`) and beta defaults to 1 / log n. step
    must stay below 1 / (n beta times the largest curvature met). route: "vmap" batches the chains, "leading" passes params
    with a leading chain axis for one loss per chain, "loop" takes one by one. stationary takes every L_b less its tangent at
    w* (the control variate of Baker et al. 2019).
    Raises ValueError for fewer than 4 chains or draws, for a step, n, beta or gamma that is not positive, and, with the
    batch, for a loss that is random or not finite at w*.
    """
    check_params(params)
    batches = check_batches(batches)
    items = np.array(settle(batches, weights, single=n is not None))
    n = int(items.sum()) if n is None else n
    if n < 3:
        raise ValueError(f"n must be at least 3 items, got {n}; give the size of the data set")
    nbeta = n * (1 / math.log(n) if beta is None else beta)
    if chains < 4 or draws < 4 or burn < 0:
        raise ValueError(f"at least 4 chains and 4 draws are needed, to see whether they agree; got {chains} and {draws}")
    if not (step > 0 and gamma > 0 and 0 < nbeta < math.inf):
        raise ValueError(f"step, gamma and n beta must be positive, got {step}, {gamma} and {nbeta}")
    if route not in ROUTES:
        raise ValueError(f"route must be one of {', '.join(ROUTES)}, got {route!r}")
    losses = _losses(opened(loss, "loss", "loss"), {name: tuple(p.shape) for name, p in params.items()}, route)
    start = flatten(params).detach().expand(chains, -1)
    first, coarse = _at_start(losses, start[:1], batches)
    whole = float(items @ first / items.sum())
    tangents = _slopes(losses, start, batches) if stationary else None
    excess, virial = _chains(losses, start, batches, items / items.sum(), first, tangents, nbeta, gamma, step, draws, burn, seed)
    with np.errstate(over="ignore"):  # chains that run away are refused below
        scaled = nbeta * excess
    return _summary(
        scaled,
        virial,
        start.shape[1],
        len(batches) == 1,
        whole,
        confidence,
        nbeta=nbeta,
        gamma=gamma,
        step=step,
        chains=chains,
        draws=draws,
        burn=burn,
        precision=str(coarse).removeprefix("torch."),
    )


def _at_start(losses: Callable, start: Tensor, batches: list) -> tuple[np.ndarray, torch.dtype]:
    """L_b(w*) of every batch, checked, and the coarsest dtype in the first one's graph."""
    found = []
    for i, batch in enumerate(batches):
        with named(i), torch.no_grad():
            value = steady(lambda batch=batch: losses(start, [batch]), "the loss")
            if value.shape != (1,):
                raise ValueError(f"loss must return a scalar, or one per chain for route='leading', got {tuple(value.shape[1:])}")
            check_values([value], "the loss", batch)
            found.append(float(value[0]))
    w = start.clone().requires_grad_(True)
    value = losses(w, batches[:1])
    check_repeats(
        value.detach(), losses(w, batches[:1]).detach(), lambda: losses(w, batches[:1]).detach(), precision(value), "the loss"
    )
    return np.array(found), coarsest({precision(value), start.dtype})


def _losses(loss: Callable, shapes: Mapping[str, tuple[int, ...]], route: str) -> Callable[[Tensor, list], Tensor]:
    """The function (chains, D), one batch per chain -> one loss per chain."""

    def single(row: Tensor, batch) -> Tensor:
        return loss(unflatten(row, shapes), batch)

    def together(rows: Tensor, batch) -> Tensor:
        parts = rows.split([math.prod(s) for s in shapes.values()], dim=1)
        return loss({k: p.reshape(len(rows), *s) for (k, s), p in zip(shapes.items(), parts, strict=True)}, batch)

    def apply(rows: Tensor, chosen: list) -> Tensor:
        shared = all(b is chosen[0] for b in chosen)
        if route == "leading" and shared:
            return together(rows, chosen[0])
        if route == "vmap" and shared:
            return torch.func.vmap(lambda row: single(row, chosen[0]), randomness="different")(rows)
        if route == "vmap" and len({batch_size(b) for b in chosen}) == 1:
            leaves, rebuild = open_batch(chosen[0])
            columns = zip(*(open_batch(b)[0] for b in chosen), strict=True)
            stacked = {i: torch.stack(x) for i, x in enumerate(columns) if isinstance(x[0], Tensor)}

            def apart(row: Tensor, tensors: dict[int, Tensor]) -> Tensor:
                return single(row, rebuild([tensors.get(i, leaf) for i, leaf in enumerate(leaves)]))

            return torch.func.vmap(apart, randomness="different")(rows, stacked)
        alone = together if route == "leading" else lambda row, b: single(row[0], b)[None]
        return torch.cat([alone(row[None], b) for row, b in zip(rows, chosen, strict=True)])

    return apply


def _slopes(losses: Callable, start: Tensor, batches: list) -> Tensor:
    """grad L_b(w*) of every batch, (batches, D)."""
    w = start[:1].clone().requires_grad_(True)
    return torch.cat([torch.autograd.grad(losses(w, [b]).sum(), w)[0] for b in batches])


def _chains(
    losses: Callable,
    start: Tensor,
    batches: list,
    shares: np.ndarray,
    first: np.ndarray,
    tangents: Tensor | None,
    nbeta: float,
    gamma: float,
    step: float,
    draws: int,
    burn: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """L_b(w) - L_b(w*) of every chain and draw, (chains, draws), and each chain's mean of (w - w*)' grad U."""
    noise = torch.Generator(start.device).manual_seed(seed)
    rng = np.random.default_rng(seed)
    w, found, virial = start.clone(), [], 0.0

    def kick() -> Tensor:
        return torch.randn(w.shape, generator=noise, dtype=w.dtype, device=w.device)

    now = kick()
    for i in range(burn + draws):
        chosen = rng.choice(len(batches), len(w), p=shares) if len(batches) > 1 else np.zeros(len(w), dtype=int)
        w.requires_grad_(True)
        values = losses(w, [batches[b] for b in chosen])
        (slope,) = torch.autograd.grad(values.sum(), w)
        w, values = w.detach(), values.detach()
        if tangents is not None:
            slope = slope - tangents[chosen]
            values = values - (tangents[chosen] * (w - start)).sum(1)
        drift = torch.add(nbeta * slope, w - start, alpha=gamma)
        if i >= burn:
            found.append(values.double() - torch.as_tensor(first[chosen], device=w.device))
            virial = virial + (drift * (w - start)).sum(1).double()
        later = kick()
        w = w.add(drift, alpha=-step / 2).add_(now + later, alpha=math.sqrt(step) / 2)
        now = later
    return torch.stack(found, 1).cpu().numpy(), virial.cpu().numpy() / draws


def _summary(
    scaled: np.ndarray, virials: np.ndarray, size: int, full: bool, initial: float, confidence: float, **settings
) -> LearningCoefficient:
    """The record of the chains' n beta (L - L*), (chains, draws), and of their (w - w*)' grad U, (chains,), D = size."""
    each, chains, virials = scaled.mean(1), len(scaled), virials / size
    given = tuple(float(v) for v in each)

    def across(quantity: str, values: np.ndarray) -> Estimate:
        return student(
            quantity, float(values.mean()), float(values.std(ddof=1) / math.sqrt(chains)), chains, confidence=confidence
        )

    def refused(reason: str) -> LearningCoefficient:
        void = Estimate(
            "local learning coefficient", math.nan, math.inf, (-math.inf, math.inf), chains, confidence, status=reason
        )
        return LearningCoefficient(
            math.nan, void.interval, void, None, math.nan, void, initial, **settings, chain_values=given, status=reason
        )

    if not np.isfinite(scaled).all() or not math.isfinite(initial):
        return refused("refused: the loss is not finite along the chains; take a smaller step or a larger gamma")
    if each.mean() > size:
        return refused("refused: the chains lie above D, where no coefficient can be; take a smaller step or a larger gamma")
    if each.mean() < 0:
        return refused("refused: negative, the chains found lower losses than the start; train to a minimum, or raise gamma")
    tempered, equipartition = across("local learning coefficient", each), across("equipartition", virials)
    rhat = _split_rhat(scaled)
    slope, lack = None, 0.0
    if full:
        slope = across("slope in log n beta", each - ((scaled - scaled.mean()) ** 2).mean(1))
        lack = math.sqrt(max(0.0, slope.interval[1]))
    low, high = EQUIPARTITION
    spread = slope is not None and tempered.value - slope.value > SPREAD * tempered.value
    status = "step too large" if spread or equipartition.interval[0] > high else "not mixed" if rhat > MIXED else "ok"
    if status == "ok" and equipartition.interval[1] < low:
        status = "not in equilibrium"
    return LearningCoefficient(
        tempered.value,
        (tempered.interval[0], tempered.interval[1] + lack),
        tempered,
        slope,
        rhat,
        equipartition,
        initial,
        **settings,
        chain_values=given,
        status=status,
    )


def _split_rhat(x: np.ndarray) -> float:
    """The potential scale reduction of half chains (Gelman et al. 2013, sec. 11.4): sqrt(1 - 1/m + B/W)."""
    m = x.shape[1] // 2
    halves = np.concatenate([x[:, :m], x[:, -m:]])
    within = halves.var(1, ddof=1).mean()
    return math.sqrt(1 - 1 / m + halves.mean(1).var(ddof=1) / within) if within > 0 else math.inf
