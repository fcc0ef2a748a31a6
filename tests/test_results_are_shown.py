"""costate show answers from the results folder alone: the verdicts, one claim's criteria, and the rows that were tested."""

import csv
import io
import json

import known_results
import pytest

from costate import main, measurements, read_verdicts, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return known_results.write(tmp_path_factory.mktemp("shown") / "made", claims=["control-direction", "lq-feedback"])


def shown(capsys, *words) -> str:
    assert main(["show", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_a_line_for_every_claim_and_delta(folder, capsys):
    claims = read_verdicts(folder)["claims"]
    lines = shown(capsys, folder).splitlines()
    told = [(one["verdict"], claim["title"]) for claim in claims for one in claim["verdicts"]]
    assert len(lines) == len(told)
    assert all(line.startswith(word) and title in line for line, (word, title) in zip(lines, told, strict=True))
    assert json.loads(shown(capsys, folder, "--json")) == read_verdicts(folder)


def test_a_claim_with_its_intervals(folder, capsys):
    (claim,) = (claim for claim in read_verdicts(folder)["claims"] if claim["id"] == "control-direction")
    text = shown(capsys, folder, "--claim", "control-direction")
    for criterion in [criterion for one in claim["verdicts"] for criterion in one["criteria"]] + claim["rivals"]:
        if criterion["estimate"] is not None:
            assert "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(criterion[k] for k in ("estimate", "low", "high"))) in text
        assert criterion["label"] in text
    assert json.loads(shown(capsys, folder, "--claim", "control-direction", "--json")) == claim
    assert main(["show", str(folder), "--claim", "wishes"]) == 2
    assert "expected a claim of" in capsys.readouterr().err


def test_rows_as_csv_and_as_json(folder, capsys):
    tested = rows(folder, "control-direction")
    found = list(csv.DictReader(io.StringIO(shown(capsys, folder, "--claim", "control-direction", "--rows"))))
    assert len(found) == len(tested) and list(found[0]) == list(tested)
    found = json.loads(shown(capsys, folder, "--claim", "control-direction", "--rows", "--json"))
    assert [row["task"] for row in found] == list(tested["task"])
    whole = list(csv.DictReader(io.StringIO(shown(capsys, folder, "--rows"))))
    assert len(whole) == len(measurements(folder)) and {"claim", "quantity", "value"} <= set(whole[0])
