"""A sweep of rates as in practice: the lab's against PEFT in the plain loop that everyone writes, on the same texts.

The case "facts" is cells of the study of that name, one run at one rate each. The case "decomposition" prices one subspace for
several deltas on one task (Yi et al. 2022), trainings included; the case "law" the feedback law that an adapter's texts share.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers import installed
from bench.timing import Amount, Contest, Peer, Row, interleaved, weigh
from theory.loss import CrossEntropy
from theory.shared_gain import energy_price, shared_gain
from tuning.backbones import Batch
from tuning.decomposition import InCode, Solved, codes, decompose
from tuning.deltas import Adapter, LNTuning, LoRA, Prefix, Prompt
from tuning.peft_format import export_peft
from tuning.practice import Recipe, practised, scores
from tuning.preparation import Prepared, backbone_of, prepare, task_of
from tuning.shipped import folder_of
from tuning.subjects import Subject
from tuning.training import draws
from validations.claims.feedback.experiment import observe
from validations.claims.shared.training import attention_ports

DELTAS = {  # text behind prefix and prompt, as in PEFT
    "LoRA": LoRA(4),
    "prefix": Prefix(8, shift_positions=True),
    "prompt": Prompt(8, shift_positions=True),
    "LN-tuning": LNTuning(),
}
OWN_WEIGHTS = ("LN-tuning",)  # PEFT trains the weight, we its change: a decay would draw them to different places
CELL = Recipe(steps=250, rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
PART = Recipe(steps=16, rates=(1e-3, 3e-3), looks=2)
FACT = Recipe(steps=160, batch_size=16, rates=(1.6e-2,), looks=8)
PART_OF_FACT = Recipe(steps=40, batch_size=16, rates=(1.6e-2,), looks=2)
TEXTS = {"train": 600, "readout": 400, "dev": 50, "test": 100}  # a third of a cell's at each of the part's more frequent looks
SHARED = {"prefix": (Prefix(8), 1.2e-1), "adapter": (Adapter(4), 2e-2), "LoRA": (LoRA(4), 2e-2)}  # and their rates
LIMIT = 300.0  # seconds of one core that a decomposition on one task may take
LAWS = (("nano", 64), ("nano", 128), ("nano", 256), ("nano-2x64", 256), ("nano-4x192", 256))  # backbones and texts of a law
LAW_PRICE, LAW_LIMIT = 0.1, 60.0  # r, about what the study feedback takes; seconds of one core that a law may take
LINE = 1.5  # what is asked of the arm; about half of a step are products of matrices that both need


class Classifier(nn.Module):
    """PEFT's model with a subject's delta, and a trained linear head on the mean of the real tokens' states."""

    def __init__(self, subject: Subject, attention: str) -> None:
        import peft
        from transformers import AutoModel

        super().__init__()
        base = AutoModel.from_pretrained(folder_of("nano"), attn_implementation=attention, add_pooling_layer=False)
        with tempfile.TemporaryDirectory() as folder:
            export_peft(folder, subject.backbone, subject.delta, subject.initial)
            self.encoder = peft.PeftModel.from_pretrained(base, folder)
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(any(part in name for part in ("lora_", "prompt_encoder", "ln_tuning_layers")))
        self.head = nn.Linear(subject.width, subject.readout.classes)
        self.head.load_state_dict({"weight": subject.readout.weight, "bias": subject.readout.bias})
        self.eval()  # the backbone has no dropout

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits."""
        states = self.encoder(input_ids=batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
        weight = batch.mask[..., None].to(states.dtype)
        return self.head((states[:, -batch.tokens.shape[1] :] * weight).sum(1) / weight.sum(1))


def plain_loop(model: Classifier, texts: Prepared, recipe: Recipe) -> np.ndarray:
    """Return the losses on dev and held-out text at the start and at the looks of every rate: what everyone writes with PEFT."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]

    def look() -> list[float]:
        return [evaluated(model, part, recipe.batch_size) for part in (texts.dev, texts.test)]

    found = look()
    for rate in recipe.rates:
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=recipe.decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [*recipe.shares, 0.0].__getitem__)
        for step, rows in enumerate(draws(len(texts.train.labels), recipe.batch_size, recipe.steps, 0), start=1):
            batch = padded(texts.train, rows)
            loss = F.cross_entropy(model(batch), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            if step in recipe.looked_at:
                found += look()
        with torch.no_grad():
            for parameter, value in zip(trained, start, strict=True):
                parameter.copy_(value)
    return np.array(found)


def padded(batch: Batch, rows: Tensor) -> Batch:
    """Return some texts padded to the longest of them."""
    width = int(batch.mask[rows].sum(-1).max())
    return Batch(batch.tokens[rows, :width], batch.mask[rows, :width], batch.labels[rows])


def evaluated(model: Classifier, batch: Batch, size: int) -> float:
    """Return the mean loss on a batch, `size` texts at a time."""
    with torch.no_grad():
        pieces = [padded(batch, rows) for rows in torch.arange(len(batch.labels)).split(size)]
        return sum(float(F.cross_entropy(model(piece), piece.labels, reduction="sum")) for piece in pieces) / len(batch.labels)


def ours(subject: Subject, texts: Prepared, recipe: Recipe) -> np.ndarray:
    """Return the losses on dev and held-out text at the start and at the looks of every rate."""
    found = practised(subject, texts.train, texts.dev, texts.test, recipe=recipe, seed=0)
    looks = [found.start, *(point for run in found.runs for point in run.path[1:])]
    return np.array([loss for point in looks for loss in (point.dev_loss, point.loss)])


@functools.cache
def prepared(sizes: tuple[tuple[str, int], ...], backbone: str = "nano") -> Prepared:
    """Return the texts of a grammar task, with a shipped encoder and its head."""
    with tempfile.TemporaryDirectory() as cache:
        return prepare(backbone_of(backbone), task_of("tense", Path(cache)), seed=0, length=24, **dict(sizes))


def sweep(name: str, *, recipe: Recipe = PART, cell: Recipe = CELL, **sizes: int) -> Iterator[Contest | Row]:
    """Compare a part of a cell by the losses at its looks, then the CPU time of the cell: all steps of all its rates."""
    texts = prepared(tuple((TEXTS | sizes).items()))
    if name in OWN_WEIGHTS:
        recipe, cell = replace(recipe, decay=0.0), replace(cell, decay=0.0)
    subject = texts.subject(DELTAS[name], 0, train_readout=True)
    run = functools.partial(ours, subject, texts, recipe)
    rivals: dict[str, Callable[[], np.ndarray] | None] = {"PEFT, eager": None, "PEFT, sdpa": None}
    if installed("peft"):
        rivals = {
            rival: functools.partial(plain_loop, Classifier(subject, rival.removeprefix("PEFT, ")), texts, recipe)
            for rival in rivals
        }
    peers = tuple(Peer(rival, call, np.asarray, tolerance=1e-4, line=LINE) for rival, call in rivals.items())
    yield Contest(
        f"{name}, rates of {recipe.steps} steps: {len(recipe.rates)}", "practised", run, np.asarray, peers, tolerance=1e-4
    )
    whole = cell.steps * len(cell.rates) / (recipe.steps * len(recipe.rates))
    calls = {"practised": run} | {rival: call for rival, call in rivals.items() if call is not None}
    samples = interleaved(calls, dict.fromkeys(calls, math.inf), rounds=3)
    costs = {rival: whole * float(np.nanmedian(found)) for rival, found in samples.items()}
    note = f"{3600 / costs['practised']:.0f} cells an hour of one core"
    own = Amount("practised", costs["practised"])
    others = [Amount(rival, costs.get(rival), note=note) for rival in rivals]
    yield from weigh(name, f"{name}, a cell, rates of {cell.steps} steps: {len(cell.rates)}", own, others, "CPU s")


def decomposition(*, steps: int = 160, search: int = 80, look: int = 25, **sizes: int) -> Iterator[Row]:
    """Yield the CPU time of one code of four numbers for three deltas on one task: their training and all three stages."""
    texts, begun = prepared(tuple((TEXTS | sizes).items())), time.process_time()
    subjects, tasks = {name: texts.subject(delta, 0) for name, (delta, _) in SHARED.items()}, {}
    for name, subject in subjects.items():
        recipe = Recipe(steps=steps, rates=(SHARED[name][1],), looks=2)
        run = practised(subject, texts.train, texts.dev, texts.test, recipe=recipe, seed=0)
        tasks[name] = [Solved(subject, run.params, texts.train)]
    trained = time.process_time() - begun
    found = decompose(tasks, 4, steps=search, batch_size=8, rate=0.05, reconstruction=10.0, seed=0)
    at, code = {name: InCode(subject, found.decoders[name]) for name, subject in subjects.items()}, {}
    for name, subject in subjects.items():
        options = {"rates": (0.2,), "steps": look, "batch_size": 8, "seed": 0}
        (code[name],) = codes(subject, [found.decoders[name]], texts.train, **options)
    for one, other in (*((name, name) for name in subjects), *permutations(subjects, 2)):
        scores(at[other], {"code": code[one]}, texts.test)
    spent = time.process_time() - begun
    limit = Amount("five minutes of one core", LIMIT, line=1.0, note=f"of it {trained:.1f} s train the deltas")
    yield from weigh("decomposition", "one code for three deltas, one task", Amount("decompose", spent), [limit], "CPU s")


def law(*, laws: tuple[tuple[str, int], ...] = LAWS, **sizes: int) -> Iterator[Row]:
    """Yield the CPU time of the shared gain of an adapter's attention ports, the network's response included."""
    for backbone, train in laws:
        texts = prepared(tuple((TEXTS | sizes | {"train": train}).items()), backbone)
        subject = texts.subject(Adapter(4, ports=("attention",)), 0)
        ports, begun = attention_ports(subject), time.process_time()
        seen = observe(subject, ports, texts.train).ensemble
        responded = time.process_time() - begun
        shared_gain(seen, CrossEntropy(texts.train.labels.numpy()), LAW_PRICE, energy_price(seen))
        spent = time.process_time() - begun
        limit = Amount("one minute of one core", LAW_LIMIT, line=1.0, note=f"of it {responded:.1f} s for the response")
        problem = f"{backbone}, {len(ports)} ports of width {subject.width}, {train} texts"
        yield from weigh("law", problem, Amount("shared_gain", spent), [limit], "CPU s")


def facts() -> Iterator[Contest | Row]:
    """Compare cells of the study `facts` of every delta that PEFT has too."""
    for name in DELTAS:
        yield from sweep(name, recipe=PART_OF_FACT, cell=FACT, train=400, readout=300, dev=100, test=240)


CASES = {name: functools.partial(sweep, name) for name in DELTAS} | {"facts": facts, "decomposition": decomposition, "law": law}
