"""Tasks of one study never share a name, however alike their folders are called; one data set is never two tasks."""

import dataclasses
import json
import os

import pytest

from tuning import tasks
from validations import plan
from validations.claims import named
from validations.study import read, with_data

ROWS = [{"text_a": f"{word} film {i}", "label": i % 2} for word in ("a", "the") for i in range(40)]


def data(folder, word="", rows=ROWS):
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        lines = [json.dumps({**row, "text_a": f"{split} {word} {row['text_a']}"}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["a/data", "b/data"], ["a/data", "b/data"]),
        (["a/data", "b/other"], ["data", "other"]),
        (["x/a/data", "x/b/data", "y/b/data"], ["a/data", "x/b/data", "y/b/data"]),
        (["x.jsonl", "x.csv"], ["x.jsonl", "x.csv"]),
        (["a/x.jsonl.gz", "b/y.csv"], ["x", "y"]),
        (["a/x.csv", "x"], ["x.csv", "{here}/x"]),
        (["agreement", "./agreement"], ["agreement", "{here}/agreement"]),
        (["hub:imdb", "hub:me/imdb"], ["hub:imdb", "me/imdb"]),
        (["hub:glue:sst2", "hub:glue:mrpc", "hub:imdb"], ["glue:sst2", "glue:mrpc", "imdb"]),
        (["hub:imdb", "imdb"], ["hub:imdb", "{here}/imdb"]),
    ],
)
def test_the_shortest_names_that_differ(tmp_path, monkeypatch, asked, expected):
    monkeypatch.chdir(tmp_path)
    found = tasks.distinct_names(asked)
    assert list(found) == asked
    assert list(found.values()) == [name.format(here=tmp_path.name) for name in expected]


@pytest.mark.parametrize("asked", [["a/data", "a/data"], ["a/data", "./a/data"], ["agreement", "agreement"], ["a", "b/../a"]])
def test_one_task_named_twice_is_refused(asked):
    with pytest.raises(ValueError, match="name it once"):
        tasks.distinct_names(asked)


@pytest.fixture
def study():
    return dataclasses.replace(read("files"), backbone="nano")


def cells(study, tmp_path):
    found = plan.jobs(study, [named("control-direction")], tmp_path / "tasks")
    return [job for kind, job in found if kind == "tuned"]


def test_rows_of_two_folders_with_one_last_name_stay_apart(study, tmp_path):
    a, b = (data(tmp_path / word / "data", word) for word in "ab")
    small = dataclasses.replace(study, sizes=dataclasses.replace(study.sizes, train=20, test=20, readout=40))
    jobs = cells(with_data(small, (str(a), str(b))), tmp_path)
    assert {job.settings["name"] for job in jobs} == {"a/data", "b/data"}
    assert len({job.key for job in jobs}) == len(jobs)
    alone = cells(with_data(small, (str(b),)), tmp_path)
    assert {job.settings["name"] for job in alone} == {"data"} and {j.key for j in alone} < {j.key for j in jobs}


def test_one_data_set_in_two_places_is_refused(study, tmp_path):
    a, b = data(tmp_path / "a"), data(tmp_path / "b")
    with pytest.raises(ValueError, match="a and b hold the same texts and labels"):
        plan.check(with_data(study, (str(a), str(b))), tmp_path / "tasks")


def test_a_folder_called_like_an_embedded_task(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data(tmp_path / "agreement")
    (spec,) = with_data(study, ("agreement",)).tasks
    assert spec == os.path.join(".", "agreement") and len(tasks.load(spec).splits["train"]) == len(ROWS)
    with pytest.raises(ValueError, match=r"embedded task and also a folder of data here: write \./agreement"):
        tasks.load("agreement")


def test_too_few_texts_are_refused_before_the_first_cell(study, tmp_path):
    few = with_data(study, (str(data(tmp_path / "few", rows=ROWS[:30])),))
    with pytest.raises(ValueError, match="few has 30 different training texts, too few to train on 48"):
        cells(few, tmp_path)
