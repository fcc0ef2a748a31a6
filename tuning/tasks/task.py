"""A task: texts, labels, classes and the digest of its content, as frozen data."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

REQUIRED = ("train", "test")
SIZES = {"train": 1200, "dev": 300, "test": 600}  # of an embedded task, where its source gives as much


@dataclass(frozen=True, eq=False)
class Split:
    """``n`` examples: ``text_a`` and, for pair tasks, ``text_b``; ``labels`` int64 (n,), read-only."""

    text_a: tuple[str, ...]
    text_b: tuple[str, ...] | None
    labels: np.ndarray

    def __post_init__(self) -> None:
        labels = np.array(self.labels, dtype=np.int64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)
        lengths = {len(self.text_a), len(labels), len(self.text_a if self.text_b is None else self.text_b)}
        if labels.ndim != 1 or len(lengths) != 1:
            raise ValueError(
                "a split needs one label and one text per column for each example, but its columns have "
                f"{sorted(lengths)} entries: make them equally long"
            )

    def __len__(self) -> int:
        return len(self.text_a)

    def rows(self, index: Sequence[int] | np.ndarray) -> Split:
        """Return the examples at ``index``, in that order."""
        text_b = None if self.text_b is None else tuple(self.text_b[i] for i in index)
        return Split(tuple(self.text_a[i] for i in index), text_b, self.labels[np.asarray(index, dtype=np.int64)])


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task; compare two by ``digest``, the content's SHA-256 (first 16 hex digits)."""

    name: str
    family: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    source: str
    digest: str

    def take(self, split: str, n: int, seed: int) -> Split:
        """Return ``n`` examples of a split drawn without replacement, classes as equal as the data allow.

        Each class gets floor(n / C) or one more; what a scarce class cannot give is shared among the others.
        The same (split, n, seed) gives the same examples in the same order. Raises ValueError for an unknown
        split and for n below 1 or above the split's size.
        """
        if split not in self.splits:
            raise ValueError(f"task {self.name!r} has the splits {', '.join(self.splits)}, not {split!r}: choose one")
        examples = self.splits[split]
        if not 1 <= n <= len(examples):
            raise ValueError(
                f"{n} examples were asked of {self.name}/{split}, which has {len(examples)}: ask for 1 to {len(examples)}"
            )
        rng = np.random.default_rng(seed)
        queues = [rng.permutation(np.flatnonzero(examples.labels == c)) for c in range(len(self.classes))]
        quota = quotas(np.array([len(queue) for queue in queues]), n, rng)
        chosen = np.concatenate([queue[:k] for queue, k in zip(queues, quota, strict=True)])
        return examples.rows(rng.permutation(chosen))


def quotas(room: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return how many of n examples each class gives, as equal as its room (C,) allows; n is at most room.sum()."""
    quota = np.zeros(len(room), dtype=np.int64)
    for _ in range(n):  # the class with the fewest so far; ties in a seeded order, so no class is favoured
        open_classes = np.flatnonzero(quota < room)
        fewest = open_classes[quota[open_classes] == quota[open_classes].min()]
        quota[rng.choice(fewest)] += 1
    return quota


def content_digest(classes: Sequence[str], splits: Mapping[str, Split]) -> str:
    """Return the first 16 hex digits of the SHA-256 of classes, texts and labels (the name plays no part)."""
    content = {
        name: [
            list(split.text_a),
            None if split.text_b is None else list(split.text_b),
            split.labels.tolist(),
        ]
        for name, split in splits.items()
    }
    line = json.dumps([list(classes), content], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(line.encode()).hexdigest()[:16]


def require_splits(name: str, splits: Iterable[str]) -> None:
    """Raise ValueError unless train and test are among the splits."""
    present = tuple(splits)
    for required in REQUIRED:
        if required not in present:
            raise ValueError(f"task {name!r} has no {required!r} split, only {', '.join(present) or 'none'}: add one")


def make_task(name: str, family: str, classes: Sequence[str], splits: Mapping[str, Split], source: str) -> Task:
    """Return a checked task with its digest.

    Raises ValueError, in one sentence, when train or test is missing, when a split is empty, when train shows
    fewer than two classes, when a label lies outside the classes or, in another split, never occurs in train,
    and when only some splits have a second text.
    """
    require_splits(name, splits)
    if len(classes) < 2:
        raise ValueError(f"task {name!r} has {len(classes)} class(es), expected at least 2: give it labels that differ")
    for key, split in splits.items():
        if not len(split):
            raise ValueError(f"the split {key!r} of task {name!r} is empty: give it at least one example")
        if (split.text_b is None) != (splits["train"].text_b is None):
            raise ValueError(f"in task {name!r} only some splits have text_b ({key!r} differs from train): fill or drop it")
        outside = split.labels[(split.labels < 0) | (split.labels >= len(classes))]
        if len(outside):
            raise ValueError(
                f"label {outside[0]} in {name}/{key} is outside the {len(classes)} classes "
                f"0..{len(classes) - 1}: "
                "correct the label or the list of classes"
            )
    trained = np.unique(splits["train"].labels)
    if len(trained) < 2:
        raise ValueError(f"the train split of {name!r} shows only one class, expected at least 2: add the others")
    for key, split in splits.items():
        unseen = np.setdiff1d(split.labels, trained)
        if len(unseen):
            raise ValueError(
                f"label {classes[unseen[0]]!r} in {name}/{key} never occurs in train: "
                "add training examples of it or drop those rows"
            )
    return Task(name, family, tuple(classes), dict(splits), source, content_digest(classes, splits))


def relabel(task: Task, name: str, labels_by_split: Mapping[str, Sequence[int] | np.ndarray], classes: Sequence[str]) -> Task:
    """Return the same texts under other labels: planted teachers, shuffled labels, coarser classes.

    Splits without an entry are dropped. Raises ValueError for an unknown split, labels of the wrong length,
    and whatever ``make_task`` refuses.
    """
    unknown = set(labels_by_split) - set(task.splits)
    if unknown:
        raise ValueError(f"labels came for {sorted(unknown)}, but {task.name!r} has the splits {', '.join(task.splits)}")
    splits = {}
    for key, labels in labels_by_split.items():
        texts = task.splits[key]
        if len(labels) != len(texts):
            raise ValueError(f"{len(labels)} labels came for {task.name}/{key}, expected {len(texts)}: one per example")
        splits[key] = Split(texts.text_a, texts.text_b, np.asarray(labels))
    return make_task(name, task.family, classes, splits, f"texts of {task.name} ({task.digest}), other labels")


def examples(split: Split) -> list[tuple[str, ...]]:
    """Return the texts of each example: (text_a,) or (text_a, text_b)."""
    columns = [split.text_a] if split.text_b is None else [split.text_a, split.text_b]
    return list(zip(*columns, strict=True))


def fold(text: str) -> str:
    """Return a text without differences of case and spacing."""
    return " ".join(text.casefold().split())


def keys(split: Split) -> list[tuple[str, ...]]:
    """Return the folded texts of each example: equal keys mean texts that are the same to a reader."""
    return [tuple(map(fold, texts)) for texts in examples(split)]


def leaks(task: Task) -> dict[str, dict]:
    """Return, for every split but train: how many texts it has, and how many and what share also stand in train.

    ``exact`` counts equal texts, ``folded`` those that are equal without case and spacing; ``share`` is folded / texts.
    """
    exact, folded = set(examples(task.splits["train"])), set(keys(task.splits["train"]))
    found = {}
    for name, split in task.splits.items():
        if name != "train":
            near = sum(key in folded for key in keys(split))
            equal = sum(texts in exact for texts in examples(split))
            found[name] = {"texts": len(split), "exact": equal, "folded": near, "share": near / len(split)}
    return found


def leak_warning(task: Task) -> str | None:
    """Return one sentence on the held-out texts that also stand in train, or None where there are none."""
    counts = [
        f"{of['folded']} of {of['texts']} {name} texts ({100 * of['share']:.3g} %)"
        for name, of in leaks(task).items()
        if of["folded"]
    ]
    if not counts:
        return None
    return (
        f"{', '.join(counts)} of {task.name} also stand in train (case and spacing aside): "
        "training here leaves them out of train, but whatever else has seen them scores too well on them"
    )


def warn(task: Task) -> None:
    """Print the warning of `leak_warning` on standard error, if there is one."""
    if told := leak_warning(task):
        print(f"warning: {told}", file=sys.stderr, flush=True)


def describe(task: Task) -> dict:
    """Return name, family, source, digest, classes, sizes, majority, overlap, leaks and words, ready for JSON.

    Per split: ``majority`` is the accuracy of always answering the most common class of train, ``overlap``
    the number of examples whose texts also stand in train, ``leaks`` the same with shares and near-identical
    texts. ``median_words`` counts both texts of a pair.
    """
    train, found = task.splits["train"], leaks(task)
    common = int(np.bincount(train.labels, minlength=len(task.classes)).argmax())
    return {
        "name": task.name,
        "family": task.family,
        "source": task.source,
        "digest": task.digest,
        "classes": list(task.classes),
        "sizes": {key: len(split) for key, split in task.splits.items()},
        "majority": {key: float((split.labels == common).mean()) for key, split in task.splits.items()},
        "overlap": {key: of["exact"] for key, of in found.items()},
        "leaks": found,
        "median_words": float(statistics.median(len(" ".join(texts).split()) for texts in examples(train))),
        "pair": train.text_b is not None,
    }


def save(task: Task, path: pathlib.Path) -> None:
    """Write a task as JSON, to a temporary file that is then renamed: readers never see half of it."""
    record = {
        "name": task.name,
        "family": task.family,
        "classes": list(task.classes),
        "source": task.source,
        "digest": task.digest,
        "splits": {
            key: {
                "text_a": list(split.text_a),
                "text_b": None if split.text_b is None else list(split.text_b),
                "labels": split.labels.tolist(),
            }
            for key, split in task.splits.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(record, file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def restore(path: pathlib.Path) -> Task:
    """Return a task that ``save`` wrote; raises ValueError when its content does not match its digest."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        splits = {
            key: Split(tuple(s["text_a"]), None if s["text_b"] is None else tuple(s["text_b"]), np.array(s["labels"]))
            for key, s in record["splits"].items()
        }
        task = make_task(record["name"], record["family"], record["classes"], splits, record["source"])
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a saved task ({type(error).__name__}: {error}): delete it") from error
    if task.digest != record["digest"]:
        raise ValueError(f"{path} says digest {record['digest']} but holds {task.digest}: delete it")
    return task
