"""What the options of a new task are foretold before training, and their runs where a race asks for them."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.reach.response import response
from theory.loss import CrossEntropy
from tuning.deltas import Combined
from tuning.practice import Recipe, logits_of
from tuning.subjects import READOUT_PARAMETERS
from tuning.training import Diverged, cosine, minibatch

from ..practice.tangent import PATIENCE, Tangent, Texts, pieces
from ..shared.setting import Params, Setting
from ..shared.training import cross_entropy, first, logits, shifted
from .layers import Layer, layer_map
from .race import WAIT, Price

ROOM = 5 << 29  # bytes that the responses of options taken at once may be
DRAWN = 1 << 17  # numbers of an option without room, at most, from which it is told: kernels are sums over many
PROBED = 8  # dev texts on which it is seen which numbers move the logits, and where options start
STEPS_APART = 4  # steps between two looks at the clock
LIVE = 1 << 27  # numbers of gradients that are alive at once, text by text


class Late(Exception):
    """The time that was given has passed."""


@dataclass(frozen=True)
class Told:
    """Of an option: the least dev losses foretold, by the names of `options.FORECASTS`, and where the optimum's comes from.

    share: of its numbers, drawn at random, from which it was told; below 1 for an option whose whole response has no room.
    """

    losses: dict[str, float]
    layers: tuple[Layer, ...]
    share: float = 1.0


@dataclass(frozen=True, eq=False)
class _Numbers:
    """The numbers of an option that move the logits at its start, or as many of them as there is room for.

    chosen: by parameter, the places of those that were drawn; None for all. scale: all of them over the drawn ones.
    """

    initial: Params
    chosen: Mapping[str, Tensor | None]
    scale: float

    @property
    def start(self) -> Params:
        """Return them where the option starts, the readout's last."""
        pairs = ((name, self.initial[name].detach(), at) for name, at in self.chosen.items())
        return {name: value if at is None else value.flatten()[at] for name, value, at in pairs}

    def network(self, params: Params, scale: float = 1.0) -> Params:
        """Return all of the option's numbers, the drawn ones moved `scale` times as far as they are in params."""
        made = {name: value.detach() for name, value in self.initial.items()}
        for name, at in self.chosen.items():
            if at is None:
                made[name] = params[name]
                continue
            move = scale * (params[name] - made[name].flatten()[at])
            made[name] = made[name] + torch.zeros_like(made[name]).flatten().index_add(0, at, move).view_as(made[name])
        return made


def told(
    setting: Setting, subjects: Mapping[str, Any], recipes: Mapping[str, Recipe], seed: int, *, until: float = math.inf
) -> Iterator[tuple[str, Told]]:
    """Yield what each option is foretold, until the clock `time.perf_counter` says `until`.

    The losses are those of a practice cell with one linearisation; of the setting only train and dev text are read. Options that
    start at the frozen model share one response (`_grouped`). Of an option without room some numbers are drawn, each standing for
    several: kernels and AdamW's path are then unbiased estimates of its own.
    """
    with contextlib.suppress(Late):
        for group, joined in _grouped(setting, subjects, seed, until):
            yield from _told_of(setting, subjects, group, joined, recipes, seed, until)


def _told_of(
    setting: Setting, subjects: Mapping[str, Any], group: Mapping[str, "_Numbers"], joined: bool, recipes: Mapping[str, Recipe],
    seed: int, until: float,
) -> Iterator[tuple[str, Told]]:  # fmt: skip
    """Yield what the options of a group are foretold, of which the responses are alive together."""
    responses = [_response(group, subjects, joined, batch, until) for batch in (setting.train, setting.dev)]
    place = 0
    for name, numbers in group.items():
        sizes = {key: value.numel() for key, value in numbers.start.items()}
        heads = sum(size for key, size in sizes.items() if key in READOUT_PARAMETERS)
        own = slice(place, place + sum(sizes.values()) - heads)
        place = own.stop
        train, dev = (_own(found, own, heads) if joined else found for found in responses)
        origin = np.concatenate([value.cpu().numpy().ravel() for value in numbers.start.values()])
        one = Tangent(dev.G[:1], dev.y0[:1], dev.labels[:1])  # no held-out text is read
        texts = Texts(train, dev, one, origin, heads)
        yield name, _said(setting, subjects[name], texts, numbers, recipes[name], seed, until)


def _said(setting: Setting, subject: Any, texts: Texts, numbers: _Numbers, recipe: Recipe, seed: int, until: float) -> Told:
    """Return what the tangent models of an option say of it."""
    root = math.sqrt(numbers.scale)
    _scale(texts, root)
    best, tried = texts.optimum(), []
    layers = layer_map(texts, best, numbers.start, tuple(numbers.initial))
    plain = setting.train.labels.device.type != "cpu" or not hasattr(subject, "backbone")
    outputs = subject.outputs if plain else functools.partial(subject.outputs, packed=True)
    for ridge, costates in texts.ridges(best.weight):
        _in_time(until)
        moved = shifted(numbers.start, texts.displacement(costates, ridge, best.weight))
        network = numbers.network(moved, root)
        tried.append(cross_entropy(logits(outputs, network, setting.dev), texts.dev.labels))
        if len(tried) - 1 - int(np.argmin(tried)) >= PATIENCE:
            break
    _scale(texts, root)
    path = float(texts.path(recipe, seed).losses.min())
    losses = {"optimum": best.dev_loss, "path": path, "refined": min(*tried, best.dev_loss)}
    return Told(losses, layers, 1.0 / numbers.scale)


def _scale(texts: Texts, factor: float) -> None:
    """Multiply the columns of an option's drawn numbers."""
    if factor != 1.0:
        for part in (texts.train, texts.dev):
            part.G[..., texts.own] *= factor


def _grouped(
    setting: Setting, subjects: Mapping[str, Any], seed: int, until: float
) -> Iterator[tuple[dict[str, _Numbers], bool]]:
    """Yield options whose responses are taken at once, and whether they are joined: those that leave the frozen model as it is.

    To first order a change that is zero at the start does not meet another one, so that each has in the joined delta the
    response that it has alone. Others, and those of which two have no room, are alone.
    """
    few = first(setting.dev, PROBED)
    batch = len(setting.train.labels) + len(setting.dev.labels)
    together: dict[str, _Numbers] = {}
    used, alone = 0, []
    for name, subject in subjects.items():
        _in_time(until)
        moving, outputs = _moving(subject, few)
        bytes_each = batch * (outputs.shape[1] - 1) * outputs.element_size()
        numbers = _drawn(subject.initial, moving, ROOM // bytes_each, seed)
        size = bytes_each * sum(value.numel() for value in numbers.start.values())
        if not (hasattr(subject, "steered") and _as_frozen(subject, outputs, few) and 2 * size <= ROOM):
            alone.append({name: numbers})
            continue
        if used + size > ROOM // 2:
            yield together, len(together) > 1
            together, used = {}, 0
        together[name] = numbers
        used += size
    if together:
        yield together, len(together) > 1
    for group in alone:
        yield group, False


def _moving(subject: Any, batch: Any) -> tuple[list[str], Tensor]:
    """Return the parameters that move a logit at the start, the readout's last, and the logits."""
    params = {name: value.detach().clone().requires_grad_() for name, value in subject.initial.items()}
    with torch.enable_grad():
        y = subject.outputs(params, batch)
        weights = torch.linspace(1.0, 2.0, y.numel(), dtype=y.dtype, device=y.device).view_as(y).sin()
        found = torch.autograd.grad((y * weights).sum(), list(params.values()), allow_unused=True)
    moving = [name for name, slope in zip(params, found, strict=True) if slope is not None and bool(slope.any())]
    return sorted(moving, key=READOUT_PARAMETERS.__contains__), y.detach()


def _as_frozen(subject: Any, outputs: Tensor, batch: Any) -> bool:
    with torch.no_grad():
        return bool(torch.allclose(outputs, subject.steered({}, batch), rtol=1e-5, atol=1e-5))


def _drawn(initial: Params, moving: list[str], most: int, seed: int) -> _Numbers:
    """Return the parameters whole, or of all but the readout's a share at random, where more than `most` numbers move."""
    sizes = {name: initial[name].numel() for name in moving}
    own = sum(size for name, size in sizes.items() if name not in READOUT_PARAMETERS)
    if sum(sizes.values()) <= most:
        return _Numbers(initial, dict.fromkeys(moving), 1.0)
    share, generator = min(DRAWN, most // 2) / own, torch.Generator().manual_seed(seed)
    chosen: dict[str, Tensor | None] = dict.fromkeys(moving)
    for name in moving:
        if name not in READOUT_PARAMETERS:
            count = max(1, int(share * sizes[name]))
            chosen[name] = torch.randperm(sizes[name], generator=generator)[:count].sort()[0].to(initial[name].device)
    return _Numbers(initial, chosen, own / sum(len(at) for at in chosen.values() if at is not None))


def _response(group: Mapping[str, _Numbers], subjects: Mapping[str, Any], joined: bool, batch: Any, until: float) -> Tangent:
    """Return the tangent model of the options of a group on some texts, their columns one after the other, the readout's last."""
    subject = next(iter(subjects[name] for name in group))
    if joined:
        subject = replace(subject, delta=Combined(tuple((name, subjects[name].delta) for name in group)))
    labels = batch.labels.cpu().numpy()
    start = {
        f"{name}/{key}" if joined and key not in READOUT_PARAMETERS else key: value
        for name, numbers in group.items()
        for key, value in numbers.start.items()
    }
    start = {key: start[key] for key in sorted(start, key=READOUT_PARAMETERS.__contains__)}

    def outputs(params: Params, part: Any) -> Tensor:
        _in_time(until)
        whole: Params = {}
        for name, numbers in group.items():
            label = f"{name}/" if joined else ""
            own = {key: params[key if key in READOUT_PARAMETERS else label + key] for key in numbers.chosen}
            whole |= {key if key in READOUT_PARAMETERS else label + key: value for key, value in numbers.network(own).items()}
        return subject.outputs(whole, part)

    with torch.no_grad():
        like = outputs(start, first(batch, 1))
    E = torch.as_tensor(CrossEntropy(labels).basis(like.shape[1])).to(like)
    alive = sum(value.numel() for numbers in group.values() for value in numbers.initial.values())
    chunk = max(1, min(32, LIVE // alive))
    measured = response(lambda p, part: outputs(p, part) @ E, start, pieces(batch), chunk=chunk, budget=1 << 60)
    y0 = measured.outputs.double().cpu().numpy() @ E.double().cpu().numpy().T
    return Tangent(measured.matrix.detach().cpu().numpy(), y0, labels)


def _own(found: Tangent, columns: slice, heads: int) -> Tangent:
    """Return the tangent model in one option's columns and the last ones, the readout's."""
    parts = [found.G[..., columns], found.G[..., found.G.shape[-1] - heads :]]
    return replace(found, G=np.concatenate(parts, axis=-1))


def _in_time(until: float) -> None:
    if time.perf_counter() > until:
        raise Late


@dataclass(eq=False)
class Trained:
    """Dev losses of runs by (run, look), each trained when first asked for: from its start, since a run that ended keeps no state.

    runs: (subject, rate) of every run. steps: of the looks (L,). passes: of a text through the network, taken so far. hits: at each
    place whether each dev text was right (N,). until: when the clock says so `Late` is raised. sure: `Certain` is raised once it
    returns true after a run.
    """

    runs: list[tuple[Any, float]]
    train: Any
    dev: Any
    recipe: Recipe
    seed: int
    passes: float = 0.0
    losses: dict[tuple[int, int], float] = field(default_factory=dict)
    hits: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    each: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    report: Callable[[str], None] = lambda line: None
    until: float = math.inf
    sure: Callable[["Trained"], bool] = lambda trained: False

    @property
    def steps(self) -> np.ndarray:
        """Return the steps of the looks."""
        return np.array(self.recipe.looked_at)

    @property
    def price(self) -> Price:
        """Return what a step and a look take."""
        return Price(3.0 * self.recipe.batch_size, float(len(self.dev.labels)), kept=False)

    @property
    def best(self) -> tuple[int, int] | None:
        """Return the run and look of the least dev loss so far, None before the first look."""
        return min(self.hits, key=lambda place: self.losses[place], default=None)

    @property
    def cut(self) -> int:
        """Return the first look at which a race drops runs."""
        return int(np.argmax(self.steps >= WAIT * self.steps[-1]))

    def __getitem__(self, place: tuple[int, int]) -> float:
        if place not in self.losses:
            run, look = place
            self._train(run, look if look <= self.cut else len(self.steps) - 1)  # what goes on after the cut goes to its end
            if self.sure(self):
                raise Certain
        return self.losses[place]

    def finish(self, run: int) -> None:
        """Run one to its end, whatever is certain, and as far as there is time."""
        if (run, last := len(self.steps) - 1) not in self.losses:
            with contextlib.suppress(Late):
                self._train(run, last)

    def _train(self, run: int, last: int) -> None:
        (subject, rate), steps = self.runs[run], self.recipe.looked_at
        known = {look for look in range(last) if (run, look) in self.hits}
        wanted = {steps[look]: look for look in range(last + 1) if look not in known}
        done = 0

        def visit(step: int, params: dict[str, torch.Tensor]) -> None:
            nonlocal done
            self.passes += self.price.step * (step - done)
            done = step
            if (look := wanted.get(step)) is not None:
                self._look(run, look, subject, params)
                if look == last:
                    raise _Far
            _in_time(self.until)

        _in_time(self.until)
        with contextlib.suppress(_Far, Diverged):
            minibatch(
                subject, self.train, steps=self.recipe.steps, batch_size=self.recipe.batch_size, lr=rate,
                weight_decay=self.recipe.decay, warmup=self.recipe.warmup, seed=self.seed, schedule=cosine, visit=visit,
                visited={*wanted, *range(STEPS_APART, steps[last], STEPS_APART)},
            )  # fmt: skip
        for look in range(last + 1):
            self.losses.setdefault((run, look), np.inf)  # of a run that ceased to be finite
        self.report(f"  run {run + 1}: {steps[last]} steps at rate {rate:g}, dev loss {self.losses[run, last]:.3f}")

    def _look(self, run: int, look: int, subject: Any, params: Params) -> None:
        outputs, labels = logits_of(subject, params, self.dev), self.dev.labels
        losses = torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
        if bool(losses.isfinite().all()):
            self.losses[run, look] = float(losses.mean())
            self.each[run, look] = losses.cpu().numpy()
            self.hits[run, look] = (outputs.argmax(-1) == labels).cpu().numpy()
        self.passes += self.price.look


class Certain(Exception):
    """What was asked of a race is known at the level asked for."""


class _Far(Exception):
    """A run has come as far as it was asked for."""
