"""The columns of ordinary data sets are found by their names, or named by options; what is not certain is refused."""

import json

import pytest

from costate import main
from tuning import tasks
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
