"""The columns of ordinary data sets are found by their names, or named by options; what is not certain is refused."""

import csv
import json

import pytest

from costate import main
from tuning import tasks
from tuning.backbones import encode
from tuning.preparation import backbone_of, cut_shares
from tuning.tasks.columns import chosen


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ("text_a text_b label", "text_a text_b label"),
        ("label text_b text_a", "text_a text_b label"),
        ("text label", "text - label"),
        ("text label label_text", "text - label"),
        ("idx text label_text", "text - label_text"),
        ("sentence label idx", "sentence - label"),
        ("premise hypothesis label idx", "premise hypothesis label"),
        ("sentence1 sentence2 label idx", "sentence1 sentence2 label"),
        ("question1 question2 label", "question1 question2 label"),
        ("question sentence label idx", "question sentence label"),
        ("text target guid", "text - target"),
        ("text coarse_label", "text - coarse_label"),
    ],
)
def test_usual_names(present, expected):
    parts = chosen(present.split(), None, "here", strict=True)
    assert [parts.get(part, "-") for part in ("text_a", "text_b", "label")] == expected.split()


@pytest.mark.parametrize(
    ("present", "columns", "says"),
    [
        ("text sentence label", None, "text columns text, sentence, of which no use is certain: .*--text, --text-b and --label"),
        ("premise sentence2 label", None, "no use is certain"),
        ("text coarse_label fine_label", None, "label columns coarse_label, fine_label"),
        ("text label mood", None, "unknown column 'mood'.*--text.*columns="),
        ("text idx", None, "no column 'label' for label, only text, idx"),
        ("label idx", None, "no column 'text_a' for text_a"),
        ("text label", {"text_a": "body"}, "no column 'body' for text_a"),
        ("text label", {"text": "text"}, "names the part 'text'"),
    ],
)
def test_refused(present, columns, says):
    with pytest.raises(ValueError, match=says) as caught:
        chosen(present.split(), columns, "here", strict=True)
    assert "\n" not in str(caught.value)


def test_some_columns_named_the_rest_found():
    assert chosen(["body", "label", "mood"], {"text_a": "body"}, "here", strict=True) == {"text_a": "body", "label": "label"}
    present = ["text", "sentence", "y"]
    named = {"text_a": "sentence", "label": "y"}
    assert chosen(present, named, "here", strict=True) == named  # and no second text unless it is named
    assert chosen(["premise", "hypothesis", "label"], {"text_b": "premise"}, "here", strict=True) == {
        "text_a": "hypothesis",
        "text_b": "premise",
        "label": "label",
    }


def rows(text, label, n=60):
    return [{text: f"film {i} is {'good' if i % 2 else 'bad'}", label: i % 2} for i in range(n)]


def write(folder, made):
    folder.mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({key: f"{split} {v}" if isinstance(v, str) else v for key, v in row.items()}) for row in made]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder)


def test_names_make_no_difference(tmp_path):
    digests = {tasks.load(write(tmp_path / text, rows(text, "label"))).digest for text in ("text_a", "text", "sentence")}
    assert len(digests) == 1


def test_the_command_line_names_columns(tmp_path, capsys):
    folder = write(tmp_path / "odd", rows("body", "mood"))
    train = ["train", "--task", folder, "--delta", "port-bias", "--steps", "1", "--length", "12"]
    assert main(train) == 2 and "--text" in capsys.readouterr().err
    assert main([*train, "--text", "body", "--label", "mood", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 30
    assert main([*train, "--columns", "text=body, label=mood", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 30
    for wrong in ("text=body,text=mood", "body", "text=", "word=body", ""):
        assert main([*train, "--columns", wrong]) == 2
        assert "--columns takes text, text_b and label" in capsys.readouterr().err


TABLE = [("good, one", "1"), ("bad; one", "0"), ("a\tgood one", "1"), ("bad | one", "0")] * 10


@pytest.mark.parametrize(("delimiter", "end"), [(",", "csv"), (";", "csv"), ("\t", "csv"), ("|", "csv"), ("\t", "tsv")])
def test_delimiters_are_told_by_the_header(tmp_path, delimiter, end):
    for split in ("train", "test"):
        with (tmp_path / f"{split}.{end}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([("idx", "sentence", "label"), *((i, f"{split} {a}", b) for i, (a, b) in enumerate(TABLE))])
    task = tasks.load(tmp_path)
    assert task.splits["train"].text_a[:4] == tuple(f"train {text}" for text, _ in TABLE[:4])
    assert task.classes == ("0", "1") and task.splits["test"].labels.tolist() == [int(b) for _, b in TABLE]


def test_a_lone_quote_in_tab_separated_lines_joins_no_rows(tmp_path):
    """As in the GLUE files, whose writers knew no quoting."""
    lines = ["sentence\tlabel", '"so it begins\t1', "and so it ends\t0", 'with a "word" in it\t1']
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert tasks.load(tmp_path).splits["train"].text_a == ('"so it begins', "and so it ends", 'with a "word" in it')


def test_classes_keep_the_names_beside_their_numbers(tmp_path):
    named = [{"text": f"t {i}", "label": i % 3, "label_text": ("sad", "glad", "mad")[i % 3], "idx": i} for i in range(12)]
    assert tasks.load(write(tmp_path / "odd", named)).classes == ("0", "1", "2")  # a number has two names: train sad, test sad
    (tmp_path / "named").mkdir()
    for split in ("train", "test"):
        (tmp_path / "named" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, named)), encoding="utf-8")
    assert tasks.load(tmp_path / "named").classes == ("sad", "glad", "mad")  # in the order of the numbers


def test_labels_of_a_table_with_gaps_are_whole_again(tmp_path):
    """1.0 is 1 in whatever file it stands, and what is not a number is missing, in a row that is named."""
    for split, labels in (("train", [0.0, 1.0]), ("test", [1, 0])):
        made = [{"text": f"{split} {i}", "label": labels[i % 2]} for i in range(6)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    assert tasks.load(tmp_path).classes == ("0", "1") and tasks.load(tmp_path).splits["test"].labels.tolist() == [1, 0] * 3
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "test.csv").write_text("text,label\na,1.0\nb,0.0\n", encoding="utf-8")
    assert tasks.load(tmp_path).splits["test"].labels.tolist() == [1, 0]
    (tmp_path / "test.csv").unlink()
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": NaN}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="label in row 2 of .*/test is missing"):
        tasks.load(tmp_path)


def test_the_check_of_data_counts_what_a_reader_would():
    """Two copies, one of them under another label, one text of test in train: each counted by hand."""
    train = [("good film", 1), ("Good  film", 1), ("bad film", 0), ("bad film", 1), ("fine film", 1)]
    splits = {"train": train, "test": [("good film", 1), ("new film", 0)]}
    made = tasks.make_task(
        "films",
        "files",
        ("bad", "good"),
        {k: tasks.Split(tuple(t for t, _ in v), None, [n for _, n in v]) for k, v in splits.items()},
        "",
    )
    found = tasks.check_of(made, {"train": 0.2, "test": 0.0}, 8)
    assert found["sizes"] == {"train": 5, "test": 2} and found["balance"] == {"bad": 0.2, "good": 0.8}
    assert (found["copies"], found["contradictions"], found["overlap"]) == (2, 1, {"test": 1})
    first, second = tasks.check_lines(made, {"train": 0.2, "test": 0.0}, 8)
    assert first == "data: films has 5 train, 2 test texts; in train good 80 %, bad 20 %"
    assert second.count("20 % of train texts are longer than 8 tokens") == 1 and "test texts" not in second


def test_cut_texts_are_those_that_lose_tokens(tmp_path):
    folder = tmp_path / "cut"
    texts = ["a short one", "a much longer text that goes on and on until it ends at last", "short"] * 4
    write(folder, [{"text": text, "label": i % 2} for i, text in enumerate(texts)])
    task, frozen = tasks.load(folder), backbone_of("nano")
    whole, cut = (encode(frozen, task.splits["train"], length=length).mask.sum(1) for length in (512, 10))
    assert cut_shares(frozen, task, 10)["train"] == float((whole > cut).double().mean()) > 0


def test_data_are_checked_once_and_only_where_they_are_unknown(tmp_path, capsys):
    folder = write(tmp_path / "films", rows("text", "label"))
    train = ["--delta", "port-bias", "--steps", "1", "--length", "12"]
    assert main(["train", "--task", folder, *train]) == 0
    assert capsys.readouterr().err.count("data: films has 60 train, 60 test texts; in train 0 50 %, 1 50 %") == 1
    assert main(["train", "--task", "agreement", *train, "--examples", "8"]) == 0
    assert "data:" not in capsys.readouterr().err
