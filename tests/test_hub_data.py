"""Hub data sets reach the same task as files do, without remote code; a stand-in plays the package."""

import sys
import types

import pytest

from tuning import tasks


class Table(list):
    def __init__(self, rows, names=None):
        super().__init__(rows)
        self.column_names = list(rows[0])
        self.features = {"label": types.SimpleNamespace(names=names)}


ROWS = [{"sentence": f"text {i}", "label": i % 2, "idx": i} for i in range(8)]


@pytest.fixture
def hub(monkeypatch):
    calls = []
    tables = {}

    def load_dataset(name, config=None, **options):
        calls.append((name, config, options))
        if name == "gone":
            raise FileNotFoundError("no such data set\nsecond line")
        return tables

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return calls, tables


def test_names_and_config(hub):
    calls, tables = hub
    tables |= {"train": Table(ROWS, ["no", "yes"]), "validation": Table(ROWS[:2]), "test": Table(ROWS[2:4])}
    task = tasks.load("hub:glue:sst2")
    assert calls == [("glue", "sst2", {})]  # nothing asks for remote code
    assert task.classes == ("no", "yes") and set(task.splits) == {"train", "dev", "test"}
    assert task.splits["test"].text_a == ("text 2", "text 3")


def test_hidden_test_labels(hub):
    _, tables = hub
    tables |= {
        "train": Table(ROWS, ["no", "yes"]),
        "validation": Table(ROWS[:2]),
        "test": Table([{**row, "label": -1} for row in ROWS]),
    }
    task = tasks.load("hub:glue:sst2")
    assert set(task.splits) == {"train", "test"} and len(task.splits["test"]) == 2


def test_strange_columns_need_names(hub):
    _, tables = hub
    rows = [{"body": row["sentence"], "label": row["label"]} for row in ROWS]
    tables |= {"train": Table(rows), "test": Table(rows)}
    with pytest.raises(ValueError, match="no column 'text_a'.*columns="):
        tasks.load("hub:made")
    assert tasks.load("hub:made", columns={"text_a": "body", "label": "label"}).classes == ("0", "1")


def test_failures_are_sentences(hub, monkeypatch):
    with pytest.raises(ValueError, match=r"'gone' could not be loaded \(no such data set\)"):
        tasks.load("hub:gone")
    with pytest.raises(ValueError, match="has the splits .*expected train"):
        tasks.load("hub:empty")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        tasks.load("hub:glue:sst2")
