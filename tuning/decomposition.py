"""One code for several deltas: decoders into the numbers of each, found together on tasks for which each was trained.

    z_t = z_t0 + U_t I        I = E_t (z_t* - z_t0)        I in R^d, shared by all deltas t

Yi et al. 2022 (arXiv 2210.13311): U_t and E_t are found together (`decompose`), then a code is trained through one decoder
(`InCode` in `tuning.practice.practised`), and read by another without training (`InCode.placed`). E_t is linear here, the
published one has a hidden layer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tuning.backbones import Backbone, Batch
from tuning.deltas import IntrinsicPrompt
from tuning.edits import Edits
from tuning.ensembles import Whole
from tuning.subjects import Params, Readout, Subject
from tuning.training import adamw, draws

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
    """A subject of which only a code is trained, from zero: its numbers are {"code": (d,)}."""

    subject: Subject
    decoder: Decoder

    @property
    def initial(self) -> Params:
        """Return the code at its start, where the delta is at its own."""
        return {"code": self.decoder.matrix.new_zeros(self.decoder.dimension)}

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


def decompose(
    tasks: Tasks,
    dimension: int,
    *,
    steps: int = 200,
    batch_size: int = 32,
    rate: float = 0.03,
    reconstruction: float = 1.0,
    weights: Weights = uniform,
    seed: int,
) -> Decomposition:
    """Return the decoders and encoders that AdamW finds for deltas trained on some tasks.

    A step takes a task and minimises sum_t loss_t(z_t0 + U_t sum_s w_s I_s) + gamma |z_t* - z_t0 - U_t I_t|^2 / (n_t s_t^2), with
    codes I_t = E_t (z_t* - z_t0), fresh weights w on the simplex, s_t the root mean square of delta t's displacements, in which
    its decoder is measured, and gamma the `reconstruction`. One task is the published single-task setting, more the multi-task
    one; of a single delta the codes are its own. Raises ValueError for tasks that differ in number between deltas, for no delta,
    and for a delta that no training moved.
    """
    scales, counts = _scales(tasks), {name: solved[0].displacement.numel() for name, solved in tasks.items()}
    units = {name: [one.displacement / scales[name] for one in solved] for name, solved in tasks.items()}
    first = next(iter(tasks.values()))
    generator, like = torch.Generator().manual_seed(seed), units[next(iter(tasks))][0]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)

    initial: Params = {}
    for name, n in counts.items():
        initial |= {f"{name}/decoder": START * normal(n, dimension), f"{name}/encoder": math.sqrt(n) * normal(dimension, n)}
    chosen = torch.randint(len(first), (steps,), generator=generator).tolist()

    def drawn() -> Iterator[tuple[int, Batch, Tensor]]:
        rows = [draws(len(one.train.labels), batch_size, steps, seed + 1 + k) for k, one in enumerate(first)]
        for task in chosen:
            part = next(rows[task])
            yield task, Batch(*(x[part.to(x.device)] for x in first[task].train)), weights(len(tasks), generator).to(like)

    def loss(params: Params, given: tuple[int, Batch, Tensor]) -> Tensor:
        task, batch, shares = given
        codes = {name: params[f"{name}/encoder"] @ units[name][task] / counts[name] for name in tasks}
        mixed = sum(share * code for share, code in zip(shares, codes.values(), strict=True))
        value = like.new_zeros(())
        for name, solved in tasks.items():
            one, matrix = solved[task], params[f"{name}/decoder"]
            own = InCode(one.subject, Decoder(one.shapes, scales[name] * matrix))
            value = value + own.loss({"code": mixed}, batch, packed=batch.mask.device.type == "cpu")
            value = value + reconstruction * (units[name][task] - matrix @ codes[name]).square().mean()
        return value

    found = adamw(loss, initial, drawn(), steps=steps, lr=rate).params
    return Decomposition(
        {name: Decoder(one[0].shapes, scales[name] * found[f"{name}/decoder"]) for name, one in tasks.items()},
        {name: found[f"{name}/encoder"] / (counts[name] * scales[name]) for name in tasks},
    )


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


def random_decoders(like: Decomposition, seed: int) -> dict[str, Decoder]:
    """Return gaussian decoders, each of the norm of the one that it stands beside: a null."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for name, decoder in like.decoders.items():
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
