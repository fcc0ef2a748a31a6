"""Where a LoRA starts: from chance, from its weights, from what its maps read, from the first gradient, or from given factors.

A start is {map: (B, A)}, the change (alpha / rank) B A of every target. Where B A is not zero a start either moves the network,
as a law that is installed does, or is taken out of the frozen weights first, so that training begins at the frozen network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tuning.backbones import Backbone, Batch, WeightMap, check_one_stack, wrap
from tuning.deltas import LoRA
from tuning.deltas.delta import Delta, Shapes
from tuning.deltas.maps import add_rows, frozen_weight, grouped, maps_of
from tuning.edits import Edits
from tuning.subjects import Subject

Start = dict[str, tuple[Tensor, Tensor]]  # by map: B (d_out, rank), A (rank, d_in)

GAMMA = 16.0  # of LoRA-GA, its authors' choice
RHO = 2.0  # of EVA: a map's rank may grow to this multiple, its authors' choice


@dataclass(frozen=True, eq=False)
class Readings:
    """What a LoRA's maps read, and how the logits answer signals at their outputs, with the delta at zero.

    By map: weights (d_out, d_in), inputs (N, T, d_in), slopes (N, C, T, d_out), which are 0 at padding. outputs (N, C), mask (N,
    T) and labels (N,) of the texts.
    """

    weights: dict[str, Tensor] = field(repr=False)
    inputs: dict[str, Tensor] = field(repr=False)
    slopes: dict[str, Tensor] = field(repr=False)
    outputs: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient (d_out, d_in) of the mean cross-entropy in every map's weight."""
        hot = torch.nn.functional.one_hot(self.labels, self.outputs.shape[1])
        costates = (torch.softmax(self.outputs, -1) - hot) / len(hot)
        pulled = {key: torch.einsum("nc,nctm->ntm", costates, slope) for key, slope in self.slopes.items()}
        return {key: torch.einsum("ntm,ntq->mq", g, self.inputs[key]) for key, g in pulled.items()}


@dataclass(frozen=True)
class _Listener(Delta):
    """Signals (B, T, d_out) added to what linear maps put out, by key; it keeps what they read."""

    maps: tuple[tuple[str, WeightMap], ...]
    heard: dict[str, Tensor]

    @property
    def name(self) -> str:
        return "listener"

    def shapes(self, backbone: Backbone) -> Shapes:
        return {}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        def at(key: str, rows: Tensor | None):
            def edit(x: Tensor, y: Tensor) -> Tensor:
                self.heard[key] = x.detach()
                return add_rows(y, rows, params[key])

            return edit

        return Edits(outputs=grouped((linear.path, at(key, linear.rows)) for key, linear in self.maps))


def targets(subject: Subject) -> list[tuple[str, WeightMap]]:
    """Return (key, linear map) of what a subject's LoRA changes; raises ValueError for a delta of another kind."""
    if not isinstance(subject.delta, LoRA):
        raise ValueError(f"expected a subject with a LoRA, got one with {subject.delta.name}: give it a LoRA")
    return maps_of(subject.backbone, subject.delta.roles, subject.delta.blocks)


def readings(subject: Subject, batch: Batch, *, size: int = 64) -> Readings:
    """Return what a LoRA's maps read on some texts and how the logits answer there, from one forward and C backward sweeps.

    Raises ValueError for a delta that is no LoRA, and for an encoder-decoder.
    """
    check_one_stack(subject.backbone, "what a LoRA's maps read")
    maps, heard = tuple(targets(subject)), {}
    listening = replace(subject, delta=_Listener(maps, heard), initial={})
    inputs, slopes, outputs = [], [], []
    for piece in batch.chunks(size):
        shape = piece.tokens.shape[:2]
        signals = {key: torch.zeros(*shape, m.d_out, dtype=subject.dtype, device=piece.tokens.device) for key, m in maps}
        signals = {key: value.requires_grad_() for key, value in signals.items()}
        with torch.enable_grad():
            y = listening.outputs(signals, piece)
            rows = [torch.autograd.grad(y[:, c].sum(), list(signals.values()), retain_graph=True) for c in range(y.shape[1])]
        real = piece.mask.to(subject.dtype)[:, None, :, None]
        slopes.append([torch.stack(own, 1) * real for own in zip(*rows, strict=True)])
        inputs.append([heard[key] * real[:, 0] for key, _ in maps])
        outputs.append(y.detach())
    keys = [key for key, _ in maps]
    return Readings(
        {key: frozen_weight(subject.backbone, m) for key, m in maps},
        dict(zip(keys, map(torch.cat, zip(*inputs, strict=True)), strict=True)),
        dict(zip(keys, map(torch.cat, zip(*slopes, strict=True)), strict=True)),
        torch.cat(outputs),
        batch.mask,
        batch.labels,
    )


def kaiming(seen: Readings, rank: int, seed: int) -> Start:
    """Return A uniform within 1 / sqrt(d_in) and B zero, as PEFT starts every LoRA (He et al. 2015 with a slope of sqrt 5)."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for key, W in seen.weights.items():
        drawn = torch.rand(rank, W.shape[1], generator=generator, dtype=torch.float64)
        made[key] = (W.new_zeros(len(W), rank), ((2 * drawn - 1) * W.shape[1] ** -0.5).to(W))
    return made


def pissa(seen: Readings, rank: int, scale: float) -> Start:
    """Return the principal part of every weight, B = U S^1/2 and A = S^1/2 V' over sqrt(scale) each, to be taken out of it.

    Source: Meng, Wang and Zhang 2024 (PiSSA), equations 2 to 4.
    """
    made = {}
    for key, W in seen.weights.items():
        U, s, Vt = torch.linalg.svd(W.double(), full_matrices=False)
        root = (s[:rank] / scale).sqrt()
        made[key] = ((U[:, :rank] * root).to(W), (root[:, None] * Vt[:rank]).to(W))
    return made


def lora_ga(seen: Readings, rank: int) -> Start:
    """Return directions of the gradient G = U S V' of every weight, to be taken out of it: A of the first `rank`, B of the next.

    B = c U[:, rank : 2 rank] and A = c V'[: rank], c = d_out^1/4 / sqrt(16), so that the first step of B A is nearest to one of
    the weight. Source: Wang, Yu and Li 2024 (LoRA-GA), algorithm 1. Raises ValueError where 2 rank exceeds a width.
    """
    made = {}
    for key, G in seen.gradients().items():
        if 2 * rank > min(G.shape):
            raise ValueError(f"expected twice the rank within the widths of {key}, {min(G.shape)}, got rank {rank}: lower it")
        U, _, Vt = torch.linalg.svd(G.double(), full_matrices=False)
        c = len(G) ** 0.25 / GAMMA**0.5
        made[key] = ((c * U[:, rank : 2 * rank]).to(G), (c * Vt[:rank]).to(G))
    return made


def eva(seen: Readings, rank: int, *, rho: float = RHO) -> Start:
    """Return A of the directions in which every map's inputs vary most, and B zero; ranks go where most variance is explained.

    Of all maps' directions, at most rho times the rank each, the (maps x rank) that explain the largest shares of their own map's
    variance are kept. Source: Paischer et al. 2024 (EVA), algorithm 1.
    """
    most, found = round(rho * rank), {}
    for key, x in seen.inputs.items():
        real = x[seen.mask.bool()].double()
        _, s, Vt = torch.linalg.svd(real - real.mean(0), full_matrices=False)
        found[key] = (s[:most] ** 2 / (s**2).sum(), Vt[:most])
    shares = torch.cat([share for share, _ in found.values()])
    owners = torch.cat([torch.full((len(share),), i) for i, (share, _) in enumerate(found.values())])
    kept = owners[torch.sort(shares, descending=True, stable=True).indices[: rank * len(found)]]
    ranks = torch.bincount(kept, minlength=len(found)).tolist()
    weights = seen.weights
    return {
        key: (weights[key].new_zeros(len(weights[key]), own), Vt[:own].to(weights[key]))
        for own, (key, (_, Vt)) in zip(ranks, found.items(), strict=True)
    }


def started(subject: Subject, start: Mapping[str, tuple[Tensor, Tensor]], *, subtracted: bool = False) -> Subject:
    """Return the subject whose LoRA starts at given factors; what else it trains starts where it did.

    subtracted: the frozen weights are lowered by the start's own change, so that the network is at first the frozen one; the
    subject then has a copy of the backbone. Raises ValueError for maps that are not the LoRA's own.
    """
    keys = [key for key, _ in targets(subject)]
    if sorted(start) != sorted(keys):
        raise ValueError(f"expected factors of the maps {', '.join(keys)}, got {', '.join(start)}")
    own = {f"{key}.{name}": value for key in keys for name, value in zip("BA", start[key], strict=True)}
    own = {name: own[name].detach().clone() for key in keys for name in (f"{key}.A", f"{key}.B")}
    made = replace(subject, initial=subject.initial | own)
    if not subtracted:
        return made
    model = copy.deepcopy(subject.backbone.model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, change in subject.delta.weight_changes(subject.backbone, own).items():
            parameters[name] -= change
    return replace(made, backbone=wrap(model, subject.backbone.tokenizer, name=f"{subject.backbone.name}, less the start"))
