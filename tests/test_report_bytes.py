"""The report: the same results give the same bytes, every study shape renders, and what is wrong is said in a sentence."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import known_results
import pytest

from costate import main
from reports import load, page, render, words
from reports.document import document
from reports.gallery import gallery
from tuning.tasks.parts import PARTS
from validations import read_verdicts
from validations.results import write_verdicts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return known_results.write(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A study of one claim, one task, one delta and one seed."""
    return known_results.write(tmp_path_factory.mktemp("one"), tasks=1, deltas=1, seeds=1, claims=["control-direction"])


def edited(folder, target, change, without=()):
    """Copy a results folder, change its record and publish it again, without some of its tables."""
    shutil.copytree(folder, target)
    record = read_verdicts(target)
    tables = {
        tuple(name.split(".")) if "." in name else (name, "rows"): json.loads(
            (target / "rows" / f"{name}.json").read_text(encoding="utf-8")
        )
        for name in record["tied"]["tables"]
    }
    change(record)
    write_verdicts(target, record, tables={k: v for k, v in tables.items() if k not in without}, cells=[])
    return target


def strings(value):
    """Yield every string of a nested document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


@pytest.mark.slow
def test_same_results_same_bytes_in_another_folder_and_another_process(tmp_path):
    kept = ["linearised-optimum", "energy-profile", "intrinsic-dimension"]  # strips, multiples, an image of points
    folder = known_results.write(tmp_path / "here", claims=kept)
    here = render.render(load.read(folder))
    copy, out = tmp_path / "copy", tmp_path / "there.pdf"
    shutil.copytree(folder, copy)
    root = pathlib.Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": paths}
    line = [sys.executable, "-m", "costate", "report", str(copy), "--out", str(out)]
    subprocess.run(line, env=environment, check=True, capture_output=True, cwd=tmp_path)
    assert out.read_bytes() == here
    assert b"pdfaid:part" in here and b"pdfuaid:part" in here  # the archive and accessibility profiles that typst checked


def test_other_results_other_bytes(one, tmp_path):
    first = render.render(load.read(one))
    other = edited(one, tmp_path / "other", lambda r: r["claims"][0]["verdicts"][0].update(why="one task was there"))
    assert render.render(load.read(other)) != first


@pytest.mark.slow
def test_twenty_tasks_with_long_names_render(tmp_path):
    claims = ["intrinsic-dimension", "open-loop-price", "tunable-ports"]
    big = known_results.write(tmp_path, tasks=20, deltas=8, seeds=1, claims=claims, long_names=True)
    assert render.render(load.read(big)).startswith(b"%PDF")


def test_a_study_with_holes_renders(folder, tmp_path):
    """Not applicable, without criteria, interval, gate, controls, rivals, figure or rows; a number open on one side."""

    def bare(record):
        kept = [c for c in record["claims"] if c["id"] in ("control-direction", "control-amplitude", "lq-feedback")]
        first, second, third = record["claims"][:] = kept
        unknown = {"label": "cosine", "estimate": None, "low": None, "high": None}
        first.update(verdict="not applicable", rivals=[], nulls=[], controls={}, gate=None, assumptions=[],
                     statistic=unknown)  # fmt: skip
        first["verdicts"][0].update(verdict="not applicable", criteria=[], statistic=unknown, tasks=3,
                                    why="three of six tasks lie inside the linear regime, five are needed")  # fmt: skip
        second["verdicts"][0]["criteria"][0].update(low=None, supported=[None, None], tolerated=[None, None])
        third["verdicts"][0]["criteria"][0].update(high=None)
        record["derivations"], record["costs"], record["study"]["settings"] = [], [], {}

    target = edited(folder, tmp_path / "bare", bare, without=[("control-direction", "rows"), ("lq-feedback", "rows")])
    results = load.read(target)
    said = document(results, gallery(results))
    drawn = {c["id"]: c["figure"] is None for view in said["views"] for c in view["claims"]}
    assert drawn == {"control-direction": True, "control-amplitude": False, "lq-feedback": True}
    assert render.render(results).startswith(b"%PDF")


@pytest.mark.slow
def test_a_whole_study_renders_and_the_page_speaks_in_words(folder):
    results = load.read(folder)
    assert render.render(results).startswith(b"%PDF")
    said = document(results, {})
    for section in [c for view in said["views"] for c in view["claims"]]:
        for key in ("id", "equation", "figure"):
            section.pop(key)
    raw = [t["name"] for t in results.study["tasks"]] + ["port-bias", "linear_regime", "early_stop", "gate.limit", "boot_draws"]
    text = [s for key in ("setting", "summary", "groups", "views", "tasks", "deltas", "settings") for s in strings(said[key])]
    assert len(text) > 100 and not [(name, s) for name in raw for s in text if name in s]


def test_the_page_says_which_held_out_texts_stand_in_train_and_what_seeds_share(one, tmp_path):
    """Counted, they are said below the tasks; none, or a record from before they were counted, says nothing."""
    two = known_results.write(tmp_path / "two", tasks=2, deltas=1, seeds=1, claims=["control-direction"])
    nothing = {"texts": 300, "exact": 0, "folded": 0, "share": 0.0}

    def counted(record):
        first, second = record["study"]["tasks"]
        folded = {"texts": 1200, "exact": 3, "folded": 24, "share": 0.02}
        first["overlap"] = {"dev": nothing, "test": folded, "test_attractor": {**nothing, "folded": 1, "share": 1 / 300}}
        second["overlap"] = {"test": nothing}
        first["shared"] = dict(zip(PARTS, (0.0, 0.5, 0.25), strict=True))
        second["shared"] = {"train": 0.0, "readout": 1.0, "test": 0.2}

    results = load.read(edited(two, tmp_path / "counted", counted))
    one_label, other = (task["label"] for task in results.study["tasks"])
    assert document(results, {})["texts"] == [
        f"Held-out texts that also stand in train, which training leaves out: “{one_label}”, 24 of 1\u202f200 in test (2 %) "
        "and 1 of 300 in test attractor (0.33 %).",
        f"Seeds of one task share texts with one another: at most 100 % of the texts of the readout (“{other}”) and 25 % of the "
        f"held-out texts (“{one_label}”).",
    ]
    assert render.render(results).startswith(b"%PDF")

    def clean(record):
        for task in record["study"]["tasks"]:
            task["overlap"], task["shared"] = {"test": nothing}, {"train": 0.0, "readout": 0.0, "test": 0.0}

    assert document(load.read(edited(two, tmp_path / "clean", clean)), {})["texts"] == []
    assert "overlap" not in load.read(one).study["tasks"][0] and document(load.read(one), {})["texts"] == []


def test_the_summary_counts_the_verdicts_and_names_every_claim_that_predicts_once_a_word(folder):
    claims = load.read(folder).claims
    groups = words.verdict_groups(claims)
    predictions = [c for c in claims if c["nature"] == "prediction"]
    assert len(predictions) < len(claims)
    for group in groups:
        own = [c for c in predictions if group["verdict"] in {v["verdict"] for v in c["verdicts"]}]
        assert [title.split(" (")[0] for title in group["titles"]] == [c["title"].split(" (")[0] for c in own]
    first, rest = words.opening(claims).split(". ", 1)
    for group in groups:
        n = sum(v["verdict"] == group["verdict"] for c in predictions for v in c["verdicts"])
        assert f"{words.worded(n)} {'is' if n == 1 else 'are'} {group['verdict']}" in first
    checks = [v for c in claims if c["nature"] == "consistency" for v in c["verdicts"]]
    assert rest.startswith(f"Of {words.count(len(checks), 'verdict')} on ")
    claims[0]["plants"]["bad"]["verdict"] = "supported"
    total = 2 * len(claims)
    assert f"Of {total} plants with a known answer, {total - 1} came out as expected" in words.opening(claims)


def test_the_first_page_says_what_was_gained_and_what_was_foretold(folder):
    results = load.read(folder)
    (said,) = words.headlines(results.claims)
    rows = results.table("practice-gain")
    means = {results.study["deltas"][k]["label"]: rows[rows["delta"] == d["name"]] for k, d in enumerate(results.study["deltas"])}
    assert [line[0] for line in said["rows"]] == list(means)
    for label, *numbers in said["rows"]:
        for number, column in zip(numbers, ("points", "points_predicted", "points_path", "points_head"), strict=True):
            assert abs(float(number.split(" [")[0].replace("−", "-")) - means[label][column].mean()) < 0.51
    ends = sorted((own["points"].mean(), label) for label, own in means.items())
    assert all(f"{words.number(value, decimals=1)} ({label})" in said["sentence"] for value, label in (ends[0], ends[-1]))
    assert said["sentence"] in page.page(results) and said == document(results, {})["headlines"][0]
    assert words.headlines([c for c in results.claims if c["id"] != "practice-gain"]) == []


def test_a_study_that_was_judged_before_says_so(one, tmp_path):
    assert document(load.read(one), {})["looks"] == ""
    results = load.read(edited(one, tmp_path / "again", lambda r: r["study"].update(looks=2)))
    said = "Verdicts were drawn twice, so every p-value is multiplied by two."
    assert document(results, {})["looks"] == said and said in page.page(results)


@pytest.mark.parametrize(
    ("verdicts", "written"),
    [
        ({"LoRA": "refuted"}, "It holds"),
        ({"LoRA": "refuted", "prefix": "supported"}, "It holds (LoRA)"),
        ({"LoRA": "refuted", "prefix": "supported", "BitFit": "refuted"}, "It holds (LoRA and BitFit)"),
        ({"LoRA": "refuted", "prefix": "refuted", "BitFit": "refuted"}, "It holds (every delta)"),
    ],
)
def test_a_claim_is_named_once_with_the_deltas_of_a_verdict(verdicts, written):
    made = [{"label": label, "verdict": word} for label, word in verdicts.items()]
    (group,) = (
        g
        for g in words.verdict_groups([{"title": "It holds", "nature": "prediction", "verdicts": made}])
        if g["verdict"] == "refuted"
    )
    assert group["titles"] == [written]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"estimate": 0.71234, "low": 0.62, "high": 0.803}, "0.71 [0.62, 0.80]"),
        ({"estimate": -0.139, "low": -0.2, "high": -0.08}, "−0.14 [−0.20, −0.08]"),
        ({"estimate": 63.2, "low": 40.0, "high": None}, "63 [40, ∞]"),
        ({"estimate": 1834000.0, "low": None, "high": None}, "1\u202f834\u202f000"),
        ({"estimate": -0.0004, "low": -0.3, "high": 0.3}, "0.0 [−0.3, 0.3]"),
        ({"estimate": None, "low": None, "high": None}, "–"),
        (None, "–"),
    ],
)
def test_an_interval_is_written_with_the_digits_it_has(value, written):
    assert words.interval(value) == written


def test_an_equation_that_typst_refuses_is_named_and_the_old_report_stays(one, tmp_path, capsys):
    target = edited(one, tmp_path / "bad", lambda r: r["claims"][0].update(equation="frac(a, b, c)"))
    out = tmp_path / "report.pdf"
    out.write_bytes(b"old")
    assert main(["report", str(target), "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip()
    assert "control-direction" in said and "\n" not in said
    assert out.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["report.pdf"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r["claims"][0].update(sources=["nobody1999"]), "nobody1999"),
        (lambda r: r.pop("costs"), "costs"),
    ],
)
def test_what_is_wrong_is_named(one, tmp_path, capsys, change, named):
    target = edited(one, tmp_path / "wrong", change)
    assert main(["report", str(target), "--out", str(tmp_path / "r.pdf")]) == 2
    assert named in capsys.readouterr().err


def test_no_results_is_one_sentence_and_exit_two(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_the_table_has_one_line_per_claim_and_delta_and_predictions_first(folder, capsys):
    claims = load.read(folder).claims
    judged = words.judged(claims)
    assert [v["nature"] for v in judged] == sorted((v["nature"] for v in judged), reverse=True)
    several = [len(c["verdicts"]) for c in claims if len(c["verdicts"]) > 1]
    assert several and sum(v["of"] != "" for v in judged) == sum(several)
    assert main(["report", str(folder), "--markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.strip().splitlines() if line]
    assert len(lines) == 4 + len(judged) and all(line.count("|") - line.count("\\|") == 6 for line in lines)
    body = [line for line in lines if not line.startswith(("| Predictions |", "| Consistency", "|---"))]
    for line, verdict in zip(body, judged, strict=True):
        assert words.named(verdict) in line and line.endswith(f"{verdict['verdict']} |")
    assert main(["report", str(folder), "--table", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)["verdicts"]] == [v["id"] for v in judged]
    assert main(["report", str(folder), "--table"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 108


def test_figures_are_written_as_svg_and_png(tmp_path, capsys):
    small = known_results.write(tmp_path / "small", claims=["control-amplitude"])
    assert main(["report", str(small), "--figures", str(tmp_path / "out")]) == 0
    figures = {"control-amplitude", "forest"} | ({"errors"} if load.read(small).record["calibration"] else set())
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {f"{name}.{kind}" for name in figures for kind in ("svg", "png")}
    assert (tmp_path / "out" / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(small), "--page", str(tmp_path / "V.md"), "--json"]) == 0
    assert (tmp_path / "V.md").read_text(encoding="utf-8") == page.page(load.read(small))


def test_the_page_of_verdicts_holds_every_verdict_and_where_it_comes_from(folder, tmp_path):
    results = load.read(folder)
    written = page.write(page.page(results), tmp_path / "there" / "VERDICTS.md").read_text(encoding="utf-8")
    assert written == page.page(load.read(folder)) and written.count("\n# ") == 0 and written.startswith("# ")
    for verdict in words.judged(results.claims):
        assert words.named(verdict).replace("|", "\\|") in written
    provenance = results.record["provenance"]
    for text in (results.study["question"], words.opening(results.claims), provenance["commit"], *provenance["versions"]):
        assert text in written
    assert str(provenance["timestamp"]) not in written and "costate report" in written


def test_names_cannot_break_the_page_of_verdicts(one, tmp_path):
    hostile = "a | b *c* [d](e) <f> `g`\n# h"
    results = load.read(edited(one, tmp_path / "named", lambda r: r["study"].update(title=hostile)))
    assert "a \\| b \\*c\\* \\[d\\](e) \\<f\\> \\`g\\` \\# h" in page.page(results)


def test_no_semicolon_of_a_sentence_is_taken_for_the_end_of_code():
    """After a value, #name; in a page's source prints no semicolon."""
    source = pathlib.Path(load.__file__).with_name("report.typ").read_text(encoding="utf-8")
    assert not re.findall(r"#[a-z][\w.]*; ", source) and re.findall(r"#[a-z][\w.]*; ", "tasks have #data.seeds; deltas")
