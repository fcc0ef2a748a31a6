"""One code for several deltas: decoders into the numbers of each, found together on tasks for which each was trained.

    z_t = z_t0 + U_t I        I = E_t (z_t* - z_t0)        I in R^d, shared by all deltas t

Yi et al. 2022 (arXiv 2210.13311): U_t and E_t are found together (`decompose`), then a code is trained through one decoder
(`codes`), and read by another without training (`InCode.placed`). E_t is linear here, the published one has a hidden layer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tuning.backbones import Backbone, Batch
from tuning.deltas import IntrinsicPrompt
from tuning.edits import Edits
from tuning.ensembles import Subspace, Whole, descend, foldable, outputs
from tuning.subjects import Params, Readout, Subject
from tuning.sweeps import spread
from tuning.training import draws, linear, shares

WARMUP, PLAIN = 0.06, 4  # of the steps of a joint search; numbers of a code up to which its rate is the one given
START = 0.02  # standard deviation of the decoders' numbers at their start, as published, in units of the deltas'


@dataclass(frozen=True, eq=False)
class Decoder:
    """A linear map from codes theta (..., d) to a delta's displacement: tensors (..., *shape) of matrix (n, d) theta."""

    shapes: Mapping[str, tuple[int, ...]]
    matrix: Tensor = field(repr=False)

    @property
    def dimension(self) -> int:
        """Return d, the numbers of a code."""
        return self.matrix.shape[1]

    def apply(self, theta: Tensor) -> Params:
        """Return the displacement at a code, differentiable."""
        return Whole(self.shapes).apply(theta @ self.matrix.T)


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Decoders and encoders of several deltas into one code, by delta; encoders are (d, n)."""

    decoders: Mapping[str, Decoder]
    encoders: Mapping[str, Tensor] = field(repr=False)

    def encode(self, delta: str, displacement: Tensor) -> Tensor:
        """Return the code (d,) of a delta's displacement (n,)."""
        return self.encoders[delta] @ displacement


@dataclass(frozen=True, eq=False)
class InCode:
    """A subject of which only a code is trained, from zero: its numbers are {"code": (d,)}; any linear map serves as decoder."""

    subject: Subject
    decoder: Subspace

    @property
    def initial(self) -> Params:
        """Return the code at its start, where the delta is at its own."""
        return {"code": next(iter(self.subject.initial.values())).new_zeros(self.decoder.dimension)}

    @property
    def backbone(self) -> Backbone:
        """Return the frozen model."""
        return self.subject.backbone

    @property
    def readout(self) -> Readout:
        """Return the frozen head."""
        return self.subject.readout

    def placed(self, params: Params) -> Params:
        """Return the delta's own numbers at a code, this decoder's or another's."""
        step = self.decoder.apply(params["code"])
        return {name: value.detach() + step[name] for name, value in self.subject.initial.items()}

    def edits(self, params: Params) -> Edits:
        """Return what the delta at a code does to a forward pass."""
        return self.subject.edits(self.placed(params))

    def outputs(self, params: Params, batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the logits (B, C) at a code."""
        return self.subject.outputs(self.placed(params), batch, packed=packed)

    def loss(self, params: Params, batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the mean cross-entropy at a code."""
        return self.subject.loss(self.placed(params), batch, packed=packed)


@dataclass(frozen=True)
class Solved:
    """A delta trained on a task: its subject, the numbers that training ended at, and the texts to decompose it on."""

    subject: Subject
    params: Params = field(repr=False)
    train: Batch = field(repr=False)

    @property
    def displacement(self) -> Tensor:
        """Return the trained numbers less those at the start, (n,)."""
        return torch.cat([(value - self.subject.initial[name]).detach().flatten() for name, value in self.params.items()])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor."""
        return {name: tuple(value.shape) for name, value in self.params.items()}


Tasks = Mapping[str, Sequence[Solved]]  # by delta, the same tasks in the same order
Weights = Callable[[int, torch.Generator], Tensor]


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """Return weights drawn uniformly on the simplex: exponential numbers over their sum."""
    drawn = -torch.rand(count, generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
    return drawn / drawn.sum()


def stick(count: int, generator: torch.Generator) -> Tensor:
    """Return weights as published: each uniform on what the ones before it left, so that the first weighs 1/2 on average."""
    left, made = torch.ones((), dtype=torch.float64), []
    for _ in range(count - 1):
        made.append(left * torch.rand((), generator=generator, dtype=torch.float64))
        left = left - made[-1]
    return torch.stack([*made, left])


def decompose(tasks: Tasks, dimension: int, *, seed: int, **search) -> Decomposition:
    """Return the decoders and encoders into one code of `dimension` numbers; search and errors: as `decompositions`."""
    return decompositions(tasks, [dimension], seed=seed, **search)[0]


def decompositions(
    tasks: Tasks,
    dimensions: Sequence[int],
    *,
    steps: int = 200,
    batch_size: int = 32,
    rate: float = 0.03,
    reconstruction: float = 1.0,
    weights: Weights = uniform,
    beside: Sequence[InCode] = (),
    seed: int,
) -> list[Decomposition]:
    """Return the decoders and encoders that AdamW finds for deltas trained on some tasks, for codes of every dimension.

    A step takes a task and minimises sum_t loss_t(z_t0 + U_t sum_s w_s I_s) + gamma |z_t* - z_t0 - U_t I_t|^2 / (n_t s_t^2), with
    codes I_t = E_t (z_t* - z_t0), fresh weights w on the simplex, s_t the root mean square of delta t's displacements, in which
    its decoder is measured, and gamma the `reconstruction`. One task is the published single-task setting, more the multi-task
    one; of a single delta the codes are its own. Searches of all dimensions meet the same texts and weights in shared passes, at
    the `rate`, and beyond 4 numbers at 4 / d of it, as all numbers of a code move a delta together. beside: for every task a
    subject that shares the code through a map that is not searched, such as full tuning through a random projection.
    Raises ValueError for tasks that differ in number between deltas, for no delta, for a delta that no training moved, and for
    a loss that is not finite.
    """
    scales, counts = _scales(tasks), {name: solved[0].displacement.numel() for name, solved in tasks.items()}
    units = {name: [one.displacement / scales[name] for one in solved] for name, solved in tasks.items()}
    first = next(iter(tasks.values()))
    generator, like = torch.Generator().manual_seed(seed), units[next(iter(tasks))][0]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)

    searches: list[Params] = []
    for d in dimensions:
        own: Params = {}
        for name, n in counts.items():
            own |= {f"{name}/decoder": START * normal(n, d), f"{name}/encoder": math.sqrt(n) * normal(d, n)}
        searches.append({name: value.requires_grad_() for name, value in own.items()})
    chosen = torch.randint(len(first), (steps,), generator=generator).tolist()
    rows = [draws(len(one.train.labels), batch_size, steps, seed + 1 + k) for k, one in enumerate(first)]
    rates = [rate * min(1.0, PLAIN / d) for d in dimensions]
    optimizer = torch.optim.AdamW([{"params": list(own.values())} for own in searches], weight_decay=0.0, fused=True)
    for pace, task in zip(shares(steps, WARMUP, linear), chosen, strict=True):
        part = next(rows[task])
        batch = Batch(*(x[part.to(x.device)] for x in first[task].train))
        shown = weights(len(tasks), generator).to(like)
        codes = [{name: own[f"{name}/encoder"] @ units[name][task] / counts[name] for name in tasks} for own in searches]
        mixed = [sum(share * code for share, code in zip(shown, made.values(), strict=True)) for made in codes]
        value = like.new_zeros(())
        for name, solved in tasks.items():
            decoders = [own[f"{name}/decoder"] for own in searches]
            moved = torch.stack([scales[name] * (U @ code) for U, code in zip(decoders, mixed, strict=True)])
            value = value + losses_at(solved[task].subject, moved, batch).sum()
            for U, made in zip(decoders, codes, strict=True):
                value = value + reconstruction * (units[name][task] - U @ made[name]).square().mean()
        if beside:
            value = value + sum(beside[task].loss({"code": code}, batch) for code in mixed)
        optimizer.zero_grad()
        value.backward()
        if not math.isfinite(value.item()):
            raise ValueError(f"expected a finite loss of the joint search, got {value.item()}: lower its rate ({rate})")
        for own in searches:
            torch.nn.utils.clip_grad_norm_(own.values(), 1.0)
        for group, highest in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = highest * pace
        optimizer.step()
    return [
        Decomposition(
            {name: Decoder(one[0].shapes, scales[name] * own[f"{name}/decoder"].detach()) for name, one in tasks.items()},
            {name: own[f"{name}/encoder"].detach() / (counts[name] * scales[name]) for name in tasks},
        )
        for own in searches
    ]


def losses_at(subject: Subject, moved: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy (E,) of a delta moved from its start by each of some displacements (E, n).

    In one pass where the delta lets its copies share the frozen weights (`tuning.ensembles.fold`), one after the other elsewhere.
    """
    start = {name: value.detach() for name, value in subject.initial.items()}
    step = Whole({name: tuple(value.shape) for name, value in start.items()}).apply(moved)
    placed, packed = {name: value + step[name] for name, value in start.items()}, batch.mask.device.type == "cpu"
    if not (isinstance(subject, Subject) and foldable(subject)):
        each = [{name: value[e] for name, value in placed.items()} for e in range(len(moved))]
        return torch.stack([subject.loss(one, batch, packed=packed) for one in each])
    width, own = int(batch.mask.sum(-1).max()), len(moved)
    shared = spread(Batch(batch.tokens[:, :width], batch.mask[:, :width], batch.labels), own)
    made = outputs(subject, placed, shared, packed=packed)
    return F.cross_entropy(made.flatten(0, 1), shared.labels.flatten(), reduction="none").view(own, -1).mean(1)


def codes(
    subject: Subject,
    decoders: Sequence[Subspace],
    train: Batch,
    *,
    rates: Sequence[float],
    steps: int,
    batch_size: int,
    seed: int,
) -> list[Tensor]:
    """Return the code (d,) that training finds through each decoder from zero, each with its rate: the published second stage.

    arg min_I L(z_0 + U I) by Adam under a falling rate (`tuning.ensembles.descend`), all codes on the same texts and in shared
    passes. A code whose loss ceased to be finite stays where it last was. Raises ValueError unless every decoder has a rate.
    """
    whole = Whole({name: tuple(value.shape) for name, value in subject.initial.items()})
    rows = draws(len(train.labels), batch_size, steps + 1, seed)

    def losses(params: Params, members: Tensor) -> Tensor:
        part = next(rows)
        batch = Batch(*(x[part.to(x.device)] for x in train))
        return losses_at(subject, torch.cat([params[name].flatten(1) for name in whole.shapes], 1), batch)

    still = {name: torch.zeros_like(value) for name, value in subject.initial.items()}
    run = descend(losses, still, decoders, rates=rates, steps=steps)
    return [theta[: decoder.dimension] for theta, decoder in zip(run.theta, decoders, strict=True)]


def intrinsic_prompt(path: str | Path, prompts: Sequence[Solved], dimension: int, *, seed: int, **search) -> IntrinsicPrompt:
    """Return the intrinsic prompt whose subspace `decompose` finds on prompts of some tasks, and write that to a file.

    The first stage of intrinsic prompt tuning (Qin et al. 2021, section 3.2), with a linear decoder; search: what `decompose`
    takes. The file is safetensors, with "basis" (length, width, dimension) and "centre" (length, width).
    Raises ValueError for solutions that are not prompts of one length from one start.
    """
    starts = [one.subject.initial.get("embedding.prompt") for one in prompts]
    if not starts or any(start is None or not torch.equal(start, starts[0]) for start in starts):
        raise ValueError("expected prompts that started from the same rows, got others: train them with one length and one seed")
    matrix = decompose({"prompt": prompts}, dimension, seed=seed, **search).decoders["prompt"].matrix
    basis = matrix.reshape(*starts[0].shape, dimension).detach().cpu().contiguous()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({"basis": basis, "centre": starts[0].detach().cpu().contiguous()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return IntrinsicPrompt(dimension, len(starts[0]), str(path))


def principal(tasks: Tasks, dimension: int) -> Decomposition:
    """Return the decoders that reconstruct best from codes that all deltas share, with no loss asked: a rival to `decompose`.

    The leading singular vectors of the displacements of all deltas side by side, (tasks, sum n_t), each delta's over its s_t sqrt
    n_t so that none rules; at most as many as there are tasks. Codes have a mean square of 1 over the tasks. Raises as
    `decompose`.
    """
    scales = _scales(tasks)
    sizes = {name: scales[name] * math.sqrt(solved[0].displacement.numel()) for name, solved in tasks.items()}
    stacked = torch.cat([torch.stack([x.displacement for x in solved]) / sizes[name] for name, solved in tasks.items()], dim=1)
    _, s, vt = torch.linalg.svd(stacked.double(), full_matrices=False)
    d, count = min(dimension, int((s > 1e-6 * s[0]).sum())), len(stacked)
    columns = (vt[:d].T * s[:d] / math.sqrt(count)).split([solved[0].displacement.numel() for solved in tasks.values()])
    decoders, encoders = {}, {}
    for (name, solved), own in zip(tasks.items(), columns, strict=True):
        matrix = sizes[name] * own
        decoders[name] = Decoder(solved[0].shapes, matrix.to(stacked))
        encoders[name] = torch.linalg.pinv(matrix).to(stacked)
    return Decomposition(decoders, encoders)


def random_decoders(like: Mapping[str, Decoder], seed: int) -> dict[str, Decoder]:
    """Return gaussian decoders, each of the norm of the one that it stands beside: a null."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for name, decoder in like.items():
        drawn = torch.randn(decoder.matrix.shape, generator=generator, dtype=torch.float64).to(decoder.matrix)
        made[name] = Decoder(decoder.shapes, drawn * decoder.matrix.norm() / drawn.norm())
    return made


def _scales(tasks: Tasks) -> dict[str, float]:
    """Return the root mean square of every delta's displacements, after checks of what is to be decomposed."""
    counts = {name: len(solved) for name, solved in tasks.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"expected deltas trained on the same tasks, at least one of each, got tasks by delta {counts}")
    scales = {name: float(torch.cat([x.displacement for x in solved]).square().mean().sqrt()) for name, solved in tasks.items()}
    for name, scale in scales.items():
        if not 0 < scale < math.inf:
            raise ValueError(f"expected a trained {name} that has moved by a finite step, got a size of {scale}: train it first")
    return scales
