"""Vocabulary, teacher pass and student of the shipped backbone; each continues from its files."""

import json
import math
import pathlib
import random
import time
from collections.abc import Iterator

import numpy as np
import torch

from tuning.shipped import folder_of

VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 8000, 128, 4, 4, 128
SHARD = 20_000


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
    tokens = tokenizer(lines, truncation=True, max_length=longest)["input_ids"]
    order = sorted(range(len(lines)), key=lambda i: len(tokens[i]))
    rows = np.empty((len(lines), model.config.hidden_size), np.float32)
    start = 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        while start < len(order):
            length = len(tokens[order[start]])
            take = [i for i in order[start : start + max(1, area // length)] if len(tokens[i]) == length]
            hidden = model(input_ids=torch.tensor([tokens[i] for i in take])).last_hidden_state
            rows[take] = hidden.float().mean(1).numpy()
            start += len(take)
    return rows


def loaded(folder: pathlib.Path):
    """Return the model (float32, evaluation mode, plain attention: faster in bfloat16) and tokenizer of a folder."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager", dtype=torch.float32)
    return model.eval(), tokenizer


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows divided by their lengths."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def teacher(work: pathlib.Path) -> None:
    """Write unit embeddings, float16: teacher/tokens.npy (the vocabulary), 00000.npy, ... (sentences)."""
    from transformers import AutoTokenizer

    folder = work / "teacher"
    folder.mkdir(exist_ok=True)
    model, tokenizer = loaded(folder_of("minilm"))

    def shard(name: str, lines: list[str]) -> None:
        if not (folder / f"{name}.npy").exists():
            began = time.time()
            np.save(folder / "part.npy", unit(embed(model, tokenizer, lines)).astype(np.float16))
            (folder / "part.npy").rename(folder / f"{name}.npy")
            print(f"teacher {name}: {len(lines)} lines in {time.time() - began:.0f} s", flush=True)

    student_tokens = AutoTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)
    entries = student_tokens.convert_ids_to_tokens(range(len(student_tokens)))
    shard("tokens", [entry.removeprefix("##") for entry in entries])
    lines = (work / "sentences.txt").read_text(encoding="utf-8").split("\n")
    for n in range(math.ceil(len(lines) / SHARD)):
        shard(f"{n:05d}", lines[n * SHARD : (n + 1) * SHARD])


class Student(torch.nn.Module):
    """The backbone and the map from its width to the teacher's; only the backbone is shipped."""

    def __init__(self, entries: int, tokens: np.ndarray):
        """Start the token embeddings from the PCA of the teacher's rows for the vocabulary's entries."""
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            vocab_size=entries, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, attn_implementation="eager",
        )  # fmt: skip
        self.backbone = BertModel(config, add_pooling_layer=False)
        self.map = torch.nn.Linear(WIDTH, tokens.shape[1])
        centred = tokens.astype(np.float64) - tokens.astype(np.float64).mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        start = centred @ axes[:WIDTH].T
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
    """Batches of (tokens, mask, teacher rows) from the shards written so far, in a seeded order."""

    def __init__(self, work: pathlib.Path, generator: random.Random, batch: int, longest: int):
        self.work, self.generator, self.batch, self.longest = work, generator, batch, longest
        self.lines = (work / "sentences.txt").read_text(encoding="utf-8").split("\n")
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)
        self.encoded: dict[str, tuple[list, np.ndarray]] = {}

    def _shard(self, name: str) -> tuple[list, np.ndarray]:
        """Return the token lists and teacher rows of a shard, kept in memory."""
        if name not in self.encoded:
            n = int(name)
            lines = self.lines[n * SHARD : (n + 1) * SHARD]
            tokens = self.tokenizer(lines, truncation=True, max_length=self.longest)["input_ids"]
            self.encoded[name] = (
                [np.array(t, np.int16) for t in tokens],
                np.load(self.work / "teacher" / f"{name}.npy"),
            )
        return self.encoded[name]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield batches without end: passes over all shards there are, each cut into batches of similar length and shuffled."""
        while True:
            names = sorted(p.stem for p in (self.work / "teacher").glob("[0-9]*.npy"))
            if not any(len(self._shard(name)[0]) >= self.batch for name in names):
                raise ValueError(f"expected a teacher's shard of at least {self.batch} lines in {self.work / 'teacher'}")
            self.generator.shuffle(names)
            for name in names:
                tokens, rows = self._shard(name)
                order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]) + 2.0 * self.generator.random())
                cuts = list(range(0, len(order) - self.batch + 1, self.batch))
                self.generator.shuffle(cuts)
                for cut in cuts:
                    take = order[cut : cut + self.batch]
                    padded = np.zeros((self.batch, max(len(tokens[i]) for i in take)), np.int64)
                    for row, i in enumerate(take):
                        padded[row, : len(tokens[i])] = tokens[i]
                    ids = torch.from_numpy(padded)
                    yield ids, (ids != 0).long(), torch.from_numpy(rows[take].astype(np.float32))


def student(
    work: pathlib.Path, seed: int, *, steps: int, minutes: float | None = None, batch: int = 128,
    peak: float = 2e-3, weight: float = 4.0, longest: int = 112,
) -> None:  # fmt: skip
    """Write student.pt and nano/ (float32 safetensors, tokenizer) every 500 steps, student.json at the end.

    The learning rate follows the share of `steps`, or of `minutes` by the clock when given: then a run is not
    repeatable to the digit.
    """
    from transformers import AutoTokenizer

    generator = random.Random(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokens = np.load(work / "teacher" / "tokens.npy")
        model = Student(len(AutoTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)), tokens)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    step, spent = 0, 0.0
    if (work / "student.pt").exists():
        saved = torch.load(work / "student.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]
        generator.seed(seed + step)
    began, mean = time.time() - spent, None
    stream = Stream(work, generator, batch, longest)
    for ids, mask, target in stream:
        progress = (time.time() - began) / (60 * minutes) if minutes else step / steps
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(progress, peak)
        with torch.autocast("cpu", torch.bfloat16):
            mapped = model(ids, mask)
        loss = distillation_loss(mapped.float(), target, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        mean = loss.item() if mean is None else 0.99 * mean + 0.01 * loss.item()
        if step % 100 == 0:
            seconds = time.time() - began
            print(f"student {step} progress {progress:.3f} loss {mean:.4f} {seconds:.0f} s", flush=True)
        if step % 500 == 0:
            _save(model, optimizer, step, time.time() - began, work)
    _save(model, optimizer, step, time.time() - began, work)
    seen = min(len(stream.lines), SHARD * len(list((work / "teacher").glob("[0-9]*.npy"))))
    record = {"steps": step, "batch": batch, "examples": step * batch, "sentences": seen}
    record |= {"peak": peak, "seed": seed, "seconds": round(time.time() - began)}
    (work / "student.json").write_text(json.dumps(record), encoding="utf-8")


def _save(model: Student, optimizer: torch.optim.Optimizer, step: int, spent: float, work: pathlib.Path) -> None:
    """Write what a resumed run needs to student.pt, and the backbone with its tokenizer to nano/."""
    from transformers import AutoTokenizer

    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    torch.save(saved, work / "part.pt")
    (work / "part.pt").rename(work / "student.pt")
    model.backbone.save_pretrained(work / "nano")
    AutoTokenizer.from_pretrained(work / "tokenizer", local_files_only=True).save_pretrained(work / "nano")
