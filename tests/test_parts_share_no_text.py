"""The parts of a task share no text; seeds share none where the data allow it, and as little as can be where not."""

import itertools

import numpy as np
import pytest

from tuning import tasks
from tuning.tasks.task import Split, keys, make_task

SEEDS = (0, 1, 2)


def made(counts, test=(20, 20, 20), repeats=0, spoilt=0):
    """A task of `counts` texts per class, the first `repeats` of which stand twice and the last `spoilt` in test too."""

    def split(word, counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        return Split(tuple(f"{word} {i}" for i in range(len(labels))), None, labels)

    train, held = split("text", counts), split("held", test[: len(counts)])
    again, spoil = np.arange(repeats), np.arange(len(train) - spoilt, len(train))
    whole = train.rows([*range(len(train)), *again])
    loud = Split(tuple(f" TEXT  {t.split()[1]}" for t in whole.text_a[len(train) :]), None, whole.labels[len(train) :])
    train = Split(train.text_a + loud.text_a, None, np.concatenate([train.labels, loud.labels]))
    held = Split(held.text_a + train.rows(spoil).text_a, None, np.concatenate([held.labels, train.labels[spoil]]))
    return make_task("made", "made", [f"class {i}" for i in range(len(counts))], {"train": train, "test": held}, "made here")


def drawn(task, sizes, seeds=SEEDS):
    return [tasks.disjoint(task, sizes, seed, seeds=seeds) for seed in seeds]


def texts(parts):
    return {part: keys(getattr(parts, part)) for part in ("train", "readout", "test")}


SKEWED = [((5, 30, 65), (30, 50, 15)), ((200, 200, 200), (40, 60, 20)), ((100, 900), (48, 400, 20)), ((7, 8), (7, 8, 9))]


@pytest.mark.parametrize(("counts", "sizes"), SKEWED)
@pytest.mark.parametrize(("repeats", "spoilt"), [(0, 0), (4, 3)])
def test_parts_of_one_seed(counts, sizes, repeats, spoilt):
    task = made(counts, repeats=repeats, spoilt=spoilt)
    sizes = dict(zip(("train", "readout", "test"), sizes, strict=True))
    if spoilt and sum(counts) - spoilt < 2 * sizes["train"]:
        with pytest.raises(ValueError, match="different training texts .and 7 that repeat them or stand in another split"):
            drawn(task, sizes)
        return
    for parts in drawn(task, sizes):
        found = list(itertools.chain(*texts(parts).values()))
        assert len(set(found)) == len(found)
        assert not set(keys(parts.train) + keys(parts.readout)) & set(keys(task.splits["test"]))
        assert len(parts.train) == sizes["train"] and len(parts.test) == sizes["test"]
        assert len(parts.readout) == min(sizes["readout"], sum(counts) - spoilt - sizes["train"])


@pytest.mark.parametrize("name", ["agreement", "quantifiers", "subject-number", "stdlib-topic"])
def test_seeds_of_embedded_tasks_share_nothing(name):
    task = tasks.load(name)
    sizes = {"train": 48, "readout": 120, "test": 87}
    found = drawn(task, sizes)
    whole = [text for parts in found for text in itertools.chain(*texts(parts).values())]
    assert len(set(whole)) == len(whole) == 3 * (48 + 120 + 87)
    assert tasks.overlaps(task, sizes, SEEDS) == {"train": 0, "readout": 0, "test": 0}
    for parts in found:
        for split in (parts.train, parts.readout, parts.test):
            counts = np.bincount(split.labels, minlength=len(task.classes))
            assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("seeds", [(0,), (3, 1), (0, 1, 2), (5, 6, 7, 8, 9)])
@pytest.mark.parametrize(("counts", "sizes"), SKEWED)
def test_too_few_texts_serve_all_seeds_alike(counts, sizes, seeds):
    """Uses of the texts of one class differ by at most one, which makes the texts shared by pairs of seeds fewest."""
    task, sizes = made(counts), dict(zip(("train", "readout", "test"), sizes, strict=True))
    found = [texts(parts) for parts in drawn(task, sizes, seeds)]
    for part in ("train", "readout", "test"):
        split = task.splits["test" if part == "test" else "train"]
        uses = np.array([sum(key in one[part] for one in found) for key in keys(split)])
        for label in range(len(counts)):
            own = uses[split.labels == label]
            assert own.max() - own.min() <= 1
        pairs = [len(set(a[part]) & set(b[part])) / len(a[part]) for a, b in itertools.combinations(found, 2)]
        assert tasks.overlaps(task, sizes, seeds)[part] == pytest.approx(max(pairs, default=0))
        assert (uses.max() <= 1) == (max(pairs, default=0) == 0)


@pytest.mark.parametrize(
    ("counts", "train", "expected"),
    [((100, 100), 20, (10, 10)), ((100, 900), 48, (24, 24)), ((5, 30, 65), 30, (2, 14, 14)), ((1, 40), 10, (0, 10))],
)
def test_classes_are_as_equal_as_sharing_with_the_head_allows(counts, train, expected):
    for parts in drawn(made(counts), {"train": train, "readout": 40, "test": 5}):
        assert tuple(np.bincount(parts.train.labels, minlength=len(counts))) == expected
        assert set(parts.readout.labels) == set(range(len(counts)))


def test_all_texts_can_be_parted():
    parts = tasks.disjoint(made((11, 14, 7)), {"train": 21, "readout": 11}, 0)
    assert len(set(keys(parts.train) + keys(parts.readout))) == 32 and len(parts.test) == 60


@pytest.mark.parametrize("own", [True, False])
def test_dev_texts_come_from_their_split_or_are_set_aside(own):
    task = made((70, 90))
    if own:
        held = Split(tuple(f"dev {i}" for i in range(40)), None, np.repeat([0, 1], 20))
        task = make_task("made", "made", task.classes, {**task.splits, "dev": held}, "")
    sizes = {"train": 20, "readout": 24, "test": 9}
    for plain, parts in zip(drawn(task, sizes), drawn(task, sizes | {"dev": 10}), strict=True):
        assert plain.dev is None and len(parts.dev) == 10 and tuple(np.bincount(parts.dev.labels)) == (5, 5)
        found = [*keys(parts.dev), *itertools.chain(*texts(parts).values())]
        assert len(set(found)) == len(found) == 63
        assert all(key[0].startswith("dev" if own else "text") for key in keys(parts.dev))
        if own:
            assert texts(parts) == texts(plain)  # no other part changes with it


def test_seeds_alone_draw_anew_and_repeat():
    task, sizes = made((300, 300)), {"train": 50, "readout": 50, "test": 10}
    one, again, other = (tasks.disjoint(task, sizes, seed) for seed in (4, 4, 5))
    assert texts(one) == texts(again)
    assert all(set(texts(one)[part]) != set(texts(other)[part]) for part in ("train", "readout", "test"))


def test_aligned_perturbed_texts_follow_the_test_texts():
    plain = made((40, 40), test=(30, 30))
    test = plain.splits["test"]
    typo = Split(tuple(f"typo of {t}" for t in test.text_a), None, test.labels)
    short = Split(("new a", "new b", "new c"), None, [0, 1, 1])
    task = make_task("made", "made", plain.classes, {**plain.splits, "test_typo": typo, "test_short": short}, "")
    for parts in drawn(task, {"train": 10, "readout": 10, "test": 12}):
        assert parts.perturbed["test_typo"].text_a == tuple(f"typo of {t}" for t in parts.test.text_a)
        assert np.array_equal(parts.perturbed["test_typo"].labels, parts.test.labels)
        assert sorted(parts.perturbed["test_short"].text_a) == ["new a", "new b", "new c"]


@pytest.mark.parametrize(
    ("sizes", "seed", "says"),
    [
        ({"train": 31, "readout": 40}, 0, "60 different training texts, too few to train on 31 .* train on at most 30"),
        ({"train": 70, "readout": 1}, 0, "60 different training texts"),
        ({"train": 0, "readout": 1}, 0, "size of train, got 0"),
        ({"train": 10}, 0, "size of readout, got None"),
        ({"train": 10, "readout": 10, "test": 2.5}, 0, "size of test, got 2.5"),
        ({"train": 10, "readout": 10, "dev": 0}, 0, "size of dev, got 0"),
        ({"train": 10, "readout": 10, "dev": 60}, 0, "too few to set 60 aside for dev"),
        ({"train": 10, "readout": 10}, 7, "seed 7 among different seeds, got 0, 1, 2"),
    ],
)
def test_refused(sizes, seed, says):
    with pytest.raises(ValueError, match=says) as caught:
        tasks.disjoint(made((30, 30)), sizes, seed, seeds=SEEDS)
    assert "\n" not in str(caught.value)
