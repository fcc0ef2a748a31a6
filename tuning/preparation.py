"""How a subject is prepared: a frozen backbone, a task's texts in parts that share none, and a head fitted on its own part."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tuning import backbones, tasks
from tuning.backbones import Backbone, Batch, encode
from tuning.subjects import Readout, Subject, fit_readout, subject
from tuning.verbalisers import Verbaliser, check_template, in_template, verbaliser

HEAD_TEXTS = 600  # that fit the frozen head where no number is asked for
HEADS = ("fitted", "verbaliser")


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the subjects of one backbone on one task share; head and batches are made when first asked for, and kept.

    parts: the texts (`tuning.tasks.disjoint`). The head is fitted on `parts.readout`, on which no delta trains: a head
    leaves no loss on the texts that it was fitted on. length: the longest text, in tokens. verbaliser: the words of a
    language model that stand in for a fitted head, with the template around every text; `parts.readout` is then empty.
    template: the sentence that every text stands in where the head is fitted, None for bare texts.
    """

    backbone: Backbone
    task: tasks.Task = field(repr=False)
    parts: tasks.Parts = field(repr=False)
    length: int
    verbaliser: Verbaliser | None = None
    template: str | None = None

    @functools.cached_property
    def readout(self) -> Readout:
        """Return the frozen head: fitted, or the language model's own at the words of a verbaliser."""
        if self.verbaliser is not None:
            return self.verbaliser.readout
        return fit_readout(self.backbone, self._encoded(self.parts.readout), len(self.task.classes))

    @functools.cached_property
    def train(self) -> Batch:
        """Return the texts to train or to measure on."""
        return self._encoded(self.parts.train)

    @functools.cached_property
    def test(self) -> Batch:
        """Return the held-out texts of the parts; `split` gives all of the task's, in their own order."""
        return self._encoded(self.parts.test)

    @functools.cached_property
    def dev(self) -> Batch | None:
        """Return the texts to choose settings on, None where none were asked for."""
        return None if self.parts.dev is None else self._encoded(self.parts.dev)

    @functools.cached_property
    def perturbed(self) -> dict[str, Batch]:
        """Return the perturbed test sets: the task's splits test_NAME, by NAME."""
        return {name.removeprefix("test_"): self._encoded(split) for name, split in self.parts.perturbed.items()}

    def split(self, name: str) -> Batch:
        """Return a whole split of the task; raises ValueError for one that the task lacks."""
        if name not in self.task.splits:
            raise ValueError(f"expected a split of {self.task.name} among {', '.join(self.task.splits)}, got {name!r}")
        return self._encoded(self.task.splits[name])

    def subject(self, delta: object, seed: int, *, train_readout: bool = False) -> Subject:
        """Return the subject with the delta at its start for this seed; the head is frozen unless `train_readout`."""
        return subject(self.backbone, delta, self.readout, seed, train_readout)

    def _encoded(self, split: tasks.Split) -> Batch:
        if self.verbaliser is not None:
            return self.verbaliser.encoded(self.backbone, split, length=self.length)
        if self.template is not None:
            return in_template(self.backbone, self.template, split, length=self.length)
        return encode(self.backbone, split, length=self.length)


@functools.lru_cache(maxsize=32)
def prepare(
    backbone: Backbone,
    task: tasks.Task,
    *,
    seed: int,
    seeds: tuple[int, ...] | None = None,
    length: int = 64,
    train: int | None = None,
    readout: int = HEAD_TEXTS,
    test: int | None = None,
    dev: int | None = None,
    most: int | None = None,
    head: str = HEADS[0],
    template: str | None = None,
    words: tuple[str, ...] | None = None,
) -> Prepared:
    """Return a task's texts, parted for one seed among `seeds` (default: this one alone), with the head that goes with them.

    train, readout, test, dev: the sizes of the parts (`tuning.tasks.disjoint`). Without `train` it gets what the head leaves, at
    most `most`; without `test`, every held-out text. head: "fitted", or "verbaliser": a decoder's own output embedding at a
    word of every class, behind a template around every text (`tuning.verbalisers.verbaliser`), which takes no texts. A fitted
    head reads texts in a template where one is given. Equal arguments give the same record, within a process. Raises ValueError
    for a size below 1, a seed that is not among the seeds, too few texts, an unknown head, words beside a fitted head, and a
    template that does not name the task's texts.
    """
    if head not in HEADS:
        raise ValueError(f"expected a head that is {' or '.join(HEADS)}, got {head!r}")
    if head != "verbaliser" and words:
        raise ValueError(f"expected words with the head 'verbaliser' only, got them with {head!r}: set head")
    if head == HEADS[0] and readout == 0:
        raise ValueError("expected at least one text to fit the head on, got a readout of 0: ask for more")
    spoken = verbaliser(backbone, task, template=template, words=words) if head == "verbaliser" else None
    if spoken is None and template is not None:
        check_template(template, task)
    sizes = {"train": train, "readout": 0 if spoken else readout, "test": test, "dev": dev}
    sizes = {part: size for part, size in sizes.items() if size is not None}
    parts = tasks.disjoint(task, sizes, seed, seeds=seeds)
    if train is None and most is not None and len(parts.train) > most:
        parts = tasks.disjoint(task, sizes | {"train": most}, seed, seeds=seeds)
    return Prepared(backbone, task, parts, length, spoken, None if spoken else template)


def cut_shares(backbone: Backbone, task: tasks.Task, length: int, *, most: int = 2000) -> dict[str, float]:
    """Return the share of each split's texts, or of its first `most`, that have more tokens than `length`, and so are cut."""
    found = {}
    for name, split in task.splits.items():
        first, second = split.text_a[:most], None if split.text_b is None else split.text_b[:most]
        if second is not None and backbone.kind == "decoder":  # as `encode` joins them
            first, second = tuple(f"{a}\n{b}" for a, b in zip(first, second, strict=True)), None
        rows = backbone.tokenizer(list(first), None if second is None else list(second), verbose=False)["input_ids"]
        found[name] = sum(len(row) > length for row in rows) / len(rows)
    return found


def backbone_of(name: str, device: str = "cpu", dtype: str = "float32") -> Backbone:
    """Return the backbone of a name (`tuning.backbones.load`) on a device, its weights in a dtype, loaded once per process."""
    return _loaded(name, device, dtype)


@functools.lru_cache(maxsize=4)
def _loaded(name: str, device: str, dtype: str) -> Backbone:
    return backbones.load(name, device=device, dtype=getattr(torch, dtype))


@functools.lru_cache(maxsize=32)
def task_of(name: str, cache: str | Path, columns: tuple[tuple[str, str], ...] = ()) -> tasks.Task:
    """Return the task of a name (`tuning.tasks.load`), built once per process and kept in the folder `cache`.

    `columns` are (part, column) pairs for tasks that are not embedded.
    """
    named = dict(columns) if columns and name not in tasks.names() else None
    return tasks.load(name, cache=Path(cache), columns=named)
