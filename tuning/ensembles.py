"""Many copies of one delta on one frozen backbone at once: the ensemble's axis is folded into the batch.

The frozen maps see E B sequences in one pass; only what the delta adds is applied member by member, as batched products.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Backbone, Batch, frame, hidden
from tuning.edits import Edits
from tuning.subjects import Params, Subject, check_labels

TOKENS = 12_000  # of one pass: more no longer fit in cache


class Subspace(Protocol):
    """A map from coordinates theta (..., dimension) to tensors (..., *shape), differentiable."""

    dimension: int

    def apply(self, theta: Tensor) -> Params:
        """Return the tensors at theta."""


@dataclass(frozen=True)
class Whole:
    """The subspace that is everything: theta (..., D) holds the numbers of the tensors one after the other."""

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def dimension(self) -> int:
        """Return D."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def apply(self, theta: Tensor) -> Params:
        """Return theta cut into the tensors (..., *shape)."""
        parts = theta.split([math.prod(shape) for shape in self.shapes.values()], dim=-1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(*theta.shape[:-1], *shape) for (name, shape), part in named}


@dataclass(frozen=True)
class EnsembleRun:
    """What E runs reached. theta: (E, d_max), zero beyond a member's own dimension; losses: (steps, E), the objective met
    at each step; objective: (E,) after the last; finite: (E,), False where a loss or gradient ceased to be finite, in which
    case the member stands where it last was finite and its losses are nan from there on. Under `losses`, `scores` and
    `held_losses` nothing is hidden: a failed member keeps its nan.

    scores, held_losses: {held-out set: (E,)} accuracy and mean cross-entropy there. folded: whether the members went
    through the backbone together.
    """

    theta: Tensor = field(repr=False)
    dimensions: Tensor
    rates: Tensor
    losses: Tensor = field(repr=False)
    objective: Tensor
    finite: Tensor
    folded: bool
    cpu_seconds: float
    scores: dict[str, Tensor] = field(default_factory=dict)
    held_losses: dict[str, Tensor] = field(default_factory=dict)


def fold(subject: Subject, params: Params) -> Edits:
    """Return the edits of E members on a batch of E B examples, member by member; params have a leading axis E.

    A function of the delta is mapped over the members (so that its products are batched ones), prefixes and prompts become
    those of each example, and a change of a bias is added to what its module puts out. Raises ValueError for a delta that
    changes other weights: then nothing is shared, and members run one after the other.
    """
    members = len(next(iter(params.values())))
    one = subject.edits({name: value.detach()[0] for name, value in params.items()})
    own = _tensors(subject, params, one)

    def mapped(kind: str, place: str, at: int) -> Callable[..., Tensor]:
        def edit(*met: Tensor | None) -> Tensor:
            given = [x for x in met if x is not None]

            def member(p: Params, *x: Tensor) -> Tensor:
                left = iter(x)
                full = [None if y is None else next(left) for y in met]
                return getattr(subject.edits(p), kind)[place][at](*full)

            parts = [x.unflatten(0, (members, -1)) for x in given]
            return torch.func.vmap(member)(params, *parts).flatten(0, 1)

        return edit

    tables = {
        kind: {
            place: tuple(mapped(kind, place, i) for i in range(len(functions))) for place, functions in getattr(one, kind).items()
        }
        for kind in ("inputs", "outputs", "ports")
    }
    for name, change in own["weights"].items():
        table, place = _bias_place(subject.backbone, name)

        def moved(x: Tensor, y: Tensor, change: Tensor = change) -> Tensor:
            apart = y.unflatten(0, (members, -1))
            return (apart + change.view(members, *[1] * (apart.ndim - 2), -1)).flatten(0, 1)

        tables[table][place] = (moved, *tables[table].get(place, ()))
    return replace(one, **tables, weights={}, prefix=own["prefix"], prompt=own.get("prompt"))


def _tensors(subject: Subject, params: Params, one: Edits) -> dict:
    """Return the prefixes, prompts and weight changes of all members, with a leading axis E."""

    def member(p: Params) -> dict:
        edits = subject.edits(p)
        made = {"prefix": dict(edits.prefix), "weights": dict(edits.weights)}
        return made if edits.prompt is None else made | {"prompt": edits.prompt}

    if not (one.prefix or one.weights or one.prompt is not None):
        return {"prefix": {}, "weights": {}}
    return torch.func.vmap(member)(params)


def _bias_place(backbone: Backbone, name: str) -> tuple[str, str]:
    """Return the table of edits and the place in it where a change of the bias `name` is added."""
    path, _, leaf = name.rpartition(".")
    layout = backbone.layout
    inner = {*layout.roles.values(), *layout.heads, *(layout.norms or ())}
    watched = {backbone.path(block, what) for block in range(backbone.blocks) for what in inner}
    if leaf == "bias" and path in watched | {layout.final}:
        return "outputs", path
    if leaf == "bias" and path.startswith(f"{layout.embedding}.") and "norm" in path.lower():
        return "ports", "embedding"  # a normalisation is the last thing it does
    raise ValueError(
        f"expected a delta whose members can share the frozen weights, {name} is changed as a whole; "
        "train its members one after the other"
    )


def foldable(subject: Subject) -> bool:
    """Return whether members of this subject can share passes through the backbone: it changes no weights but biases."""
    try:
        for name in subject.edits(subject.initial).weights:
            _bias_place(subject.backbone, name)
    except ValueError:
        return False
    return True


def outputs(subject: Subject, params: Params, batch: Batch, *, packed: bool = False) -> Tensor:
    """Return the logits (E, B, C) of E members in one pass; params (E, ...), tokens and mask (E, B, T), each member's examples.

    Equal to subject.outputs of one member after the other. packed: as there, for examples whose numbers of tokens do not differ
    between members. Raises ValueError where `fold` does.
    """
    members = len(next(iter(params.values())))
    if members == 1:
        one = {name: value[0] for name, value in params.items()}
        return subject.outputs(one, Batch(*(x[0] for x in batch)), packed=packed)[None]
    flat = Batch(*(x.flatten(0, 1) for x in batch))
    edits = fold(subject, params)
    each = len(flat.tokens) // members
    spread = functools.partial(torch.repeat_interleave, repeats=each, dim=0)
    edits = replace(
        edits,
        prefix={block: tuple(map(spread, pair)) for block, pair in edits.prefix.items()},
        prompt=None if edits.prompt is None else spread(edits.prompt),
    )
    states = hidden(subject.backbone, flat, frame(subject.backbone, edits, packed=packed))
    states = subject.readout.features(subject.backbone, states, flat.mask)
    states = states.unflatten(0, (members, -1))
    weight, bias = (params.get(f"readout.{what}", getattr(subject.readout, what)) for what in ("weight", "bias"))
    return states @ weight.mT + (bias if bias.ndim == 1 else bias[:, None])


def descend(
    losses: Callable[[Params, Tensor], Tensor],
    initial: Params,
    subspaces: Sequence[Subspace],
    *,
    rates: Sequence[float] | Tensor,
    steps: int,
    group: int | None = None,
) -> EnsembleRun:
    """Return E runs of Adam on theta_e in z = z_0 + P_e theta_e, each with a rate of its own, from theta = 0.

    losses(params (k, ...), members (k,)) gives the (k,) values of the members with those indices, `group` of them at a
    time (None: all). Adam as in Kingma and Ba 2015, algorithm 1, the rate falling to zero as a half cosine over `steps`.
    A member whose value or gradient is not finite stops where it is and is marked. Raises ValueError unless there is a
    positive finite rate per subspace and at least one step.
    """
    count = len(subspaces)
    first = next(iter(initial.values()))
    rates = torch.as_tensor(rates, dtype=first.dtype, device=first.device)
    if count == 0 or rates.shape != (count,) or not (torch.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError(f"expected a positive rate for each of {count} subspaces, got {rates.tolist()}")
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    cpu = time.process_time()
    dimensions = torch.tensor([p.dimension for p in subspaces])
    theta = first.new_zeros(count, int(dimensions.max()))
    m, v, finite, met = torch.zeros_like(theta), torch.zeros_like(theta), torch.ones(count, dtype=torch.bool), []
    parts = torch.arange(count).split(group or count)

    def value(at: Tensor, members: Tensor) -> Tensor:
        return losses(_placed(initial, subspaces, at, members), members)

    for step in range(steps):
        now, slopes = [], []
        for members in parts:
            at = theta[members].requires_grad_()
            found = value(at, members)
            slopes.append(torch.autograd.grad(found.sum(), at)[0])
            now.append(found.detach())
        loss, slope = torch.cat(now), torch.cat(slopes)
        finite = finite & (torch.isfinite(loss) & torch.isfinite(slope).all(-1)).cpu()
        alive = finite.to(theta.device)
        met.append(torch.where(alive, loss, torch.nan))
        slope = torch.where(alive[:, None], slope, 0.0)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope.square()
        scaled = (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-12)
        size = rates * (0.5 + 0.5 * math.cos(math.pi * step / steps)) * alive
        theta = theta - size[:, None] * scaled
    with torch.no_grad():
        last = torch.cat([value(theta[members], members) for members in parts])
    finite = finite & torch.isfinite(last).cpu()
    last = torch.where(finite.to(last.device), last, torch.nan)
    return EnsembleRun(theta, dimensions, rates, torch.stack(met), last, finite, True, time.process_time() - cpu)


def _placed(initial: Params, subspaces: Sequence[Subspace], theta: Tensor, members: Tensor) -> Params:
    """Return z_0 + P_e theta_e of the members, (k, ...); members that share a subspace are mapped together."""
    own: dict[int, list[int]] = {}
    for row, member in enumerate(members.tolist()):
        own.setdefault(id(subspaces[member]), []).append(row)
    pieces = []
    for rows in own.values():
        subspace = subspaces[int(members[rows[0]])]
        pieces.append(subspace.apply(theta[rows, : subspace.dimension]))
    back = torch.argsort(torch.tensor([row for rows in own.values() for row in rows])).to(theta.device)
    return {name: z + torch.cat([piece[name] for piece in pieces])[back] for name, z in initial.items()}


def train_subspaces(
    subject: Subject,
    subspaces: Sequence[Subspace],
    train: Batch,
    *,
    rates: Sequence[float] | Tensor,
    steps: int,
    penalty: float = 0.0,
    batch: int | None = None,
    seeds: Sequence[int] | None = None,
    held: Mapping[str, Batch] | None = None,
    logits: Callable[[Params, Batch], Tensor] | None = None,
) -> EnsembleRun:
    """Return E runs of one delta, run e in its subspace e with its rate: mean cross-entropy + penalty/2 |z - z_0|^2.

    Full batches, or `batch` examples a step drawn in epochs without replacement by each run's own seed; `losses` then hold
    minibatch values, `objective` is that of all of `train`. Runs share passes through the backbone where the delta changes
    no weight matrix, and go one after the other where it does (`folded` says which). logits: {params (k, ...), batch with
    members' examples (k, B, ...)} -> (k, B, C), instead of the subject's own. Raises ValueError for labels outside the
    classes, a batch without seeds, and as `descend`.
    """
    size = len(train.labels)
    if logits is None:
        check_labels(train.labels, subject.readout.classes)
        folded = foldable(subject)
        logits = functools.partial(outputs, subject)
    else:
        folded = True
    if batch is not None and (seeds is None or len(seeds) != len(subspaces) or not 1 <= batch <= size):
        raise ValueError(f"expected between 1 and {size} examples a step and a seed per run, got {batch} and {seeds}")
    drawn = _order(size, batch, seeds, steps) if batch is not None else None
    origin = {name: value.detach() for name, value in subject.initial.items()}
    everyone, calls = torch.arange(size), 0

    def entropy(params: Params, examples: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        own = type(examples)(*(x[rows.to(x.device)] for x in examples))
        made = logits(params, own)
        each = F.cross_entropy(made.flatten(0, 1), own.labels.flatten(), reduction="none")
        return each.view(rows.shape).mean(1), (made.argmax(-1) == own.labels).double().mean(1)

    group = max(1, TOKENS // (batch * train.mask.shape[1] if batch else train.mask.numel())) if folded else 1
    parts = -(-len(subspaces) // group)

    def losses(params: Params, members: Tensor) -> Tensor:
        nonlocal calls
        step, calls = calls // parts, calls + 1
        rows = everyone.expand(len(members), -1) if drawn is None or step == steps else drawn[step][members]
        fit = entropy(params, train, rows)[0]
        away = sum((params[name] - z).square().flatten(1).sum(1) for name, z in origin.items())
        return fit + penalty / 2 * away

    run = descend(losses, origin, subspaces, rates=rates, steps=steps, group=group)
    cpu, scores, held_losses = time.process_time(), {}, {}
    for name, examples in (held or {}).items():
        rows, found = torch.arange(len(examples.labels)), []
        with torch.no_grad():
            for members in torch.arange(len(subspaces)).split(max(1, TOKENS // examples.mask.numel()) if folded else 1):
                params = _placed(origin, subspaces, run.theta[members], members)
                found.append(torch.stack([x.double() for x in entropy(params, examples, rows.expand(len(members), -1))]))
        loss, score = torch.where(run.finite.to(found[0].device), torch.cat(found, 1), torch.nan)
        scores[name], held_losses[name] = score, loss
    spent = run.cpu_seconds + time.process_time() - cpu
    return replace(run, folded=folded, scores=scores, held_losses=held_losses, cpu_seconds=spent)


def _order(size: int, batch: int, seeds: Sequence[int], steps: int) -> Tensor:
    """Return which examples (steps, E, batch) each run takes at each step, in epochs without replacement by its seed."""
    needed = steps * batch
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        epochs = [torch.randperm(size, generator=generator) for _ in range(-(-needed // size))]
        rows.append(torch.cat(epochs)[:needed].view(steps, batch))
    return torch.stack(rows, 1)
