"""No text, near-copy or docstring of an embedded task is in two splits; no name gives a label away."""

import collections

import numpy as np
import pytest
from seeds import shifted

from tuning import tasks
from tuning.tasks import embedded, prose
from tuning.tasks.task import Split, examples, make_task


@pytest.fixture(scope="module", params=tasks.names())
def task(request):
    return tasks.load(request.param)


def own_splits(task):
    """The splits that hold texts of their own: test_typo repeats the test texts misspelt."""
    return {key: split for key, split in task.splits.items() if key != "test_typo"}


def test_no_example_stands_twice(task):
    seen = [pair for split in own_splits(task).values() for pair in examples(split)]
    assert len(set(seen)) == len(seen)
    overlap = tasks.describe(task)["overlap"]
    assert {n for key, n in overlap.items() if key != "test_typo"} == {0}


def test_no_near_copies(task):
    """No two texts share their first or last five words, generated and reordered sentences apart."""
    if task.family in ("grammar", "reading", "relation", "order"):
        return
    texts = [text for split in own_splits(task).values() for pair in examples(split) for text in pair]
    for ends in (slice(None, embedded.ENDS), slice(-embedded.ENDS, None)):
        assert max(collections.Counter(prose.words(text)[ends] for text in texts).values()) == 1


def test_classes_are_balanced(task):
    for split in task.splits.values():
        assert len(set(np.bincount(split.labels, minlength=len(task.classes)))) == 1
    assert len(task.splits["train"]) >= 500 and len(task.splits["test"]) >= 250


@pytest.mark.parametrize("name", embedded.TOPICS)
def test_no_give_away(name):
    banned = embedded.give_aways(embedded.packages(name))
    assert {part.lower() for package in embedded.packages(name) for part in package.split(".")} <= banned
    for split in own_splits(tasks.load(name)).values():
        for text in split.text_a:
            assert prose.is_prose(text)
            assert banned.isdisjoint(prose.words(text))


def test_topics_share_no_package():
    packages = [package for name in embedded.TOPICS for package in embedded.packages(name)]
    tops = [(a, b) for a in packages for b in packages if a != b and (b + ".").startswith(a + ".")]
    assert len(set(packages)) == len(packages) and not tops


def test_docstrings_stay_in_one_split():
    """Three examples to a docstring; the split of each must be that of its siblings."""
    made = [embedded.Example(f"{d}-{i}", None, d % 2, ("p", "f", d)) for d in range(60) for i in range(3)]
    splits = embedded.allocate(made, 2, {"train": 60, "dev": 20, "test": 40}, seed=shifted(3))
    homes = {key: {text.split("-")[0] for text in split.text_a} for key, split in splits.items()}
    assert [len(split) for split in splits.values()] == [60, 20, 40]
    assert not homes["train"] & homes["dev"] | homes["train"] & homes["test"] | homes["dev"] & homes["test"]


def test_ambiguous_endings_are_dropped():
    def made(text, label):
        return prose.Sentence(text, "p", "f", 0, 0, 0, "", "function"), label

    kept = embedded.distinct(
        [
            made("Return the sum of all the entries.", 0),
            made("Compute now the sum of all the entries.", 1),  # same ending, other label: both go
            made("Return one more sample from a normal law.", 0),
            made("Return one more sample from the other law.", 0),  # same opening, same label: the second goes
            made("This line mentions numpy by its name.", 1),
        ],
        embedded.LIBRARY_NAMES,
    )
    assert [s.text for s, _ in kept] == ["Return one more sample from a normal law."]


def test_a_planted_leak_is_counted():
    train = Split(("one", "two", "three"), None, [0, 1, 0])
    task = make_task("leaky", "made", ("a", "b"), {"train": train, "test": Split(("two", "four"), None, [1, 0])}, "")
    assert tasks.describe(task)["overlap"] == {"test": 1}


def test_typos_keep_order_and_labels():
    task = tasks.load("library-data")
    clean, dirty = task.splits["test"], task.splits["test_typo"]
    assert (clean.labels == dirty.labels).all()
    changed = [a != b for a, b in zip(clean.text_a, dirty.text_a, strict=True)]
    assert 0.5 < np.mean(changed) < 1
    for a, b in zip(clean.text_a, dirty.text_a, strict=True):
        pairs = list(zip(a.split(), b.split(), strict=True))
        assert all(x[0] == y[0] and x[-1] == y[-1] and 0 <= len(x) - len(y) <= 1 for x, y in pairs)


@pytest.mark.parametrize("name", ["word-swap", "word-scramble"])
def test_moved_words_are_the_same_words(name):
    """Moving words changes no bag of words: every moved sentence is a reordering of one the packages hold."""
    real = {tuple(sorted(s.text.split())) for s in embedded.form_sentences()}
    written = {s.text for s in embedded.form_sentences()}
    split = tasks.load(name).splits["test"]
    for text, label in zip(split.text_a, split.labels, strict=True):
        assert tuple(sorted(text.split())) in real
        assert (text in written) == (label == 0)


def test_next_sentences_follow():
    follows = set()
    place = {(embedded.origin(s), s.paragraph, s.position): s.text for s in embedded.form_sentences()}
    for (where, paragraph, position), text in place.items():
        follows.add((text, place.get((where, paragraph, position + 1))))
    for split in tasks.load("next-sentence").splits.values():
        for a, b, label in zip(split.text_a, split.text_b, split.labels, strict=True):
            assert ((a, b) in follows) == (label == 0)
