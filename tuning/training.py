"""Training a delta: a deterministic full-batch arm for the validations, and minibatches as in practice."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tuning.backbones import Batch
from tuning.subjects import READOUT_PARAMETERS, Params, Subject, check_labels

Objective = Callable[[Params], Tensor]


class Diverged(ValueError):
    """A run whose loss or gradient ceased to be finite."""


@dataclass(frozen=True)
class Fit:
    """What a run reached and what it cost; `history` holds (evaluations, value, gradient norm) per step."""

    params: Params = field(repr=False)
    value: float
    gradient_norm: float
    initial_gradient_norm: float
    converged: bool
    evaluations: int
    cpu_seconds: float
    wall_seconds: float
    history: tuple[tuple[int, float, float], ...] = field(repr=False)


def flatten(params: Params) -> np.ndarray:
    """Return the parameters as one float64 vector, in the order of the dict."""
    return np.concatenate([value.detach().cpu().double().numpy().ravel() for value in params.values()])


def unflatten(vector: np.ndarray, like: Params) -> Params:
    """Return the dict of tensors with the names, shapes and precision of `like` filled from a vector."""
    made, start = {}, 0
    for name, value in like.items():
        piece = torch.from_numpy(vector[start : start + value.numel()].copy()).view(value.shape)
        made[name] = piece.to(value.device, value.dtype)
        start += value.numel()
    return made


class _Counted:
    """The objective and its gradient on a flat vector, with a count of evaluations and the latest one."""

    def __init__(self, objective: Objective, like: Params) -> None:
        self.objective, self.like, self.evaluations = objective, like, 0
        # What rounding alone may change in a value, relative to it.
        self.noise = 16 * max(torch.finfo(value.dtype).eps for value in like.values())
        self.seen: tuple[np.ndarray, float, np.ndarray] | None = None

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        params = {name: value.requires_grad_() for name, value in unflatten(vector, self.like).items()}
        with torch.enable_grad():
            value = self.objective(params)
            gradients = torch.autograd.grad(value, list(params.values()), allow_unused=True)
        self.evaluations += 1
        filled = {
            name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(params.items(), gradients, strict=True)
        }
        number, gradient = value.item(), flatten(filled)
        if not math.isfinite(number) or not np.isfinite(gradient).all():
            if self.seen is None:
                raise ValueError(f"expected a finite loss and gradient at the start, got {number}; check the start")
            number = math.inf  # a trial step that went too far, which the line search takes back
        self.seen = (vector.copy(), number, gradient)
        return number, gradient


def fit(objective: Objective, initial: Params, *, tolerance: float = 1e-6, max_evaluations: int = 2000) -> Fit:
    """Return the minimiser found by L-BFGS from `initial`, stopped at |g| <= tolerance |g_0|.

    On the flat float64 vector (Nocedal and Wright 2006, section 7.2), the line search using slopes where values no longer
    tell steps apart, which is why it gets further than one that needs the values to fall. Deterministic. `converged` says
    whether the tolerance was met; a run that ends for another reason is returned with False. Raises ValueError for a loss
    or a number of evaluations that is not finite.
    """
    return _minimised(_lbfgs, objective, initial, tolerance, max_evaluations)


def gradient_descent(objective: Objective, initial: Params, *, tolerance: float = 1e-6, max_evaluations: int = 2000) -> Fit:
    """Return the minimiser found by gradient descent with backtracking, theta <- theta - s g; all else is as in `fit`."""
    return _minimised(_gradient_steps, objective, initial, tolerance, max_evaluations)


def _minimised(method: Callable, objective: Objective, initial: Params, tolerance: float, max_evaluations: int) -> Fit:
    if not max_evaluations < math.inf:
        raise ValueError(f"expected a finite number of evaluations, got {max_evaluations}")
    cpu, wall = time.process_time(), time.perf_counter()
    counted, start = _Counted(objective, initial), flatten(initial)
    value, gradient = counted(start)
    first = float(np.linalg.norm(gradient))
    goal, history = tolerance * first, [(1, value, first)]
    best = (start, value, gradient)
    if first > 0:
        best = method(counted, best, goal, max_evaluations, history)
    norm = float(np.linalg.norm(best[2]))
    return Fit(
        params=unflatten(best[0], initial),
        value=best[1],
        gradient_norm=norm,
        initial_gradient_norm=first,
        converged=norm <= goal,
        evaluations=counted.evaluations,
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
        history=tuple(history),
    )


def _descends(before: tuple, after: tuple, slope: float, new_slope: float, size: float, noise: float) -> bool:
    """Return whether Armijo's condition holds or, where values differ by rounding, its form in slopes (Hager, Zhang 2005)."""
    if after[1] <= before[1] + 1e-4 * size * slope:
        return True
    return after[1] <= before[1] + noise and new_slope <= (2e-4 - 1) * slope


def _lbfgs(counted: _Counted, best: tuple, goal: float, budget: int, history: list) -> tuple:
    """Return the best point along L-BFGS directions with weak Wolfe steps; values are trusted only beyond rounding."""
    pairs: deque = deque(maxlen=int(min(30, max(5, 2e7 // len(best[0])))))
    while counted.evaluations < budget and np.linalg.norm(best[2]) > goal:
        direction = -_inverse_hessian_times(best[2], pairs)
        slope = float(direction @ best[2])
        if slope >= 0:
            pairs.clear()
            direction, slope = -best[2], -float(best[2] @ best[2])
        first = 1.0 if pairs else min(1.0, 1.0 / float(np.linalg.norm(best[2])))
        found = _wolfe(counted, best, direction, slope, first, budget)
        if found is None:
            if not pairs:
                break
            pairs.clear()
            continue
        s, y = found[0] - best[0], found[2] - best[2]
        if s @ y > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y):
            pairs.append((s, y, float(s @ y)))
        best = found
        history.append((counted.evaluations, best[1], float(np.linalg.norm(best[2]))))
    return best


def _inverse_hessian_times(gradient: np.ndarray, pairs: deque) -> np.ndarray:
    """Return an approximate H^-1 g by the two-loop recursion (Nocedal and Wright 2006, algorithm 7.4)."""
    q, shares = gradient.copy(), []
    for s, y, sy in reversed(pairs):
        share = float(s @ q) / sy
        q -= share * y
        shares.append(share)
    if pairs:
        _, y, sy = pairs[-1]
        q *= sy / float(y @ y)
    for (s, y, sy), share in zip(pairs, reversed(shares), strict=True):
        q += (share - float(y @ q) / sy) * s
    return q


def _wolfe(counted: _Counted, best: tuple, direction: np.ndarray, slope: float, size: float, budget: int) -> tuple | None:
    """Return the point where the value has fallen enough and the slope is below 0.9 of itself, or None."""
    low, high, low_slope, high_slope = 0.0, math.inf, slope, None
    # the bracket ends where no number lies inside it
    while counted.evaluations < budget and size > 1e-14 and low < size < high:
        value, gradient = counted(best[0] + size * direction)
        after, new_slope = counted.seen, float(gradient @ direction)
        if not _descends(best, after, slope, new_slope, size, counted.noise * abs(best[1])):
            high, high_slope = size, new_slope
        elif new_slope < 0.9 * slope:
            low, low_slope = size, new_slope
        else:
            return after
        if high == math.inf:
            size *= 4
        else:
            # The secant of the slopes where it lies well inside the bracket, the middle elsewhere.
            rise = high_slope - low_slope
            guess = low - low_slope * (high - low) / rise if rise > 0 else math.inf
            inner = 0.1 * (high - low)
            size = guess if low + inner <= guess <= high - inner else (low + high) / 2
    return None


def _gradient_steps(counted: _Counted, best: tuple, goal: float, budget: int, history: list) -> tuple:
    """Return the best point of steepest descent; a step doubles after a success and halves until it descends enough."""
    size = 1.0 / max(1.0, float(np.linalg.norm(best[2])))
    while counted.evaluations < budget and (square := float(best[2] @ best[2])) > goal**2 and size > 1e-20:
        trial = best[0] - size * best[2]
        if np.array_equal(trial, best[0]):
            break  # no number lies between
        counted(trial)
        after = counted.seen
        if _descends(best, after, -square, -float(after[2] @ best[2]), size, counted.noise * abs(best[1])):
            best, size = after, 2 * size
            history.append((counted.evaluations, best[1], float(np.linalg.norm(best[2]))))
        else:
            size /= 2
    return best


def penalized(subject: Subject, batches: Sequence[Batch], weight: float) -> Objective:
    """Return the mean loss over all examples + weight/2 |delta - delta_0|^2; raises ValueError for labels outside the classes."""
    return _objective(subject, batches, weight, lambda params: _moved(subject, params, subject.initial))


def penalized_signals(subject: Subject, batches: Sequence[Batch], weight: float) -> Objective:
    """Return the mean loss + weight/2 times the energy of the signals (`Subject.energy`), a trained readout as in `penalized`.

    Raises ValueError for labels outside the classes.
    """
    return _objective(subject, batches, weight, lambda params: _moved(subject, params, _readout(subject)), energy=True)


def penalized_weights(subject: Subject, batches: Sequence[Batch], weight: float) -> Objective:
    """Return the mean loss + weight/2 times the squared norm of the weights' change, a trained readout as in `penalized`.

    Raises ValueError for a delta that is no change of weights and for labels outside the classes.
    """
    if not hasattr(subject.delta, "weight_changes"):
        raise ValueError(f"expected a delta that changes weights, {subject.delta.name} does not: penalise its parameters")
    readout = _readout(subject)

    def size(params: Params) -> Tensor:
        own = {name: value for name, value in params.items() if name not in readout}
        changes = subject.delta.weight_changes(subject.backbone, own)
        return _moved(subject, params, readout) + sum(change.square().sum() for change in changes.values())

    return _objective(subject, batches, weight, size)


def _objective(
    subject: Subject, batches: Sequence[Batch], weight: float, size: Callable[[Params], Tensor], *, energy: bool = False
) -> Objective:
    """Return the mean loss over all examples + weight/2 (size of the parameters, and the energy over the examples)."""
    batches = list(batches)
    for batch in batches:
        check_labels(batch.labels, subject.readout.classes)
    total = sum(len(batch.labels) for batch in batches)

    def objective(params: Params) -> Tensor:
        value = weight / 2 * size(params)
        for batch in batches:
            share = len(batch.labels) / total
            value = value + share * subject.loss(params, batch)
            if energy:
                value = value + share * weight / 2 * subject.energy(params, batch)
        return value

    return objective


def _readout(subject: Subject) -> list[str]:
    return [name for name in subject.initial if name in READOUT_PARAMETERS]


def _moved(subject: Subject, params: Params, names: Iterable[str]) -> Tensor:
    """Return the squared distance of the named parameters from their start."""
    return sum(((params[name] - subject.initial[name].detach()).square().sum() for name in names), torch.zeros(()))


def linear(left: float) -> float:
    """Return the rate that falls in proportion to the steps left, as a share of the first."""
    return left


def cosine(left: float) -> float:
    """Return the rate that falls along half a cosine, (1 - cos(pi left)) / 2, as a share of the first."""
    return (1.0 - math.cos(math.pi * left)) / 2.0


def shares(steps: int, warmup: float, schedule: Callable[[float], float]) -> list[float]:
    """Return the rate of every step as a share of the highest: a linear rise over `warmup` of the steps, then the schedule."""
    ramp = max(1, round(warmup * steps))
    falling = (schedule(max(0.0, (steps - i) / max(1, steps - ramp))) for i in range(ramp, steps))
    return [(i + 1) / ramp for i in range(min(ramp, steps))] + list(falling)


def draws(size: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the examples of every step, drawn in seeded epochs without replacement."""
    generator, queue = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(queue) < min(batch_size, size):
            queue = torch.cat([queue, torch.randperm(size, generator=generator)])
        rows, queue = queue[:batch_size], queue[batch_size:]
        yield rows


def minibatch(
    subject: Subject,
    batch: Batch,
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    warmup: float = 0.06,
    clip: float = 1.0,
    seed: int,
    schedule: Callable[[float], float] = linear,
    visit: Callable[[int, Params], None] | None = None,
    visited: Collection[int] = (),
) -> Fit:
    """Return a run of AdamW on minibatches with linear warm-up, a falling rate and clipped gradients, as in practice.

    Examples are drawn in seeded epochs without replacement. schedule: the rate, as a share of `lr`, from the share of the steps
    after warm-up that are left. visit(step, params) is called after each of the steps `visited`. `history` holds (step,
    minibatch loss, gradient norm). Steps are fixed, so `converged` is False. Raises Diverged for a loss that is not finite,
    ValueError for labels outside the classes.
    """
    if min(steps, batch_size) < 1:
        raise ValueError(f"expected at least one step and one example a step, got {steps} and {batch_size}")
    check_labels(batch.labels, subject.readout.classes)
    lengths = batch.mask.sum(-1)
    packed = batch.mask.device.type == "cpu"  # elsewhere launches cost more than padding

    def drawn() -> Iterator[Batch]:
        for rows in draws(len(batch.labels), batch_size, steps, seed):
            rows = rows.to(batch.tokens.device)
            width = int(lengths[rows].max())
            yield Batch(batch.tokens[rows, :width], batch.mask[rows, :width], batch.labels[rows])

    return adamw(
        lambda params, drawn: subject.loss(params, drawn, packed=packed),
        subject.initial,
        drawn(),
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        clip=clip,
        schedule=schedule,
        visit=visit,
        visited=visited,
    )


def adamw(
    loss: Callable[[Params, object], Tensor],
    initial: Params,
    batches: Iterable,
    *,
    steps: int,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    warmup: float = 0.06,
    clip: float = 1.0,
    schedule: Callable[[float], float] = linear,
    visit: Callable[[int, Params], None] | None = None,
    visited: Collection[int] = (),
) -> Fit:
    """Return a run of AdamW on any loss(params, batch), a batch a step in their order and anew when they end.

    The token loss of a live model is `a = costate.attach(model, batches)`: adamw(a.loss, a.params, a.batches, ...), after which
    `model.load_state_dict(fit.params, strict=False)` puts the numbers into it. Rates, clipping, `visit` and the result are as in
    `minibatch`. Raises Diverged for a loss that is not finite, ValueError for no steps and no batches.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    cpu, wall = time.process_time(), time.perf_counter()
    params = {name: value.detach().clone().requires_grad_() for name, value in initial.items()}
    optimizer = torch.optim.AdamW(params.values(), lr=lr, weight_decay=weight_decay, fused=True)
    history = []
    for number, (pace, batch) in enumerate(zip(shares(steps, warmup, schedule), itertools.cycle(batches), strict=False)):
        value = loss(params, batch)
        optimizer.zero_grad()
        value.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(params.values(), clip, foreach=True))
        value = value.item()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise Diverged(f"expected a finite loss, got {value} at step {number}; lower the learning rate ({lr})")
        for group in optimizer.param_groups:
            group["lr"] = lr * pace
        optimizer.step()
        history.append((number + 1, value, norm))
        if visit is not None and number + 1 in visited:
            visit(number + 1, {name: value.detach().clone() for name, value in params.items()})
    if not history:
        raise ValueError("expected at least one batch to train on, got none")
    return Fit(
        params={name: value.detach().clone() for name, value in params.items()},
        value=history[-1][1],
        gradient_norm=history[-1][2],
        initial_gradient_norm=history[0][2],
        converged=False,
        evaluations=steps,
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
        history=tuple(history),
    )
