"""Vocabulary, teacher pass and student of the shipped backbone; each continues from its files."""

import itertools
import json
import math
import pathlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tuning.shipped import folder_of

VOCABULARY, POSITIONS, HEAD = 8000, 128, 32  # HEAD: numbers per attention head, whatever the width
SHARD, EVERY = 20_000, 500  # sentences a shard; steps between two savings of a run


@dataclass(frozen=True)
class Recipe:
    """How one student is made: its shape, its start and its schedule.

    warm: token embeddings start from the teacher's (otherwise every weight is drawn). minutes: the learning rate follows the
    clock instead of `steps`, and the run is not repeatable to the digit. shards: how many of the teacher's shards are read at
    most. kept: steps after which the weights are written to a folder of their own, 0 being the random initialisation.
    """

    name: str
    layers: int
    width: int
    steps: int
    seed: int = 0
    warm: bool = False
    minutes: float | None = None
    shards: int | None = None
    kept: tuple[int, ...] = ()
    batch: int = 128
    peak: float = 2e-3
    weight: float = 4.0
    longest: int = 112


def vocabulary(work: pathlib.Path) -> None:
    """Write tokenizer/: a lower-case WordPiece of 8000 entries learnt on sentences.txt."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    folder = work / "tokenizer"
    if folder.exists():
        return
    learner = BertWordPieceTokenizer(lowercase=True, strip_accents=True)
    learner.train([str(work / "sentences.txt")], vocab_size=VOCABULARY, min_frequency=5, limit_alphabet=100)
    ready = BertTokenizerFast(tokenizer_object=learner._tokenizer, model_max_length=POSITIONS, do_lower_case=True)
    ready.save_pretrained(folder)
    print(f"vocabulary: {len(ready)} entries", flush=True)


def embed(model: torch.nn.Module, tokenizer, lines: list[str], *, longest: int = 64, area: int = 2048) -> np.ndarray:
    """Return mean-pooled last hidden states (n, width), float32, one row a line.

    Lines of equal token count share a batch of about `area` tokens, so nothing is padded; matrix products run
    in bfloat16.
    """
    place = next(model.parameters()).device
    tokens = tokenizer(lines, truncation=True, max_length=longest)["input_ids"]
    order = sorted(range(len(lines)), key=lambda i: len(tokens[i]))
    rows = np.empty((len(lines), model.config.hidden_size), np.float32)
    start = 0
    with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16):
        while start < len(order):
            length = len(tokens[order[start]])
            take = [i for i in order[start : start + max(1, area // length)] if len(tokens[i]) == length]
            hidden = model(input_ids=torch.tensor([tokens[i] for i in take], device=place)).last_hidden_state
            rows[take] = hidden.float().mean(1).cpu().numpy()
            start += len(take)
    return rows


def loaded(folder: pathlib.Path, reader: pathlib.Path | None = None):
    """Return the model (float32, evaluation mode, plain attention: faster in bfloat16) and tokenizer of a folder.

    reader: the tokenizer's folder where it is another one.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reader or folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager", dtype=torch.float32)
    return model.eval(), tokenizer


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows divided by their lengths."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def teacher(work: pathlib.Path, tokenizer: pathlib.Path, *, shards: int | None = None, device: str = "cpu") -> None:
    """Write unit embeddings, float16: teacher/tokens.npy (the vocabulary), 00000.npy, ... (sentences, `shards` at most)."""
    from transformers import AutoTokenizer

    folder = work / "teacher"
    folder.mkdir(exist_ok=True)
    model, own = loaded(folder_of("minilm"))
    model.to(device)

    def shard(name: str, lines: list[str]) -> None:
        if not (folder / f"{name}.npy").exists():
            began = time.time()
            np.save(folder / "part.npy", unit(embed(model, own, lines)).astype(np.float16))
            (folder / "part.npy").rename(folder / f"{name}.npy")
            print(f"teacher {name}: {len(lines)} lines in {time.time() - began:.0f} s", flush=True)

    student_tokens = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    entries = student_tokens.convert_ids_to_tokens(range(len(student_tokens)))
    shard("tokens", [entry.removeprefix("##") for entry in entries])
    lines = (work / "sentences.txt").read_text(encoding="utf-8").split("\n")
    for n in range(math.ceil(len(lines) / SHARD))[:shards]:
        shard(f"{n:05d}", lines[n * SHARD : (n + 1) * SHARD])


class Student(torch.nn.Module):
    """The backbone and the map from its width to the teacher's; only the backbone is shipped."""

    def __init__(self, entries: int, recipe: Recipe, tokens: np.ndarray):
        """Draw all weights; a warm start takes token embeddings from the PCA of the teacher's rows for the entries."""
        from transformers import BertConfig, BertModel

        super().__init__()
        width = recipe.width
        config = BertConfig(
            vocab_size=entries, hidden_size=width, num_hidden_layers=recipe.layers, num_attention_heads=width // HEAD,
            intermediate_size=4 * width, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, attn_implementation="eager",
        )  # fmt: skip
        self.backbone = BertModel(config, add_pooling_layer=False)
        self.map = torch.nn.Linear(width, tokens.shape[1])
        if recipe.warm:
            centred = tokens.astype(np.float64) - tokens.astype(np.float64).mean(0)
            _, _, axes = np.linalg.svd(centred, full_matrices=False)
            start = centred @ axes[:width].T
            with torch.no_grad():
                self.backbone.embeddings.word_embeddings.weight.copy_(torch.tensor(0.05 * start / start.std()))
                self.backbone.embeddings.position_embeddings.weight.mul_(0.5)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return mapped mean-pooled states (B, 384) of tokens and mask (B, L)."""
        hidden = self.backbone(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        return self.map((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def distillation_loss(mapped: torch.Tensor, target: torch.Tensor, weight: float) -> torch.Tensor:
    """Return 1 - mean_i <s_i, t_i> + weight * mean_{i != j} (<s_i, s_j> - <t_i, t_j>)^2 as a scalar.

    s_i are the rows of `mapped` (B, d) scaled to unit length, t_i those of `target` (B, d), unit already.
    """
    s = torch.nn.functional.normalize(mapped, dim=1)
    gap = (s @ s.T - target @ target.T).fill_diagonal_(0.0)
    return 1 - (s * target).sum(1).mean() + weight * gap.square().sum() / (len(s) * (len(s) - 1))


def one_cycle(progress: float, peak: float) -> float:
    """Return the learning rate at a share `progress` of the run: linear rise over 4 % of it, then a cosine to zero."""
    if progress < 0.04:
        return peak * progress / 0.04
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - 0.04) / 0.96))


class Stream:
    """Batches of (tokens, mask, teacher rows) from the shards written so far, in an order that the recipe's seed says."""

    def __init__(self, work: pathlib.Path, tokenizer: pathlib.Path, recipe: Recipe):
        from transformers import AutoTokenizer

        self.work, self.recipe, self.generator = work, recipe, random.Random(recipe.seed)
        self.lines = (work / "sentences.txt").read_text(encoding="utf-8").split("\n")
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        self.encoded: dict[str, tuple[list, np.ndarray]] = {}

    def names(self) -> list[str]:
        """Return the names of the shards there are, the recipe's at most."""
        return sorted(p.stem for p in (self.work / "teacher").glob("[0-9]*.npy"))[: self.recipe.shards]

    def _shard(self, name: str) -> tuple[list, np.ndarray]:
        """Return the token lists and teacher rows of a shard, kept in memory."""
        if name not in self.encoded:
            n = int(name)
            lines = self.lines[n * SHARD : (n + 1) * SHARD]
            tokens = self.tokenizer(lines, truncation=True, max_length=self.recipe.longest)["input_ids"]
            self.encoded[name] = (
                [np.array(t, np.int16) for t in tokens],
                np.load(self.work / "teacher" / f"{name}.npy"),
            )
        return self.encoded[name]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield batches without end: passes over all shards there are, each cut into batches of similar length and shuffled."""
        batch = self.recipe.batch
        while True:
            names = self.names()
            if not any(len(self._shard(name)[0]) >= batch for name in names):
                raise ValueError(f"expected a teacher's shard of at least {batch} lines in {self.work / 'teacher'}")
            self.generator.shuffle(names)
            for name in names:
                tokens, rows = self._shard(name)
                order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]) + 2.0 * self.generator.random())
                cuts = list(range(0, len(order) - batch + 1, batch))
                self.generator.shuffle(cuts)
                for cut in cuts:
                    take = order[cut : cut + batch]
                    padded = np.zeros((batch, max(len(tokens[i]) for i in take)), np.int64)
                    for row, i in enumerate(take):
                        padded[row, : len(tokens[i])] = tokens[i]
                    ids = torch.from_numpy(padded)
                    yield ids, (ids != 0).long(), torch.from_numpy(rows[take].astype(np.float32))


def student(work: pathlib.Path, recipe: Recipe, tokenizer: pathlib.Path, device: str = "cpu") -> None:
    """Write NAME.pt and NAME/ (float32 safetensors, tokenizer) every 500 steps, NAME-step-N/ where kept, NAME.json at the end.

    A run that was stopped goes on from NAME.pt: it skips the batches that it has seen, so where the shards are the
    same and the schedule follows the steps it ends at the same weights.
    """
    from transformers import AutoTokenizer

    log = work / f"{recipe.name}.json"
    if log.exists():
        return
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        tokens = np.load(work / "teacher" / "tokens.npy")
        entries = len(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True))
        model = Student(entries, recipe, tokens).to(device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak, betas=(0.9, 0.98), fused=True)
    state, step, spent, mean = work / f"{recipe.name}.pt", 0, 0.0, None
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent, mean = saved["step"], saved["spent"], saved["loss"]
    elif 0 in recipe.kept:
        _export(model, work / f"{recipe.name}-step-0", tokenizer)
    began = time.time() - spent

    def save() -> None:
        seconds = time.time() - began
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": seconds, "loss": mean}
        torch.save(saved, work / "part.pt")
        (work / "part.pt").rename(state)
        _export(model, work / recipe.name, tokenizer)

    stream = Stream(work, tokenizer, recipe)
    for ids, mask, target in itertools.islice(stream, step, None):
        progress = (time.time() - began) / (60 * recipe.minutes) if recipe.minutes else step / recipe.steps
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(progress, recipe.peak)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            mapped = model(ids.to(device), mask.to(device))
        loss = distillation_loss(mapped.float(), target.to(device), recipe.weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        mean = loss.item() if mean is None else 0.99 * mean + 0.01 * loss.item()
        if step % 100 == 0:
            seconds = time.time() - began
            print(f"{recipe.name} {step} progress {progress:.3f} loss {mean:.4f} {seconds:.0f} s", flush=True)
        if step in recipe.kept:
            _export(model, work / f"{recipe.name}-step-{step}", tokenizer)
        if step % EVERY == 0:
            save()
    save()
    seen = min(len(stream.lines), SHARD * len(stream.names()))
    record = {"steps": step, "batch": recipe.batch, "examples": step * recipe.batch, "sentences": seen, "loss": round(mean, 4)}
    record |= {"peak": recipe.peak, "seed": recipe.seed, "seconds": round(time.time() - began)}
    log.write_text(json.dumps(record), encoding="utf-8")


def _export(model: Student, folder: pathlib.Path, tokenizer: pathlib.Path) -> None:
    """Write the backbone with its tokenizer to a folder."""
    from transformers import AutoTokenizer

    model.backbone.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer, local_files_only=True).save_pretrained(folder)
