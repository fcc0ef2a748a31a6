"""Draws are seeded, without replacement and balanced; relabelling and caching keep what they must."""

import json

import numpy as np
import pytest
from seeds import shifted

from tuning import tasks
from tuning.tasks import embedded, grammar
from tuning.tasks.task import Split, make_task


@pytest.fixture
def skewed():
    """Classes of 5, 30 and 65 examples."""
    labels = np.repeat([0, 1, 2], [5, 30, 65])
    split = Split(tuple(f"text {i}" for i in range(100)), tuple(f"pair {i}" for i in range(100)), labels)
    return make_task("skewed", "made", ("a", "b", "c"), {"train": split, "test": split}, "made here")


@pytest.mark.parametrize(("n", "counts"), [(3, (1, 1, 1)), (15, (5, 5, 5)), (25, (5, 10, 10)), (85, (5, 30, 50))])
def test_counts(skewed, n, counts):
    drawn = skewed.take("train", n, seed=shifted(7))
    assert tuple(np.bincount(drawn.labels)) == counts
    assert len(set(drawn.text_a)) == n
    source = skewed.splits["train"]
    for a, b, label in zip(drawn.text_a, drawn.text_b, drawn.labels, strict=True):
        i = int(a.split()[1])
        assert b == f"pair {i}" and label == source.labels[i]


def test_the_odd_example_favours_no_class(skewed):
    """With n = 1 each class has probability 1/3; over 300 seeds sd is 8.2, and 5 sd is 41."""
    firsts = np.bincount([skewed.take("train", 1, seed=shifted(s)).labels[0] for s in range(300)], minlength=3)
    assert (abs(firsts - 100) < 41).all()


def test_seeds(skewed):
    one, two, other = (skewed.take("train", 20, seed=shifted(s)).text_a for s in (1, 1, 2))
    assert one == two != other


@pytest.mark.parametrize("n", [0, 101])
def test_refused(skewed, n):
    with pytest.raises(ValueError, match="which has 100: ask for 1 to 100"):
        skewed.take("train", n, seed=0)
    with pytest.raises(ValueError, match="train, test, not 'dev'"):
        skewed.take("dev", 1, seed=0)


def test_labels_cannot_be_changed_in_place(skewed):
    with pytest.raises(ValueError, match="read-only"):
        skewed.splits["train"].labels[0] = 1


def test_relabel(skewed):
    planted = np.arange(100) % 2
    task = tasks.relabel(skewed, "planted", {"train": planted, "test": planted}, ("no", "yes"))
    assert task.splits["train"].text_b == skewed.splits["train"].text_b
    assert task.splits["train"].labels.tolist() == planted.tolist()
    assert task.digest != skewed.digest and skewed.digest in task.source
    with pytest.raises(ValueError, match="2 labels came for skewed/train, expected 100"):
        tasks.relabel(skewed, "planted", {"train": [0, 1]}, ("no", "yes"))
    with pytest.raises(ValueError, match="labels came for \\['dev'\\]"):
        tasks.relabel(skewed, "planted", {"dev": planted}, ("no", "yes"))


def test_digest_sees_every_part(skewed):
    split = skewed.splits["train"]

    def digest(text_a=split.text_a, text_b=split.text_b, labels=split.labels, classes=("a", "b", "c"), name="x"):
        made = Split(text_a, text_b, labels)
        return make_task(name, "made", classes, {"train": made, "test": split}, "").digest

    other = split.labels.copy()
    other[0] = 1
    assert digest(name="y") == digest() == skewed.digest
    changed = [
        digest(text_a=("new", *split.text_a[1:])),
        digest(text_b=("new", *split.text_b[1:])),
        digest(labels=other),
        digest(classes=("a", "b", "d")),
    ]
    assert len({*changed, skewed.digest}) == 5


def test_describe_is_json(skewed):
    record = json.loads(json.dumps(tasks.describe(skewed)))
    assert record["sizes"] == {"train": 100, "test": 100} and record["majority"]["test"] == 0.65
    assert record["median_words"] == 4 and record["pair"]


def test_save_and_restore(skewed, tmp_path):
    path = tmp_path / "deep" / "task.json"
    tasks.save(skewed, path)
    assert [p.name for p in path.parent.iterdir()] == ["task.json"]
    assert tasks.restore(path).digest == skewed.digest
    path.write_text(path.read_text(encoding="utf-8").replace("text 1", "text x", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="says digest .* but holds"):
        tasks.restore(path)


def test_cache_is_used_and_repaired(tmp_path, monkeypatch):
    sizes = {"train": 60, "test": 30}
    first = tasks.load("stdlib-topic", sizes=sizes, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr(embedded, "build", lambda *_: pytest.fail("the cache was not used"))
    assert tasks.load("stdlib-topic", sizes=sizes, cache=tmp_path).digest == first.digest
    monkeypatch.undo()
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")
    assert tasks.load("stdlib-topic", sizes=sizes, cache=tmp_path).digest == first.digest
    assert tasks.restore(path).digest == first.digest


def test_too_large_an_embedded_task_is_refused():
    with pytest.raises(ValueError, match="the installed text gives .* ask for fewer"):
        tasks.load("stdlib-topic", sizes={"train": 10**6, "test": 30})


def test_there_are_enough_tasks():
    assert len(tasks.names()) >= 12 and set(grammar.names()) <= set(tasks.names())
