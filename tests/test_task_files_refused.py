"""Files give one task whatever their format, and each fault is refused in one sentence that names it."""

import csv
import gzip
import json

import pytest
from seeds import shifted

from tuning import tasks

TRAIN = [("the film is good", "good"), ("the film, is bad", "bad"), ("a fine one", "good"), ("no é", "bad")]
TEST = [("so good", "good"), ("so bad", "bad")]


def records(rows):
    return [{"text_a": text, "label": label} for text, label in rows]


def write_jsonl(path, rows):
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(rows), path)


FORMATS = {".jsonl": write_jsonl, ".jsonl.gz": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


def folder(tmp_path, train=None, test=None, meta=None, end=".jsonl"):
    base = tmp_path / "films"
    base.mkdir(exist_ok=True)
    FORMATS[end](base / f"train{end}", records(TRAIN) if train is None else train)
    FORMATS[end](base / f"test{end}", records(TEST) if test is None else test)
    if meta is not None:
        (base / "meta.json").write_text(meta, encoding="utf-8")
    return base


@pytest.mark.parametrize("end", FORMATS)
def test_one_task_in_any_format(tmp_path, end):
    task = tasks.load(folder(tmp_path, end=end))
    assert task.name == "films" and task.classes == ("bad", "good")
    assert task.splits["train"].text_a == tuple(text for text, _ in TRAIN)
    assert task.splits["train"].labels.tolist() == [1, 0, 1, 0]
    (tmp_path / "other").mkdir()
    assert task.digest == tasks.load(folder(tmp_path / "other")).digest


@pytest.mark.parametrize("end", FORMATS)
def test_whole_numbers_index_the_listed_classes(tmp_path, end):
    numbered = [[{"text_a": t, "label": int(c == "good")} for t, c in rows] for rows in (TRAIN, TEST)]
    task = tasks.load(folder(tmp_path, *numbered, meta='{"labels": ["poor", "fine"]}', end=end))
    assert task.classes == ("poor", "fine")
    assert task.splits["test"].labels.tolist() == [1, 0]


def test_pairs_and_perturbed_sets(tmp_path):
    pair = [{"text_a": "a", "text_b": "b", "label": 3}, {"text_a": "c", "text_b": "d", "label": 11}]
    base = folder(tmp_path, pair, pair)
    write_jsonl(base / "test_typo.jsonl.gz", pair[:1])
    write_csv(base / "validation.csv", pair)
    task = tasks.load(base)
    assert task.classes == ("3", "11")  # numbers in the order of numbers
    assert list(task.splits) == ["train", "dev", "test", "test_typo"]
    assert task.splits["test_typo"].text_b == ("b",)


def test_columns_can_be_named(tmp_path):
    rows = [{"id": i, "words": text, "y": label} for i, (text, label) in enumerate(TRAIN)]
    base = folder(tmp_path, rows, rows)
    assert tasks.load(base, columns={"text_a": "words", "label": "y"}).splits["test"].text_a[0] == TRAIN[0][0]
    with pytest.raises(ValueError, match="no column 'other' for text_b"):
        tasks.load(base, columns={"text_a": "words", "text_b": "other", "label": "y"})


def test_one_file_is_split_by_its_texts(tmp_path):
    rows = [{"text_a": f"text {i % 400}", "label": i % 400 % 2} for i in range(600)]
    write_jsonl(tmp_path / "all.jsonl", rows)
    task = tasks.load(tmp_path / "all.jsonl", seed=shifted(1))
    assert sum(len(split) for split in task.splits.values()) == 600
    texts = [set(split.text_a) for split in task.splits.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    # 400 hashed texts at share 0.2: sd 8 texts, so 5 sd is 40
    assert abs(len(set(task.splits["test"].text_a)) - 80) < 40
    assert task.digest == tasks.load(tmp_path / "all.jsonl", seed=shifted(1)).digest
    assert task.digest != tasks.load(tmp_path / "all.jsonl", seed=shifted(2)).digest


LABELLED = records(TRAIN)
WRONG = {
    "unknown column 'mood'.*--text.*columns=": {"train": [{**row, "mood": 1} for row in LABELLED]},
    "no column 'label' for label": {"train": [{"text_a": "x"}]},
    "no column 'text_a' for text_a": {"train": [{"label": 1}]},
    "row 2 of films/train is missing": {"train": [LABELLED[0], {"text_a": "x", "label": None}]},
    "label 5 in row 1 of films/test is outside the 2 classes": {
        "train": [{"text_a": "x", "label": 0}, {"text_a": "y", "label": 1}],
        "test": [{"text_a": "z", "label": 5}],
        "meta": '{"labels": ["a", "b"]}',
    },
    "label 'odd' in row 1 of films/test never occurs in train": {"test": [{"text_a": "z", "label": "odd"}]},
    "label 'good' in row 1 of films/train is not in the list": {"meta": '{"labels": ["a", "b"]}'},
    "label 'c' in films/test never occurs in train": {
        "test": [{"text_a": "z", "label": "c"}],
        "meta": '{"classes": ["good", "bad", "c"]}',
    },
    "text_a in row 1 of films/test is int .*expected a string": {"test": [{"text_a": 7, "label": "good"}]},
    "text_a in row 1 of films/test is blank": {"test": [{"text_a": " ", "label": "good"}]},
    "text_b in row 2 of films/train is NoneType": {
        "train": [{**LABELLED[0], "text_b": "x"}, LABELLED[1]],
    },
    "only some splits have text_b": {"test": [{**row, "text_b": "x"} for row in records(TEST)]},
    "1 class.*at least 2": {"train": LABELLED[:1], "test": records(TEST)[:1]},
    "label in row 1 of films/train is float": {"train": [{"text_a": "x", "label": 0.5}, {"text_a": "y", "label": 1.5}]},
    "several kinds \\(int such as 0 in row 1 of films/train, str such as 'b' in row 2 of films/train\\)": {
        "train": [{"text_a": "x", "label": 0}, {"text_a": "y", "label": "b"}]
    },
    "meta.json is not JSON": {"meta": "{"},
    "meta.json must list different class names": {"meta": '{"labels": ["a", "a"]}'},
    "train.jsonl is empty": {"train": []},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_content(tmp_path, message):
    base = folder(tmp_path, **WRONG[message])
    with pytest.raises(ValueError, match=message) as caught:
        tasks.load(base)
    assert "\n" not in str(caught.value)


def broken_gzip(base):
    whole = gzip.compress(b'{"text_a": "x", "label": 1}\n' * 99)
    (base / "train.jsonl").unlink()
    (base / "train.jsonl.gz").write_bytes(whole[: len(whole) // 2])


def no_gzip(base):
    (base / "train.jsonl").rename(base / "train.jsonl.gz")


def no_parquet(base):
    (base / "train.jsonl").rename(base / "train.parquet")


def not_utf8(base):
    (base / "train.jsonl").write_bytes(b'{"text_a": "\xff", "label": 1}')


def not_json(base):
    (base / "train.jsonl").write_text('{"text_a": "x", "label": 1}\n{"text_a"\n', encoding="utf-8")


def no_object(base):
    (base / "train.jsonl").write_text("[1, 2]\n", encoding="utf-8")


def two_files(base):
    (base / "train.csv").write_text("text_a,label\nx,1\n", encoding="utf-8")


def ragged(base):
    (base / "train.jsonl").unlink()
    (base / "train.csv").write_text("text_a,label\nx,1,2\n", encoding="utf-8")


def no_train(base):
    (base / "train.jsonl").unlink()


def nothing(base):
    no_train(base)
    (base / "test.jsonl").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_gzip, "train.jsonl.gz cannot be read"),
        (no_gzip, "train.jsonl.gz cannot be read"),
        (no_parquet, "train.parquet is not a readable parquet file"),
        (not_utf8, "is not UTF-8 text"),
        (not_json, "line 2 of .* is not JSON"),
        (no_object, "line 1 of .* holds a list"),
        (two_files, "two files for train"),
        (ragged, "row 1 of .* has more fields than the header"),
        (no_train, "no 'train' split"),
        (nothing, "holds no train or test file"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    if damage is no_parquet:
        pytest.importorskip("pyarrow")
    base = folder(tmp_path)
    damage(base)
    with pytest.raises(ValueError, match=message) as caught:
        tasks.load(base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nowhere/films", {}, "there is no file or folder nowhere/films"),
        ("agreemnt", {}, "did you mean 'agreement'"),
        ("agreement", {"columns": {"text_a": "x"}}, "takes no columns"),
        ("agreement", {"sizes": {"train": 10}}, "at least train and test"),
        ("agreement", {"sizes": {"train": 10, "test": 0}}, "size of test is 0"),
        ("agreement", {"sizes": {"train": 10, "test": 5, "exam": 5}}, "names the split 'exam'"),
        ("agreement", {"sizes": {"train": 10, "test": 5, "test_typo": 5}}, "train, dev and test only"),
    ],
)
def test_wrong_requests(name, options, message):
    with pytest.raises(ValueError, match=message):
        tasks.load(name, **options)


def test_unknown_ending(tmp_path):
    (tmp_path / "films.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match="unknown ending.*convert"):
        tasks.load(tmp_path / "films.xlsx")


def test_development_data_loads(shared):
    index = [path for path in sorted((shared / "data").iterdir()) if path.is_dir()]
    for path in index[:6]:
        task = tasks.load(path)
        assert json.loads((path / "meta.json").read_text(encoding="utf-8"))["n"] == {k: len(s) for k, s in task.splits.items()}


def test_a_text_that_is_no_text_is_named(tmp_path):
    rows = [{"text_a": f"the film number {k} was {'good' if k % 2 else 'bad'}", "label": k % 2} for k in range(60)]
    for place in (tmp_path / "films.jsonl", tmp_path / "more.jsonl"):
        rows[0]["text_a"] = [] if place.stem == "films" else {"a": 1}
        write_jsonl(place, rows)
        with pytest.raises(ValueError, match=r"text_a in row 1 of .* expected a string"):
            tasks.load(place)
