"""Several studies in one PDF: what was published stands beside what was measured, and the same results give the same bytes."""

import json
import re

import known_results
import pytest

from costate import main
from reports import joint, load
from reports.document import claim_section, references
from validations.claims import CLAIMS


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("studies")
    return [
        known_results.write(made / "one", tasks=5, deltas=2, seeds=1, claims=["facts-gap", "facts-order"]),
        known_results.write(made / "two", tasks=5, deltas=1, seeds=1, claims=["control-direction"]),
    ]


def test_published_figures_are_of_claims():
    assert set(joint.published()) <= {claim.id for claim in CLAIMS}


def test_every_verdict_has_a_line_with_its_published_figure(folders):
    studies = [load.read(folder) for folder in folders]
    made, known = joint.lines(studies), joint.published()
    assert [len(study["claims"]) for study in made] == [len(results.claims) for results in studies]
    for study, results in zip(made, studies, strict=True):
        for line, claim in zip(study["claims"], results.claims, strict=True):
            assert line["published"] == known.get(claim["id"], "–")
            assert [v["verdict"] for v in line["verdicts"]] == [v["verdict"] for v in claim["verdicts"]]


def test_the_same_results_give_the_same_bytes(folders, tmp_path):
    one, two = (joint.build(folders, tmp_path / name).read_bytes() for name in ("a.pdf", "b.pdf"))
    assert one == two and one.startswith(b"%PDF")
    assert joint.build(folders[::-1], tmp_path / "c.pdf").read_bytes() != one


def test_the_page_holds_every_verdict(folders):
    studies = [load.read(folder) for folder in folders]
    text = joint.as_markdown(studies)
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| Fact")]
    assert len(rows) == sum(len(claim["verdicts"]) for results in studies for claim in results.claims)
    for results in studies:
        for claim in results.claims:
            assert claim_section(claim, None, references())["title"] in text


def test_several_folders_ask_for_a_file(folders, tmp_path, capsys):
    assert main(["report", *map(str, folders)]) == 2
    assert "expected --out FILE.pdf or --page FILE.md with 2 results folders" in capsys.readouterr().err
    assert main(["report", *map(str, folders), "--table", "--out", str(tmp_path / "x.pdf")]) == 2
    assert not (tmp_path / "x.pdf").exists()
    capsys.readouterr()
    assert main(["report", *map(str, folders), "--out", str(tmp_path / "x.pdf"), "--page", str(tmp_path / "x.md"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["bytes"] == (tmp_path / "x.pdf").stat().st_size
    assert re.match("# What was published", (tmp_path / "x.md").read_text(encoding="utf-8"))


def test_a_folder_without_results_is_named(folders, tmp_path, capsys):
    assert main(["report", str(folders[0]), str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.pdf")]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said and "Traceback" not in said and not (tmp_path / "x.pdf").exists()
