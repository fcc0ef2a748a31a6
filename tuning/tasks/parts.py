"""How a task is parted: texts to train on, other texts for the frozen head, texts to test on, for every seed of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.tasks.task import Split, Task, keys, quotas

PARTS = ("train", "readout", "test")
NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Parts:
    """Examples for one seed, no text in two of them; ``perturbed`` holds the task's splits test_* by name, ``dev`` is None
    where none was asked for."""

    train: Split
    readout: Split
    test: Split
    perturbed: Mapping[str, Split]
    dev: Split | None = None


def disjoint(task: Task, sizes: Mapping[str, int], seed: int, *, seeds: Sequence[int] | None = None) -> Parts:
    """Return one seed's examples of a task: train, readout (for the frozen head) and test, of the sizes asked for.

    Train and readout come from the task's train split (train gets what readout leaves, at least half, without a size), test
    from its test split (all of it without a size). Texts are compared without case and spacing; one that stands twice counts
    once, and a training text that stands in another split is left out, so no text is in two parts. Classes are as equal in
    train and test as ``Task.take`` makes them, and train shares with readout what is scarce. readout and test get fewer where
    the data give no more, but readout no fewer than the lesser of its size and train's. With a size for dev, texts to choose on
    come from the task's dev split, fewer where it has no more; without such a split they are set aside from train first.

    ``seeds`` are those of a study (default: this one alone). Each class's texts, shuffled once by the first of them, lie on a
    circle of L texts; the seed of rank i among k takes those from floor(i L / k) on, first train, then readout. Two seeds thus
    share no text of a part that has at most L / k of every class, and where the data are too few, every text serves as many
    seeds as any other, give or take one; ``overlaps`` says how much is shared. A split test_* that is aligned with test (the
    same labels in the same order) gives the rows of test. A readout of size 0 is empty, for a head that is not fitted.

    Raises ValueError for sizes below 1 (of readout, below 0), for a seed that is not among the seeds, and for too few texts.
    """
    order = tuple(seeds) if seeds is not None else (seed,)
    if seed not in order or len(set(order)) < len(order):
        raise ValueError(f"expected the seed {seed} among different seeds, got {', '.join(map(str, order))}: name each once")
    chosen = _rows(task, sizes, order.index(seed), order)
    test = task.splits["test"]
    perturbed = {}
    for name, split in task.splits.items():
        if name.startswith("test_"):
            aligned = len(split) == len(test) and np.array_equal(split.labels, test.labels)
            perturbed[name] = split.rows(chosen["test"] if aligned else chosen[name])
    train = task.splits["train"]
    dev = task.splits.get("dev", train).rows(chosen["dev"]) if "dev" in chosen else None
    return Parts(train.rows(chosen["train"]), train.rows(chosen["readout"]), test.rows(chosen["test"]), perturbed, dev)


def overlaps(task: Task, sizes: Mapping[str, int], seeds: Sequence[int]) -> dict[str, float]:
    """Return, for train, readout and test, the largest share of its texts that a seed has in common with another."""
    order = tuple(seeds)
    drawn = [_rows(task, sizes, rank, order) for rank in range(len(order))]
    shared = dict.fromkeys(PARTS, 0.0)
    for rank, one in enumerate(drawn):
        for other in drawn[:rank]:
            for part in PARTS:
                common = len(np.intersect1d(one[part], other[part]))
                shared[part] = max(shared[part], common / max(len(one[part]), 1))
    return shared


def _rows(task: Task, sizes: Mapping[str, int], rank: int, seeds: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the row numbers of train and readout (in the train split), of dev if asked for and of every split test*, by name."""
    circles = _circles(task, "train", seeds)
    room = np.array([len(circle) for circle in circles])
    kept = _set_aside(task, sizes, room, seeds)
    total = int(room.sum() - kept.sum())
    rest = max(total - sizes["readout"], total // 2) if isinstance(sizes.get("readout"), int) else 1
    sizes = {"train": rest, "test": len(task.splits["test"]), **sizes}
    for part in PARTS:
        _check_size(part, sizes.get(part), least=int(part != "readout"))
    wanted = [*_shares(task, sizes, room - kept, seeds), *([kept] if kept.any() else [])]
    found = dict(zip(("train", "readout", "dev"), _arcs(circles, wanted, rank, seeds), strict=False))
    held = {key: sizes["test"] for key in task.splits if key.startswith("test")}
    if "dev" in sizes and "dev" in task.splits:
        held["dev"] = sizes["dev"]
    for name, size in held.items():
        circles = _circles(task, name, seeds)
        room = np.array([len(circle) for circle in circles])
        wanted = [quotas(room, min(size, room.sum()), _draw(seeds, 1))]
        (found[name],) = _arcs(circles, wanted, rank, seeds)
    return found


def _check_size(part: str, size: object, least: int = 1) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise ValueError(f"expected a whole number of at least {least} as the size of {part}, got {size!r}: correct it")


def _set_aside(task: Task, sizes: Mapping[str, int], room: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
    """Return how many texts of each class the train split gives to dev: none where the task has a dev split."""
    if "dev" not in sizes:
        return np.zeros_like(room)
    _check_size("dev", sizes["dev"])
    if "dev" in task.splits:
        return np.zeros_like(room)
    if sizes["dev"] > room.sum() - 2:
        raise ValueError(f"{task.name} has {room.sum()} different training texts, too few to set {sizes['dev']} aside for dev")
    return quotas(room, sizes["dev"], _draw(seeds, 4))


def _draw(seeds: Sequence[int], *more: int) -> np.random.Generator:
    return np.random.default_rng([seeds[0], 104, *more])


def _circles(task: Task, name: str, seeds: Sequence[int]) -> list[np.ndarray]:
    """Return, per class, the shuffled row numbers of a split's different texts; for train, those in no other split."""
    seen = {key for other, split in task.splits.items() if name == "train" != other for key in keys(split)}
    kept = []
    for row, key in enumerate(keys(task.splits[name])):
        if key not in seen:
            seen.add(key)
            kept.append(row)
    rows = np.array(kept, dtype=np.int64)
    labels, draw = task.splits[name].labels[rows], _draw(seeds, 0)
    return [draw.permutation(rows[labels == c]) for c in range(len(task.classes))]


def _shares(task: Task, sizes: Mapping[str, int], room: np.ndarray, seeds: Sequence[int]) -> list[np.ndarray]:
    """Return how many texts of each class go to train and to readout.

    A scarce class gives train at most half of its texts, or its share of all the texts asked for where that is more.
    """
    total = int(room.sum())
    train, readout = sizes["train"], min(sizes["readout"], total - sizes["train"])
    if readout < min(sizes["readout"], train):
        repeated = len(task.splits["train"]) - total
        raise ValueError(
            f"{task.name} has {total} different training texts"
            + (f" (and {repeated} that repeat them or stand in another split)" if repeated else "")
            + f", too few to train on {train} and to fit the frozen head on as many others: train on at most "
            f"{max(total // 2, total - sizes['readout'])} (--examples)"
        )
    most = np.maximum(room * train // (train + readout), room // 2)
    short = max(0, train - int(most.sum()))
    most[np.argsort(most - room, kind="stable")[:short]] += 1  # what rounding down has left over
    first = quotas(most, train, _draw(seeds, 2))
    return [first, quotas(room - first, readout, _draw(seeds, 3))]


def _arcs(circles: Sequence[np.ndarray], wanted: Sequence[np.ndarray], rank: int, seeds: Sequence[int]) -> list[np.ndarray]:
    """Return the rows of each part: consecutive arcs of every class's circle from this rank's start on, then shuffled."""
    starts = [rank * len(circle) // len(seeds) for circle in circles]
    found = []
    for index, quota in enumerate(wanted):
        arcs = [np.take(c, np.arange(s, s + n), mode="wrap") for c, s, n in zip(circles, starts, quota, strict=True) if n]
        found.append(np.random.default_rng([seeds[rank], 105, index]).permutation(np.concatenate([NO_ROWS, *arcs])))
        starts = [s + n for s, n in zip(starts, quota, strict=True)]
    return found
